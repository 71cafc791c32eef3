"""Rows of a file asked for one mini-batch after another: those behind are read with them, where they come next."""

from __future__ import annotations

import numpy as np

from deltavi._types import Rows
from deltavi.registry.stored_rows import StoredRows

# Rows and bytes that are read at once.
MOST_ROWS, MOST_BYTES = 4096, 16 * 2**20
# Neighbours are read too, where they are no more than so many for each row that is asked for.
WIDEST = 8


class ReadOn:
    """Rows of a matrix in a file, of which a stretch is kept in memory.

    Parameters
    ----------
    stored
        Reader of the rows.
    """

    def __init__(self, stored: StoredRows) -> None:
        self._stored = stored
        self._n_rows = int(np.clip(MOST_BYTES / max(stored.n_bytes, 1.0), 1, MOST_ROWS))
        # where the stretch begins, and the row that comes next if rows are asked for in order
        self._start, self._next = 0, 0
        self._stretch: Rows | None = None

    def take(self, rows: np.ndarray) -> Rows:
        """Rows in increasing order, at least one, in single precision."""
        first, last = int(rows[0]), int(rows[-1])
        kept = 0 if self._stretch is None else self._stretch.shape[0]
        if self._stretch is None or not self._start <= first <= last < self._start + kept:
            if not self._comes_next(first, last, len(rows)):
                self._next = last + 1
                return self._stored.read(rows)
            stop = min(max(last + 1, first + self._n_rows), self._stored.shape[0])
            # not both in memory at once
            self._stretch = None
            self._start, self._stretch = first, self._stored.read(np.arange(first, stop))
        self._next = last + 1
        return self._stretch[rows - self._start]

    def _comes_next(self, first: int, last: int, n_rows: int) -> bool:
        """True if rows follow those before, and lie so close that the ones in between may be read as well."""
        return 0 <= first - self._next <= WIDEST * n_rows and last - first < WIDEST * n_rows
