"""Splitter whose mini-batches are made on the training device, or read from a file in blocks, if possible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from scvi import settings as scvi_settings
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Dataset, Sampler, default_convert

from deltavi._entries import flag, whole_number
from deltavi.registry.stored_rows import StoredRows
from deltavi.registry.streamed import StreamedCells
from deltavi.train._block_order import PoolSize, Turns
from deltavi.train._dealt import DealtBatches, SharedOrder
from deltavi.train._loaders import Batch, CellLoader, PlainLoader
from deltavi.train._ranks import ALONE, Ranks
from deltavi.train._streamed import BlockOrder, CellsOfFile, StreamedLoader

# Types of devices that work asynchronously, with memory of their own.
KINDS = ("cuda",)
# Cells by position, over the `dataset` that the registry makes; and positions of each mini-batch.
Drawn: TypeAlias = tuple[Dataset[Batch], Sampler[list[int]]]


class Order(Protocol):
    """Draws of training mini-batches other than those of scvi-tools."""

    def drawn(self, manager: AnnDataManager, training: np.ndarray, batch_size: int, *, ranks: Ranks = ALONE) -> Drawn:
        """Draw cells by position, and mini-batches of positions.

        Parameters
        ----------
        manager
            Manager of the registered data.
        training
            ``(n_train,)`` positions of the training cells.
        batch_size
            Cells of a mini-batch.
        ranks
            Processes that share the cells, of which this one is to have its mini-batches.
        """
        ...


@runtime_checkable
class BlockedOrder(Protocol):
    """Order that can also draw mini-batches of cells of a file, which come from pools of blocks of rows."""

    def in_blocks(self, manager: AnnDataManager, training: np.ndarray, turns: Turns, size: PoolSize) -> BlockOrder:
        """Draw mini-batches of positions.

        Parameters
        ----------
        manager
            Manager of the registered data.
        training
            ``(n_train,)`` positions of the training cells, in increasing order; mini-batches count within these.
        turns
            Mini-batches of an epoch.
        size
            Cells of a block and of a pool.
        """
        ...


class DeviceSplitter(DataSplitter):
    """scvi-tools' splitter; on a GPU, counts of a sparse matrix in memory are kept there while the model trains.

    Order and content of mini-batches are the same on any device. A matrix in a file, of HDF5 or as sparse rows in
    Zarr, is read in blocks of rows at random, and their cells are mixed in a pool from which mini-batches are cut; one
    that fits into a pool is kept in memory instead. Dense data in memory, and loading by several processes use the
    loaders of scvi-tools. Processes that train together have their own cells of each mini-batch, or their own blocks of
    a file, and as many mini-batches. A subclass may draw training mini-batches by an ``order`` of its
    own; those of validation are scvi-tools', and from a file come in its order.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`scvi.dataloaders.DataSplitter`.
    block_rows
        Cells of a file that are read together, at most one in 32 of those that are mixed; by default 64; of a
        compressed file 128, or four times its pieces.
    buffer_rows
        Cells of a file that are in memory at once and mixed; by default 8,192, and 16,384 of a compressed file, but
        no more than 64 MiB.
    read_ahead
        Read the next cells in a thread, while the model trains.
    """

    # true if an order makes training mini-batches, to which options of scvi-tools' loaders do not apply
    makes_batches: ClassVar[bool] = False
    data_loader_cls = CellLoader

    def __init__(
        self,
        *args: Any,
        block_rows: int | None = None,
        buffer_rows: int | None = None,
        read_ahead: bool = True,
        **kwargs: Any,
    ) -> None:
        # cells are dealt out here
        kwargs.pop("distributed_sampler", None)
        super().__init__(*args, **kwargs)
        self.order: Order | None = None
        self._cells: list[Any] = []
        self._block_rows = None if block_rows is None else whole_number("block_rows", block_rows, least=1)
        self._buffer_rows = None if buffer_rows is None else whole_number("buffer_rows", buffer_rows, least=1)
        self._read_ahead = flag("read_ahead", read_ahead)
        self._of_file: list[CellsOfFile] = []
        self._streams: list[StreamedLoader] = []

    def train_dataloader(self) -> DataLoader[Batch]:
        """Mini-batches to train on."""
        loader = super().train_dataloader() if self.order is None else self._in_order(self.order)
        streamed = self._prepared(loader)
        if self.order is not None:
            return loader if streamed is None else self._stream_in_order(self.order, streamed, loader)
        generator = self.order_generator()
        if streamed is not None:
            # drawn as torch draws the seed of an order
            seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
            return self._stream(streamed, self.train_idx, seed=seed)
        if generator is None:
            return loader
        return self._dealt(loader, SharedOrder(len(self.train_idx), generator), drop_last=bool(self.drop_last))

    def val_dataloader(self) -> DataLoader[Batch] | None:
        """Mini-batches to validate on, if there are any."""
        loader = super().val_dataloader()
        if loader is None:
            return None
        streamed = self._prepared(loader)
        if streamed is not None:
            return self._stream(streamed, self.val_idx)
        n_cells = len(self.val_idx)
        return self._dealt(loader, range(n_cells)) if self._sharing(n_cells).several else loader

    def teardown(self, stage: str | None = None) -> None:
        """Free memory and stop reading: the model keeps its trainer, which keeps the loaders."""
        for cells in self._cells:
            cells.device_rows = None
        for held in self._of_file:
            held.release()
        for loader in self._streams:
            loader.close()
        self._cells, self._of_file, self._streams = [], [], []

    def on_exception(self, exception: BaseException) -> None:
        """Free the memory after a training that failed."""
        self.teardown()

    @property
    def ranks(self) -> Ranks:
        """Processes that train together."""
        return ALONE if self.trainer is None else Ranks(self.trainer.global_rank, self.trainer.world_size)

    def order_generator(self) -> torch.Generator | None:
        """Source of the orders of cells, the same in all processes; of a single one the global one, for ``None``."""
        return self._shared_generator() if self.ranks.several else None

    def _sharing(self, n_cells: int) -> Ranks:
        """Processes that share `n_cells`; where these are fewer, each has all of them."""
        return self.ranks if n_cells >= self.ranks.world else ALONE

    def _shared_generator(self) -> torch.Generator:
        """Generator in the state of the global one of rank 0."""
        assert self.trainer is not None
        state = self.trainer.strategy.broadcast(torch.get_rng_state())
        generator = torch.Generator()
        generator.set_state(state)
        return generator

    def _dealt(self, loader: Any, order: Iterable[int], *, drop_last: bool = False) -> DataLoader[Batch]:
        """Loader of this process's cells of the mini-batches of `loader`."""
        turns = self._turns(len(loader.indices), drop_last=drop_last)
        dealt = PlainLoader(loader.dataset, **{**loader.kwargs, "sampler": DealtBatches(order, turns)})
        # within which positions count
        vars(dealt)["indices"] = loader.indices
        return dealt

    def _turns(self, n_cells: int, *, drop_last: bool) -> Turns:
        """Mini-batches of this process."""
        batch_size, ranks = int(self.data_loader_kwargs.get("batch_size", 128)), self._sharing(n_cells)
        return Turns(n_cells, batch_size, drop_last, rank=ranks.rank, world=ranks.world)

    def _in_order(self, order: Order) -> DataLoader[Batch]:
        batch_size = int(self.data_loader_kwargs.get("batch_size", 128))
        # an order of a single process may know of no others
        shared = {"ranks": self.ranks} if self.ranks.several else {}
        cells, batches = order.drawn(self.adata_manager, np.asarray(self.train_idx), batch_size, **shared)
        return PlainLoader(cells, sampler=batches, batch_size=None, num_workers=scvi_settings.dl_num_workers)

    def _prepared(self, loader: Any) -> StreamedCells | None:
        """Prepare `loader` to be read often; maker of mini-batches, if they are to be cut from pools of a file."""
        # `loader.dataset` selects cells of the data set by position
        cells = loader.dataset.dataset
        # those of a manager of scvi-tools cannot be prepared
        if not hasattr(cells, "read_often"):
            return None
        usual = loader.num_workers or loader.pin_memory or self.load_sparse_tensor
        streamed = None if usual or loader.collate_fn is not default_convert else self._from_file(cells)
        cells.read_often()
        if self.trainer is None or usual:
            return streamed
        device = self.trainer.strategy.root_device
        if device.type in KINDS:
            # training and validation cells are rows of one matrix
            cells.device_rows = self._cells[0].device_rows if self._cells else cells.rows_on(device)
            self._cells.append(cells)
        return streamed

    def _from_file(self, cells: CellsOfFile) -> StreamedCells | None:
        """Maker of mini-batches from a file; a file that fits into a pool is kept in memory."""
        if self._of_file:
            cells.share(self._of_file[0])
        stored = cells.stored
        if stored is None:
            return None
        if not cells.is_held and stored.shape[0] <= self._size(stored).pool:
            cells.hold()
        self._of_file.append(cells)
        return None if cells.is_held else cells.streamed()

    def _stream(self, cells: StreamedCells, chosen: np.ndarray, *, seed: int | None = None) -> StreamedLoader:
        """Loader of the `chosen` cells of a file, at random by a `seed`, else in the order of the file."""
        turns = self._turns(len(chosen), drop_last=seed is not None and bool(self.drop_last))
        order = BlockOrder(turns, self._size(cells.stored), seed)
        loader = StreamedLoader(cells, np.sort(chosen), order=order, read_ahead=self._read_ahead)
        self._streams.append(loader)
        return loader

    def _stream_in_order(self, order: Order, cells: StreamedCells, loader: Any) -> Any:
        """Loader of the training cells of a file in an order; that of single rows where it knows of no blocks."""
        if not isinstance(order, BlockedOrder):
            return loader
        chosen = np.sort(self.train_idx)
        turns = self._turns(len(chosen), drop_last=False)
        blocks = order.in_blocks(self.adata_manager, chosen, turns, self._size(cells.stored))
        streamed = StreamedLoader(
            cells, chosen, order=blocks, read_ahead=self._read_ahead, marked=loader.dataset.marked
        )
        self._streams.append(streamed)
        return streamed

    def _size(self, stored: StoredRows) -> PoolSize:
        """Cells of a file that are read together and mixed."""
        together = stored.n_together
        size = PoolSize.of(is_compressed=stored.is_compressed, n_bytes=stored.n_bytes, n_together=together)
        return PoolSize(block=self._block_rows or size.block, pool=self._buffer_rows or size.pool)
