"""Types that several packages share: arrays, matrices in memory and in files, and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeGuard

import h5py
import numpy as np
import pandas as pd
from anndata.abc import CSCDataset, CSRDataset
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

IntArray: TypeAlias = NDArray[np.intp]
FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]

# Expression in memory, (n_cells, n_genes).
Rows: TypeAlias = np.ndarray | sparse.csr_matrix
# Some cells of a mini-batch: the first ones as a slice, or a mask.
Cells: TypeAlias = slice | Tensor


class RowMatrix(Protocol):
    """Matrix whose rows are read when they are asked for, ``(n_cells, n_genes)``."""

    shape: tuple[int, int]
    dtype: np.dtype[np.generic]

    def __getitem__(self, chosen: slice | np.ndarray, /) -> Rows: ...


# Expression as an AnnData may hold it, in memory or in a file.
StoredMatrix: TypeAlias = (
    np.ndarray | sparse.spmatrix | sparse.sparray | h5py.Dataset | CSRDataset | CSCDataset | RowMatrix
)
# A column or a table of an AnnData.
Table: TypeAlias = np.ndarray | pd.DataFrame | pd.Series

# Records that differ in names and values: entries of a field in scvi-tools' registry, arguments of a setup, the
# description of a saved model, a row of results.
State: TypeAlias = dict[str, Any]
# Inputs or outputs of the parts of a module by scvi-tools' names: tensors, distributions, and KL terms by name.
Outputs: TypeAlias = dict[str, Any]


class Chunk(Protocol):
    """A chunk of a dask array."""

    def compute(self) -> Rows:
        """Its values."""


class Graph(Protocol):
    """The graph of a dask array."""

    layers: Mapping[str, Mapping[tuple[str, int, int], object]]


class DaskArray(Protocol):
    """Part of the interface of dask arrays that is used here, since dask is optional."""

    name: str
    shape: tuple[float, ...]
    dtype: np.dtype[np.generic]
    chunks: tuple[tuple[float, ...], ...]
    blocks: Mapping[int, Chunk]
    dask: Graph
    # an empty chunk, whose type is that of all
    _meta: Rows

    def __getitem__(self, chosen: tuple[slice, np.ndarray], /) -> StoredMatrix: ...

    def compute(self) -> Rows:
        """Its values."""

    def rechunk(self, chunks: Mapping[int, int]) -> DaskArray:
        """The same in other chunks."""

    def map_blocks(self, func: Callable[..., Rows], *args: object, **kwargs: object) -> StoredMatrix:
        """Apply `func` to each block."""


def is_sparse(x: object) -> TypeGuard[sparse.csr_matrix]:
    """True of SciPy's sparse matrices and arrays of any format."""
    return bool(sparse.issparse(x))


def is_dask(x: object) -> TypeGuard[DaskArray]:
    """True of dask arrays."""
    # arrays of xarray have blocks as well
    return hasattr(x, "map_blocks") and hasattr(x, "blocks")
