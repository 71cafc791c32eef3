"""Splitter whose mini-batches are made on the training device, if possible."""

from __future__ import annotations

from typing import Any

from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader

# Types of devices that work asynchronously, with memory of their own.
KINDS = ("cuda",)


class DeviceSplitter(DataSplitter):
    """scvi-tools' splitter; on a GPU, counts of a sparse matrix in memory are kept there while the model trains.

    Order and content of mini-batches are the same on any device. Backed or dense data, loading by several processes,
    and training on several devices use the loaders of scvi-tools.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`scvi.dataloaders.DataSplitter`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cells: list[Any] = []

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Mini-batches to train on."""
        loader = super().train_dataloader()
        self._move(loader)
        return loader

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | None:
        """Mini-batches to validate on, if there are any."""
        loader = super().val_dataloader()
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

    def _move(self, loader: Any) -> None:
        """Make the mini-batches of `loader` on the device, if it has memory of its own."""
        if loader is None or self.trainer is None or loader.num_workers or loader.pin_memory:
            return
        device = self.trainer.strategy.root_device
        if device.type in KINDS and self.trainer.world_size == 1 and not self.load_sparse_tensor:
            cells = loader.dataset.dataset
            # training and validation cells are rows of one matrix
            shared = self._cells[0].device_rows if self._cells else cells.rows_on(device)
            cells.device_rows = shared
            self._cells.append(cells)
