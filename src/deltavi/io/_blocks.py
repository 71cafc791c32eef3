"""AnnData files written block by block: memory holds one block of cells, and the tables of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from deltavi._types import State
from deltavi.io._stores import H5AD

# Sides of a chunk of a dense array.
CHUNK_ROWS, CHUNK_COLUMNS = 512, 1024
ROOT = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
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
        self._is_h5, self._n_cells, self._n_written = part.suffix == H5AD, n_cells, 0
        self._root: Any = h5py.File(part, "w") if self._is_h5 else _zarr_group(part)
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
        self._write(self._root, "X", block.X)
        for mapping in ("layers", "obsm"):
            for name, values in getattr(block, mapping).items():
                if name is not None:  # X is listed among the layers
                    self._write(self._root[mapping], name, values)
        self._n_written += block.n_obs

    def add_column(self, name: str, values: np.ndarray, *, place: int, n_columns: int) -> None:
        """Write a column of a matrix in varm; columns that are never written are NaN."""
        if name not in self._root["varm"]:
            empty = np.zeros((len(values), 0), dtype=values.dtype)
            write_elem(self._root["varm"], name, empty, dataset_kwargs=self._layout(len(values), 1, grows_to=None))
            self._root["varm"][name].resize((len(values), n_columns))
            self._unknown[name] = set(range(n_columns))
        self._root["varm"][name][:, place] = values
        self._unknown[name].discard(place)

    def finish(self, *, obs: pd.DataFrame, var: pd.DataFrame, uns: State) -> None:
        """Write the tables of all cells and genes."""
        for name, places in self._unknown.items():
            for place in places:
                self._root["varm"][name][:, place] = np.nan
        for name, table in (("obs", obs), ("var", var)):
            write_elem(self._root, name, table)
        for name, entry in uns.items():
            write_elem(self._root["uns"], name, entry)

    def _write(self, group: Any, key: str, values: Any) -> None:
        is_new = key not in group
        if sparse.issparse(values):
            if is_new:
                write_elem(group, key, _with_long_pointers(values))
            else:
                sparse_dataset(group[key]).append(values)
            return
        dense = np.asarray(values)
        if is_new:
            layout = self._layout(CHUNK_ROWS, dense.shape[1], grows_to=dense.shape[1])
            write_elem(group, key, dense[:0], dataset_kwargs=layout)
            group[key].resize((self._n_cells, dense.shape[1]))
        group[key][self._n_written : self._n_written + len(dense)] = dense

    def _layout(self, rows: int, columns: int, *, grows_to: int | None) -> State:
        """Chunks of a dense array, and of an h5ad file that it may grow, to so many columns, and is compressed."""
        chunks = {"chunks": (max(1, rows), max(1, min(columns, CHUNK_COLUMNS)))}
        if not self._is_h5:
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
