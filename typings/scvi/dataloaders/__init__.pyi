from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from scvi.data import AnnDataManager
from torch.utils.data import DataLoader, Sampler

class AnnDataLoader(DataLoader[dict[str, Any]]):
    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: list[int] | list[bool] | None = None,
        batch_size: int = 128,
        shuffle: bool = False,
        sampler: Sampler[Any] | None = None,
        drop_last: bool = False,
        drop_dataset_tail: bool = False,
        data_and_attributes: list[str] | dict[str, Any] | None = None,
        iter_ndarray: bool = False,
        distributed_sampler: bool = False,
        load_sparse_tensor: bool = False,
        **kwargs: Any,
    ) -> None: ...

class DataSplitter(LightningDataModule):
    adata_manager: AnnDataManager
    data_loader_kwargs: dict[str, Any]
    load_sparse_tensor: bool
    drop_last: bool | int
    train_idx: np.ndarray
    val_idx: np.ndarray
    test_idx: np.ndarray

    def __init__(
        self,
        adata_manager: AnnDataManager,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        pin_memory: bool = False,
        external_indexing: list[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> None: ...
    def train_dataloader(self) -> DataLoader[dict[str, Any]]: ...
    # none where no cells are held out
    def val_dataloader(self) -> DataLoader[dict[str, Any]] | Any: ...
