"""Loaders of torch and scvi-tools that hand out mini-batches from memory without steps in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from scvi.dataloaders import AnnDataLoader
from torch.utils.data import DataLoader, Subset, default_convert

# A mini-batch by keys of the registry.
Batch: TypeAlias = dict[str, Any]


class PlainLoader(DataLoader[Batch]):
    """Loader over a sampler of mini-batches, with torch's order, draws and tensors.

    Mini-batches from other processes, in pinned memory or put together by a function of one's own are left to torch.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Mini-batches of one epoch."""
        if self.num_workers or self.pin_memory or self.batch_size or self.collate_fn is not default_convert:
            return super().__iter__()
        # torch draws a seed for other processes, without any too
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return self._mini_batches()

    def _mini_batches(self) -> Iterator[Batch]:
        cells, chosen = self.dataset, None
        if type(cells) is Subset:
            chosen = np.asarray(cells.indices)
            cells = cells.dataset
        for positions in self.sampler:
            loaded = cells[positions if chosen is None else chosen[positions]]
            yield {key: torch.as_tensor(value) for key, value in loaded.items()}


class CellLoader(PlainLoader, AnnDataLoader):
    """Loader of scvi-tools with the mini-batches of :class:`PlainLoader`."""
