"""Raw counts, taken from an AnnData as CSR after every value was looked at."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from deltavi._entries import require_anndata
from deltavi._errors import InputDataError
from deltavi.registry.checks import FLOAT32_EXACT, require_finite, row_blocks, scan_matrix
from deltavi.registry.matrix import loadable, rounded
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
    where = matrix_name(layer)
    values = loadable(matrix_of(adata, layer), where=where)
    report = scan_matrix(values)
    cells = list(adata.obs_names)
    require_finite(report, where=where, cells=cells, genes=list(adata.var_names), layer=layer)
    if not report.are_counts:
        raise InputDataError(
            f"{where} must hold raw counts, but {report.n_negative} values are negative and {report.n_fractional} are "
            f"not whole numbers, of {report.n_nonzero} that are not zero."
            f"{elsewhere(adata, layer, 'counts') or OTHERWISE.format(where=where)}"
        )
    values = rounded(values, report, where=where)
    dtype = np.float32 if report.max_value <= FLOAT32_EXACT else np.float64
    blocks = [sparse.csr_matrix(block, dtype=dtype) for _, block in row_blocks(values)]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr") if blocks else (0, adata.n_vars), dtype=dtype)


def row_sums(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Sum of every row, shape ``(n_cells,)``, added up in double precision."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
