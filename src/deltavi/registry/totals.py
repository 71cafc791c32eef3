"""Total expression of cells, in memory or in a file."""

from __future__ import annotations

import h5py
import numpy as np
from anndata.abc import CSCDataset

from deltavi._types import StoredMatrix
from deltavi.registry.checks import ENTRIES_PER_PASS, wanted_blocks
from deltavi.registry.chunks import rowwise


def cell_totals(x: StoredMatrix, cells: np.ndarray | None = None) -> np.ndarray:
    """Sum of each row of `x`, read in blocks, ``(n_cells,)``.

    Parameters
    ----------
    x
        Matrix in memory or in a file.
    cells
        Rows in increasing order, by default all.
    """
    x = rowwise(x)
    if isinstance(x, CSCDataset):
        # to cut rows from columns would read the whole file for every block
        found = _totals_by_column(x.group["indices"], x.group["data"], n_rows=x.shape[0])
        return found if cells is None else found[cells]
    wanted = np.ones(x.shape[0], dtype=bool)
    if cells is not None:
        wanted = np.bincount(cells, minlength=x.shape[0]).astype(bool)
    sums = [np.asarray(block.sum(1), dtype=np.float64).ravel() for _, block in wanted_blocks(x, wanted)]
    return np.concatenate(sums) if sums else np.zeros(0)


def _totals_by_column(row_of: h5py.Dataset, value_of: h5py.Dataset, *, n_rows: int) -> np.ndarray:
    totals = np.zeros(n_rows)
    for start in range(0, row_of.shape[0], ENTRIES_PER_PASS):
        entries = slice(start, start + ENTRIES_PER_PASS)
        totals += np.bincount(row_of[entries], weights=value_of[entries], minlength=n_rows)
    return totals
