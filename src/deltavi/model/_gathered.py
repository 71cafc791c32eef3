"""Matrices of a prediction that come block by block, gathered in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from deltavi._types import Rows, is_sparse

PROFILE = "X"


class Gathered:
    """Profile and layers of all cells, filled block by block.

    Dense blocks are written once where they stay: of many cells they are the most there is to copy.

    Parameters
    ----------
    n_cells
        Number of cells of all blocks together.
    """

    def __init__(self, n_cells: int) -> None:
        self._n_cells, self._n_added = n_cells, 0
        self._dense: dict[str, np.ndarray] = {}
        self._sparse: dict[str, list[sparse.csr_matrix]] = {}
        self._layers: tuple[str, ...] = ()

    def add(self, profile: Rows, layers: Mapping[str, Rows]) -> None:
        """Add the next cells: ``(n_cells, n_genes)`` each, every time the same layers."""
        self._layers = tuple(layers)
        for name, rows in {PROFILE: profile, **layers}.items():
            if is_sparse(rows):
                self._sparse.setdefault(name, []).append(rows)
                continue
            if name not in self._dense:
                self._dense[name] = np.empty((self._n_cells, rows.shape[1]), dtype=rows.dtype)
            self._dense[name][self._n_added : self._n_added + len(rows)] = rows
        self._n_added += profile.shape[0]

    def all(self) -> tuple[Rows, dict[str, Rows]]:
        """Profile and layers of all cells."""
        return self._joined(PROFILE), {name: self._joined(name) for name in self._layers}

    def _joined(self, name: str) -> Rows:
        dense = self._dense.get(name)
        # blocks are let go one matrix after the other
        return sparse.csr_matrix(sparse.vstack(self._sparse.pop(name))) if dense is None else dense
