"""Mini-batches with the entries that models of scvi-tools read, and loaders that hand them out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from torch import Tensor

from deltavi import _keys
from deltavi._types import State
from deltavi.train import CellSplit
from deltavi.train.on_device import DeviceSplitter

# A mini-batch by keys of the registry.
Batch: TypeAlias = dict[str, Tensor]
# Entries of mini-batches that are for likelihoods of this package alone.
OF_OWN_LIKELIHOODS = (_keys.NONZERO, _keys.NONZERO_COUNT, _keys.LOG_FACTORIAL)


class Loader(Protocol):
    """Mini-batches, as often as they are asked for."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


class CellBatches:
    """Mini-batches with the keys of scvi-tools, in a new order each time where `loader` has one.

    It is no loader of torch, whose order Lightning would deal out among processes once more.

    Parameters
    ----------
    loader
        Mini-batches by keys of the registry.
    mean_total
        Mean total of the training cells, by which totals are divided for ``size_factor``; ``None`` where that is given.
    """

    def __init__(self, loader: Loader, *, mean_total: float | None) -> None:
        self.loader, self.mean_total = loader, mean_total

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for loaded in self.loader:
            batch = {key: value for key, value in loaded.items() if key not in OF_OWN_LIKELIHOODS}
            if self.mean_total is not None:
                totals = batch[REGISTRY_KEYS.X_KEY].sum(1, keepdim=True)
                # of a cell without counts one molecule
                batch[REGISTRY_KEYS.SIZE_FACTOR_KEY] = totals.clamp_min(1) / self.mean_total
            yield batch


class InOrder:
    """Mini-batches of chosen cells in their order.

    Parameters
    ----------
    batches
        Function that begins with the first one.
    n_batches
        Their number.
    """

    def __init__(self, batches: Callable[[], Iterator[Batch]], n_batches: int) -> None:
        self.batches, self.n_batches = batches, n_batches

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()


class SeededSplitter(DeviceSplitter):
    """Splitter of given cells, whose orders follow a seed of its own.

    Parameters
    ----------
    manager
        Manager of the cells.
    split
        Cells to train and to validate on.
    batch_size
        Cells of a mini-batch.
    seed
        Seed of the orders.
    reading
        Options of reading from a file.
    """

    def __init__(
        self, manager: AnnDataManager, split: CellSplit, *, batch_size: int, seed: int, reading: State
    ) -> None:
        with warnings.catch_warnings():
            # among several processes they join the mini-batch before
            warnings.filterwarnings("ignore", message="Last batch will have a small size", category=UserWarning)
            super().__init__(manager, external_indexing=split.as_external_indexing(), batch_size=batch_size, **reading)
        self.seed = seed
        self.setup("fit")

    def order_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)
