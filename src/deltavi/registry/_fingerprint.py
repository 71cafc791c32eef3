"""Fingerprint of an expression matrix: detects changed values in one pass at the speed of memory."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from deltavi._types import Rows, StoredMatrix, is_dask, is_sparse
from deltavi.registry.checks import row_blocks, stored_blocks
from deltavi.registry.chunks import DaskMatrix, paths_in
from deltavi.registry.joined import JoinedMatrix, last_written, times_of

# Words of eight bytes that are multiplied with weights at a time.
WORDS = 1024
# Genes of a column-wise matrix that are summed at a time.
BLOCK_COLUMNS = 256
# Runs of rows, or of stored entries, that stand for what lies on disk: at every check, and once its file was written.
RUNS, RUNS_IF_WRITTEN = 4, 64
ROWS_OF_RUN, ENTRIES_OF_RUN = 16, 4096
# Of a dask array, whose rows may have to be computed.
DASK_RUNS = 16
# Relative difference of two sums of the same numbers in another order, with room to spare.
ROUNDING = 1e-10
_GENERATOR = np.random.default_rng(20231)
_WEIGHTS = _GENERATOR.integers(0, 2**63, WORDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_GENE_SEED = 20232


# -- storage -------------------------------------------------------------------------------------------------


def checksum(values: np.ndarray) -> int:
    """Sum over the words of an array modulo 2**64, weighted by position: a change of one word is always detected."""
    flat = np.ravel(values, order="K").view(np.uint8)
    words = flat[: len(flat) // 8 * 8].view(np.uint64)
    n_blocks = len(words) // WORDS
    of_blocks = words[: n_blocks * WORDS].reshape(n_blocks, WORDS) @ _WEIGHTS
    # odd, so that no difference is lost in the overflow beyond 64 bits
    odd = np.arange(1, 2 * n_blocks + 1, 2, dtype=np.uint64)
    rest = words[n_blocks * WORDS :]
    total = int(of_blocks @ odd) + 3 * int(rest @ _WEIGHTS[: len(rest)])
    return (total + 5 * int.from_bytes(flat[len(words) * 8 :].tobytes(), "little")) % 2**64


def is_on_disk(x: StoredMatrix) -> bool:
    """True if `x` lies in a file, from which rows are read."""
    return isinstance(x, h5py.Dataset | CSRDataset | CSCDataset | JoinedMatrix | zarr.Array)


def is_lazy(x: StoredMatrix) -> bool:
    """True if to read all of `x` costs more than a pass through memory."""
    return is_on_disk(x) or is_dask(x) or isinstance(x, DaskMatrix)


def _arrays(x: StoredMatrix) -> list[StoredMatrix]:
    """Arrays in which `x` is stored."""
    if isinstance(x, CSRDataset | CSCDataset):
        return [x.group[name] for name in ("data", "indices", "indptr")]
    if isinstance(x, JoinedMatrix):
        return [array for part in x.parts for array in _arrays(part.stored)]
    if sparse.issparse(x):
        return [getattr(x, name) for name in ("data", "indices", "indptr", "row", "col") if hasattr(x, name)]
    return [x]


def runs(length: int, n_runs: int, size: int) -> list[slice]:
    """Up to `n_runs` runs of `size` of the places from 0 to `length`, evenly spaced; everything where that is less."""
    if length <= n_runs * size:
        return [slice(0, length)]
    return [slice(start, start + size) for start in np.linspace(0, length - size, n_runs).astype(int).tolist()]


def stored(x: StoredMatrix, n_runs: int = RUNS) -> tuple[object, ...]:
    """Kind, shape and checksums of `x` as it is stored; equal as long as nothing was written to it.

    The checksums cover every byte in memory and some runs of rows on disk; of a dask array, the name of its
    computation is taken instead, and the times of the files that it reads.
    """
    kind = (type(x).__name__, tuple(int(n) for n in x.shape), str(getattr(x, "dtype", "")))
    if is_dask(x):
        return (*kind, str(x.name), times_of(paths_in(x)))
    if not is_on_disk(x):
        return (*kind, *(checksum(np.asarray(part)) for part in _arrays(x)))
    sums: list[int] = []
    for part in _arrays(x):
        size = ENTRIES_OF_RUN if len(part.shape) == 1 else ROWS_OF_RUN
        sums += [int(part.shape[0]), *(checksum(np.asarray(part[run])) for run in runs(part.shape[0], n_runs, size))]
    return (*kind, *sums)


# -- values --------------------------------------------------------------------------------------------------


def gene_weights(n_genes: int) -> np.ndarray:
    """Weights between one half and three halves, the same for the same number of genes, ``(n_genes,)``."""
    return np.random.default_rng(_GENE_SEED).uniform(0.5, 1.5, n_genes)


def cell_sums(x: StoredMatrix, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sum of each row of `x`, and of its absolute values, in any storage; ``(n_rows,)`` each.

    Values are rounded to single precision, in which models read them.
    """
    weights = gene_weights(int(x.shape[1]))
    if is_sparse(x) and x.format == "csc":
        sums = np.zeros((2, x.shape[0]))
        for start in range(0, x.shape[1], BLOCK_COLUMNS):
            part = slice(start, start + BLOCK_COLUMNS)
            sums += _weighted(x[:, part], weights[part])
        return (sums[0], sums[1]) if rows is None else (sums[0][rows], sums[1][rows])
    if is_sparse(x) and x.format != "csr":
        x = sparse.csr_matrix(x)
    parts = stored_blocks(x) if rows is None else row_blocks(x, rows)
    blocks = [_weighted(block, weights) for _, block in parts]
    joined = np.concatenate(blocks, axis=1) if blocks else np.zeros((2, 0))
    return joined[0], joined[1]


