"""Mini-batches made on the training device: counts stay there if they fit, else each batch is sent in sparse form."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor

from deltavi import _keys
from deltavi._compat import SMALLEST_COUNT

# Share of the free memory of a device that counts may take: weights and mini-batches need room beside them.
SHARE_OF_FREE = 0.25


class SentRows:
    """Rows of a sparse matrix in the memory of the computer, made dense on a device.

    It returns the same as :class:`deltavi.registry._resident_rows.ResidentRows`, as tensors on the device. All sizes
    are computed on the CPU, so that no step synchronises with the device.

    Parameters
    ----------
    matrix
        ``(n_cells, n_genes)`` canonical CSR matrix in single precision, whose stored entries are all counts.
    log_factorials
        ``(n_cells,)`` sum of log x! of each cell.
    columns
        All other entries of a mini-batch, a row per cell.
    device
        Device of the mini-batches.
    """

    def __init__(
        self,
        matrix: sparse.csr_matrix,
        log_factorials: np.ndarray,
        columns: dict[str, np.ndarray],
        device: torch.device,
    ) -> None:
        self.matrix, self.device = matrix, device
        self._by_cell = {
            key: kept(values, device) for key, values in {**columns, _keys.LOG_FACTORIAL: log_factorials}.items()
        }

    def with_counts(self, rows: np.ndarray) -> dict[str, Tensor]:
        """All entries of a mini-batch of these cells."""
        chosen, cell, gene, count = self._entries(np.asarray(rows, dtype=np.int64))
        n_genes = self.matrix.shape[1]
        # a new tensor: the graph of the last step, or a prefetching loader, may still hold the last mini-batch
        x = count.new_zeros(len(rows) * n_genes)
        x.scatter_(0, torch.add(gene, cell, alpha=n_genes), count)
        return {
            **{key: values.index_select(0, chosen) for key, values in self._by_cell.items()},
            REGISTRY_KEYS.X_KEY: x.view(len(rows), n_genes),
            _keys.NONZERO: torch.stack((cell, gene)),
            _keys.NONZERO_COUNT: count,
        }

    def on_host(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row within `rows`, gene and count of each entry, as arrays, in the order of those on the device."""
        cut = self.matrix[rows]
        return np.repeat(np.arange(len(rows)), np.diff(cut.indptr)), cut.indices, cut.data

    def _entries(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`rows` on the device; row within the mini-batch, gene and count of each entry."""
        cut = self.matrix[rows]
        chosen, lengths = sent(np.stack((rows, np.diff(cut.indptr))), self.device).unbind(0)
        # column numbers travel in half of the space
        gene = sent(cut.indices.astype(np.int32, copy=False), self.device).long()
        return chosen, _repeated(lengths, cut.nnz), gene, sent(cut.data, self.device)


class KeptRows(SentRows):
    """The same, with the matrix on the device too: of a mini-batch only the numbers of its cells travel."""

    @cached_property
    def _genes(self) -> Tensor:
        return kept(self.matrix.indices.astype(np.int32, copy=False), self.device)

    @cached_property
    def _counts(self) -> Tensor:
        return kept(self.matrix.data, self.device)

    def _entries(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        indptr = self.matrix.indptr
        starts = indptr[rows].astype(np.int64)
        lengths = indptr[rows + 1] - starts
        # entry k of the mini-batch lies so far behind entry k of the matrix, which is the same for a whole row
        shifts = starts - (lengths.cumsum() - lengths)
        n_entries = int(lengths.sum())
        chosen, on_device, shift = sent(np.stack((rows, lengths, shifts)), self.device).unbind(0)
        cell = _repeated(on_device, n_entries)
        place = torch.arange(n_entries, device=self.device) + shift.index_select(0, cell)
        gene = self._genes.index_select(0, place).long()
        return chosen, cell, gene, self._counts.index_select(0, place)


def kept(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy of `values` that stays on the device; the call returns after the copy."""
    return _tensor(values).to(device)


def sent(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy of `values` on the device; the call returns before the copy is done."""
    tensor = _tensor(values)
    if device.type == "cuda":
        # from pageable memory CUDA copies only after all earlier work is done
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def only_counts(matrix: sparse.csr_matrix) -> sparse.csr_matrix | None:
    """`matrix` without stored zeros; ``None`` if something stored is no count, so that sizes depend on values."""
    if not matrix.data.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix if (matrix.data > SMALLEST_COUNT).all() else None


def rows_for(matrix: sparse.csr_matrix, device: torch.device) -> type[SentRows]:
    """Class of rows that fits into the free memory of the device."""
    n_bytes = 8 * matrix.nnz  # a column number and a count
    return KeptRows if n_bytes < SHARE_OF_FREE * free_bytes(device) else SentRows


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; zero if the device does not report it."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


def _tensor(values: np.ndarray) -> Tensor:
    # torch warns of memory that it must not write to
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def _repeated(lengths: Tensor, n_entries: int) -> Tensor:
    """Row of each entry, `lengths` of them in each."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=n_entries)
