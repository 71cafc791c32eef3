"""Loader of mini-batches from a file: blocks of rows are read into pools, and mini-batches cut from these."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import Protocol, Self, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, Subset

from deltavi._ahead import Ahead
from deltavi.registry.additions import Loaded
from deltavi.registry.stored_rows import StoredRows
from deltavi.registry.streamed import Pool, StreamedCells
from deltavi.train._block_order import PoolSize, Reading, Turns, in_file_order, shuffled
from deltavi.train._loaders import Batch

# Completes a mini-batch, by its cells and a mask of those that are drawn again.
Marked: TypeAlias = Callable[[Loaded, np.ndarray, np.ndarray], Loaded]


def as_it_is(loaded: Loaded, rows: np.ndarray, again: np.ndarray) -> Loaded:
    """Mini-batch that is complete."""
    return loaded


class CellsOfFile(Protocol):
    """Data set of cells, whose expression may lie in a file."""

    @property
    def stored(self) -> StoredRows | None:
        """Reader of the expression, if it lies row by row in a file."""

    @property
    def is_held(self) -> bool:
        """True if the expression of a file is kept in memory."""

    def hold(self) -> None:
        """Keep the expression in memory."""

    def release(self) -> None:
        """Read from the file again."""

    def share(self, other: Self, /) -> None:
        """Take over reader, and rows in memory, of another data set of the same cells."""

    def streamed(self) -> StreamedCells | None:
        """Maker of mini-batches from pools of rows of the file."""


class BlockOrder(Sampler[list[int]]):
    """Mini-batches of positions, in the order in which cells of a file are read.

    Parameters
    ----------
    turns
        Mini-batches of an epoch.
    size
        Cells of a block and of a pool.
    seed
        Seed of the order, another one in each epoch; ``None`` for the order of the file.
    """

    def __init__(self, turns: Turns, size: PoolSize, seed: int | None) -> None:
        self.turns, self.size, self.seed = turns, size, seed
        self.n_epochs = 0
        # positions in the latest epoch, in the order of their mini-batches, as far as these were cut; in one piece, as
        # small ones between the large ones of mini-batches keep memory from being used again
        self._latest, self._n_latest = np.zeros(turns.n_cells, dtype=np.int32), 0

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[list[int]]:
        for reading in self.readings():
            yield from (reading.cells[places].tolist() for places in reading.batches)

    def note(self, positions: np.ndarray) -> None:
        """Keep the positions of a mini-batch that was cut."""
        self._latest[self._n_latest : self._n_latest + len(positions)] = positions
        self._n_latest += len(positions)

    def positions_of(self, number: int) -> np.ndarray:
        """Positions of mini-batch `number`, from 0, of the latest epoch; none if it was not cut."""
        start = number * self.turns.batch_size
        stop = start + self.turns.batch_size if number + 1 < len(self) else self._n_latest
        return self._latest[start : min(stop, self._n_latest)]

    def readings(self) -> Iterator[Reading]:
        """Readings of a new epoch."""
        generator = self.begun()
        if generator is None:
            return in_file_order(self.turns, self.size)
        return shuffled(self.turns, self.size, generator)

    def begun(self) -> np.random.Generator | None:
        """Begin a new epoch; source of its order, ``None`` for that of the file."""
        self.n_epochs, self._n_latest = self.n_epochs + 1, 0
        return None if self.seed is None else np.random.default_rng([self.seed, self.n_epochs])


class Now:
    """A pool that is read when it is asked for, without a thread."""

    def __init__(self, read: Callable[[], Pool]) -> None:
        self._read = read

    def wait(self) -> None:
        """Nothing to wait for."""

    def result(self) -> Pool:
        """The pool."""
        read = self._read
        # it holds the pool before
        del self._read
        return read()


class StreamedLoader(DataLoader[Batch]):
    """Loader whose mini-batches are those of its data set and sampler, cut from pools of rows.

    Parameters
    ----------
    cells
        Cells of a file.
    indices
        ``(n_cells,)`` those to load, in increasing order.
    order
        Mini-batches of positions in `indices`.
    read_ahead
        Read the next pool in a thread, while mini-batches are cut from this one.
    marked
        Function that completes a mini-batch, from its entries, its cells, and a mask of those that are drawn again.
    """

    def __init__(
        self,
        cells: StreamedCells,
        indices: np.ndarray,
        *,
        order: BlockOrder,
        read_ahead: bool = True,
        marked: Marked = as_it_is,
    ) -> None:
        chosen: Subset[Batch] = Subset(cells, indices.tolist())
        super().__init__(chosen, sampler=order, batch_size=None)
        self.indices = indices
        self._cells, self._order = cells, order
        self._reader = Ahead if read_ahead else Now
        self._marked = marked
        self._epoch: Generator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Mini-batches of one epoch."""
        self.close()
        self._epoch = self._mini_batches()
        return self._epoch

    def close(self) -> None:
        """End the epoch in progress, and the thread that reads ahead of it."""
        if self._epoch is not None:
            self._epoch.close()
            self._epoch = None

    def _mini_batches(self) -> Generator[Batch]:
        with closing(self._pools()) as pools:
            for reading, pool in pools:
                for places in reading.batches:
                    self._order.note(reading.cells[places])
                    again = np.arange(len(places)) >= len(places) - reading.n_again
                    loaded = self._marked(self._cells.cut(pool, places), pool.cells[places], again)
                    yield {key: torch.as_tensor(value) for key, value in loaded.items()}

    def _pools(self) -> Generator[tuple[Reading, Pool]]:
        """Readings of an epoch with their pools, the next of which is on its way meanwhile."""
        pool: Pool | None = None
        coming: tuple[Reading, Ahead[Pool] | Now] | None = None
        try:
            for reading in self._order.readings():
                if coming is not None:
                    pool = coming[1].result()
                former, coming = coming, (reading, self._reader(self._reads(reading, pool)))
                if former is not None and pool is not None:
                    yield former[0], pool
            if coming is not None:
                yield coming[0], coming[1].result()
        finally:
            if coming is not None:
                coming[1].wait()

    def _reads(self, reading: Reading, before: Pool | None) -> Callable[[], Pool]:
        cells = self.indices[reading.to_read]
        return partial(self._cells.pooled, cells, before=before, carried=reading.carried)
