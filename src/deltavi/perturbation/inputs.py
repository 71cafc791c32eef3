"""Reader of a user's names, columns, expression and genes of an AnnData, with errors that name the way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deltavi._errors import GeneMatchError, InputDataError, examples, unknown_category
from deltavi._text import names_of
from deltavi._types import Rows
from deltavi.arrays.matrix import as_matrix
from deltavi.arrays.scale import require_logs
from deltavi.registry.columns import category_names, column

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


def as_names(values: Iterable[object]) -> NDArray[np.object_]:
    """Values as strings, None where missing, (n_values,)."""
    given = np.asarray(values, dtype=object)
    return names_of(given.ravel()).reshape(given.shape)


def name_column(adata: AnnData, key: str, known: Iterable[str] = ()) -> NDArray[np.object_]:
    """A column of obs as strings, those of `known` where they are the same, None where missing, (n_cells,)."""
    return category_names(column(adata, key), np.array(list(known), dtype=object))


def known_names(names: NDArray[np.object_]) -> list[str]:
    """The distinct names in sorted order, missing ones left out."""
    return sorted({name for name in names if name is not None})


def log_expression(adata: AnnData, layer: str | None, name: str) -> Rows:
    """Expression of all cells in memory, CSR or dense, (n_cells, n_genes), checked to be on the log1p CP10k scale.

    Raises
    ------
    UnknownCategoryError
        The layer does not exist.
    InputDataError
        There is no expression, or it holds NaN, infinite or negative values, or looks like counts.
    """
    if layer is not None and layer not in adata.layers:
        raise unknown_category("layer", layer, [key for key in adata.layers if key is not None])
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise InputDataError(f"{name} has no X. Put log1p CP10k expression there, or name the layer that holds it.")
    matrix = as_matrix(values, name)
    require_logs(matrix, name)
    return matrix


def check_unique_genes(genes: pd.Index, name: str) -> None:
    """Raise GeneMatchError where a gene name occurs more than once."""
    repeated = genes[genes.duplicated()].unique()
    if len(repeated):
        raise GeneMatchError(
            f"{name} has {len(repeated)} gene names that occur more than once ({examples(repeated)}). "
            "Make them unique on a copy with var_names_make_unique()."
        )


def select(adata: AnnData, rows: np.ndarray, genes: pd.Index, name: str) -> AnnData:
    """View of some cells with `genes` in that order, matched by name; further genes are dropped.

    Raises
    ------
    GeneMatchError
        Gene names are not unique, or some of `genes` are missing.
    """
    check_unique_genes(adata.var_names, name)
    if adata.var_names.equals(genes):
        return adata[rows]
    missing = genes[~genes.isin(adata.var_names)]
    if len(missing):
        raise GeneMatchError(
            f"{name} lacks {len(missing)} of {len(genes)} genes ({examples(missing)}; it holds "
            f"{examples(adata.var_names)}). Subset all data to their common genes, under the same naming scheme."
        )
    return adata[rows, genes]