class SampledSums:
    """Sums of :func:`cell_sums` of the rows of a lazy matrix that are compared, from blocks that are read anyway.

    Parameters
    ----------
    x
        The matrix.
    """

    def __init__(self, x: StoredMatrix) -> None:
        rows = _rows_compared(x)
        self._rows = np.arange(int(x.shape[0])) if rows is None else rows
        self._weights = gene_weights(int(x.shape[1]))
        self._found: list[np.ndarray] = []

    def add(self, numbers: np.ndarray, block: Rows) -> None:
        """Take the sampled rows among those with `numbers`, which increase from block to block."""
        taken = np.flatnonzero(np.isin(numbers, self._rows))
        if len(taken):
            self._found.append(_weighted(block[taken], self._weights))

    @property
    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of values, and of absolute values."""
        joined = np.concatenate([np.zeros((2, 0)), *self._found], axis=1)
        return joined[0], joined[1]


def _weighted(block: Rows, weights: np.ndarray) -> np.ndarray:
    single = block.astype(np.float32, copy=False).astype(np.float64)
    sums = np.asarray(single @ weights).ravel()
    values = single.data if is_sparse(single) else np.asarray(single)
    if values.min(initial=0.0) >= 0:
        return np.stack([sums, sums])
    return np.stack([sums, np.asarray(abs(single) @ weights).ravel()])


def _rows_compared(x: StoredMatrix) -> np.ndarray | None:
    """Rows of `x` whose values are compared; all for ``None``."""
    if not is_lazy(x):
        return None
    if isinstance(x, CSCDataset):
        # each row would need a read of the whole file
        return np.zeros(0, dtype=int)
    return np.concatenate([np.arange(x.shape[0])[run] for run in runs(x.shape[0], DASK_RUNS, ROWS_OF_RUN)])


class MatrixPrint:
    """Fingerprint of a registered matrix: checksums of its storage, and sums of its values.

    Parameters
    ----------
    x
        Matrix ``(n_cells, n_genes)`` in any storage.
    file
        File it is read from.
    sampled
        Sums of the compared rows, if they are known.
    """

    def __init__(self, x: StoredMatrix, file: Path | None = None, *, sampled: SampledSums | None = None) -> None:
        self.file = file if is_on_disk(x) else None
        # times of files are read before their content, so that a write in between is detected
        self._remember_storage(x)
        self._remember(x, sampled)

    def _remember(self, x: StoredMatrix, sampled: SampledSums | None = None) -> None:
        self.rows = _rows_compared(x)
        self.sums, self.sizes = cell_sums(x, self.rows) if sampled is None else sampled.sums

    def _remember_storage(self, x: StoredMatrix) -> None:
        self._written = None if self.file is None else last_written(self.file)
        self._storage = stored(x)
        self._more_storage = stored(x, RUNS_IF_WRITTEN) if is_on_disk(x) else ()

    def is_same(self, x: StoredMatrix) -> bool:
        """True if `x` holds the registered values, in any storage."""
        if is_on_disk(x):
            return self._is_same_file(x)
        storage = stored(x)
        if storage != self._storage:
            if self.differs(x).any():
                return False
            self._storage = storage
            if self.rows is not None and not is_lazy(x):
                # the whole matrix was moved from disk to memory
                self._remember(x)
        return True

    def _is_same_file(self, x: StoredMatrix) -> bool:
        written = None if self.file is None else last_written(self.file)
        if written == self._written:
            return stored(x) == self._storage
        if stored(x, RUNS_IF_WRITTEN) != self._more_storage:
            return False
        self._written = written
        return True

    def differs(self, x: StoredMatrix) -> np.ndarray:
        """Mask of the compared cells whose values changed."""
        # NaN differs from everything
        changed: np.ndarray = ~(np.abs(cell_sums(x, self.rows)[0] - self.sums) <= ROUNDING * self.sizes)
        return changed

    def is_reordered(self, x: StoredMatrix) -> bool:
        """True if all rows are there, and belong to other cells."""
        if self.rows is not None:
            return False
        apart = np.abs(np.sort(cell_sums(x)[0]) - np.sort(self.sums))
        return bool((apart <= ROUNDING * self.sizes.max(initial=0.0)).all())
