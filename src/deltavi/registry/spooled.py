"""Rows of a compressed file that are needed several times, kept in temporary files."""

from __future__ import annotations

import os
import tempfile
import weakref
from functools import cached_property
from typing import IO

import numpy as np
from scipy import sparse

from deltavi._types import Rows
from deltavi.registry.stored_rows import StoredRows, assembled, runs_of

# Bytes of entries that are kept; further rows are read again from where they come from.
MOST_BYTES = 512 * 2**20
GENE, VALUE = np.dtype(np.int32), np.dtype(np.float32)


class SpooledRows:
    """Sparse rows in single precision, kept as they were read, in temporary files that vanish with this object.

    Rows that were not kept are read from where they come from.

    Parameters
    ----------
    stored
        Reader of the rows.
    """

    def __init__(self, stored: StoredRows) -> None:
        self._stored, self._n_genes = stored, stored.shape[1]
        self._genes, self._values = _scratch(), _scratch()
        for file in (self._genes, self._values):
            weakref.finalize(self, file.close)
        # cells in increasing order, and entries of each
        self._cells: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._n_entries, self._is_open = 0, True

    def add(self, cells: np.ndarray, block: sparse.csr_matrix) -> None:
        """Keep rows of cells that come after those before; none any more once there is no space.

        Parameters
        ----------
        cells
            ``(n_cells,)`` positions in increasing order.
        block
            Their rows, entries in order and each in a place of its own.
        """
        after = self._n_entries + block.nnz
        self._is_open = self._is_open and after * (GENE.itemsize + VALUE.itemsize) <= MOST_BYTES
        if not self._is_open:
            return
        try:
            for file, values, dtype in ((self._genes, block.indices, GENE), (self._values, block.data, VALUE)):
                _write(file.fileno(), np.ascontiguousarray(values, dtype=dtype), start=self._n_entries)
        except OSError:
            self._is_open = False
            return
        self._cells.append(np.asarray(cells))
        self._lengths.append(np.diff(block.indptr))
        self._n_entries = after

    def take(self, cells: np.ndarray) -> Rows:
        """Rows in increasing order, at least one, in single precision."""
        known, starts = self._known
        places = np.searchsorted(known, cells)
        if not len(known) or places[-1] >= len(known) or not np.array_equal(known[places], cells):
            return self._stored.read(cells)
        parts = (self._run(starts, places[run]) for run in runs_of(places))
        n_entries = int((starts[places + 1] - starts[places]).sum())
        return assembled(parts, shape=(len(cells), self._n_genes), n_entries=n_entries)

    @cached_property
    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """Cells that are kept, and where the entries of each begin; asked for once all were added."""
        nothing = np.zeros(0, dtype=np.int64)
        cells, lengths = (np.concatenate([nothing, *parts]) for parts in (self._cells, self._lengths))
        return cells, np.concatenate([[0], np.cumsum(lengths)])

    def _run(self, starts: np.ndarray, places: np.ndarray) -> sparse.csr_matrix:
        """Rows at places that lie near each other; the entries of each begin at `starts`."""
        starts = starts[places[0] : places[-1] + 2]
        first, n_entries = int(starts[0]), int(starts[-1] - starts[0])
        genes, values = (
            np.frombuffer(os.pread(file.fileno(), n_entries * dtype.itemsize, first * dtype.itemsize), dtype)
            for file, dtype in ((self._genes, GENE), (self._values, VALUE))
        )
        shape = (len(starts) - 1, self._n_genes)
        rows = sparse.csr_matrix((values, genes, starts - first), shape=shape, copy=False)
        return rows if len(places) == shape[0] else rows[places - places[0]]


def _scratch() -> IO[bytes]:
    """Temporary file without a name, that vanishes when it is closed."""
    return tempfile.TemporaryFile(prefix="deltavi-", buffering=0)


def _write(file: int, values: np.ndarray, *, start: int) -> None:
    """Write all values behind those before; a write may end early."""
    left, offset = values.view(np.uint8).data, start * values.itemsize
    while len(left):
        n_written = os.pwrite(file, left, offset)
        left, offset = left[n_written:], offset + n_written
