"""Latent positions of cells, and what is summed of their expression, in one pass over a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi._ahead import read_ahead
from deltavi._cp10k import cp10k_factors
from deltavi._memory import bound_freed
from deltavi._types import Rows
from deltavi.model._asked import BATCH_SIZE, positions_of
from deltavi.model._group_sums import MeansOfGroups
from deltavi.model.request import Request
from deltavi.perturbation.estimators import GroupMeans
from deltavi.registry.cells import Cells, Tensors
from deltavi.registry.checks import wanted_blocks
from deltavi.registry.stored_rows import below

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

# Sees cells that are read, by their positions and their rows as they are stored, in increasing order.
Seen = Callable[[np.ndarray, Rows], None]
# Positions of cells and their rows.
Block: TypeAlias = tuple[np.ndarray, Rows]


def encoded(model: Responds, adata: AnnData, cells: np.ndarray, seen: Seen) -> np.ndarray:
    """Latent posterior means of cells ``(n_cells, n_latent)``, whose expression is `seen` on the way.

    Parameters
    ----------
    model
        A trained model.
    adata
        AnnData in the model's form.
    cells
        Positions of cells, in increasing order.
    seen
        Sees their rows, block by block.
    """
    manager = model._manager_of(adata)
    if not len(cells) or not manager.reads_rows:
        positions = positions_of(model, adata, cells)
        for rows, block in _blocks(model, adata, cells):
            seen(rows, block)
        return positions

    def passing() -> Iterator[Tensors]:
        loaded = Cells(manager, keys=list(manager.data_registry))
        with closing(read_ahead(_blocks(model, adata, cells))) as blocks:
            for rows, expression in _cut(_seen(blocks, seen), BATCH_SIZE):
                yield loaded.completed(rows, expression)

    with manager.rows_read():
        return np.asarray(model.get_latent_representation(dataloader=passing()))


def _blocks(model: Responds, adata: AnnData, cells: np.ndarray) -> Iterator[Block]:
    """Rows of the cells, as they are registered."""
    wanted = np.zeros(adata.n_obs, dtype=bool)
    wanted[cells] = True
    return wanted_blocks(model._manager_of(adata).get_from_registry(REGISTRY_KEYS.X_KEY), wanted)


def _seen(blocks: Iterator[Block], seen: Seen) -> Iterator[Block]:
    for cells, block in blocks:
        seen(cells, block)
        yield cells, block.astype(np.float32, copy=False)
        bound_freed()


def _cut(blocks: Iterator[Block], size: int) -> Iterator[Block]:
    """The same cells, `size` at a time: in other mini-batches sums of products would be rounded in other ways."""
    parts: list[Block] = []
    n_left = 0
    for cells, block in blocks:
        parts.append((cells, block))
        n_left += len(cells)
        if n_left < size:
            continue
        cells, block = _joined(parts)
        n_whole = n_left - n_left % size
        for start in range(0, n_whole, size):
            yield cells[start : start + size], block[start : start + size]
        parts, n_left = [(cells[n_whole:], block[n_whole:])], n_left - n_whole
    if n_left:
        yield _joined(parts)


def _joined(parts: list[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    blocks = [block for _, block in parts]
    return np.concatenate([cells for cells, _ in parts]), below(
        None, blocks, isinstance(blocks[0], np.ndarray), blocks[0].shape[1]
    )


@dataclass(frozen=True, eq=False)
class Start:
    """Cells before they are moved.

    Parameters
    ----------
    positions
        ``(n_cells, n_latent)`` latent means.
    sums
        Sums of the log expression of every group.
    """

    positions: np.ndarray
    sums: MeansOfGroups

    @property
    def control(self) -> GroupMeans:
        """Mean log expression of every group, with its error, ``(n_groups, n_genes)``."""
        return self.sums.means()


def start_of(model: Responds, request: Request) -> Start:
    """Positions and means of the cells of a request; compressed rows are kept where later passes find them."""
    n_cells, of_counts = request.adata.n_obs, model.module.of_counts
    groups, inside = np.full(n_cells, "", dtype=object), np.zeros(n_cells, dtype=bool)
    groups[request.cells], inside[request.cells] = request.groups, True
    factors = np.ones(n_cells)
    factors[request.cells] = cp10k_factors(request.totals)
    weights, n_genes = factors if of_counts else None, len(model.gene_names)
    sums, spool = MeansOfGroups(groups, inside, n_genes, weights=weights, log=of_counts), request.loaded.spool()

    def seen(cells: np.ndarray, block: Rows) -> None:
        sums.sums.add(cells, block)
        if spool is not None and sparse.issparse(block):
            spool.add(cells, block)

    positions = encoded(model, request.adata, request.cells, seen)
    if spool is not None:
        request.loaded.read_from(spool)
    return Start(positions, sums)
