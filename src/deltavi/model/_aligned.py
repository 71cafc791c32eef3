"""Cells with the genes of a model in its order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._compat import MODEL_NAME_KEY, SETUP_ARGS_KEY
from deltavi._errors import DeltaviError, ModelFileError
from deltavi._random import taking_turns
from deltavi._types import State, is_dask
from deltavi.registry.columns import user_columns
from deltavi.registry.genes import match_genes, warn_duplicate_cells
from deltavi.registry.matrix import loadable, read_from, take_columns
from deltavi.registry.source import matrix_name, matrix_of

if TYPE_CHECKING:
    from deltavi.model._base import CountModel


def aligned_copy(adata: AnnData, genes: np.ndarray, *, layer: str | None, min_overlap: float) -> AnnData:
    """New AnnData with `genes` in order, the obs and var of `adata`, and nothing else.

    Parameters
    ----------
    adata
        Cells to predict: in memory, a view, or backed.
    genes
        Names of the model's genes.
    layer
        Layer that holds the expression, or ``None`` for X; it is kept under the same name.
    min_overlap
        Smallest share of `genes` that must be present.

    Returns
    -------
    AnnData whose matrix is shared with `adata` where the genes agree, and a CSR copy of the model's genes otherwise.
    """
    match = match_genes(adata.var_names, pd.Index(genes), min_overlap=min_overlap)
    warn_duplicate_cells(adata.obs_names)
    source = _expression(adata, layer)
    with read_from(source, matrix_name(layer)):
        matrix = loadable(source, where=matrix_name(layer), quiet=True)
        if not match.is_identity:
            matrix = take_columns(matrix, match.positions)
    if match.is_identity and is_dask(source):
        # an AnnData holds the array, and no reader of its chunks
        matrix = source
    with taking_turns():
        # a model that was set up on these cells may be writing columns of its own
        obs = user_columns(adata.obs)
    var = _told_of(adata.var, match.positions).set_axis(genes.astype(str))
    return AnnData(X=matrix, obs=obs, var=var) if layer is None else AnnData(obs=obs, var=var, layers={layer: matrix})


def _told_of(var: pd.DataFrame, positions: np.ndarray) -> pd.DataFrame:
    """Rows of `var` at `positions`; those of genes that are absent, at -1, are missing."""
    if (positions >= 0).all():
        return var.iloc[positions]
    return var.reset_index(drop=True).reindex(np.where(positions < 0, len(var), positions))


def _expression(adata: AnnData, layer: str | None) -> Any:
    if layer is not None and layer not in adata.layers:
        raise DeltaviError(
            f"The model reads layers[{layer!r}], which the query does not have. If its X holds raw counts and the "
            f"model was trained on such: adata.layers[{layer!r}] = adata.X.copy(); if it was trained on log1p CP10k: "
            f"deltavi.pp.log_normalise(adata, key_added={layer!r})."
        )
    return matrix_of(adata, layer)


def in_gene_order(adata: AnnData, registry: State, cls: type[CountModel]) -> AnnData:
    """`adata` itself where its genes are the model's, else a stand-in with them in order."""
    if registry.get(MODEL_NAME_KEY) not in (None, cls.__name__):
        raise ModelFileError(f"The registry belongs to {registry[MODEL_NAME_KEY]}, not to {cls.__name__}.")
    genes = np.asarray(registry["field_registries"]["X"]["state_registry"]["column_names"], dtype=object)
    if np.array_equal(np.asarray(adata.var_names.astype(str), dtype=object), genes):
        return adata
    layer = registry[SETUP_ARGS_KEY].get("layer")
    return aligned_copy(adata, genes, layer=layer, min_overlap=cls.min_gene_overlap)
