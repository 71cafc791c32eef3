"""Cells of a data module as an AnnData of its own, and their registration."""

from __future__ import annotations

from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._compat import SETUP_ARGS_KEY, make_actual
from deltavi._random import taking_turns
from deltavi.dataloaders._columns import CellColumns
from deltavi.dataloaders._fields import column_fields
from deltavi.registry.covariates import SizeFactorField
from deltavi.registry.fields import ExpressionField
from deltavi.registry.genes import require_unique_genes
from deltavi.registry.manager import DataManager
from deltavi.registry.source import refuse_mask, refuse_view_of_file


def own_cells(adata: AnnData, columns: CellColumns) -> AnnData:
    """Matrix and columns of `adata`, which is no view afterwards."""
    require_unique_genes(adata.var_names, where="adata.var_names")
    if adata.is_view:
        refuse_view_of_file(adata)
        if columns.layer is None or columns.layer in adata.layers:
            refuse_mask(adata, columns.layer)
        make_actual(adata)
    return columns.stand_in(adata)


def registered(cells: AnnData, columns: CellColumns) -> DataManager:
    """Manager of the columns, without the matrix."""
    manager = DataManager(fields=column_fields(columns), setup_method_args={SETUP_ARGS_KEY: columns.of_scvi()})
    with taking_turns():
        manager.register_fields(cells)
    if columns.size_factor_key:
        # registered with the matrix
        field = ExpressionField(REGISTRY_KEYS.X_KEY, columns.layer)
        SizeFactorField(REGISTRY_KEYS.SIZE_FACTOR_KEY, columns.size_factor_key, expression=field).validate_field(cells)
    return manager
