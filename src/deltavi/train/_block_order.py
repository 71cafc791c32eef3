"""Order in which cells of a file are read and trained on: blocks of neighbours at random, mixed in pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deltavi.train._plan import SMALLEST_BATCH

# Blocks that a pool mixes at least: of 8 the bound of a sorted file is worse, of 32 it is that of cells at random.
FEWEST_BLOCKS = 32
# Bytes of expression in a pool.
POOL_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PoolSize:
    """Cells that are read in a row, and cells that are mixed.

    Parameters
    ----------
    block
        Neighbouring cells that are read together; they are fewer where fewer than 32 blocks would be mixed.
    pool
        Cells that are in memory at once and mixed.
    """

    block: int
    pool: int

    @classmethod
    def of(cls, *, is_compressed: bool, n_bytes: float, n_together: int = 1) -> PoolSize:
        """Sizes for a file, of whose rows each takes `n_bytes` in memory, or for chunks of `n_together` rows.

        Pieces of compressed files are decoded as a whole, and chunks computed: blocks are as long as several pieces, or
        as a chunk, as far as a pool holds the fewest of them.
        """
        size = COMPRESSED if is_compressed else PLAIN
        most = max(size.pool, FEWEST_BLOCKS * n_together)
        pool = int(np.clip(POOL_BYTES / max(n_bytes, 1.0), FEWEST_BLOCKS, most))
        return cls(block=min(max(size.block, n_together), pool // FEWEST_BLOCKS), pool=pool)


# 128 blocks each, four times the fewest.
PLAIN, COMPRESSED = PoolSize(block=64, pool=8192), PoolSize(block=128, pool=16384)


@dataclass(frozen=True, eq=False)
class Reading:
    """Cells that are read at once, and the mini-batches that can be cut then.

    Parameters
    ----------
    cells
        ``(n_pooled,)`` cells of the pool: those left from the pool before, then those to read, in increasing order.
    carried
        Places in the pool before of the cells that come first in this one.
    batches
        Places in the pool of the cells of each mini-batch.
    n_again
        Cells of each mini-batch, its last ones, that are drawn again beside those whose turn it is.
    """

    cells: np.ndarray
    carried: np.ndarray
    batches: list[np.ndarray]
    n_again: int = 0

    @property
    def to_read(self) -> np.ndarray:
        """Cells to read, in increasing order."""
        return self.cells[len(self.carried) :]


@dataclass(frozen=True)
class Turns:
    """Mini-batches of an epoch, of one of several processes that share it.

    Every cell is in one mini-batch of one process, and all processes have as many mini-batches, of `batch_size` cells
    but for the last. A single process cuts them as torch does; among several, fewer than three cells join
    the mini-batch before.

    Parameters
    ----------
    n_cells
        Cells of all processes.
    batch_size
        Cells of a mini-batch.
    drop_last
        Leave out a last mini-batch of fewer cells.
    rank, world
        Number of the process, from 0, and of all processes.
    """

    n_cells: int
    batch_size: int
    drop_last: bool = False
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        whole, rest = divmod(self.n_cells // self.world, self.batch_size)
        if self.drop_last:
            return whole
        smallest = 1 if self.world == 1 else SMALLEST_BATCH
        return max(whole + (rest >= smallest), min(self.n_cells // self.world, 1))

    @property
    def n_own(self) -> int:
        """Cells of this process, of which the last are not used with `drop_last`."""
        return self.n_cells // self.world + (self.rank < self.n_cells % self.world)

    @property
    def own(self) -> slice:
        """Cells of this process in a mini-batch of all."""
        return slice(self.rank, None, self.world)

    def whole(self, number: int) -> slice:
        """Places of the cells of mini-batch `number`, from 0, of all processes together."""
        size = self.batch_size * self.world
        takes_rest = number + 1 == len(self) and not self.drop_last
        return slice(number * size, None if takes_rest else (number + 1) * size)

    def weight(self, number: int) -> float:
        """Weight of the loss of mini-batch `number` in the mean over processes, which is then that over their cells."""
        if number + 1 < len(self) or self.drop_last:
            return 1.0
        before = number * self.batch_size
        return (self.n_own - before) * self.world / (self.n_cells - before * self.world)

    def cut(self, places: np.ndarray, n_before: int, *, is_last: bool) -> list[np.ndarray]:
        """Mini-batches of the cells at `places`, of which the rest is for the next pool unless this is the last.

        Parameters
        ----------
        places
            Cells in their order.
        n_before
            Mini-batches that were cut before.
        is_last
            True if no more cells come.
        """
        # the last mini-batch takes what is left, unless it is left out
        n_whole = len(self) - n_before - (0 if is_last and self.drop_last else 1)
        n_whole = max(min(n_whole, len(places) // self.batch_size), 0)
        batches = [places[i * self.batch_size : (i + 1) * self.batch_size] for i in range(n_whole)]
        rest = places[n_whole * self.batch_size :]
        return [*batches, rest] if is_last and not self.drop_last and len(rest) else batches


def shuffled(turns: Turns, size: PoolSize, generator: np.random.Generator) -> Iterator[Reading]:
    """Readings of an epoch in which blocks of neighbours are read at random, and cells of a pool are mixed.

    Parameters
    ----------
    turns
        Mini-batches of the process.
    size
        Cells of a block and of a pool.
    generator
        Source of the order, in the same state in all processes.
    """
    return _readings(turns, pools_at_random(turns, size, generator), generator)


def pools_at_random(turns: Turns, size: PoolSize, generator: np.random.Generator) -> list[np.ndarray]:
    """Cells of each pool of an epoch, in increasing order: blocks of neighbours at random, as of :func:`shuffled`."""
    n_own = max(turns.n_cells // turns.world, 1)
    n_pools = -(-n_own // size.pool)
    block = max(min(size.block, n_own // n_pools // FEWEST_BLOCKS), 1)
    blocks = np.array_split(np.arange(turns.n_cells), max(-(-turns.n_cells // block), 1))
    in_blocks = np.concatenate([blocks[i] for i in generator.permutation(len(blocks))])
    own = np.array_split(in_blocks, turns.world)[turns.rank]
    return [np.sort(pool) for pool in np.array_split(own, n_pools)]


def in_file_order(turns: Turns, size: PoolSize) -> Iterator[Reading]:
    """Readings of all cells of the process from the first to the last."""
    own = np.array_split(np.arange(turns.n_cells), turns.world)[turns.rank]
    return _readings(turns, np.split(own, np.arange(size.pool, len(own), size.pool)), None)


def _readings(turns: Turns, pools: list[np.ndarray], generator: np.random.Generator | None) -> Iterator[Reading]:
    """Readings of `pools`, the cells of each mixed by `generator`; what makes no mini-batch is carried on."""
    before, carried, n_cut = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0
    for i, cells in enumerate(pools):
        order = np.arange(len(cells)) if generator is None else generator.permutation(len(cells))
        places = np.concatenate([np.arange(len(carried)), len(carried) + order])
        batches = turns.cut(places, n_cut, is_last=i == len(pools) - 1)
        before = np.concatenate([before[carried], cells])
        yield Reading(before, carried, batches)
        n_cut += len(batches)
        carried = places[sum(map(len, batches)) :]
