"""Mini-batches of one of several processes: its cells of every mini-batch that they share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from deltavi.train._block_order import Turns


class SharedOrder:
    """Random order of all cells, a new one each time, as :class:`torch.utils.data.RandomSampler` draws it.

    Parameters
    ----------
    n_cells
        Cells of all processes.
    generator
        Source of the orders, in the same state in all processes.
    """

    def __init__(self, n_cells: int, generator: torch.Generator) -> None:
        self.n_cells, self.generator = n_cells, generator

    def __iter__(self) -> Iterator[int]:
        # a loader of one process draws a number of its own before the seed of an order
        _, seed = (int(torch.empty((), dtype=torch.int64).random_(generator=self.generator)) for _ in range(2))
        return iter(torch.randperm(self.n_cells, generator=torch.Generator().manual_seed(seed)).tolist())


class DealtBatches(Sampler[list[int]]):
    """Mini-batches of a process, which together with those of the others are mini-batches of as many times the cells.

    Parameters
    ----------
    order
        Positions of the cells of all processes, in the same order in each; read anew every epoch.
    turns
        Mini-batches of an epoch.
    """

    def __init__(self, order: Iterable[int], turns: Turns) -> None:
        self.order, self.turns = order, turns
        self._latest = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[list[int]]:
        self._latest = np.fromiter(self.order, dtype=np.int64)
        return (self.positions_of(number).tolist() for number in range(len(self)))

    def positions_of(self, number: int) -> np.ndarray:
        """Positions of mini-batch `number`, from 0, of the latest epoch."""
        return self._latest[self.turns.whole(number)][self.turns.own]
