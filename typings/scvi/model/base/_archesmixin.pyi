from typing import Any, Self

from anndata import AnnData
from scvi.model.base._base_model import BaseModelClass

class ArchesMixin:
    @classmethod
    def load_query_data(
        cls,
        adata: AnnData | None = None,
        reference_model: str | BaseModelClass | None = None,
        registry: dict[str, Any] | None = None,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        freeze_dropout: bool = False,
        freeze_expression: bool = True,
        freeze_decoder_first_layer: bool = True,
        freeze_batchnorm_encoder: bool = True,
        freeze_batchnorm_decoder: bool = False,
        freeze_classifier: bool = True,
        transfer_batch: bool = True,
        datamodule: Any = None,
    ) -> Self: ...
    @staticmethod
    def prepare_query_anndata(
        adata: AnnData,
        reference_model: str | BaseModelClass,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> Any: ...
