"""Cells of each mini-batch of the epoch in progress, recorded as the order is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler, Sampler

from deltavi.train._dealt import DealtBatches
from deltavi.train._mixed import MixedBatches
from deltavi.train._streamed import BlockOrder


class NotedOrder(Sampler[int]):
    """Sampler that keeps the order it drew last.

    Parameters
    ----------
    sampler
        Sampler of single cells whose draws are returned.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.latest: list[int] = []

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        self.latest = list(self.sampler)
        return iter(self.latest)


def note_order(loader: object) -> None:
    """Make `loader` keep the order of each epoch, if torch cuts it into mini-batches."""
    batches = getattr(loader, "sampler", None)
    if isinstance(batches, BatchSampler):
        batches.sampler = NotedOrder(batches.sampler)


def cells_of_batch(loader: object, number: int) -> np.ndarray:
    """Positions of the cells of mini-batch `number`, from 0, of the latest epoch; none if it is unknown.

    Parameters
    ----------
    loader
        A loader of :func:`note_order`, one over :class:`~deltavi.train.MixedBatches`, one from a file, or one of
        several processes.
    number
        Number of the mini-batch.
    """
    batches: Any = getattr(loader, "sampler", None)
    if isinstance(batches, MixedBatches):
        drawn_again_too = batches.latest[number] if number < len(batches.latest) else []
        return np.unique(np.asarray(drawn_again_too, dtype=np.int64) % batches.n_cells)
    if isinstance(batches, BlockOrder | DealtBatches):
        drawn = batches.positions_of(number)
    elif isinstance(getattr(batches, "sampler", None), NotedOrder):
        start = number * batches.batch_size
        drawn = np.asarray(batches.sampler.latest[start : start + batches.batch_size], dtype=np.int64)
    else:
        return np.zeros(0, dtype=int)
    # loaders of scvi-tools count within the cells that they were given
    return np.asarray(loader.indices)[drawn] if hasattr(loader, "indices") else drawn
