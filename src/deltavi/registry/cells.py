"""Registered cells in mini-batches for evaluation: in the order asked for, without a draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from deltavi._types import Rows
from deltavi.registry._batches import OrderedDataset
from deltavi.registry.additions import Loaded
from deltavi.registry.manager import DataManager
from deltavi.registry.spooled import SpooledRows

Tensors: TypeAlias = dict[str, Tensor]


class Cells:
    """Cells of a registered AnnData, read once for all mini-batches cut from them.

    A loader of torch is built anew for every pass and draws from the global generator; evaluation needs neither.

    Parameters
    ----------
    manager
        Manager of the AnnData.
    keys
        Entries of a mini-batch, by default all.
    """

    def __init__(self, manager: DataManager, *, keys: list[str] | None = None) -> None:
        self._dataset: OrderedDataset = manager.dataset(keys)

    def take(self, chosen: np.ndarray) -> Tensors:
        """One mini-batch of the cells at the positions `chosen`, at least one, in that order."""
        return _tensors(self._dataset[np.asarray(chosen).tolist()])

    def batches(self, chosen: np.ndarray, size: int) -> Iterator[Tensors]:
        """Mini-batches of at most `size` cells; none where no cell is chosen."""
        if self._dataset.reads_rows and (np.diff(chosen) <= 0).any():
            yield from self._from_pools(chosen, size)
            return
        for start in range(0, len(chosen), size):
            yield self.take(chosen[start : start + size])

    def _from_pools(self, chosen: np.ndarray, size: int) -> Iterator[Tensors]:
        """The same of cells in any order in a file: each mini-batch would touch all of it."""
        n_pooled = max(self._dataset.n_pooled // size, 1) * size
        for first in range(0, len(chosen), n_pooled):
            cells = chosen[first : first + n_pooled]
            rows, places = np.unique(cells, return_inverse=True)
            expression = self._dataset.pooled(rows)
            for start in range(0, len(cells), size):
                part = slice(start, start + size)
                yield self.completed(cells[part], expression[places[part]])

    def completed(self, cells: np.ndarray, expression: Rows) -> Tensors:
        """Expression that was read elsewhere, in single precision, and columns of one mini-batch."""
        return _tensors(self._dataset.with_expression(cells, expression))

    def spool(self) -> SpooledRows | None:
        """Place to keep rows that are read again, if they lie in a compressed file."""
        stored = self._dataset.stored
        return SpooledRows(stored) if stored is not None and stored.is_compressed else None

    def read_from(self, rows: SpooledRows) -> None:
        """Read rows from where they were kept."""
        self._dataset.read_from(rows)

    def each(self, function: Callable[[Tensors], Tensor], chosen: np.ndarray, *, width: int, size: int) -> np.ndarray:
        """Rows that `function` gives for the chosen cells, ``(n_chosen, width)``, in double precision.

        Parameters
        ----------
        function
            Rows ``(n_cells, width)`` of a mini-batch.
        chosen
            Positions of cells.
        width
            Columns.
        size
            Cells of a mini-batch.
        """
        parts = [function(batch).cpu().numpy() for batch in self.batches(chosen, size)]
        return np.concatenate([np.zeros((0, width)), *parts]).astype(np.float64)


def _tensors(loaded: Loaded) -> Tensors:
    return {key: torch.as_tensor(values) for key, values in loaded.items()}
