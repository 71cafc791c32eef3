"""Matrices in several files as one, the cells of each below those of the file before, with genes by position."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import sparse_dataset
from scipy import sparse

from deltavi._types import IntArray, Rows, StoredMatrix, is_sparse

# Rows of a chunk of a Dask array over files.
CHUNK_ROWS = 1000
# Depth of the folders that hold the pieces of a matrix, as in layers/counts/data/c.
STORE_DEPTH = 4
# Location of a chunk in a Dask array, as `map_blocks` hands it to a function.
BlockInfo: TypeAlias = Mapping[None, Mapping[str, Sequence[tuple[int, int]]]]


def root_of(path: Path) -> h5py.Group | zarr.Group:
    """Content of an h5ad file or a Zarr store."""
    return zarr.open_group(str(path), mode="r") if path.is_dir() else h5py.File(path, "r")


def opened(path: Path, element: str) -> StoredMatrix:
    """Matrix in an h5ad file or a Zarr store, by its place in it, such as ``"X"`` or ``"layers/counts"``."""
    found = root_of(path)[element]
    return sparse_dataset(found) if isinstance(found, h5py.Group | zarr.Group) else found


def store_of(x: object) -> Path | None:
    """File or store of a matrix, if it is known."""
    stored = x.group if isinstance(x, CSRDataset | CSCDataset) else x
    if isinstance(stored, h5py.Group | h5py.Dataset):
        return Path(stored.file.filename)
    store = getattr(stored, "store", None)
    # as Zarr names it from version 3 on, and before
    root = getattr(store, "root", getattr(store, "path", None))
    return Path(root) if isinstance(root, str | Path) else None


def last_written(place: Path) -> tuple[int, int]:
    """Time and size of a file; of a Zarr store the sum of the times of its folders, and their number."""
    if not place.is_dir():
        status = place.stat()
        return status.st_mtime_ns, status.st_size
    times = [folder.stat().st_mtime_ns for folder in _folders(place, STORE_DEPTH)]
    return sum(times), len(times)


def _folders(place: Path, depth: int) -> Iterator[Path]:
    """A folder, and those below it down to `depth`."""
    yield place
    if depth:
        with os.scandir(place) as found:
            inner = [Path(entry.path) for entry in found if entry.is_dir()]
        for folder in inner:
            yield from _folders(folder, depth - 1)


def times_of(places: Iterable[Path]) -> tuple[tuple[Path, tuple[int, int] | None], ...]:
    """Paths in order, each with its time and size of :func:`last_written`; ``None`` where no file is there."""
    return tuple((place, last_written(place) if place.exists() else None) for place in sorted(set(places)))


def path_in_store(x: object) -> str:
    """Place of a sparse matrix in its file or store."""
    return str(x.group.name) if isinstance(x, CSRDataset | CSCDataset) else ""


@dataclass(frozen=True, eq=False)
class Part:
    """Matrix in a file, and the genes of its columns.

    Parameters
    ----------
    stored
        ``(n_cells, n_columns)`` CSR or dense matrix.
    genes
        ``(n_columns,)`` position of each column among the genes of the whole, -1 where it is left out; ``None`` where
        they are the same.
    """

    stored: StoredMatrix
    genes: IntArray | None = None

    @property
    def is_dense(self) -> bool:
        """True if rows come as arrays."""
        return not hasattr(self.stored, "group")

    def placed(self, rows: Rows, n_genes: int) -> Rows:
        """Rows of this matrix with the genes of the whole, ``(n_rows, n_genes)``."""
        genes = self.genes
        if genes is None:
            return rows
        if isinstance(rows, np.ndarray):
            found = np.zeros((len(rows), n_genes), dtype=rows.dtype)
            found[:, genes[genes >= 0]] = rows[:, genes >= 0]
            return found
        to = genes[rows.indices]
        kept = to >= 0
        starts = np.concatenate([[0], np.cumsum(kept)])[rows.indptr]
        found = sparse.csr_matrix((rows.data[kept], to[kept], starts), shape=(rows.shape[0], n_genes), copy=False)
        found.sort_indices()
        return found


class RowsOnDemand(ABC):
    """Matrix ``(n_cells, n_genes)`` of which slices and increasing numbers of rows are read."""

    ndim = 2
    shape: tuple[int, int]
    dtype: np.dtype[np.generic]

    @abstractmethod
    def __getitem__(self, chosen: slice | np.ndarray) -> Rows:
        """Rows in memory."""

    def __array__(self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        read = self[:]
        return np.asarray(read.toarray() if is_sparse(read) else read, dtype=dtype)


def stacked(pieces: list[Rows], n_genes: int, dtype: np.dtype[np.generic]) -> Rows:
    """`pieces` one below the other: an array, or CSR if one of them is sparse."""
    if len(pieces) == 1:
        return pieces[0]
    if not any(sparse.issparse(piece) for piece in pieces):
        return np.concatenate([np.zeros((0, n_genes), dtype), *pieces])
    return sparse.csr_matrix(sparse.vstack([*map(sparse.csr_matrix, pieces)], format="csr"))


class JoinedMatrix(RowsOnDemand):
    """Rows of matrices in files, one below the other; slices and increasing numbers of rows are read.

    Parameters
    ----------
    parts
        The matrices, at least one.
    n_genes
        Columns of the whole.
    """

    def __init__(self, parts: Sequence[Part], n_genes: int) -> None:
        self.parts = tuple(parts)
        self.edges = np.cumsum([0, *(int(part.stored.shape[0]) for part in parts)])
        self.shape = (int(self.edges[-1]), n_genes)
        self.dtype = np.result_type(*(np.dtype(part.stored.dtype) for part in parts))
        self.is_dense = all(part.is_dense for part in parts)

    def __getitem__(self, chosen: slice | np.ndarray) -> Rows:
        rows = np.arange(self.shape[0])[chosen]
        found = [part.placed(_rows(part.stored, own), self.shape[1]) for part, own in self.split(rows)]
        none = np.zeros((0, self.shape[1]), self.dtype)
        # also of the type that all parts have together, where one of them is read
        return stacked([none if self.is_dense else sparse.csr_matrix(none), *found], self.shape[1], self.dtype)

    def split(self, rows: np.ndarray) -> Iterator[tuple[Part, np.ndarray]]:
        """Parts that hold some of the increasing `rows`, each with their numbers in it."""
        places = np.searchsorted(rows, self.edges)
        for part, start, first, last in zip(self.parts, self.edges, places, places[1:], strict=False):
            if last > first:
                yield part, rows[first:last] - start


def _rows(x: StoredMatrix, rows: np.ndarray) -> Rows:
    first, last = int(rows[0]), int(rows[-1])
    found: Rows = x[first : last + 1] if len(rows) == last - first + 1 else x[rows]
    return sparse.csr_matrix(found) if isinstance(x, CSCDataset) else found


@dataclass(frozen=True)
class Place:
    """Matrix in a file that is opened when it is read.

    Parameters
    ----------
    path
        An h5ad file or a Zarr store.
    element
        Place of the matrix in it.
    n_cells
        Its rows.
    genes
        As of :class:`Part`.
    """

    path: Path
    element: str
    n_cells: int
    genes: tuple[int, ...] | None = None

    def opened(self) -> Part:
        """The matrix."""
        return Part(opened(self.path, self.element), None if self.genes is None else np.array(self.genes, dtype=int))


@dataclass(frozen=True)
class Places:
    """Matrices in several files, which can be sent to other processes.

    Parameters
    ----------
    places
        The matrices.
    n_genes
        Columns of the whole.
    """

    places: tuple[Place, ...]
    n_genes: int

    def opened(self) -> JoinedMatrix:
        """Their rows as one matrix."""
        return JoinedMatrix([place.opened() for place in self.places], self.n_genes)

    def rows(self, start: int, stop: int) -> Rows:
        """Rows of one of the matrices, in the numbers of the whole; no other one is opened."""
        edges = np.cumsum([0, *(place.n_cells for place in self.places)])
        number = int(np.searchsorted(edges, start, side="right")) - 1
        one = JoinedMatrix([self.places[number].opened()], self.n_genes)
        return one[slice(start - int(edges[number]), stop - int(edges[number]))]

    def as_array(self, dtype: np.dtype[np.generic]) -> StoredMatrix:
        """Dask array of their rows."""
        import dask.array
        from dask.base import tokenize

        meta = self.opened()[slice(0, 0)].astype(dtype)
        sizes = [size for place in self.places for size in _cut(place.n_cells)]
        read = partial(joined_chunk, self)
        # content of another time has another name
        token = tokenize(self, dtype, times_of(place.path for place in self.places))
        chunks = tuple(sizes), (self.n_genes,)
        found: StoredMatrix = dask.array.map_blocks(  # type: ignore[no-untyped-call]
            read, name=f"{joined_chunk.__name__}-{token}", chunks=chunks, dtype=dtype, meta=meta
        )
        return found


def _cut(n_cells: int) -> list[int]:
    return [min(CHUNK_ROWS, n_cells - start) for start in range(0, n_cells, CHUNK_ROWS)]


def joined_chunk(places: Places, *, block_info: BlockInfo) -> Rows:
    """One chunk of a Dask array over files; its file is opened for it, as one of another process cannot be used."""
    start, stop = block_info[None]["array-location"][0]
    return places.rows(start, stop)
