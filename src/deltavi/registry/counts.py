"""Raw counts, taken from an AnnData as CSR after every value was looked at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from deltavi._entries import require_anndata
from deltavi._errors import InputDataError
from deltavi._types import StoredMatrix
from deltavi.registry.checks import (
    FLOAT32_EXACT,
    MatrixReport,
    Scanned,
    require_finite,
    row_blocks,
    scan_and_sum,
)
from deltavi.registry.matrix import loadable, read_from, rounded
from deltavi.registry.source import elsewhere, matrix_name, matrix_of

# Way out if no part of the AnnData holds counts.
OTHERWISE = (
    " If it is normalised, take the counts from the file it was made of; round counts that were corrected for ambient "
    "RNA, {where} = np.rint({where})."
)


def counts_of(adata: AnnData, layer: str | None = None) -> sparse.csr_matrix:
    """Raw counts of `adata` as CSR of shape ``(n_cells, n_genes)``, float32 unless a count is too large for it.

    Parameters
    ----------
    adata
        Holds raw counts in ``X``, or in ``layers[layer]``; sparse, dense or backed. The result shares no memory.
    layer
        Name of the layer, or None for ``X``.

    Raises
    ------
    UnknownCategoryError
        If there is no such layer.
    InputDataError
        If any value is missing, infinite, negative or not a whole number; rounding errors are taken off.
    """
    require_anndata(adata)
    values, scanned = checked_counts(adata, layer)
    dtype = exact_type(scanned.report)
    blocks = [sparse.csr_matrix(block, dtype=dtype) for _, block in row_blocks(values)]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr") if blocks else (0, adata.n_vars), dtype=dtype)


def checked_counts(
    adata: AnnData, layer: str | None, also: Callable[..., None] | None = None
) -> tuple[StoredMatrix, Scanned]:
    """Raw counts of `adata` where they are, rows of which can be read, and the findings of one pass over them.

    `also` is called with the numbers of the rows of each block, and the block; errors are those of :func:`counts_of`.
    """
    where, x = matrix_name(layer), matrix_of(adata, layer)
    with read_from(x, where):
        values = loadable(x, where=where)
        scanned = scan_and_sum(values, also=also)
    report, cells = scanned.report, list(adata.obs_names)
    require_finite(report, where=where, cells=cells, genes=list(adata.var_names), layer=layer)
    if not report.are_counts:
        raise InputDataError(
            f"{where} must hold raw counts, but {report.n_negative} values are negative and {report.n_fractional} are "
            f"not whole numbers, of {report.n_nonzero} that are not zero."
            f"{elsewhere(adata, layer, 'counts') or OTHERWISE.format(where=where)}"
        )
    return rounded(values, report, where=where), scanned


def exact_type(report: MatrixReport) -> type[np.floating]:
    """Single precision, unless a count is too large for it."""
    return np.float32 if report.max_value <= FLOAT32_EXACT else np.float64


def row_sums(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Sum of every row, shape ``(n_cells,)``, added up in double precision."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
