"""Mini-batches from a file in which every label occurs regularly, of the cells that a pool holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from deltavi.train._block_order import PoolSize, Reading, Turns, pools_at_random
from deltavi.train._labelled import by_label, labelled_in_turn, spread
from deltavi.train._streamed import BlockOrder

# Share of a pool that is kept all epoch: cells of each label, so that a rare one is in every pool.
KEPT_SHARE = 0.125


class MixedBlocks(BlockOrder):
    """Every cell once per epoch, labels spread evenly in each pool, and labelled cells drawn again in every mini-batch.

    Cells that are drawn again are those of the pool, and of a few of each label that are read at the beginning of an
    epoch and stay until it ends. Labels take turns as in :class:`~deltavi.train.MixedBatches`, so that a rare label
    occurs often.

    Parameters
    ----------
    turns
        Mini-batches of an epoch.
    size
        Cells of a block and of a pool.
    seed
        Seed of order and draws, others in each epoch.
    codes
        ``(n_cells,)`` label at each position, -1 where it is unknown.
    n_repeated
        Labelled cells drawn again in every mini-batch.
    """

    def __init__(self, turns: Turns, size: PoolSize, seed: int, *, codes: np.ndarray, n_repeated: int) -> None:
        super().__init__(turns, size, seed)
        self.codes, self.n_repeated = codes, n_repeated

    def readings(self) -> Iterator[Reading]:
        """Readings of a new epoch."""
        generator = self.begun()
        assert generator is not None
        pools = pools_at_random(self.turns, self.size, generator)
        kept = self._kept(generator) if self.n_repeated else np.zeros(0, dtype=np.int64)
        return self._mixed(pools, kept, generator)

    def _kept(self, generator: np.random.Generator) -> np.ndarray:
        """Positions of cells that stay all epoch, as many of each label, in increasing order."""
        members = by_label(np.arange(len(self.codes)), self.codes)
        n_each = max(int(KEPT_SHARE * self.size.pool) // max(len(members), 1), 1)
        chosen = [generator.permutation(cells)[:n_each] for cells in members]
        return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *chosen]))

    def _mixed(self, pools: list[np.ndarray], kept: np.ndarray, generator: np.random.Generator) -> Iterator[Reading]:
        """Readings of `pools`, in each of which the `kept` cells come first; the first one reads them."""
        # the places of kept cells, and of those that are carried on
        stay, left, before, n_cut = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), kept[:0], 0
        for i, cells in enumerate(pools):
            carried = np.concatenate([stay, left])
            read = np.union1d(kept, cells) if i == 0 else cells
            own = len(carried) + np.searchsorted(read, cells)
            stay = np.searchsorted(read, kept) if i == 0 else np.arange(len(stay))
            left = len(stay) + np.arange(len(left)) if i else left
            before = np.concatenate([before[carried], read])
            in_order = np.concatenate([left, own[spread(self.codes[cells], generator)]])
            batches = self.turns.cut(in_order, n_cut, is_last=i == len(pools) - 1)
            present = np.unique(np.concatenate([stay, in_order]))
            again = labelled_in_turn(by_label(present, self.codes[before[present]]), generator)
            mixed = [np.array([*batch, *islice(again, self.n_repeated)], dtype=np.int64) for batch in batches]
            yield Reading(before, carried, mixed, self.n_repeated if len(kept) else 0)
            n_cut += len(batches)
            left = in_order[sum(map(len, batches)) :]

    def note(self, positions: np.ndarray) -> None:
        """Keep the positions of a mini-batch that was cut, those of cells whose turn it was."""
        super().note(positions[: len(positions) - self.n_again])

    @property
    def n_again(self) -> int:
        """Cells of every mini-batch that are drawn again."""
        return self.n_repeated if (self.codes >= 0).any() else 0
