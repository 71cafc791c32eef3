"""Mini-batches that mix labelled and unlabelled cells, in which every label occurs regularly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scvi import REGISTRY_KEYS
from scvi import settings as scvi_settings
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Dataset, Sampler

from deltavi import _keys

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
    ) -> None:
        self.cells, self.codes, self.n_cells = np.asarray(cells), np.asarray(codes), n_cells
        self.generator, self.n_repeated = generator, n_repeated
        # mini-batches of the latest epoch that were drawn so far
        self.latest: list[list[int]] = []
        starts = np.arange(0, len(self.cells), batch_size)
        if len(starts) > 1 and len(self.cells) - starts[-1] < smallest_batch:
            starts = starts[:-1]
        self.starts = starts
        self.members = [self.cells[self.codes == code] for code in np.unique(self.codes[self.codes >= 0])]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.cells[spread(self.codes, self.generator)]
        again = self._labelled_in_turn()
        self.latest = []
        for start, stop in zip(self.starts, [*self.starts[1:], len(order)], strict=True):
            repeated = [next(again) + self.n_cells for _ in range(self.n_repeated)] if self.members else []
            self.latest.append([*order[start:stop].tolist(), *repeated])
            yield self.latest[-1]

    def _labelled_in_turn(self) -> Iterator[int]:
        """Cycle through the labels, and within a label through its cells in a new order each time."""
        queues: list[list[int]] = [[] for _ in self.members]
        while self.members:
            for label in self.generator.permutation(len(self.members)):
                if not queues[label]:
                    queues[label] = self.generator.permutation(self.members[label]).tolist()
                yield queues[label].pop()


def spread(codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random order in which the cells of each code lie evenly apart, ``(n_cells,)`` positions."""
    position = np.empty(len(codes))
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        # one cell at random in each of as many equal stretches as the code has cells
        position[generator.permutation(members)] = (np.arange(len(members)) + generator.random(len(members))) / len(
            members
        )
    return np.argsort(position, kind="stable")


class RepeatingDataset(Dataset[dict[str, np.ndarray]]):
    """Cells by position; a position beyond the last cell is a repeated draw and marked as such.

    Parameters
    ----------
    cells
        Data set that takes a list of positions.
    n_cells
        Its length.
    """

    def __init__(
        self,
        cells: Dataset[dict[str, np.ndarray]],
        n_cells: int,
        *,
        thinning: float = 1.0,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.cells, self.n_cells, self.thinning = cells, n_cells, thinning
        self.generator = np.random.default_rng(0) if generator is None else generator

    def __len__(self) -> int:
        return self.n_cells

    def __getitem__(self, positions: list[int]) -> dict[str, np.ndarray]:
        turns = np.asarray(positions)
        loaded: dict[str, np.ndarray] = self.cells[(turns % self.n_cells).tolist()]
        again = turns >= self.n_cells
        if self.thinning < 1 and again.any():
            loaded = {**loaded, **self._thinned(loaded, again)}
        return {**loaded, _keys.DRAWN_AGAIN: again.astype(np.float32)[:, None]}

    def _thinned(self, loaded: dict[str, np.ndarray], again: np.ndarray) -> dict[str, np.ndarray]:
        """Thin the counts and totals of repeated draws as by less sequencing, with one probability for each cell."""
        kept = self.generator.uniform(self.thinning, 1, size=(int(again.sum()), 1))
        counts = loaded[REGISTRY_KEYS.X_KEY].copy()
        cells, genes = loaded[_keys.NONZERO] if _keys.NONZERO in loaded else np.nonzero(counts)
        drawn = again[cells]
        at = cells[drawn], genes[drawn]
        of_cell = (again.cumsum() - 1)[at[0]]
        counts[at] = self.generator.binomial(counts[at].astype(np.int64), kept[of_cell, 0])
        thinned = {REGISTRY_KEYS.X_KEY: counts}
        if REGISTRY_KEYS.SIZE_FACTOR_KEY in loaded:
            # the total over all genes falls with the counts of those in the matrix
            factors = np.array(loaded[REGISTRY_KEYS.SIZE_FACTOR_KEY], copy=True)
            factors[again] *= kept.astype(factors.dtype)
            thinned[REGISTRY_KEYS.SIZE_FACTOR_KEY] = factors
        return thinned


class MixedSplitter(DataSplitter):
    """scvi-tools' splitter with :class:`MixedBatches` for training.

    Parameters
    ----------
    adata_manager
        Manager of the registered data.
    sampling_seed
        Seed of order and draws.
    repeated_share
        Share of a mini-batch, on top of its regular turns, drawn again from the labelled cells.
    **kwargs
        As in :class:`scvi.dataloaders.DataSplitter`.
    """

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
        self.sampling_seed, self.repeated_share, self.thinning = sampling_seed, repeated_share, thinning

    def train_dataloader(self) -> DataLoader[dict[str, np.ndarray]]:
        """Mini-batches of both kinds of cells."""
        batch_size = int(self.data_loader_kwargs.get("batch_size", 128))
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        n_cells = len(codes)
        cells = np.asarray(self.train_idx)
        batches = MixedBatches(
            cells,
            codes[cells],
            n_cells=n_cells,
            batch_size=batch_size,
            n_repeated=round(self.repeated_share * min(batch_size, len(cells))),
            generator=np.random.default_rng(self.sampling_seed),
        )
        return DataLoader(
            RepeatingDataset(
                self.adata_manager.create_torch_dataset(),
                n_cells,
                thinning=self.thinning,
                generator=np.random.default_rng(self.sampling_seed + 1),
            ),
            sampler=batches,
            batch_size=None,
            num_workers=scvi_settings.dl_num_workers,
        )
