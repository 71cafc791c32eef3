"""Checks and per-gene statistics that metrics and shifts share; sparse input stays sparse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
import zarr
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from numpy.typing import NDArray
from sklearn.utils.sparsefuncs import mean_variance_axis

from deltavi._entries import whole_number
from deltavi._errors import GeneMatchError, InputDataError, examples
from deltavi._types import Rows, is_dask, is_sparse

Matrix: TypeAlias = np.ndarray | sp.spmatrix | sp.sparray | pd.DataFrame | AnnData
Vector: TypeAlias = NDArray[np.float64]


def as_matrix(x: object, name: str) -> Rows:
    """Return `x` as a CSR matrix or a two-dimensional array of finite numbers.

    Parameters
    ----------
    x
        Dense array, scipy-sparse matrix, DataFrame or AnnData, whose X is read, (n_cells, n_genes). What lies in a
        file is read into memory. Names are not checked.
    name
        Name of `x` in errors.

    Raises
    ------
    InputDataError
        `x` is not two-dimensional, not numeric, empty, masked, or holds NaN or infinite values.
    """
    values = without_names(x, name)
    matrix: Rows | None = values if is_sparse(values) else _as_array(values)
    if matrix is None or matrix.ndim != 2:
        raise InputDataError(
            f"{name} must be an array or sparse matrix (n_cells, n_genes), got {type(x).__name__} "
            f"of shape {getattr(x, 'shape', None)}."
        )
    if matrix.dtype.kind not in "fiub":
        raise InputDataError(f"{name} must hold numbers, got dtype {matrix.dtype}. Convert it to float32 first.")
    if 0 in matrix.shape:
        raise InputDataError(f"{name} is empty: {matrix.shape[0]} cells x {matrix.shape[1]} genes.")
    matrix = canonical_rows(matrix) if is_sparse(matrix) else matrix
    _check_finite(matrix, name)
    return matrix


def without_names(x: object, name: str) -> object:
    """Values of an AnnData or DataFrame, in memory; anything else as it is."""
    if isinstance(x, AnnData):
        if x.X is None:
            raise InputDataError(f"{name} has no X. Put log1p CP10k expression there.")
        return read_whole(x.X, name)
    if isinstance(x, pd.DataFrame):
        return _values_of(x, name)
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        n_masked = int(np.ma.getmaskarray(x).sum())
        raise InputDataError(f"{name} has {n_masked} masked entries. Fill them, or leave their cells out.")
    return read_whole(x, name)


def read_whole(x: object, name: str) -> object:
    """A matrix that lies in a file, or is a Dask array, read into memory; all else as it is.

    Raises
    ------
    InputDataError
        Its file cannot be read.
    """
    try:
        return _in_memory(x)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputDataError(
            f"{name} cannot be read ({type(error).__name__}: {error}). Its file is gone, closed or damaged."
        ) from error


def _in_memory(x: object) -> object:
    if isinstance(x, CSRDataset | CSCDataset):
        return x.to_memory()
    if isinstance(x, h5py.Dataset | zarr.Array):
        return x[...]
    return x.compute() if is_dask(x) else x


def _values_of(table: pd.DataFrame, name: str) -> np.ndarray:
    """Numbers of a DataFrame with columns of any numeric type; missing ones as NaN."""
    text = [column for column, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    if text:
        raise InputDataError(
            f"{name} must hold numbers, but {len(text)} of its columns do not ({examples(text)}). Leave them out."
        )
    own = all(isinstance(kind, np.dtype) for kind in table.dtypes)
    return table.to_numpy() if own else table.to_numpy(dtype=np.float64, na_value=np.nan)


def _as_array(x: object) -> np.ndarray | None:
    try:
        return np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x)
    except (TypeError, ValueError):  # containers, or lists of unequal length
        return None


def canonical_rows(matrix: sp.spmatrix | sp.sparray) -> sp.csr_matrix:
    """CSR form without repeated entries, which would spoil variances and counts of zeros."""
    rows = matrix.tocsr()
    if rows.has_canonical_format:
        return rows
    rows = rows.copy()  # summing works in place and the matrix is the caller's
    rows.sum_duplicates()
    return rows


def _check_finite(matrix: Rows, name: str) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(matrix.sum(dtype=np.float64)):  # no full-size mask where all is well
            return
    if is_sparse(matrix):
        entries = matrix.tocoo()
        rows = np.unique(entries.row[~np.isfinite(entries.data)])
    else:
        rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if rows.size:
        raise InputDataError(
            f"{name} holds NaN or infinite values in {rows.size} of {matrix.shape[0]} cells "
            f"(rows {examples(rows.tolist())}). Remove those cells first."
        )


def check_same_genes(matrices: Mapping[str, Rows]) -> None:
    """Raise GeneMatchError unless all matrices have the same number of columns."""
    widths = {name: matrix.shape[1] for name, matrix in matrices.items()}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in widths.items())
        raise GeneMatchError(f"The numbers of genes differ: {listed}. Subset all to the same genes in the same order.")


def dense(rows: Rows) -> Vector:
    """`rows` as an array in double precision, (n_cells, n_genes)."""
    return np.asarray(rows.toarray() if is_sparse(rows) else rows, dtype=np.float64)


def gene_means(matrix: Rows) -> Vector:
    """Mean over cells of every gene of a CSR or dense matrix in double precision, (n_genes,)."""
    n_cells, n_genes = matrix.shape
    if is_sparse(matrix):
        # scipy sums in the precision of the matrix even with another dtype; bincount always sums in double
        return np.asarray(np.bincount(matrix.indices, weights=matrix.data, minlength=n_genes) / n_cells)
    return np.asarray(matrix.mean(axis=0, dtype=np.float64))


class RunningMeans:
    """Means of every gene over groups of cells that come block by block, those of :func:`gene_means`.

    Sums go on from cell to cell, so that the means do not depend on how these are cut into blocks.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Vector] = {}
        self._sizes: Counter[str] = Counter()

    def add(self, block: Rows, groups: np.ndarray, name: str) -> None:
        """Add the next cells, of these `groups`; `name` is that of the matrix in errors, as of :func:`as_matrix`."""
        for group in dict.fromkeys(groups):
            rows = as_matrix(block[groups == group], name)
            sums = self._sums.get(str(group), np.zeros(rows.shape[1]))
            self._sums[str(group)] = _summed_on(sums, rows)
            self._sizes[str(group)] += rows.shape[0]

    def of(self, group: str) -> Vector:
        """Means of one group, (n_genes,)."""
        return np.asarray(self._sums[group] / self._sizes[group])


def _summed_on(sums: Vector, rows: Rows) -> Vector:
    """`sums` of every gene with those of further cells, one after the other."""
    if is_sparse(rows):
        # bincount adds in the order of its entries, so that the sums come first
        genes, values = np.arange(len(sums)), np.concatenate([sums, rows.data])
        return np.asarray(np.bincount(np.concatenate([genes, rows.indices]), weights=values, minlength=len(sums)))
    found = sums.copy()
    for row in rows:
        found += row
    return found


def gene_variances(matrix: Rows, *, ddof: int = 0) -> Vector:
    """Variance over cells of every gene of a CSR or dense matrix in double precision, (n_genes,)."""
    n_cells = matrix.shape[0]
    if not is_sparse(matrix):
        return np.asarray(matrix.var(axis=0, dtype=np.float64, ddof=ddof))
    # double precision copies the stored values only: single precision would blur genes of high mean
    variances = mean_variance_axis(matrix.astype(np.float64), axis=0)[1]
    return np.asarray(variances * n_cells / (n_cells - ddof), dtype=np.float64)


def check_count(value: object, name: str) -> int:
    """`value` as a whole number of at least one; raises DeltaviError where it is none."""
    return whole_number(name, value, least=1)
