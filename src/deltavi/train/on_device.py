"""Splitter whose mini-batches are made on the training device, if possible."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from scvi import settings as scvi_settings
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Dataset, Sampler

from deltavi.train._loaders import Batch, CellLoader, PlainLoader

# Types of devices that work asynchronously, with memory of their own.
KINDS = ("cuda",)
# Cells by position, over the `dataset` that the registry makes; and positions of each mini-batch.
Drawn: TypeAlias = tuple[Dataset[Batch], Sampler[list[int]]]


class Order(Protocol):
    """Draws of training mini-batches other than those of scvi-tools."""

    def drawn(self, manager: AnnDataManager, training: np.ndarray, batch_size: int) -> Drawn:
        """Draw cells by position, and mini-batches of positions.

        Parameters
        ----------
        manager
            Manager of the registered data.
        training
            ``(n_train,)`` positions of the training cells.
        batch_size
            Cells of a mini-batch.
        """
        ...


class DeviceSplitter(DataSplitter):
    """scvi-tools' splitter; on a GPU, counts of a sparse matrix in memory are kept there while the model trains.

    Order and content of mini-batches are the same on any device. Backed or dense data, loading by several
    processes, and training on several devices use the loaders of scvi-tools. A subclass may draw training
    mini-batches by an ``order`` of its own; those of validation are scvi-tools'.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`scvi.dataloaders.DataSplitter`.
    """

    # true if an order makes training mini-batches, to which options of scvi-tools' loaders do not apply
    makes_batches: ClassVar[bool] = False
    data_loader_cls = CellLoader

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.order: Order | None = None
        self._cells: list[Any] = []

    def train_dataloader(self) -> DataLoader[Batch]:
        """Mini-batches to train on."""
        loader = super().train_dataloader() if self.order is None else self._in_order(self.order)
        self._move(loader)
        return loader

    def val_dataloader(self) -> DataLoader[Batch] | None:
        """Mini-batches to validate on, if there are any."""
        loader = super().val_dataloader()
        if loader is not None:
            self._move(loader)
        return loader

    def teardown(self, stage: str | None = None) -> None:
        """Free the memory of the device: the model keeps its trainer, which keeps the loaders."""
        for cells in self._cells:
            cells.device_rows = None
        self._cells = []

    def on_exception(self, exception: BaseException) -> None:
        """Free the memory after a training that failed."""
        self.teardown()

    def _in_order(self, order: Order) -> DataLoader[Batch]:
        batch_size = int(self.data_loader_kwargs.get("batch_size", 128))
        cells, batches = order.drawn(self.adata_manager, np.asarray(self.train_idx), batch_size)
        return PlainLoader(cells, sampler=batches, batch_size=None, num_workers=scvi_settings.dl_num_workers)

    def _move(self, loader: Any) -> None:
        """Make the mini-batches of `loader` on the device, if possible."""
        # `loader.dataset` selects cells of the data set by position
        cells = loader.dataset.dataset
        # those of a manager of scvi-tools cannot be prepared
        if hasattr(cells, "read_often"):
            cells.read_often()
        if self.trainer is None or loader.num_workers or loader.pin_memory or self.load_sparse_tensor:
            return
        device = self.trainer.strategy.root_device
        if device.type not in KINDS or self.trainer.world_size > 1:
            return
        # training and validation cells are rows of one matrix
        cells.device_rows = self._cells[0].device_rows if self._cells else cells.rows_on(device)
        self._cells.append(cells)
