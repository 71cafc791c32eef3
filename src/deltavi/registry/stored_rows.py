"""Rows of a matrix in a file, read in runs of neighbouring rows, as training needs them."""

from __future__ import annotations

import itertools
import mmap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
from anndata import AnnData
from anndata.abc import CSRDataset
from scipy import sparse

from deltavi._errors import DeltaviError, examples
from deltavi._memory import bound_freed
from deltavi._types import Rows, StoredMatrix, is_dask, is_sparse
from deltavi.registry._fingerprint import MatrixPrint
from deltavi.registry._resident_rows import ResidentRows
from deltavi.registry.chunks import DaskMatrix, paths_in
from deltavi.registry.joined import JoinedMatrix, store_of, times_of
from deltavi.registry.relative import RelativePlaces
from deltavi.registry.whole import require_whole
from deltavi.registry.zarr_codecs import fast_codecs

# Pieces that a block of rows should be as long as: those at its two ends are decoded for other blocks as well.
PIECES = 4
# Rows that nobody asked for and that are read all the same, where a read of its own would take longer.
LARGEST_GAP, LARGEST_GAP_IN_ZARR = 64, 256
# A read ends at a multiple of so many rows, so that what is dropped from it is never in memory at once.
LONGEST_RUN = 2048
# Time from one count of the pieces of a store to the next, as a multiple of what a count takes.
BETWEEN_COUNTS = 20
# Bytes of expression after whose reading memory goes back to the system.
LARGE = 2**20
WAY_OUT = (
    "Put the file back as it was, open it again and train a new model; until training ends, nothing may write to it."
)
# Errors of readers of files that are damaged or gone.
UNREADABLE = (AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)


class Entries(Protocol):
    """An array in a file, of HDF5 or Zarr, of which slices can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each axis."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values."""

    def __getitem__(self, chosen: slice, /) -> np.ndarray: ...


class StoredRows(Protocol):
    """Reader of rows of a matrix ``(n_cells, n_genes)`` in a file, for any number of threads."""

    shape: tuple[int, int]
    is_compressed: bool
    # bytes that a row takes in memory, on average
    n_bytes: float
    # neighbouring rows that should be read together, as pieces are decoded, or chunks computed, as a whole
    n_together: int

    def read(self, rows: np.ndarray, *, first: Rows | None = None) -> Rows:
        """Rows in increasing order behind others that come `first`, in single precision."""


