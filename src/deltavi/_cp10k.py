"""Scale of counts per ten thousand, with one function for arrays and one for tensors.

A total below one count, that of an empty cell above all, counts as one: its zeros stay zeros, and no rate is inflated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

CP10K = 1e4
SMALLEST_TOTAL = 1.0


def cp10k_factors(totals: np.ndarray) -> NDArray[np.float64]:
    """Factors from counts of cells with these `totals` to counts per ten thousand, of the same shape."""
    return np.asarray(CP10K / np.maximum(np.asarray(totals, dtype=np.float64), SMALLEST_TOTAL))


def log1p_cp10k(counts: np.ndarray, totals: np.ndarray) -> NDArray[np.float32]:
    """Natural log of one plus counts per ten thousand, ``(n_cells, n_genes)``; an empty cell stays zero.

    Parameters
    ----------
    counts
        Dense.
    totals
        ``(n_cells,)`` total of each cell, over these genes or over more.
    """
    return np.log1p(np.asarray(counts, dtype=np.float64) * cp10k_factors(totals)[:, None]).astype(np.float32)


def log1p_cp10k_rows(counts: sparse.csr_matrix, totals: np.ndarray) -> sparse.csr_matrix:
    """As :func:`log1p_cp10k`, of CSR, whose type is kept."""
    scaled = counts.copy()
    # the log of a sum is not the sum of logs
    scaled.sum_duplicates()
    scaled.data = np.log1p(scaled.data * np.repeat(cp10k_factors(totals), np.diff(scaled.indptr))).astype(counts.dtype)
    return scaled


def cp10k_totals_of(totals: Tensor) -> Tensor:
    """Totals that counts may be divided by."""
    return totals.clamp_min(SMALLEST_TOTAL)


def log1p_cp10k_of(counts: Tensor, totals: Tensor) -> Tensor:
    """As :func:`log1p_cp10k`, of tensors: counts ``(..., n_cells, n_genes)``, totals ``(..., n_cells, 1)``."""
    return (counts * (CP10K / cp10k_totals_of(totals))).log1p()
