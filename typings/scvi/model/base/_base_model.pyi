import abc
from abc import abstractmethod
from collections.abc import MutableMapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.dataloaders import AnnDataLoader
from scvi.module.base import BaseModuleClass
from scvi.train import Trainer
from scvi.utils import attrdict

class BaseModelMetaClass(abc.ABCMeta):
    _setup_adata_manager_store: dict[str, AnnDataManager]
    _per_instance_manager_store: dict[str, MutableMapping[str, AnnDataManager]]

    def __init__(cls, name: str, bases: tuple[type, ...], dct: dict[str, Any]) -> None: ...

class BaseModelClass(metaclass=BaseModelMetaClass):
    _setup_adata_manager_store: ClassVar[dict[str, AnnDataManager]]
    _per_instance_manager_store: ClassVar[dict[str, MutableMapping[str, AnnDataManager]]]
    id: str
    module: BaseModuleClass
    # of the latest training
    trainer: Trainer
    _adata: AnnData | None
    _adata_manager: AnnDataManager | None
    registry_: dict[str, Any]
    summary_stats: attrdict
    is_trained_: bool
    train_indices_: np.ndarray | None
    test_indices_: np.ndarray | None
    validation_indices_: np.ndarray | None
    history_: dict[str, pd.DataFrame] | None
    # arguments of the model
    init_params_: dict[str, Any]
    _model_summary_string: str

    def __init__(self, adata: AnnData | None = None, registry: dict[str, Any] | None = None) -> None: ...
    # none where the model was made without cells
    @property
    def adata(self) -> AnnData | Any: ...
    @adata.setter
    def adata(self, adata: AnnData) -> None: ...
    @property
    def adata_manager(self) -> AnnDataManager: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def is_trained(self) -> bool: ...
    @property
    def history(self) -> dict[str, pd.DataFrame] | None: ...
    def get_var_names(self, legacy_mudata_format: bool = False) -> Any: ...
    def to_device(self, device: str | int | torch.device) -> None: ...
    @staticmethod
    def _get_setup_method_args(**setup_locals: Any) -> dict[str, Any]: ...
    @classmethod
    def register_manager(cls, adata_manager: AnnDataManager) -> None: ...
    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None: ...
    def deregister_manager(self, adata: AnnData | None = None) -> None: ...
    # a manager of the class that set the cells up, or none where it is not required
    @classmethod
    def _get_most_recent_anndata_manager(cls, adata: AnnData, required: bool = False) -> Any: ...
    def get_anndata_manager(self, adata: AnnData, required: bool = False) -> Any: ...
    def _make_data_loader(
        self,
        adata: AnnData,
        indices: Any = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        data_loader_class: Any = None,
        **data_loader_kwargs: Any,
    ) -> AnnDataLoader: ...
    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData: ...
    def _check_if_trained(self, warn: bool = True, message: str = ...) -> None: ...
    @property
    def train_indices(self) -> Any: ...
    @train_indices.setter
    def train_indices(self, value: Any) -> None: ...
    @property
    def validation_indices(self) -> Any: ...
    @validation_indices.setter
    def validation_indices(self, value: Any) -> None: ...
    @property
    def test_indices(self) -> Any: ...
    @test_indices.setter
    def test_indices(self, value: Any) -> None: ...
    def _get_user_attributes(self) -> list[tuple[str, Any]]: ...
    def _get_init_params(self, locals: dict[str, Any]) -> dict[str, Any]: ...
    @abstractmethod
    def train(self) -> None: ...
    @classmethod
    @abstractmethod
    def setup_anndata(cls, adata: AnnData, *args: Any, **kwargs: Any) -> None: ...
