"""AnnData files written block by block: memory holds one block of cells, and the tables of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from deltavi._types import Rows, State
from deltavi.io._stores import H5AD

# Sides of a chunk of a dense array.
CHUNK_ROWS, CHUNK_COLUMNS = 512, 1024
ROOT = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
NOTHING: Mapping[str, object] = MappingProxyType({})
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
        self._is_h5, self._n_cells = part.suffix == H5AD, n_cells
        self._root: Any = h5py.File(part, "w") if self._is_h5 else _zarr_group(part)
        self._matrices: dict[tuple[str, str], _GrowingMatrix] = {}
        self._unknown: dict[str, set[int]] = {}
        self._root.attrs.update(ROOT)
        for name in MAPPINGS:
            write_elem(self._root, name, {})

    def __enter__(self) -> BlockFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_h5:
            self._root.close()
        elif error[0] is None:
            zarr.consolidate_metadata(self._root.store)

    def add(self, block: AnnData) -> None:
        """Write the matrices of the next cells: X, layers and obsm."""
        # X is listed among the layers
        self.add_rows(block.X, {name: rows for name, rows in block.layers.items() if name is not None})
        for name, values in block.obsm.items():
            self._grow("obsm", name, values)

    def add_rows(self, profile: Rows, layers: Mapping[str, Rows]) -> None:
        """Write X and the layers of the next cells, ``(n_cells, n_genes)`` each."""
        self._grow("", "X", profile)
        for name, rows in layers.items():
            self._grow("layers", name, rows)

    def add_column(self, name: str, values: np.ndarray, *, place: int, n_columns: int) -> None:
        """Write a column of a matrix in varm; columns that are never written are NaN."""
        if name not in self._root["varm"]:
            empty = np.zeros((len(values), 0), dtype=values.dtype)
            layout = _layout(len(values), 1, grows_to=None, is_h5=self._is_h5)
            write_elem(self._root["varm"], name, empty, dataset_kwargs=layout)
            self._root["varm"][name].resize((len(values), n_columns))
            self._unknown[name] = set(range(n_columns))
        self._root["varm"][name][:, place] = values
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
                self._root["varm"][name][:, place] = np.nan
        for name, table in (("obs", obs), ("var", var)):
            write_elem(self._root, name, table)
        for mapping, entries in (("uns", uns), ("obsm", obsm), ("varm", varm)):
            for name, entry in entries.items():
                write_elem(self._root[mapping], name, entry)

    def _grow(self, mapping: str, name: str, rows: Rows) -> None:
        if (mapping, name) not in self._matrices:
            group = self._root[mapping] if mapping else self._root
            self._matrices[mapping, name] = _GrowingMatrix(group, name, self._n_cells, is_h5=self._is_h5)
        self._matrices[mapping, name].add(rows)


class _GrowingMatrix:
    """Matrix of a file that rows are added to; rows that do not fill a chunk wait for the next ones.

    A chunk that is written in parts is read and packed again for each of them.
    """

    def __init__(self, group: Any, name: str, n_rows: int, *, is_h5: bool) -> None:
        self._group, self._name, self._n_rows, self._is_h5 = group, name, n_rows, is_h5
        self._waiting: list[Rows] = []
        self._n_waiting = self._n_written = 0

    def add(self, rows: Rows) -> None:
        """Add the next rows."""
        self._waiting.append(rows if sparse.issparse(rows) else np.asarray(rows))
        self._n_waiting += rows.shape[0]
        if self._n_waiting >= CHUNK_ROWS:
            self._write(self._n_waiting - self._n_waiting % CHUNK_ROWS)

    def finish(self) -> None:
        """Write the rows that wait."""
        if self._n_waiting or self._name not in self._group:
            self._write(self._n_waiting)

    def _write(self, n_rows: int) -> None:
        waiting = self._waiting
        joined = waiting[0] if len(waiting) == 1 else _stacked(waiting)
        ready, self._waiting = joined[:n_rows], [joined[n_rows:]]
        if sparse.issparse(ready):
            self._write_sparse(ready)
        else:
            self._write_dense(ready)
        self._n_waiting -= n_rows
        self._n_written += n_rows

    def _write_sparse(self, rows: sparse.csr_matrix) -> None:
        if self._name in self._group:
            sparse_dataset(self._group[self._name]).append(rows)
        else:
            write_elem(self._group, self._name, _with_long_pointers(rows))

    def _write_dense(self, rows: np.ndarray) -> None:
        if self._name not in self._group:
            layout = _layout(CHUNK_ROWS, rows.shape[1], grows_to=rows.shape[1], is_h5=self._is_h5)
            write_elem(self._group, self._name, rows[:0], dataset_kwargs=layout)
            self._group[self._name].resize((self._n_rows, rows.shape[1]))
        self._group[self._name][self._n_written : self._n_written + len(rows)] = rows


def _stacked(blocks: Sequence[Rows]) -> Rows:
    if sparse.issparse(blocks[0]):
        return sparse.csr_matrix(sparse.vstack(blocks))
    return np.concatenate(blocks)


def _layout(rows: int, columns: int, *, grows_to: int | None, is_h5: bool) -> State:
    """Chunks of a dense array, and of an h5ad file that it may grow, to so many columns, and is compressed."""
    chunks = {"chunks": (max(1, rows), max(1, min(columns, CHUNK_COLUMNS)))}
    if not is_h5:
        return chunks
    return {**chunks, "maxshape": (None, grows_to), "compression": "gzip", "compression_opts": 1}


def _zarr_group(part: Path) -> Any:
    """New group, in the format that every version of anndata reads."""
    options: State = {} if zarr.__version__.startswith("2.") else {"zarr_format": 2}
    return zarr.open_group(str(part), mode="w", **options)


def _with_long_pointers(values: sparse.csr_matrix) -> sparse.csr_matrix:
    """`values` whose stored entries may grow beyond two billion."""
    longer = sparse.csr_matrix(values.shape, dtype=values.dtype)
    longer.data, longer.indices, longer.indptr = values.data, values.indices, values.indptr.astype(np.int64)
    return longer
