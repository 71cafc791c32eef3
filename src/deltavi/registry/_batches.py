"""Mini-batches cut from an AnnData: in the requested order, and fast if the counts are in memory."""

from __future__ import annotations

from functools import cached_property
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy import sparse, special
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._compat import SMALLEST_COUNT, AnnDataManager, AnnTorchDataset
from deltavi.kernels import kernels
from deltavi.registry._device_rows import SentRows, only_counts, rows_for
from deltavi.registry.additions import Loaded

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
    """

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        self.matrix = matrix.astype(np.float32, copy=False)
        # computed when a cell is first read, so that reading a few cells does not scan all
        self._log_factorials = np.full(matrix.shape[0], np.nan, dtype=np.float32)
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


class OrderedDataset(AnnTorchDataset):
    """Mini-batches in the requested order, also from a backed file.

    h5py requires increasing, distinct rows, and scvi-tools leaves them sorted, so that a prediction for chosen cells
    would be returned in another order than the cells.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        getitem_tensors: list[str] | dict[str, type] | None = None,
        load_sparse_tensor: bool = False,
    ) -> None:
        super().__init__(adata_manager, getitem_tensors=getitem_tensors, load_sparse_tensor=load_sparse_tensor)
        # keys that are named are returned as they are
        self._keys_were_named = getitem_tensors is not None
        self.device_rows: SentRows | None = None

    def read_often(self) -> None:
        """Prepare to be read again and again, as in training."""
        if self._resident is not None:
            self._resident.use_kernels()

    def rows_on(self, device: torch.device) -> SentRows | None:
        """Maker of mini-batches on `device`, for `device_rows`; ``None`` if its values would differ from these."""
        matrix = None if self._resident is None or self._keys_were_named else only_counts(self._resident.matrix)
        if matrix is None or self._resident is None:
            return None
        return rows_for(matrix, device)(matrix, self._resident.log_factorials(), self._columns, device)

    def __getitem__(self, indexes: int | list[int] | slice) -> Loaded:
        if self._resident is not None:
            rows = np.arange(len(self))[indexes] if isinstance(indexes, slice) else np.atleast_1d(indexes)
            if self.device_rows is not None:
                return dict(self.device_rows.with_counts(rows))
            expression = self._resident.dense(rows) if self._keys_were_named else self._resident.with_counts(rows)
            return {**{key: values[rows] for key, values in self._columns.items()}, **expression}
        if isinstance(indexes, slice):
            return _writable(super().__getitem__(indexes))
        rows, inverse = np.unique(np.atleast_1d(np.asarray(indexes)), return_inverse=True)
        loaded = _writable(super().__getitem__(rows))
        # sparse tensors, which only training loads, cannot be put in order, and its mini-batches have none
        if self.load_sparse_tensor or np.array_equal(inverse, np.arange(len(inverse))):
            return loaded
        return {key: value[inverse] for key, value in loaded.items()}

    @cached_property
    def _resident(self) -> ResidentRows | None:
        """Expression, if it is a sparse matrix in memory and loaded as dense single precision; else ``None``."""
        expression = self.data.get(REGISTRY_KEYS.X_KEY)
        usual = self.keys_and_dtypes.get(REGISTRY_KEYS.X_KEY) is np.float32 and not self.load_sparse_tensor
        return ResidentRows(expression) if usual and type(expression) is sparse.csr_matrix else None

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """All other registered data as arrays."""
        return {
            key: _array(self.data[key]).astype(dtype, copy=False)
            for key, dtype in self.keys_and_dtypes.items()
            if key != REGISTRY_KEYS.X_KEY and not isinstance(self.data[key], str)
        }


def _dense(chosen: sparse.csr_matrix) -> np.ndarray:
    # torch reuses memory from batch to batch; NumPy allocates it every time
    found: np.ndarray = chosen.toarray(out=torch.zeros(*chosen.shape).numpy())
    return found


def _array(values: object) -> np.ndarray:
    return values.to_numpy() if isinstance(values, pd.DataFrame) else np.asarray(values)


def _writable(loaded: Loaded) -> Loaded:
    """Copy read-only arrays: columns of pandas 3 are read-only, which torch warns of."""
    return {
        key: value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value
        for key, value in loaded.items()
    }
