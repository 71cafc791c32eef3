from collections.abc import Sequence
from typing import Any

from anndata import AnnData
from scvi.data.fields import BaseAnnDataField
from scvi.utils import attrdict

class AnnDataManager:
    id: str
    # none until fields are registered
    adata: AnnData | Any
    fields: list[BaseAnnDataField]
    _registry: dict[str, Any]

    def __init__(
        self,
        fields: list[BaseAnnDataField] | None = None,
        setup_method_args: dict[str, Any] | None = None,
        validation_checks: Any = None,
    ) -> None: ...
    @property
    def adata_uuid(self) -> str: ...
    @property
    def registry(self) -> dict[str, Any]: ...
    @property
    def data_registry(self) -> attrdict: ...
    @property
    def summary_stats(self) -> attrdict: ...
    def _assert_anndata_registered(self) -> None: ...
    def register_fields(
        self, adata: AnnData, source_registry: dict[str, Any] | None = None, **transfer_kwargs: Any
    ) -> None: ...
    def register_new_fields(self, fields: list[BaseAnnDataField]) -> None: ...
    def validate(self) -> None: ...
    def create_torch_dataset(
        self,
        indices: Sequence[int] | Sequence[bool] | None = None,
        data_and_attributes: list[str] | dict[str, Any] | None = None,
        load_sparse_tensor: bool = False,
    ) -> Any: ...
    # an array, a sparse matrix or a frame, as it was registered
    def get_from_registry(self, registry_key: str) -> Any: ...
    def get_state_registry(self, registry_key: str) -> attrdict: ...
