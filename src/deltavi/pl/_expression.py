"""Expression matrices of several sets of cells over the same genes, from AnnData or arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from deltavi import _entries as entries
from deltavi._errors import GeneMatchError, InputDataError, unknown_category
from deltavi.arrays.chosen import named_positions
from deltavi.arrays.matrix import without_names
from deltavi.arrays.scale import require_one_scale
from deltavi.arrays.tables import gene_names, text_names

logger = logging.getLogger("deltavi")

Matrix: TypeAlias = np.ndarray | sparse.csr_matrix
Expression: TypeAlias = AnnData | pd.DataFrame | np.ndarray | sparse.spmatrix | sparse.sparray


@dataclass(frozen=True)
class AlignedExpression:
    """Matrices of shape ``(n_cells, n_genes)`` over the genes in ``genes``, which may be None for arrays."""

    matrices: Mapping[str, Matrix]
    genes: pd.Index | None

    def __getitem__(self, name: str) -> Matrix:
        return self.matrices[name]


def align_expression(
    given: Mapping[str, Expression | None], *, layer: str | None = None, column_names: Sequence[str] | None = None
) -> AlignedExpression:
    """Bring sets of cells to the genes that all of them have, in the order of the first.

    Parameters
    ----------
    given
        Sets of cells by the name that messages call them; None is left out. AnnData and DataFrames are matched by gene
        name; arrays have as many genes, in the same order.
    layer
        Layer of every AnnData; ``X`` when None.
    column_names
        Names of the columns of arrays.

    Raises
    ------
    GeneMatchError
        If gene names repeat, no gene is common, or an array has another number of genes.
    InputDataError
        If there are no cells, a value is missing or infinite, or some sets are raw counts and others are not.
    """
    present = {name: cells for name, cells in given.items() if cells is not None}
    matrices = {name: _matrix(cells, name, layer) for name, cells in present.items()}
    names = {name: index for name, cells in present.items() if (index := gene_names(cells, name)) is not None}
    genes: pd.Index | None
    if len(names) == len(present):
        matrices, genes = _match_by_name(matrices, names)
    else:
        genes = _match_by_position(matrices, names, column_names)
    for name, matrix in matrices.items():
        _check_values(matrix, name)
    require_one_scale(matrices)
    return AlignedExpression(matrices, genes)


def positions_of(known: pd.Index | None, genes: str | Sequence[str]) -> NDArray[np.intp]:
    """Positions of genes among those `known`, each once.

    Raises
    ------
    GeneMatchError
        If a gene is not known, or none is because arrays have no names.
    """
    if known is None:
        raise GeneMatchError("genes were named, but arrays have no gene names; pass AnnData or gene_names=...")
    return named_positions(known, each_once("genes", genes), "genes to name")


def each_once(name: str, value: object) -> list[Any]:
    """One name or several as a list, in the order given; those that are repeated count once."""
    several = isinstance(value, Iterable) and not isinstance(value, str | pd.DataFrame)
    with suppress(TypeError):  # what cannot be hashed is refused below
        value = list(dict.fromkeys(value)) if several else value  # type: ignore[call-overload]
    return entries.names(name, value)


def _matrix(cells: Expression, name: str, layer: str | None) -> Matrix:
    values: Any = cells
    if isinstance(cells, AnnData):
        if layer is not None and layer not in cells.layers:
            raise unknown_category(f"layer of {name}", layer, [key for key in cells.layers if key is not None])
        values = cells.X if layer is None else cells.layers[layer]
    values = without_names(values, name)
    if sparse.issparse(values):
        return sparse.csr_matrix(values)
    values = _array(values)
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise InputDataError(
            f"{name} must be numbers of shape (n_cells, n_genes), but has shape {values.shape} and type {values.dtype}."
        )
    return values


def _match_by_name(matrices: Mapping[str, Matrix], names: Mapping[str, pd.Index]) -> tuple[dict[str, Matrix], pd.Index]:
    first = next(iter(names.values()))
    common = first[np.logical_and.reduce([first.isin(other) for other in names.values()])]
    if len(common) == 0:
        raise GeneMatchError(f"No gene is common to {', '.join(names)}; are their var_names of one kind?")
    if len(common) < max(map(len, names.values())):
        logger.info("%d genes are common to %s; the others are left out.", len(common), ", ".join(names))
    return {name: matrices[name][:, index.get_indexer(common)] for name, index in names.items()}, common


def _match_by_position(
    matrices: Mapping[str, Matrix], names: Mapping[str, pd.Index], given_names: Sequence[str] | None
) -> pd.Index | None:
    known = list(names.values())
    widths = {name: matrix.shape[1] for name, matrix in matrices.items()}
    if given_names is not None:
        known.append(text_names(pd.Index(entries.names("gene_names", given_names), dtype=object)))
        widths["gene_names"] = len(known[-1])
    if len(set(widths.values())) > 1:
        raise GeneMatchError(f"The numbers of genes differ: {widths}. Pass AnnData to match genes by name.")
    if any(not index.equals(known[0]) for index in known):
        raise GeneMatchError("The genes differ in name or order, and an array cannot follow: pass AnnData throughout.")
    return known[0] if known else None


def _check_values(matrix: Matrix, name: str) -> None:
    if 0 in matrix.shape:
        raise InputDataError(f"{name} is empty: {matrix.shape[0]} cells x {matrix.shape[1]} genes.")
    wrong = ~np.isfinite(matrix.data if sparse.issparse(matrix) else matrix)
    if wrong.any():
        raise InputDataError(f"{name} holds {int(wrong.sum())} missing or infinite values; remove those cells first.")


def _array(values: object) -> Matrix:
    try:
        return np.asarray(values)
    except (TypeError, ValueError):  # lists of unequal length
        return np.empty(0, dtype=object)
