"""Mini-batches cut from an AnnData: in the requested order, and fast if the counts are in memory."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi._compat import AnnDataManager, AnnTorchDataset
from deltavi._types import RowMatrix, Rows, StoredMatrix, is_sparse
from deltavi.registry._device_rows import SentRows, only_counts, rows_for
from deltavi.registry._read_on import ReadOn
from deltavi.registry._resident_rows import ResidentRows, in_full
from deltavi.registry.additions import Loaded
from deltavi.registry.chunks import DaskMatrix
from deltavi.registry.joined import JoinedMatrix
from deltavi.registry.source import matrix_name
from deltavi.registry.spooled import SpooledRows
from deltavi.registry.stored_rows import StoredRows, stored_rows
from deltavi.registry.streamed import StreamedCells

# Rows and bytes of cells in any order that are in memory at once.
MOST_POOLED, MOST_POOLED_BYTES = 16384, 64 * 2**20


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
        # what is read from a file, while it is kept in memory
        self._on_disk: StoredMatrix | None = None

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
        matrix = self.data.get(REGISTRY_KEYS.X_KEY)
        if self._read_on is None and isinstance(matrix, JoinedMatrix | DaskMatrix):
            return self._from_rows(matrix, np.atleast_1d(np.arange(len(self))[indexes]))
        if isinstance(indexes, slice):
            if self._read_on is None:
                return _writable(super().__getitem__(indexes))
            indexes = np.arange(len(self))[indexes].tolist()
        rows, inverse = np.unique(np.atleast_1d(np.asarray(indexes)), return_inverse=True)
        loaded = _writable(self._from_storage(rows))
        # sparse tensors, which only training loads, cannot be put in order, and its mini-batches have none
        if self.load_sparse_tensor or np.array_equal(inverse, np.arange(len(inverse))):
            return loaded
        return {key: value[inverse] for key, value in loaded.items()}

    def _from_storage(self, rows: np.ndarray) -> Loaded:
        """Entries of a mini-batch of cells in increasing order, whose expression is no sparse matrix in memory."""
        if self._read_on is None or not len(rows):
            loaded: Loaded = super().__getitem__(rows)
            return loaded
        return self.with_expression(rows, self._read_on.take(rows))

    @property
    def reads_rows(self) -> bool:
        """True if rows are read when they are asked for, by :meth:`pooled`."""
        return self._read_on is not None

    @property
    def n_pooled(self) -> int:
        """Rows that may be in memory at once."""
        n_bytes = 0.0 if self.stored is None else self.stored.n_bytes
        return int(np.clip(MOST_POOLED_BYTES / max(n_bytes, 1.0), 1, MOST_POOLED))

    def pooled(self, cells: np.ndarray) -> Rows:
        """Rows of cells in increasing order, at least one and none but these, in single precision."""
        if isinstance(self._read_on, SpooledRows):
            return self._read_on.take(cells)
        assert self.stored is not None
        return self.stored.read(cells)

    def with_expression(self, cells: np.ndarray, expression: Rows) -> Loaded:
        """Entries of a mini-batch of cells whose expression was read, in single precision."""
        return {REGISTRY_KEYS.X_KEY: in_full(expression), **{key: x[cells] for key, x in self._columns.items()}}

    @cached_property
    def _read_on(self) -> ReadOn | SpooledRows | None:
        return None if self.stored is None else ReadOn(self.stored)

    def read_from(self, rows: SpooledRows) -> None:
        """Read rows from where they were kept."""
        vars(self)["_read_on"] = rows

    def _from_rows(self, matrix: RowMatrix, cells: np.ndarray) -> Loaded:
        """Mini-batch whose expression is read by increasing numbers of rows."""
        rows, inverse = np.unique(cells, return_inverse=True)
        read = matrix[rows]
        dense = (read.toarray() if is_sparse(read) else read).astype(np.float32, copy=False)
        columns = {key: values[cells] for key, values in self._columns.items()}
        return {REGISTRY_KEYS.X_KEY: dense[inverse], **columns}

    @cached_property
    def stored(self) -> StoredRows | None:
        """Reader of the expression, if it lies row by row in a file and is loaded as dense single precision."""
        layer = self.adata_manager.data_registry[REGISTRY_KEYS.X_KEY]["attr_key"]
        return stored_rows(self.data[REGISTRY_KEYS.X_KEY], where=matrix_name(layer)) if self._usual else None

    def streamed(self) -> StreamedCells | None:
        """Maker of mini-batches from pools of rows that are read from a file; ``None`` without :attr:`stored`."""
        return None if self.stored is None or self._keys_were_named else StreamedCells(self.stored, self._columns)

    @property
    def is_held(self) -> bool:
        """True if the expression of a file is kept in memory."""
        return self._on_disk is not None

    def hold(self) -> None:
        """Read the file now and keep its expression in memory, until :meth:`release`."""
        if self.stored is not None:
            self._replace(self.stored.read(np.arange(len(self))))

    def share(self, other: OrderedDataset) -> None:
        """Take over the reader, and rows that are kept in memory, of another data set of the same cells."""
        vars(self)["stored"] = other.stored
        if other._on_disk is not None:
            self._replace(other.data[REGISTRY_KEYS.X_KEY])

    def release(self) -> None:
        """Read from the file again, if expression was kept in memory."""
        if self._on_disk is not None:
            self._replace(self._on_disk)
            self._on_disk = None

    def _replace(self, expression: StoredMatrix) -> None:
        self._on_disk = self.data[REGISTRY_KEYS.X_KEY]
        self.data[REGISTRY_KEYS.X_KEY] = expression
        vars(self).pop("_resident", None)

    @property
    def _usual(self) -> bool:
        """True if expression is loaded as dense single precision."""
        return self.keys_and_dtypes.get(REGISTRY_KEYS.X_KEY) is np.float32 and not self.load_sparse_tensor

    @cached_property
    def _resident(self) -> ResidentRows | None:
        """Expression, if it is a sparse matrix in memory and loaded as dense single precision; else ``None``."""
        expression = self.data.get(REGISTRY_KEYS.X_KEY)
        return ResidentRows(expression) if self._usual and type(expression) is sparse.csr_matrix else None

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """All other registered data as arrays."""
        return {
            key: _array(self.data[key]).astype(dtype, copy=False)
            for key, dtype in self.keys_and_dtypes.items()
            if key != REGISTRY_KEYS.X_KEY and not isinstance(self.data[key], str)
        }


def _array(values: object) -> np.ndarray:
    return values.to_numpy() if isinstance(values, pd.DataFrame) else np.asarray(values)


def _writable(loaded: Loaded) -> Loaded:
    """Copy read-only arrays: columns of pandas 3 are read-only, which torch warns of."""
    return {
        key: value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value
        for key, value in loaded.items()
    }
