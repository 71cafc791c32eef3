from typing import Any

from scvi.data._manager import AnnDataManager
from torch.utils.data import Dataset

class AnnTorchDataset(Dataset[dict[str, Any]]):
    adata_manager: AnnDataManager
    load_sparse_tensor: bool

    def __init__(
        self,
        adata_manager: AnnDataManager,
        getitem_tensors: list[str] | dict[str, Any] | None = None,
        load_sparse_tensor: bool = False,
    ) -> None: ...
    @property
    def keys_and_dtypes(self) -> dict[str, Any]: ...
    @property
    def data(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...
    # an array of positions is taken like a list
    def __getitem__(self, indexes: Any) -> dict[str, Any]: ...
