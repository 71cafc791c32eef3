"""Mini-batches of cells whose expression lies in a file: read in pools, and cut from these as from memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scvi import REGISTRY_KEYS
from torch.utils.data import Dataset

from deltavi import _keys
from deltavi._types import Rows
from deltavi.registry._resident_rows import ResidentRows
from deltavi.registry.additions import Loaded
from deltavi.registry.stored_rows import StoredRows


@dataclass(frozen=True, eq=False)
class Pool:
    """Cells in memory, and their rows."""

    cells: np.ndarray
    rows: ResidentRows | np.ndarray

    def expression(self, places: np.ndarray) -> Rows:
        """Rows at these places in the pool, as they are kept."""
        return self.rows[places] if isinstance(self.rows, np.ndarray) else self.rows.matrix[places]


NOTHING = np.zeros(0, dtype=np.int64)


class StreamedCells(Dataset[Loaded]):
    """Cells of a file, by their number in it: the entries of a mini-batch are those of the same cells in memory.

    Parameters
    ----------
    stored
        Reader of the expression.
    columns
        All other entries of a mini-batch, a row per cell.
    """

    def __init__(self, stored: StoredRows, columns: dict[str, np.ndarray]) -> None:
        self.stored, self._columns = stored, columns
        # found when a cell is first read, and kept from epoch to epoch
        self._log_factorials = np.full(stored.shape[0], np.nan, dtype=np.float32)

    def __len__(self) -> int:
        return self.stored.shape[0]

    def __getitem__(self, cells: list[int] | np.ndarray) -> Loaded:
        rows, places = np.unique(cells, return_inverse=True)
        return self.cut(self.pooled(rows), places)

    def pooled(self, cells: np.ndarray, *, before: Pool | None = None, carried: np.ndarray = NOTHING) -> Pool:
        """Pool of what is left of the one before, and of cells that are read.

        Parameters
        ----------
        cells
            ``(n_cells,)`` cells to read, in increasing order.
        before
            The pool before.
        carried
            Places in it of the cells that come first in this one.
        """
        first = None if before is None else before.expression(carried)
        read = self.stored.read(cells, first=first)
        cells = cells if before is None else np.concatenate([before.cells[carried], cells])
        if isinstance(read, np.ndarray):
            return Pool(cells, read)
        rows = ResidentRows(read, self._log_factorials[cells])
        rows.use_kernels()
        return Pool(cells, rows)

    def cut(self, pool: Pool, places: np.ndarray) -> Loaded:
        """Entries of a mini-batch of the cells at these places in a pool."""
        cells = pool.cells[places]
        columns = {key: values[cells] for key, values in self._columns.items()}
        if isinstance(pool.rows, np.ndarray):
            return {REGISTRY_KEYS.X_KEY: pool.rows[places], **columns}
        expression = pool.rows.with_counts(places)
        self._log_factorials[cells] = expression[_keys.LOG_FACTORIAL]
        return {**columns, **expression}
