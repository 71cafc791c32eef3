"""Folds: each network of an ensemble is trained on all labelled cells but its own fold, on which it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from torch.utils.data import BatchSampler, Dataset, SubsetRandomSampler

from deltavi import _keys
from deltavi.registry.additions import Loaded, beside
from deltavi.train._block_order import PoolSize, Turns
from deltavi.train._dealt import DealtBatches
from deltavi.train._ranks import ALONE, Ranks
from deltavi.train._streamed import BlockOrder
from deltavi.train.on_device import DeviceSplitter, Drawn


def assign_folds(
    codes: np.ndarray, n_folds: int, generator: np.random.Generator, *, training: np.ndarray | None = None
) -> np.ndarray:
    """Fold of each labelled cell, ``(n_cells,)``; -1 for cells that are in none.

    Training cells are assigned first, so that each label is even over the folds, and labels begin at different folds,
    so that rare labels are not all absent from the same one; the other cells follow. Unlabelled cells, and the only
    training cell of a label, which every network needs, are in no fold.

    Parameters
    ----------
    codes
        ``(n_cells,)`` label of each cell, -1 where it is unknown.
    n_folds
        Number of folds; one fold means none.
    generator
        Source of the permutations, other than that of the split, so that folds do not depend on the split.
    training
        Positions of the training cells; by default all.
    """
    folds = np.full(len(codes), -1)
    if n_folds == 1:
        return folds
    learned = np.ones(len(codes), dtype=bool)
    if training is not None:
        learned[:] = False
        learned[training] = True
    dealt = 0
    for part in (learned, ~learned):
        for code in np.unique(codes[part & (codes >= 0)]):
            members = generator.permutation(np.flatnonzero(part & (codes == code)))
            if len(members) > 1 or not learned[members[0]]:
                folds[members] = (dealt + np.arange(len(members))) % n_folds
                dealt += len(members)
    return folds


class FoldedDataset(Dataset[Loaded]):
    """Cells by position, each with its fold.

    Parameters
    ----------
    dataset
        Data set that takes a list of positions.
    folds
        ``(n_cells,)`` fold of each cell, -1 for none.
    """

    def __init__(self, dataset: Dataset[Loaded], folds: np.ndarray) -> None:
        self.dataset, self.folds = dataset, np.asarray(folds)

    def __len__(self) -> int:
        return len(self.folds)

    def __getitem__(self, positions: list[int]) -> Loaded:
        return self.marked(self.dataset[positions], np.asarray(positions), np.zeros(len(positions), dtype=bool))

    def marked(self, loaded: Loaded, rows: np.ndarray, again: np.ndarray) -> Loaded:
        """Mini-batch of the cells `rows` ``(n,)``, none of which is drawn `again`, with their folds."""
        folds = self.folds[rows].astype(np.float32)[:, None]
        return {**loaded, _keys.FOLD: beside(loaded[REGISTRY_KEYS.X_KEY], folds)}


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldedOrder:
    """Shuffled training cells, each with its fold.

    Parameters
    ----------
    folds
        ``(n_cells,)`` fold of each cell, -1 for none.
    seed
        Seed of the order of cells.
    """

    folds: np.ndarray
    seed: int = 0

    def drawn(self, manager: AnnDataManager, training: np.ndarray, batch_size: int, *, ranks: Ranks = ALONE) -> Drawn:
        """Cells with their folds, and mini-batches in a new order each epoch."""
        order = SubsetRandomSampler(training.tolist(), generator=torch.Generator().manual_seed(self.seed))
        cells = FoldedDataset(manager.create_torch_dataset(), self.folds)
        if ranks.several:
            return cells, DealtBatches(order, Turns(len(training), batch_size, rank=ranks.rank, world=ranks.world))
        return cells, BatchSampler(order, batch_size, drop_last=False)

    def in_blocks(self, manager: AnnDataManager, training: np.ndarray, turns: Turns, size: PoolSize) -> BlockOrder:
        """Mini-batches of cells of a file, by position in `training`."""
        return BlockOrder(turns, size, self.seed)


class FoldSplitter(DeviceSplitter):
    """Splitter whose training mini-batches hold the fold of each cell, by :class:`FoldedOrder`.

    Parameters
    ----------
    adata_manager
        Manager of the registered data.
    folds
        ``(n_cells,)`` fold of each cell, -1 for none.
    sampling_seed
        Seed of the order of cells.
    **kwargs
        As in :class:`scvi.dataloaders.DataSplitter`.
    """

    makes_batches: ClassVar[bool] = True

    def __init__(
        self, adata_manager: AnnDataManager, *, folds: np.ndarray, sampling_seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(adata_manager, **kwargs)
        self.order = FoldedOrder(folds=folds, seed=sampling_seed)
