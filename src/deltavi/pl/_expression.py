"""Expression matrices of several sets of cells over the same genes, from AnnData or arrays."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from deltavi._errors import GeneMatchError, InputDataError, examples, unknown_category
from deltavi.data._checks import scan_matrix
from deltavi.data._genes import require_unique_genes

logger = logging.getLogger("deltavi")

Matrix: TypeAlias = NDArray[Any] | sparse.csr_matrix
Expression: TypeAlias = AnnData | NDArray[Any] | sparse.spmatrix | sparse.sparray

# No log1p CP10k value of whole numbers only reaches this; raw counts of thousands of genes do.
LARGEST_WHOLE_LOG = 10.0


@dataclass(frozen=True)
class AlignedExpression:
    """Matrices of shape ``(n_cells, n_genes)`` over the genes in ``genes``, which may be None for arrays."""

    matrices: Mapping[str, Matrix]
    genes: pd.Index[Any] | None

    def __getitem__(self, name: str) -> Matrix:
        return self.matrices[name]


def align_expression(
    given: Mapping[str, Expression | None], *, layer: str | None = None, gene_names: Sequence[str] | None = None
) -> AlignedExpression:
    """Bring sets of cells to the genes that all of them have, in the order of the first.

    Parameters
    ----------
    given
        Sets of cells by the name that messages call them; None is left out. AnnData are matched by gene name; arrays
        have as many genes, in the same order.
    layer
        Layer of every AnnData; ``X`` when None.
    gene_names
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
    names = {name: _gene_index(cells, name) for name, cells in present.items() if isinstance(cells, AnnData)}
    genes: pd.Index[Any] | None
    if len(names) == len(present):
        matrices, genes = _match_by_name(matrices, names)
    else:
        genes = _match_by_position(matrices, names, gene_names)
    for name, matrix in matrices.items():
        _check_values(matrix, name)
    _check_one_scale(matrices)
    return AlignedExpression(matrices, genes)


def positions_of(known: pd.Index[Any] | None, genes: str | Sequence[str]) -> NDArray[np.intp]:
    """Positions of genes among those `known`, each once.

    Raises
    ------
    GeneMatchError
        If a gene is not known, or none is because arrays have no names.
    """
    if known is None:
        raise GeneMatchError("genes were named, but arrays have no gene names; pass AnnData or gene_names=...")
    names = [genes] if isinstance(genes, str) else list(dict.fromkeys(genes))
    positions = known.get_indexer(pd.Index(names))
    missing = [gene for gene, position in zip(names, positions, strict=True) if position < 0]
    if missing:
        raise GeneMatchError(f"{len(missing)} of the genes to name are not among the genes: {examples(missing)}.")
    return np.asarray(positions, dtype=np.intp)


def _matrix(cells: Expression, name: str, layer: str | None) -> Matrix:
    values: Any = cells
    if isinstance(cells, AnnData):
        if layer is not None and layer not in cells.layers:
            raise unknown_category(f"layer of {name}", layer, [key for key in cells.layers if key is not None])
        values = cells.X if layer is None else cells.layers[layer]
        values = values[:] if cells.isbacked else values
    if sparse.issparse(values):
        return sparse.csr_matrix(values)
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise InputDataError(
            f"{name} must be numbers of shape (n_cells, n_genes), but has shape {values.shape} and type {values.dtype}."
        )
    return values


def _gene_index(cells: AnnData, name: str) -> pd.Index[Any]:
    names: pd.Index[Any] = cells.var_names
    require_unique_genes(names, where=name)
    return names


def _match_by_name(
    matrices: Mapping[str, Matrix], names: Mapping[str, pd.Index[Any]]
) -> tuple[dict[str, Matrix], pd.Index[Any]]:
    first = next(iter(names.values()))
    common = first[np.logical_and.reduce([first.isin(other) for other in names.values()])]
    if len(common) == 0:
        raise GeneMatchError(f"No gene is common to {', '.join(names)}; are their var_names of one kind?")
    if len(common) < max(map(len, names.values())):
        logger.info("%d genes are common to %s; the others are left out.", len(common), ", ".join(names))
    return {name: matrices[name][:, index.get_indexer(common)] for name, index in names.items()}, common


def _match_by_position(
    matrices: Mapping[str, Matrix], names: Mapping[str, pd.Index[Any]], gene_names: Sequence[str] | None
) -> pd.Index[Any] | None:
    known = list(names.values())
    widths = {name: matrix.shape[1] for name, matrix in matrices.items()}
    if gene_names is not None:
        known.append(pd.Index(gene_names).astype(str))
        widths["gene_names"] = len(gene_names)
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


def _check_one_scale(matrices: Mapping[str, Matrix]) -> None:
    """Raise where raw counts would be drawn against logarithms."""
    reports = {name: scan_matrix(matrix) for name, matrix in matrices.items()}
    raw = [name for name, report in reports.items() if report.are_counts and report.max_value > LARGEST_WHOLE_LOG]
    if raw and len(raw) < len(reports):
        raise InputDataError(
            f"{' and '.join(raw)} looks like raw counts, unlike the rest. Bring all to one scale first, for example "
            "log1p CP10k with deltavi.data.select_genes or scanpy, or name a layer that all have."
        )
