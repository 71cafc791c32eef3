"""AnnData files written block by block: memory holds one block of cells, and the tables of all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from deltavi._memory import bound_freed
from deltavi._types import Rows, is_sparse
from deltavi.io._groups import Array, Group, H5Group
from deltavi.io._stores import H5AD
from deltavi.io._watched import WatchedFile
from deltavi.io._zarr_folder import ZarrFolder

# Sides of a chunk of a dense array.
CHUNK_ROWS, CHUNK_COLUMNS = 512, 1024
# Stored entries of a chunk of a sparse matrix.
CHUNK_ENTRIES = 2**17
# Bytes of matrices that were written, after which memory goes back to the system.
FREED_AT_ONCE = 16 * 2**20
ROOT = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
NOTHING: Mapping[str, object] = MappingProxyType({})
NO_ARRAYS: Mapping[str, np.ndarray] = MappingProxyType({})
MAPPINGS = ("layers", "obsm", "varm", "obsp", "varp", "uns")


class BlockFile:
    """AnnData file that is filled block by block; a context manager.

    Parameters
    ----------
    part
        File or folder to make; the suffix says which.
    n_cells
        Number of cells of all blocks together.
    """

    def __init__(self, part: Path, n_cells: int) -> None:
        self._n_cells = n_cells
        self._file = WatchedFile(part) if part.suffix == H5AD else None
        self._root: Group = ZarrFolder(part, ROOT) if self._file is None else H5Group.root(self._file, ROOT)
        self._matrices: dict[tuple[str, str], _DenseMatrix | _SparseMatrix] = {}
        self._tables: dict[str, Array] = {}
        self._unknown: dict[str, set[int]] = {}
        self._n_freed = 0
        for name in MAPPINGS:
            self._root.write(name, {})

    def __enter__(self) -> BlockFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with self._file:
                self._root.close()
            self._file.check()
        elif error[0] is None:
            self._root.close()

    def add(self, block: AnnData) -> None:
        """Write the matrices of the next cells: X, layers and obsm."""
        # X is listed among the layers
        layers = {name: rows for name, rows in block.layers.items() if name is not None}
        self.add_rows(block.X, layers, dict(block.obsm))

    def add_rows(
        self, profile: Rows | None, layers: Mapping[str, Rows], obsm: Mapping[str, np.ndarray] = NO_ARRAYS
    ) -> None:
        """Write X, unless it is None, the layers and obsm of the next cells, a row for each."""
        if profile is not None:
            self._grow("", "X", profile)
        for mapping, matrices in (("layers", layers), ("obsm", obsm)):
            for name, rows in matrices.items():
                self._grow(mapping, name, rows)
        self._check()
        self._n_freed += sum(map(_n_bytes, (profile, *layers.values())))
        if self._n_freed > FREED_AT_ONCE:
            bound_freed()
            self._n_freed = 0

    def add_column(self, name: str, values: np.ndarray, *, place: int, n_columns: int) -> None:
        """Write a column of a matrix in varm; columns that are never written are NaN."""
        if name not in self._tables:
            empty, shape = np.zeros((0, n_columns), dtype=values.dtype), (len(values), n_columns)
            self._tables[name] = self._root.group("varm").array(
                name, empty, shape, chunks=(shape[0], 1), is_packed=True
            )
            self._unknown[name] = set(range(n_columns))
        self._tables[name][:, place] = values
        self._unknown[name].discard(place)

    def finish(
        self,
        *,
        obs: pd.DataFrame,
        var: pd.DataFrame,
        uns: Mapping[str, object],
        obsm: Mapping[str, object] = NOTHING,
        varm: Mapping[str, object] = NOTHING,
    ) -> None:
        """Write what is left of the matrices, and the tables of all cells and genes."""
        for matrix in self._matrices.values():
            matrix.finish()
        for name, places in self._unknown.items():
            for place in places:
                self._tables[name][:, place] = np.full(self._tables[name].shape[0], np.nan)
        for name, table in (("obs", obs), ("var", var)):
            self._root.write(name, _without_gaps(table))
            self._check()
        for mapping, entries in (("uns", uns), ("obsm", obsm), ("varm", varm)):
            for name, entry in entries.items():
                self._root.group(mapping).write(name, entry)
                self._check()

    def _check(self) -> None:
        """Raise where the disk failed."""
        if self._file is not None:
            self._file.check()

    def _grow(self, mapping: str, name: str, rows: Rows) -> None:
        place = mapping, name
        if place not in self._matrices:
            group = self._root.group(mapping) if mapping else self._root
            kind = _SparseMatrix if is_sparse(rows) else _DenseMatrix
            self._matrices[place] = kind(group, name, rows, self._n_cells)
        self._matrices[place].add(rows)


def _n_bytes(rows: Rows | None) -> int:
    """Bytes of the values of a matrix."""
    if rows is None:
        return 0
    return int(rows.nbytes if isinstance(rows, np.ndarray) else rows.data.nbytes)


class _GrowingArray:
    """Array of a file that is filled from its start; what does not fill a chunk waits for what comes next.

    A chunk that is written in parts is read and packed again for each of them.
    """

    def __init__(self, array: Array, chunk: int) -> None:
        self._array, self._chunk = array, chunk
        self._waiting: list[np.ndarray] = []
        self._n_waiting = self._n_written = 0

    def add(self, values: np.ndarray) -> None:
        """Add the next rows."""
        self._waiting.append(values)
        self._n_waiting += len(values)
        if self._n_waiting >= self._chunk:
            self._write(self._n_waiting - self._n_waiting % self._chunk)

    def finish(self) -> None:
        """Write what waits, and let go of places that were not filled."""
        if self._n_waiting:
            self._write(self._n_waiting)
        if self._array.shape[0] > self._n_written:
            self._array.resize((self._n_written, *self._array.shape[1:]))

    def _write(self, n: int) -> None:
        joined = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        end = self._n_written + n
        if end > self._array.shape[0]:
            # by more than is needed: each time the description of the array is written anew
            self._array.resize((end + end // 2, *self._array.shape[1:]))
        self._array[self._n_written : end] = joined[:n]
        # a copy, since a view would keep all of them
        self._waiting, self._n_waiting, self._n_written = [joined[n:].copy()], self._n_waiting - n, end


class _DenseMatrix:
    """Dense matrix of a file, like its first `rows`, that rows are added to."""

    def __init__(self, group: Group, name: str, rows: np.ndarray, n_cells: int) -> None:
        chunks, shape = (CHUNK_ROWS, max(1, min(rows.shape[1], CHUNK_COLUMNS))), (n_cells, rows.shape[1])
        array = group.array(name, rows, shape, chunks=chunks, is_packed=_packs_well(rows))
        self._array = _GrowingArray(array, CHUNK_ROWS)

    def add(self, rows: Rows) -> None:
        """Add the next rows."""
        self._array.add(np.asarray(rows))

    def finish(self) -> None:
        """Write the rows that wait."""
        self._array.finish()


class _SparseMatrix:
    """Matrix in compressed rows, like its first `rows`, that rows are added to."""

    def __init__(self, group: Group, name: str, rows: sparse.csr_matrix, n_cells: int) -> None:
        chunk = max(1, min(n_cells * rows.shape[1], CHUNK_ENTRIES))
        data, genes, self._starts = group.csr(name, _with_long_pointers(rows[:0]), chunk)
        self._stored, self._shape = group.group(name), (0, rows.shape[1])
        self._data, self._genes = _GrowingArray(data, chunk), _GrowingArray(genes, chunk)
        self._pointers, self._n_entries = [np.zeros(1, dtype=np.int64)], 0

    def add(self, rows: Rows) -> None:
        """Add the next rows."""
        found = sparse.csr_matrix(rows)
        self._data.add(found.data)
        self._genes.add(found.indices)
        self._pointers.append(found.indptr[1:].astype(np.int64) + self._n_entries)
        self._n_entries += found.nnz
        self._shape = self._shape[0] + found.shape[0], self._shape[1]

    def finish(self) -> None:
        """Write the entries that wait, and where each row begins."""
        self._data.finish()
        self._genes.finish()
        pointers = np.concatenate(self._pointers)
        self._starts.resize((len(pointers),))
        self._starts[:] = pointers
        self._stored.update({"shape": self._shape})


def _without_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with text as categories where some is missing, or may be: no file holds it otherwise."""
    found = table.copy(deep=False)
    for place, dtype in enumerate(table.dtypes):
        values, is_nullable = table.iloc[:, place], isinstance(dtype, pd.StringDtype) and dtype.na_value is pd.NA
        is_text = isinstance(dtype, pd.StringDtype) or dtype == np.dtype(object)
        if is_nullable or (is_text and values.isna().any()):
            found.isetitem(place, pd.Categorical(values))
    return found


def _packs_well(rows: np.ndarray) -> bool:
    """True if most entries are zero; of others gzip saves a tenth, in several times the time that writing takes."""
    return bool(2 * np.count_nonzero(rows) < rows.size or not rows.size)


def _with_long_pointers(values: sparse.csr_matrix) -> sparse.csr_matrix:
    """`values` whose stored entries may grow beyond two billion."""
    longer = sparse.csr_matrix(values.shape, dtype=values.dtype)
    longer.data, longer.indices, longer.indptr = values.data, values.indices, values.indptr.astype(np.int64)
    return longer
