"""Rows of a sparse matrix in memory, with what count likelihoods need of them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from scipy import sparse, special
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._compat import SMALLEST_COUNT
from deltavi._types import Rows
from deltavi.arrays.matrix import canonical_rows
from deltavi.kernels import kernels

# Rows in full, places ``(2, n_entries)`` and values of their entries.
Cut: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
# Cells whose factorials are looked up at a time, so that what is in between stays small.
CELLS_AT_ONCE = 4096
# Log x! of the whole numbers below so many: the counts of all but the most expressed genes.
LOG_FACTORIALS = special.gammaln(np.arange(4096) + 1.0)


class ResidentRows:
    """Rows of a sparse matrix in memory, with precomputed terms of count likelihoods.

    Parameters
    ----------
    matrix
        ``(n_cells, n_genes)`` CSR matrix; it is not changed.
    log_factorials
        ``(n_cells,)`` sum of log x! of each cell, NaN where it is to be found; it is changed.
    """

    def __init__(self, matrix: sparse.csr_matrix, log_factorials: np.ndarray | None = None) -> None:
        self.matrix = canonical_rows(matrix).astype(np.float32, copy=False)
        # computed when a cell is first read, so that reading a few cells does not scan all
        unknown = np.full(matrix.shape[0], np.nan, dtype=np.float32)
        self._log_factorials = unknown if log_factorials is None else log_factorials
        # for who reads all cells again and again: to load kernels takes longer than to read them once
        self.by_kernels = False

    def use_kernels(self) -> None:
        """Cut mini-batches by kernels, where there are any for this matrix."""
        starts, indices, data = self.matrix.indptr, self.matrix.indices, self.matrix.data
        plain = all(x.flags.carray and x.dtype.isnative for x in (starts, indices, data))
        self.by_kernels = plain and starts.dtype == indices.dtype and starts.dtype in (np.int32, np.int64)

    def dense(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Expression of these cells, ``(n_rows, n_genes)``."""
        return {REGISTRY_KEYS.X_KEY: _dense(self.matrix[rows])}

    def with_counts(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The same, with the positions of its nonzero counts and the sum of log x! of each cell."""
        dense, places, value = self._cut(rows) or self._cut_by_scipy(rows)
        above = value > SMALLEST_COUNT
        counted = slice(None) if above.all() else above
        return {
            REGISTRY_KEYS.X_KEY: dense,
            _keys.NONZERO: np.ascontiguousarray(places[:, counted]),
            _keys.NONZERO_COUNT: value[counted],
            _keys.LOG_FACTORIAL: self._log_factorials_of(rows, value, places[0]),
        }

    def _cut(self, rows: np.ndarray) -> Cut | None:
        """Rows in full, and row and gene, and value of each entry; ``None`` without kernels for this matrix."""
        found = kernels("rows") if self.by_kernels else None
        if found is None:
            return None
        starts, rows = self.matrix.indptr, np.ascontiguousarray(rows, dtype=np.int64)
        if (rows < 0).any():
            return None
        n_entries = int((starts[rows + 1] - starts[rows]).sum())
        dense = torch.empty(len(rows), self.matrix.shape[1]).numpy()
        places, value = np.empty((2, n_entries), dtype=np.int64), np.empty(n_entries, dtype=np.float32)
        found.cut(starts, self.matrix.indices, self.matrix.data, rows, dense, places, value)
        return dense, places, value

    def _cut_by_scipy(self, rows: np.ndarray) -> Cut:
        chosen = self.matrix[rows]
        places = np.empty((2, chosen.nnz), dtype=np.int64)
        places[0], places[1] = np.repeat(np.arange(len(rows)), np.diff(chosen.indptr)), chosen.indices
        return _dense(chosen), places, chosen.data

    def log_factorials(self) -> np.ndarray:
        """Sum of log x! of every cell, ``(n_cells,)``."""
        n_cells = len(self._log_factorials)
        for start in range(0, n_cells, CELLS_AT_ONCE):
            cells = np.arange(start, min(start + CELLS_AT_ONCE, n_cells))
            chosen = self.matrix[cells]
            self._log_factorials_of(cells, chosen.data, np.repeat(np.arange(len(cells)), np.diff(chosen.indptr)))
        return self._log_factorials

    def _log_factorials_of(self, rows: np.ndarray, value: np.ndarray, row: np.ndarray) -> np.ndarray:
        known = self._log_factorials[rows]
        if np.isnan(known).any():
            # negative values are not counts, and their factorials are not used
            terms = log_factorials_at(np.maximum(value, 0))
            self._log_factorials[rows] = np.bincount(row, weights=terms, minlength=len(rows))
            known = self._log_factorials[rows]
        return np.asarray(known)


def log_factorials_at(counts: np.ndarray) -> np.ndarray:
    """Log x! of non-negative numbers, which need not be whole, in double precision, ``(n,)`` nats."""
    # a comparison with NaN is false as well
    if counts.max(initial=0) < len(LOG_FACTORIALS):
        whole = counts.astype(np.intp)
        if np.array_equal(whole, counts):
            return np.asarray(LOG_FACTORIALS[whole])
    return np.asarray(special.gammaln(counts.astype(np.float64) + 1))


def in_full(rows: Rows) -> np.ndarray:
    """Rows with their zeros, ``(n_rows, n_genes)``."""
    return rows if isinstance(rows, np.ndarray) else _dense(rows)


def _dense(chosen: sparse.csr_matrix) -> np.ndarray:
    # torch reuses memory from batch to batch; NumPy allocates it every time
    found: np.ndarray = chosen.toarray(out=torch.zeros(*chosen.shape).numpy())
    return found