class CsrRows:
    """Rows of a CSR matrix in an HDF5 file or a Zarr store.

    They come as those of a matrix in memory: entries in one place are added up in the type they are stored in, entries
    of a row are in order, and values are in single precision.

    Parameters
    ----------
    x
        The matrix.

    Raises
    ------
    DeltaviError
        If rows begin before the row above them, or behind the last entry.
    """

    def __init__(self, x: CSRDataset) -> None:
        self.shape = (int(x.shape[0]), int(x.shape[1]))
        with fast_codecs(x.group):
            self._indices: Entries = x.group["indices"]
            self._data: Entries = x.group["data"]
        self._starts = np.asarray(x.group["indptr"][:], dtype=np.int64)
        self.is_compressed = _is_compressed(self._data) or _is_compressed(self._indices)
        self._gap = LARGEST_GAP if isinstance(self._data, h5py.Dataset) else LARGEST_GAP_IN_ZARR
        self._require_starts()
        n_entries = max(float(self._starts[-1]) / max(self.shape[0], 1), 1.0)
        pieces = [_piece(values) for values in (self._data, self._indices)]
        self.n_together = max(round(PIECES * max(pieces) / n_entries), 1)
        self.n_bytes = (np.dtype(self._data.dtype).itemsize + 4) * self._starts[-1] / max(self.shape[0], 1)

    def read(self, rows: np.ndarray, *, first: Rows | None = None) -> sparse.csr_matrix:
        known = sparse.csr_matrix((0, self.shape[1]), dtype=np.float32) if first is None else sparse.csr_matrix(first)
        parts = itertools.chain([known], self.runs(rows))
        shape = (known.shape[0] + len(rows), self.shape[1])
        return assembled(parts, shape=shape, n_entries=known.nnz + self.n_entries(rows))

    def n_entries(self, rows: np.ndarray) -> int:
        """Entries that are stored of these rows, of which several may be in one place."""
        return int((self._starts[rows + 1] - self._starts[rows]).sum())

    def runs(self, rows: np.ndarray) -> Iterator[sparse.csr_matrix]:
        """Increasing `rows`, those that lie near each other together."""
        return (self._run(rows[run]) for run in runs_of(rows, self._gap))

    def _run(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Rows that lie near each other."""
        genes, values = self._entries(rows)
        if len(genes) and not 0 <= genes.min() <= genes.max() < self.shape[1]:
            raise ValueError(f"entries belong to genes {genes.min()} to {genes.max()}, of {self.shape[1]}")
        starts = np.concatenate([[0], np.cumsum(self._starts[rows + 1] - self._starts[rows])])
        # SciPy adds up no half precision, and takes indices of two types alone
        values = values.astype(np.float32) if values.dtype == np.float16 else values
        genes = genes if genes.dtype == np.int32 else genes.astype(np.int64)
        found = sparse.csr_matrix((values, genes, starts), shape=(len(rows), self.shape[1]), copy=False)
        if not found.has_canonical_format:
            found.sum_duplicates()
        return found.astype(np.float32, copy=False)

    def _entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Genes and values of the entries of rows that lie near each other, read in one go."""
        first, last = int(rows[0]), int(rows[-1])
        starts = self._starts[first : last + 2]
        read = slice(int(starts[0]), int(starts[-1]))
        genes, values = self._indices[read], self._data[read]
        if len(rows) == last - first + 1:
            return genes, values
        wanted = np.zeros(last - first + 1, dtype=bool)
        wanted[rows - first] = True
        kept = np.repeat(wanted, np.diff(starts))
        return genes[kept], values[kept]

    def _require_starts(self) -> None:
        starts, n_entries = self._starts, min(self._data.shape[0], self._indices.shape[0])
        if len(starts) != self.shape[0] + 1 or (np.diff(starts, prepend=0) < 0).any() or starts[-1] > n_entries:
            raise DeltaviError(
                f"A CSR matrix of {self.shape[0]} cells has no valid indptr: {len(starts)} places up to "
                f"{starts.max(initial=0)}, for {n_entries} entries. The file is damaged: write it again."
            )


class DenseRows:
    """Rows of a dense matrix in an HDF5 file.

    Parameters
    ----------
    x
        The matrix.
    """

    def __init__(self, x: h5py.Dataset) -> None:
        self.shape = (int(x.shape[0]), int(x.shape[1]))
        self._x: Entries = x
        self.is_compressed, self.n_together = _is_compressed(x), max(PIECES * _piece(x), 1)
        self.n_bytes = 4.0 * self.shape[1]

    def read(self, rows: np.ndarray, *, first: Rows | None = None) -> np.ndarray:
        n_known = 0 if first is None else int(first.shape[0])
        found = returned((n_known + len(rows)) * self.shape[1], np.float32).reshape(-1, self.shape[1])
        if first is not None:
            found[:n_known] = first
        for run in runs_of(rows, LARGEST_GAP):
            start, stop = int(rows[run.start]), int(rows[run.stop - 1]) + 1
            found[n_known + run.start : n_known + run.stop] = self._x[slice(start, stop)][rows[run] - start]
        return found


class WatchedRows:
    """Rows of a matrix in a file, and an error where the file changes or can no longer be read.

    Parameters
    ----------
    rows
        Reader of the rows.
    x
        The matrix.
    where
        Its name in messages, such as ``"adata.X"``.
    """

    def __init__(self, rows: StoredRows, x: StoredMatrix, *, where: str) -> None:
        self.shape, self.is_compressed, self.n_bytes = rows.shape, rows.is_compressed, rows.n_bytes
        self.n_together = rows.n_together
        self._rows, self._x, self._where = rows, x, where
        self._file = file_of(x)
        self._print = MatrixPrint(x, self._file)
        place = store_of(x)
        self._places = RelativePlaces([] if place is None else [place])
        self._counted_again = 0.0

    def read(self, rows: np.ndarray, *, first: Rows | None = None) -> Rows:
        """Rows in increasing order behind others that come `first`, in single precision.

        Raises
        ------
        DeltaviError
            If the file was written to, is gone or damaged; of a file that was written to, a sample is compared. If it
            was opened by a relative path, and the working folder changed.
        """
        self._places.require_same_folder()
        try:
            found = self._rows.read(rows, first=first)
            # afterwards, so that a write in between is detected
            same = self._print.is_same(self._x)
        except UNREADABLE as error:
            raise DeltaviError(
                f"{self._where} can no longer be read{self._place()} ({type(error).__name__}: {error}). {WAY_OUT}"
            ) from error
        if not same:
            raise DeltaviError(f"{self._where} changed while it was read{self._place()}. {WAY_OUT}")
        self._require_whole()
        if len(rows) * self.n_bytes > LARGE:
            bound_freed()
        return found

    def _require_whole(self) -> None:
        """Raise where pieces of a store are gone; they are counted as often as takes a twentieth of the time."""
        now = time.monotonic()
        if now > self._counted_again:
            require_whole(self._x, self._where)
            self._counted_again = now + BETWEEN_COUNTS * (time.monotonic() - now)

    def _place(self) -> str:
        return "" if self._file is None else f" from {self._file}"


class JoinedRows:
    """Rows of matrices in several files.

    Parameters
    ----------
    x
        The matrices.
    where
        Their name in messages.
    """

    def __init__(self, x: JoinedMatrix, *, where: str) -> None:
        self.shape, self._x = x.shape, x
        self._readers = {id(part): _watched(part.stored, where) for part in x.parts}
        readers = self._readers.values()
        self.is_compressed = any(reader.is_compressed for reader in readers)
        self.n_together = max(reader.n_together for reader in readers)
        n_bytes = sum(reader.n_bytes * reader.shape[0] for reader in readers) / max(self.shape[0], 1)
        self.n_bytes = 4.0 * self.shape[1] if x.is_dense else n_bytes

    def read(self, rows: np.ndarray, *, first: Rows | None = None) -> Rows:
        parts = (part.placed(self._readers[id(part)].read(own), self.shape[1]) for part, own in self._x.split(rows))
        return below(first, [*parts], self._x.is_dense, self.shape[1])


class ChunkRows:
    """Rows of a Dask array, of which whole chunks are computed.

    Parameters
    ----------
    x
        The array.
    where
        Its name in messages.
    """

    is_compressed = True

    def __init__(self, x: DaskMatrix, *, where: str) -> None:
        self.shape, self._x, self._where = x.shape, x, where
        self.n_together = int(np.diff(x.edges).max(initial=1))
        self._paths = x.paths()
        self._written = times_of(self._paths)
        self._places = RelativePlaces(self._paths)
        with self._readable():
            sample = x[: min(self.n_together, self.shape[0])]
        self._is_dense = isinstance(sample, np.ndarray)
        n_entries = self.shape[1] if isinstance(sample, np.ndarray) else 2 * sample.nnz / max(sample.shape[0], 1)
        self.n_bytes = 4.0 * n_entries

    def read(self, rows: np.ndarray, *, first: Rows | None = None) -> Rows:
        self._places.require_same_folder()
        with self._readable():
            found = below(first, [*self._x.pieces(rows)], self._is_dense, self.shape[1])
            # afterwards, so that a write in between is detected
            changed = set(times_of(self._paths)) - set(self._written)
        if changed:
            files = examples(sorted(str(path) for path, _ in changed))
            raise DeltaviError(f"{self._where} changed while it was read: {files} was written to. {WAY_OUT}")
        return found

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            message = f"{self._where} can no longer be read ({type(error).__name__}: {error}). {WAY_OUT}"
            raise DeltaviError(message) from error


def below(first: Rows | None, parts: list[Rows], is_dense: bool, n_genes: int) -> Rows:
    """`parts` below `first` in single precision: an array, or CSR with entries in order, each in a place of its own."""
    parts = [*([] if first is None else [first]), *parts]
    n_rows = sum(int(part.shape[0]) for part in parts)
    if not is_dense:
        canonical = [ResidentRows(sparse.csr_matrix(part)).matrix for part in parts]
        return assembled(canonical, shape=(n_rows, n_genes), n_entries=sum(part.nnz for part in canonical))
    found, n_done = returned(n_rows * n_genes, np.float32).reshape(-1, n_genes), 0
    for part in parts:
        found[n_done : n_done + part.shape[0]] = part.toarray() if is_sparse(part) else part
        n_done += int(part.shape[0])
    return found


def stored_rows(x: StoredMatrix, *, where: str) -> StoredRows | None:
    """Reader of the rows of `x`, named `where` in messages; ``None`` if it does not lie row by row in a file."""
    if isinstance(x, JoinedMatrix):
        return JoinedRows(x, where=where)
    if isinstance(x, DaskMatrix):
        return ChunkRows(x, where=where)
    return _watched(x, where) if isinstance(x, CSRDataset | h5py.Dataset) else None


def _watched(x: StoredMatrix, where: str) -> WatchedRows:
    return WatchedRows(CsrRows(x) if isinstance(x, CSRDataset) else DenseRows(x), x, where=where)


def file_of(x: StoredMatrix) -> Path | None:
    """File of HDF5 that `x` lies in; ``None`` for other storage, whose time of writing is not known."""
    path = store_of(x)
    return path if path is not None and path.is_file() else None


def places_of(adata: object) -> set[Path]:
    """Files and Zarr stores that an AnnData reads from, and must not be overwritten; none of other objects."""
    if not isinstance(adata, AnnData):
        return set()
    found = {None if adata.filename is None else Path(adata.filename)}
    # matrices of a view would be read
    whole = adata._adata_ref if adata.is_view else adata
    for x in (whole.X, *(whole.layers[name] for name in whole.layers if name is not None)):
        found |= paths_in(x) if is_dask(x) else {store_of(x)}
    return {place for place in found if place is not None}


def assembled(parts: Iterable[sparse.csr_matrix], *, shape: tuple[int, int], n_entries: int) -> sparse.csr_matrix:
    """Rows of `parts` below each other, with no more than `n_entries` in all, in memory of :func:`returned`."""
    small = max(n_entries, shape[1]) <= np.iinfo(np.int32).max
    indices = returned(n_entries, np.int32 if small else np.int64)
    data, starts = returned(n_entries, np.float32), np.zeros(shape[0] + 1, indices.dtype)
    n_done, n_filled = 0, 0
    for part in parts:
        to = slice(n_filled, n_filled + part.nnz)
        indices[to], data[to] = part.indices, part.data
        starts[n_done + 1 : n_done + part.shape[0] + 1] = n_filled + part.indptr[1:]
        n_done, n_filled = n_done + part.shape[0], n_filled + part.nnz
    # fewer than were stored, where several are in one place
    entries = data[:n_filled], indices[:n_filled], starts
    return sparse.csr_matrix(entries, shape=shape, copy=False)


def runs_of(rows: np.ndarray, gap: int = LARGEST_GAP) -> list[slice]:
    """Places of increasing `rows` that are read in one go, no more than `gap` other rows between two of them."""
    ends = np.flatnonzero((np.diff(rows) > gap + 1) | (np.diff(rows // LONGEST_RUN) > 0)) + 1
    edges = [0, *ends.tolist(), len(rows)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]


def returned(length: int, dtype: type[np.number]) -> np.ndarray:
    """Zeroed array whose memory goes back to the system at once when it is freed.

    The C library keeps what threads free, for each of them, so that pools would take several times their memory.
    """
    found = np.frombuffer(mmap.mmap(-1, max(length * np.dtype(dtype).itemsize, 1)), dtype=np.uint8)
    return found[: length * np.dtype(dtype).itemsize].view(dtype)


def _is_compressed(x: Entries) -> bool:
    """True if parts of `x` cannot be read without a larger piece around them, as in every Zarr store."""
    return not isinstance(x, h5py.Dataset) or x.id.get_create_plist().get_nfilters() > 0


def _piece(x: Entries) -> int:
    """Length of the pieces of `x` that are decoded as a whole; 0 where single values are read."""
    if not _is_compressed(x):
        return 0
    chunks: tuple[int, ...] = getattr(x, "chunks", x.shape)
    return min(int(chunks[0]), int(x.shape[0]))
