"""Conversion of expression matrices of any type to one from which a loader can cut mini-batches.

Nothing here changes the user's object: conversions are made beside it and kept by the data manager.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from deltavi._errors import DeltaviError, InputDataError, InputDataWarning
from deltavi._types import StoredMatrix, is_sparse
from deltavi.arrays.matrix import canonical_rows
from deltavi.registry.checks import ENTRIES_PER_PASS, MatrixReport, row_blocks
from deltavi.registry.chunks import DaskMatrix, has_unknown_size, rowwise

logger = logging.getLogger("deltavi")

# Packages whose arrays an AnnData may hold, and no loader here reads.
OTHER_ARRAYS = ("xarray", "cupy", "cupyx", "awkward", "torch", "jax", "pandas")


def loadable(x: StoredMatrix, *, where: str, quiet: bool = False) -> StoredMatrix:
    """`x` itself if rows can be cut from it cheaply, else a row-wise copy.

    Parameters
    ----------
    x
        Dense array, any SciPy sparse matrix or array, a backed dataset, or a Dask array, of which the files or the
        chunks that it reads are returned.
    where
        Name of `x` in messages, such as ``"adata.X"``.
    quiet
        Leave out warnings of unusual but allowed values, which were given before.

    Raises
    ------
    InputDataError
        If `x` is absent, holds Python objects, or is no array whose rows a loader can cut, as those of Zarr and xarray.
    """
    if x is None:
        raise InputDataError(f"{where} is empty: there is no expression matrix to read.")
    if has_unknown_size(x):
        raise InputDataError(
            f"{where} is a Dask array of unknown size, whose rows cannot be counted. Compute the sizes of its chunks: "
            f"{where}.compute_chunk_sizes()."
        )
    x = rowwise(x)
    if isinstance(x, CSCDataset):
        return csr_on_disk(x)
    if type(x).__module__.split(".")[0] == "zarr":
        raise InputDataError(f"{where} is a Zarr array. Read it in chunks, with dask.array.from_zarr, or into memory.")
    if type(x).__module__.split(".")[0] in OTHER_ARRAYS:
        raise InputDataError(
            f"{where} is a {type(x).__module__.split('.')[0]} {type(x).__name__}, not an array of NumPy or SciPy. "
            f"Convert it, for example {where} = np.asarray({where}); what is on a GPU has a method get()."
        )
    _check_dtype(x, where, quiet)
    if sparse.issparse(x):
        return _as_csr(x, where, quiet)
    # a view of an AnnData hands out a subclass of ndarray, which torch does not take
    return _native(np.asarray(x)) if isinstance(x, np.ndarray) else x


@contextmanager
def read_from(x: object, where: str) -> Iterator[None]:
    """Turn errors of a reader of files into one that names `x`; a matrix in memory is not read so."""
    try:
        yield
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DeltaviError) or isinstance(x, np.ndarray) or sparse.issparse(x):
            raise
        raise InputDataError(
            f"{where} cannot be read ({type(error).__name__}: {error}). Its file is gone, damaged, or was not written "
            "to the end: write it again."
        ) from error


def rounded(x: StoredMatrix, report: MatrixReport, *, where: str) -> StoredMatrix:
    """Round `x`, of :func:`loadable`, if by its `report` it holds whole numbers but for rounding.

    Raises
    ------
    InputDataError
        If values have to be rounded and lie in a file.
    """
    if not report.n_rounding or not report.are_counts:
        return x
    if is_sparse(x):
        return sparse.csr_matrix((np.rint(x.data), x.indices, x.indptr), shape=x.shape)
    if isinstance(x, np.ndarray):
        return np.rint(x)
    if isinstance(x, DaskMatrix):
        return x.rounded()
    raise InputDataError(
        f"{where} holds whole numbers but for rounding ({report.n_rounding} values), in a file. Read it into memory, "
        f"adata = adata.to_memory(), or round the values where they are written, {where} = np.rint({where})."
    )


def _native(x: np.ndarray) -> np.ndarray:
    """`x` in the byte order of this computer."""
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _check_dtype(x: StoredMatrix, where: str, quiet: bool) -> None:
    dtype = np.dtype(getattr(x, "dtype", float))
    if dtype.kind in "OUSV":
        raise InputDataError(f"{where} has dtype {dtype}, not numbers. Convert it, for example with astype('float32').")
    if dtype.kind == "c":
        raise InputDataError(f"{where} has complex dtype {dtype}; expression is real.")
    if not dtype.isnative and (sparse.issparse(x) or isinstance(x, CSRDataset)):
        raise InputDataError(
            f"{where} is sparse and of dtype {dtype}, the byte order of other computers, which SciPy does not read. "
            "Convert it where it is written, for example with data.astype('float32')."
        )
    if dtype.kind == "b" and not quiet:
        message = f"{where} is bool: detected / not detected is read as counts of one and zero."
        warnings.warn(message, InputDataWarning, stacklevel=5)


def _as_csr(x: sparse.spmatrix | sparse.sparray, where: str, quiet: bool) -> sparse.csr_matrix:
    if x.format == "coo" and not quiet:
        logger.info("%s is a COO matrix; a CSR copy is used for loading.", where)
    return canonical_rows(x if type(x) is sparse.csr_matrix else sparse.csr_matrix(x))


def csr_on_disk(x: CSCDataset) -> sparse.csr_matrix:
    """Row-wise form of a backed CSC matrix in a temporary file, a column block in memory at a time.

    Cutting rows from a column-wise file would read the whole file for every mini-batch.
    """
    n_rows, n_columns = x.shape
    indptr = np.asarray(x.group["indptr"][:], dtype=np.int64)
    row_of, value_of = x.group["indices"], x.group["data"]
    counts = np.zeros(n_rows + 1, dtype=np.int64)
    for start in range(0, int(indptr[-1]), ENTRIES_PER_PASS):
        counts[1:] += np.bincount(row_of[start : start + ENTRIES_PER_PASS], minlength=n_rows)
    row_start = np.cumsum(counts)
    indices, data = _scratch(int(indptr[-1]), np.int32), _scratch(int(indptr[-1]), np.float32)
    next_slot = row_start[:-1].copy()
    for start in range(0, int(indptr[-1]), ENTRIES_PER_PASS):
        stop = min(start + ENTRIES_PER_PASS, int(indptr[-1]))
        rows = np.asarray(row_of[start:stop], dtype=np.int64)
        columns = np.searchsorted(indptr, np.arange(start, stop), side="right") - 1
        # entries come column by column, so a stable sort by row keeps the columns of a row in order
        order = np.argsort(rows, kind="stable")
        sorted_rows = rows[order]
        first_of_row = np.searchsorted(sorted_rows, sorted_rows, side="left")
        slots = next_slot[sorted_rows] + np.arange(len(order)) - first_of_row
        indices[slots], data[slots] = columns[order], np.asarray(value_of[start:stop])[order]
        next_slot += np.bincount(rows, minlength=n_rows)
    return sparse.csr_matrix((data, indices, row_start), shape=(n_rows, n_columns), copy=False)


def _scratch(length: int, dtype: type) -> np.ndarray:
    """Zeroed array in a temporary file that vanishes with it."""
    with tempfile.TemporaryFile(prefix="deltavi-") as file:  # the memory map keeps its own handle
        return np.memmap(file, dtype=dtype, mode="w+", shape=(max(length, 1),))[:length]


def take_columns(x: StoredMatrix, positions: np.ndarray) -> sparse.csr_matrix:
    """Columns of `x` in the order of `positions`, -1 giving an empty column, as CSR ``(n_cells, n_positions)``."""
    present = positions >= 0
    # a selection matrix keeps the work sparse: column j of the result picks column positions[j]
    columns = np.flatnonzero(present)
    selection = sparse.csr_matrix(
        (np.ones(len(columns), dtype=np.float32), (positions[present], columns)), shape=(x.shape[1], len(positions))
    )
    # what is infinite in single precision is refused by name where the values are checked
    with np.errstate(over="ignore"):
        blocks = [sparse.csr_matrix(block).astype(np.float32) @ selection for _, block in row_blocks(x)]
    if not blocks:
        return sparse.csr_matrix((0, len(positions)), dtype=np.float32)
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
