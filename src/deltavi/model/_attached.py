"""Cells that a model holds: attached, replaced, and pointed at by its split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anndata import AnnData

from deltavi._compat import SETUP_ARGS_KEY
from deltavi._entries import require_anndata
from deltavi._errors import DeltaviError
from deltavi.model._aligned import in_gene_order
from deltavi.registry.names import names_checksum
from deltavi.registry.tables import tables_read

if TYPE_CHECKING:
    from deltavi.model._base import CountModel


def attach(model: CountModel, adata: AnnData) -> None:
    """Make `adata` the cells of `model`: their genes are matched by name, their columns registered as by ``load``."""
    cls = type(model)
    with tables_read(require_anndata(adata, lazy=True)):
        # everything that a query is checked for, before anything is written
        model._align(adata)
        cells = in_gene_order(adata, model.registry_, cls)
        cls.setup_anndata(cells, source_registry=model.registry_, **model.registry_[SETUP_ARGS_KEY])
    manager = model._get_most_recent_anndata_manager(cells, required=True)
    model._register_manager_for_instance(manager)
    model._adata, model._adata_manager = cells, manager
    model.registry_, model.summary_stats = manager.registry, manager.summary_stats


def pointing(model: CountModel, positions: Any) -> Any:
    """`positions`, if the cells of the model are those they were found among."""
    if positions is None or model._adata is None or model._adata_manager is None:
        return positions
    model._adata_manager.require_same_cells()
    trained_on = model.trained_on_
    if trained_on is not None and names_checksum(model._adata.obs_names) != trained_on:
        raise DeltaviError(
            "The positions of training and validation cells point at the cells the model was trained on; adata "
            "holds others, or the same in another order. Load the model with the cells it was trained on."
        )
    return positions
