"""Folds: each network of an ensemble is trained on all labelled cells but its own fold, on which it is evaluated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scvi import settings as scvi_settings
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from torch.utils.data import BatchSampler, DataLoader, Dataset, SubsetRandomSampler

from deltavi import _keys


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


class FoldedDataset(Dataset[dict[str, np.ndarray]]):
    """Cells by position, each with its fold.

    Parameters
    ----------
    cells
        Data set that takes a list of positions.
    folds
        ``(n_cells,)`` fold of each cell, -1 for none.
    """

    def __init__(self, cells: Dataset[dict[str, np.ndarray]], folds: np.ndarray) -> None:
        self.cells, self.folds = cells, np.asarray(folds)

    def __len__(self) -> int:
        return len(self.folds)

    def __getitem__(self, positions: list[int]) -> dict[str, np.ndarray]:
        return {**self.cells[positions], _keys.FOLD: self.folds[positions].astype(np.float32)[:, None]}


class FoldSplitter(DataSplitter):
    """scvi-tools' splitter, whose training mini-batches hold the fold of each cell.

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

    def __init__(
        self, adata_manager: AnnDataManager, *, folds: np.ndarray, sampling_seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(adata_manager, **kwargs)
        self.folds, self.sampling_seed = folds, sampling_seed

    def train_dataloader(self) -> DataLoader[dict[str, np.ndarray]]:
        """Mini-batches in a new order each epoch."""
        order = SubsetRandomSampler(
            np.asarray(self.train_idx).tolist(), generator=torch.Generator().manual_seed(self.sampling_seed)
        )
        return DataLoader(
            FoldedDataset(self.adata_manager.create_torch_dataset(), self.folds),
            sampler=BatchSampler(order, int(self.data_loader_kwargs.get("batch_size", 128)), drop_last=False),
            batch_size=None,
            num_workers=scvi_settings.dl_num_workers,
        )
