"""Mini-batches that mix labelled and unlabelled cells, in which every label occurs regularly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from deltavi import _keys
from deltavi.registry.additions import Loaded, beside, replaced
from deltavi.train._block_order import PoolSize, Turns
from deltavi.train._labelled import by_label, labelled_in_turn, spread
from deltavi.train._mixed_blocks import MixedBlocks
from deltavi.train._plan import SMALLEST_BATCH
from deltavi.train._ranks import ALONE, Ranks
from deltavi.train.on_device import DeviceSplitter, Drawn

# Share of a mini-batch that is resampled from the labelled cells, label by label.
REPEATED_SHARE = 0.25


class MixedBatches(Sampler[list[int]]):
    """Every training cell once per epoch, labels spread evenly, and labelled cells drawn again in every mini-batch.

    The bound is that of regular turns; repeated draws cycle through the labels, so that a rare label occurs often.
    An offset of `n_cells` marks them.

    Parameters
    ----------
    cells
        ``(n_train,)`` training cells as positions.
    codes
        ``(n_train,)`` their labels, -1 where unknown.
    n_cells
        Cells of the data set.
    batch_size
        Regular turns of a mini-batch.
    n_repeated
        Labelled cells drawn again in every mini-batch.
    smallest_batch
        A tail of fewer cells joins the mini-batch before.
    generator
        Source of order and draws.
    ranks
        Processes that share the cells: sizes are those of all of them together, and each has every `world`-th cell.
    """

    def __init__(
        self,
        cells: np.ndarray,
        codes: np.ndarray,
        *,
        n_cells: int,
        batch_size: int,
        n_repeated: int,
        generator: np.random.Generator,
        smallest_batch: int = 3,
        ranks: Ranks = ALONE,
    ) -> None:
        self.cells, self.codes, self.n_cells = np.asarray(cells), np.asarray(codes), n_cells
        self.generator, self.n_repeated, self.ranks = generator, n_repeated, ranks
        self.turns = Turns(len(self.cells), batch_size // ranks.world, rank=ranks.rank, world=ranks.world)
        # mini-batches of the latest epoch that were drawn so far
        self.latest: list[list[int]] = []
        starts = np.arange(0, len(self.cells), batch_size)
        if len(starts) > 1 and len(self.cells) - starts[-1] < smallest_batch:
            starts = starts[:-1]
        self.starts = starts
        self.members = by_label(self.cells, self.codes)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.cells[spread(self.codes, self.generator)]
        again = labelled_in_turn(self.members, self.generator)
        self.latest = []
        for start, stop in zip(self.starts, [*self.starts[1:], len(order)], strict=True):
            repeated = [next(again) + self.n_cells for _ in range(self.n_repeated)] if self.members else []
            own = self.ranks.own
            self.latest.append([*order[start:stop][own].tolist(), *repeated[own]])
            yield self.latest[-1]


class RepeatingDataset(Dataset[Loaded]):
    """Cells by position; a position beyond the last cell is a repeated draw and marked as such.

    Where repeated draws are thinned, their expression and totals are. Places of the nonzero counts, these counts and
    the sum of log x! stay those of the cell as it was measured: the likelihood is of regular turns alone.

    Parameters
    ----------
    dataset
        Data set that takes a list of positions.
    n_cells
        Its length.
    thinning
        Least share of its molecules that a repeated draw keeps; 1 for all.
    generator
        Source of the shares and of what is kept.
    """

    def __init__(
        self, dataset: Any, n_cells: int, *, thinning: float = 1.0, generator: np.random.Generator | None = None
    ) -> None:
        self.dataset, self.n_cells, self.thinning = dataset, n_cells, thinning
        self.generator = np.random.default_rng(0) if generator is None else generator

    def __len__(self) -> int:
        return self.n_cells

    def __getitem__(self, positions: list[int]) -> Loaded:
        turns = np.asarray(positions)
        rows, again = turns % self.n_cells, turns >= self.n_cells
        return self.marked(self.dataset[rows.tolist()], rows, again)

    def marked(self, loaded: Loaded, rows: np.ndarray, again: np.ndarray) -> Loaded:
        """Mini-batch of the cells `rows` ``(n,)``, those that are drawn `again` ``(n,)`` thinned and marked."""
        if self.thinning < 1 and again.any():
            loaded = {**loaded, **self._thinned(loaded, rows, again)}
        return {**loaded, _keys.DRAWN_AGAIN: beside(loaded[REGISTRY_KEYS.X_KEY], again.astype(np.float32)[:, None])}

    def _thinned(self, loaded: Loaded, rows: np.ndarray, again: np.ndarray) -> Loaded:
        """Thin the counts and totals of repeated draws as by less sequencing, with one probability for each cell."""
        kept = np.ones((len(again), 1))
        kept[again] = self.generator.uniform(self.thinning, 1, size=(int(again.sum()), 1))
        x = loaded[REGISTRY_KEYS.X_KEY]
        cell, gene, count = self._repeated_counts(loaded, rows, again)
        fewer = self._kept_of(count, kept[cell, 0])
        thinned = {REGISTRY_KEYS.X_KEY: replaced(x, cell, gene, fewer)}
        if REGISTRY_KEYS.SIZE_FACTOR_KEY in loaded:
            # the total over all genes falls with the counts of those in the matrix
            factors = loaded[REGISTRY_KEYS.SIZE_FACTOR_KEY]
            thinned[REGISTRY_KEYS.SIZE_FACTOR_KEY] = factors * beside(x, kept.astype(np.float32))
        return thinned

    def _kept_of(self, count: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Molecules that are kept of `count` ``(n,)``, each with probability `share` ``(n,)``."""
        fewer = (self.generator.random(len(count)) < share).astype(np.int64)
        # most counts are one, and of one molecule a number says whether it is kept
        several = count != 1
        fewer[several] = self.generator.binomial(count[several].astype(np.int64), share[several])
        return fewer

    def _repeated_counts(
        self, loaded: Loaded, rows: np.ndarray, again: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, gene and count of every nonzero entry of repeated draws, row by row, on the CPU."""
        x = loaded[REGISTRY_KEYS.X_KEY]
        if isinstance(x, Tensor):
            # from the matrix that it was made from, so that nothing is copied back from the device
            cell, gene, count = self.dataset.device_rows.on_host(rows[again])
            return np.flatnonzero(again)[cell], gene, count
        cells, genes = loaded[_keys.NONZERO] if _keys.NONZERO in loaded else np.nonzero(x)
        drawn = again[cells]
        cell, gene = cells[drawn], genes[drawn]
        return cell, gene, x[cell, gene]


@dataclass(frozen=True, kw_only=True)
class MixedOrder:
    """Training cells by :class:`MixedBatches`, of which those drawn again may be thinned.

    Parameters
    ----------
    seed
        Seed of order and draws.
    repeated_share
        Share of a mini-batch, on top of its regular turns, drawn again from the labelled cells.
    thinning
        Least share of its molecules that a cell keeps when it is drawn again; 1 for all.
    """

    seed: int = 0
    repeated_share: float = REPEATED_SHARE
    thinning: float = 1.0

    def drawn(self, manager: AnnDataManager, training: np.ndarray, batch_size: int, *, ranks: Ranks = ALONE) -> Drawn:
        """Cells by position, and mini-batches of both kinds of them."""
        size = batch_size * ranks.world
        codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        batches = MixedBatches(
            training,
            codes[training],
            n_cells=len(codes),
            batch_size=size,
            n_repeated=round(self.repeated_share * min(size, len(training))),
            generator=np.random.default_rng(self.seed),
            smallest_batch=SMALLEST_BATCH * ranks.world,
            ranks=ranks,
        )
        # cells drawn again are thinned by each process in its own way
        thinned_by = [self.seed + 1, ranks.rank] if ranks.several else self.seed + 1
        cells = RepeatingDataset(
            manager.create_torch_dataset(),
            len(codes),
            thinning=self.thinning,
            generator=np.random.default_rng(thinned_by),
        )
        return cells, batches

    def in_blocks(self, manager: AnnDataManager, training: np.ndarray, turns: Turns, size: PoolSize) -> MixedBlocks:
        """Mini-batches of both kinds of cells of a file, by position in `training`."""
        codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()[training]
        n_repeated = round(self.repeated_share * min(turns.batch_size, len(training)))
        return MixedBlocks(turns, size, self.seed, codes=codes, n_repeated=n_repeated)


class MixedSplitter(DeviceSplitter):
    """The splitter whose training mini-batches are drawn by :class:`MixedOrder`.

    Parameters
    ----------
    adata_manager
        Manager of the registered data.
    sampling_seed, repeated_share, thinning
        As in :class:`MixedOrder`.
    **kwargs
        As in :class:`scvi.dataloaders.DataSplitter`.
    """

    makes_batches: ClassVar[bool] = True

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        sampling_seed: int = 0,
        repeated_share: float = REPEATED_SHARE,
        thinning: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(adata_manager, **kwargs)
        self.order = MixedOrder(seed=sampling_seed, repeated_share=repeated_share, thinning=thinning)
