"""Types that several packages share: arrays, matrices in memory and in files, and records."""

from __future__ import annotations

from collections.abc import Callable
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
# Expression as an AnnData may hold it, in memory or in a file.
StoredMatrix: TypeAlias = np.ndarray | sparse.spmatrix | sparse.sparray | h5py.Dataset | CSRDataset | CSCDataset
# A column or a table of an AnnData.
Table: TypeAlias = np.ndarray | pd.DataFrame | pd.Series

# Records that differ in names and values: entries of a field in scvi-tools' registry, arguments of a setup, the
# description of a saved model, a row of results.
State: TypeAlias = dict[str, Any]
# Inputs or outputs of the parts of a module by scvi-tools' names: tensors, distributions, and KL terms by name.
Outputs: TypeAlias = dict[str, Any]


class DaskArray(Protocol):
    """Part of the interface of dask arrays that is used here, since dask is optional."""

    name: str

    def map_blocks(self, func: Callable[..., np.ndarray], **kwargs: object) -> StoredMatrix:
        """Apply `func` to each block."""


def is_sparse(x: object) -> TypeGuard[sparse.csr_matrix]:
    """True of SciPy's sparse matrices and arrays of any format."""
    return bool(sparse.issparse(x))


def is_dask(x: object) -> TypeGuard[DaskArray]:
    """True of dask arrays."""
    return hasattr(x, "map_blocks")
