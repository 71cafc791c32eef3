"""Raw counts, taken from an AnnData as CSR after every value was looked at."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from deltavi._errors import InputDataError, unknown_category
from deltavi.data._checks import FLOAT32_EXACT, MatrixReport, require_finite, row_blocks, scan_matrix
from deltavi.data._matrix import loadable


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
        If any value is missing, infinite, negative or not a whole number.
    """
    if layer is not None and layer not in adata.layers:
        raise unknown_category("layer", layer, [name for name in adata.layers if name is not None])
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    values = loadable(adata.X if layer is None else adata.layers[layer], where=where)
    report = scan_matrix(values)
    require_finite(report, where=where, cells=list(adata.obs_names), genes=list(adata.var_names), layer=layer)
    _require_counts(report, where)
    dtype = np.float32 if report.max_value <= FLOAT32_EXACT else np.float64
    blocks = [sparse.csr_matrix(block, dtype=dtype) for _, block in row_blocks(values)]
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr") if blocks else (0, adata.n_vars), dtype=dtype)


def row_sums(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Sum of every row, shape ``(n_cells,)``, added up in double precision."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def _require_counts(report: MatrixReport, where: str) -> None:
    if not report.are_counts:
        raise InputDataError(
            f"{where} must hold raw counts, but {report.n_negative} values are negative and {report.n_fractional} are "
            f"not whole numbers, of {report.n_nonzero} that are not zero. If it is normalised, the counts may be in a "
            "layer or in adata.raw."
        )
