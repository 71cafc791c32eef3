from typing import Any

from anndata import AnnData
from scvi.data.fields._base_field import BaseAnnDataField

class LayerField(BaseAnnDataField):
    N_OBS_KEY: str
    N_CELLS_KEY: str
    N_VARS_KEY: str
    COLUMN_NAMES_KEY: str

    def __init__(
        self,
        registry_key: str,
        layer: str | None,
        is_count_data: bool = True,
        correct_data_format: bool = True,
        check_fragment_counts: bool = False,
    ) -> None: ...
    @property
    def registry_key(self) -> str: ...
    @property
    def attr_name(self) -> str: ...
    @property
    def attr_key(self) -> str | None: ...
    @property
    def is_empty(self) -> bool: ...
    def validate_field(self, adata: AnnData) -> None: ...
    def register_field(self, adata: AnnData) -> dict[str, Any]: ...
    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: Any
    ) -> dict[str, Any]: ...
    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, Any]: ...
    def view_state_registry(self, _state_registry: dict[str, Any]) -> Any: ...
