"""Cells that a method returned, in the order of the cells and genes of the query."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike

from deltavi import _keys
from deltavi._errors import GeneMatchError, InputDataError, examples
from deltavi._types import Rows
from deltavi.arrays.matrix import as_matrix
from deltavi.arrays.scale import require_logs
from deltavi.arrays.tables import are_counted, cell_names, gene_names, places, text_names

Chosen = slice | np.ndarray


def checked_prediction(predicted: AnnData | pd.DataFrame | ArrayLike, query: AnnData, name: str) -> Rows:
    """Matrix of predicted cells in the order of cells and genes of the query, (n_query, n_genes).

    Parameters
    ----------
    predicted
        Log1p CP10k: an AnnData or a DataFrame, whose names are matched, or a matrix in the order of the query.
    query
        Cells that were to be predicted.
    name
        Method, for messages.

    Raises
    ------
    InputDataError
        It is no matrix of cells, has other cells, values that are missing, or counts in place of logarithms.
    GeneMatchError
        It has other genes, or names some of them twice.
    """
    if isinstance(predicted, AnnData) and predicted.X is None:
        raise InputDataError(f"{name!r} returned an AnnData without X; put log1p CP10k there.")
    if not isinstance(predicted, AnnData) and np.ndim(predicted) != 2:
        raise InputDataError(
            f"{name!r} returned {type(predicted).__name__}, not an AnnData, a DataFrame or a matrix of "
            f"{query.n_obs} cells x {query.n_vars} genes."
        )
    shape = np.shape(predicted)
    genes, cells = _genes(predicted, shape[1], query, name), _cells(predicted, shape[0], query, name)
    matrix = as_matrix(predicted, f"the prediction of {name!r}")[:, genes]
    require_logs(matrix, f"the prediction of {name!r}", negative=True)
    return matrix[cells]


def _genes(predicted: object, n_genes: int, query: AnnData, name: str) -> Chosen:
    """Columns of the prediction in the order of the genes of the query; others are left out."""
    if (given := gene_names(predicted, repr(name))) is None:
        if n_genes != query.n_vars:
            raise GeneMatchError(
                f"{name!r} returned {n_genes} genes, but the query has {query.n_vars} "
                f"({examples(query.var_names)}). Return those, in that order, or an AnnData that names them."
            )
        return slice(None)
    wanted = text_names(query.var_names)
    same = given.equals(wanted)
    return slice(None) if same else places(given, wanted, of=repr(name), beside="the query", further=True)


def _cells(predicted: object, n_cells: int, query: AnnData, name: str) -> Chosen:
    """Rows of the prediction in the order of the cells of the query."""
    if n_cells != query.n_obs:
        raise InputDataError(
            f"{name!r} returned {n_cells} cells for {query.n_obs} cells of the query. Return one for each."
        )
    wanted = text_names(query.obs_names)
    given = _source_names(predicted, wanted)
    if given is None or given.equals(wanted) or are_counted(given):
        return slice(None)
    strange = given[~given.isin(wanted)]
    if isinstance(predicted, AnnData) and len(strange) == len(given):
        return slice(None)  # cells that were named anew, as some packages do
    if len(strange) or not (given.is_unique and wanted.is_unique):
        foreign = f"{len(strange)} cells that are not in the query ({examples(strange)})"
        repeated = f"cells that occur more than once ({examples(given[given.duplicated()].unique())})"
        raise InputDataError(
            f"{name!r} returned {foreign if len(strange) else repeated}, so that its cells cannot be matched by name. "
            "Name them as the query does, with its obs_names, or return the matrix alone in the order of the query."
        )
    return np.asarray(given.get_indexer(wanted), dtype=np.intp)


def _source_names(predicted: object, wanted: pd.Index) -> pd.Index | None:
    """Names of the cells that were predicted, as text, where a table has them; None of a matrix."""
    names = cell_names(predicted)
    if names is None or names.isin(wanted).any():
        return names
    if isinstance(predicted, AnnData) and _keys.OBS_SOURCE_CELL in predicted.obs:
        return text_names(pd.Index(predicted.obs[_keys.OBS_SOURCE_CELL]))
    return _without_affix(names, wanted)


def _without_affix(names: pd.Index, wanted: pd.Index) -> pd.Index:
    """Names without a prefix or suffix common to all of them, if those of `wanted` remain."""
    first = str(names[0])
    for start, end in ((first.removesuffix(w), first.removeprefix(w)) for w in wanted if w and w in first):
        for kept in (names.str.removeprefix(start), names.str.removesuffix(end)):
            if kept.isin(wanted).all():
                return kept
    return names
