"""Pieces of Zarr stores, of which missing ones would be read as zeros.

Zarr does not write pieces that hold nothing but the value an array is filled with, by default zero, so a missing piece
is an error only where its zeros contradict what else is stored.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Protocol, TypeAlias

import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset

from deltavi._errors import InputDataError
from deltavi._types import StoredMatrix
from deltavi.registry.joined import JoinedMatrix, store_of

WRITE_AGAIN = "They were not written, or not copied, and would be read as zeros. Write or copy the store again"
# Pieces with the same genes that a missing one is compared with.
COMPARED_PIECES = 4
# Stored values of a cell in a piece, on average, from which on a piece of nothing but zeros is none of the data.
VALUES_OF_CELL = 1.0
Cells: TypeAlias = CSRDataset | CSCDataset


class Pieces(Protocol):
    """An array of Zarr, of any version."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each axis."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the smallest part that is read."""

    def __getitem__(self, chosen: tuple[slice, ...], /) -> object: ...


def require_whole(x: StoredMatrix, where: str) -> None:
    """Raise where pieces of a Zarr store are missing, which would be read as zeros.

    Parameters
    ----------
    x
        Matrix in a file or store, several as one, or one that is computed from such; all else is whole.
    where
        Its name in messages.

    Raises
    ------
    InputDataError
        If pieces of the entries are missing, pieces of the starts of rows that are not zero, or pieces of a dense
        matrix whose genes have values in other cells.
    """
    for part in _sources(x):
        if isinstance(part, CSRDataset | CSCDataset):
            _require_entries(part, where)
            _require_starts(part, where)
        elif isinstance(part, zarr.Array):
            _require_dense(part, where)


def missing_pieces(array: object) -> list[tuple[int, ...]]:
    """Places of the pieces of an array in a Zarr store that have no file; none where it does not lie in a folder."""
    root = store_of(array) if isinstance(array, zarr.Array) else None
    if not isinstance(array, zarr.Array) or root is None or not array.size or is_listed_whole(array):
        return []
    encode = getattr(array.metadata, "encode_chunk_key", None) if hasattr(array, "metadata") else None
    folder = str(root / array.path)
    if encode is None or not os.path.isdir(folder):
        return []
    counts = [range(-(-n // size)) for n, size in zip(array.shape, piece_shape(array), strict=True)]
    return [place for place in itertools.product(*counts) if not os.path.exists(os.path.join(folder, encode(place)))]


def piece_shape(array: Pieces) -> tuple[int, ...]:
    """Shape of the part of an array that one file holds."""
    return tuple(getattr(array, "shards", None) or array.chunks)


def is_listed_whole(array: object) -> bool:
    """True if a folder holds a file for each piece of an array of one dimension.

    Zarr counts them too, but takes half a second for ten thousand, and rows are read again and again.
    """
    root = store_of(array) if isinstance(array, zarr.Array) else None
    if not isinstance(array, zarr.Array) or root is None or len(array.shape) != 1:
        return False
    try:
        folder = root / array.path / ("c" if array.metadata.zarr_format == 3 else "")
        n_files = -(-array.shape[0] // (array.shards or array.chunks)[0])
        return sum(entry.name.isdigit() for entry in os.scandir(folder)) >= n_files
    except (AttributeError, OSError):
        # of arrays of former versions, or without a folder
        return False


def _sources(x: StoredMatrix) -> Iterator[object]:
    """Matrices in files that `x` consists of, or is computed from."""
    if isinstance(x, JoinedMatrix):
        yield from (part.stored for part in x.parts)
    else:
        yield from getattr(x, "sources", [x])


def _require_entries(x: Cells, where: str) -> None:
    # the indices of one gene are zeros, which Zarr need not write
    for name in ("indices", "data") if x.shape[1] > 1 else ("data",):
        array = x.group.get(name)
        if is_listed_whole(array):
            continue
        n_pieces, n_there = getattr(array, "nchunks", 0), getattr(array, "nchunks_initialized", 0)
        if n_there < n_pieces:
            raise InputDataError(
                f"{where} lacks {n_pieces - n_there} of {n_pieces} pieces of its {name}: they "
                "were not written, or not copied, and would be read as zeros. Write or copy the store again; "
                "where zeros were stored on purpose, call eliminate_zeros() before it is written."
            )


def _require_starts(x: Cells, where: str) -> None:
    """Raise where missing starts are not those of rows without entries, which are zeros."""
    missing = missing_pieces(x.group.get("indptr"))
    if not missing:
        return
    steps = np.diff(np.asarray(x.group["indptr"][:], dtype=np.int64))
    longest = x.shape[0 if isinstance(x, CSCDataset) else 1]
    if steps.min(initial=0) < 0 or steps.max(initial=0) > longest or steps.sum() < x.group["indices"].shape[0]:
        raise InputDataError(f"{where} lacks {len(missing)} pieces of its indptr. {WRITE_AGAIN}.")


def _require_dense(array: Pieces, where: str) -> None:
    """Raise where a missing piece has genes that have values in other cells, or where nothing is there."""
    missing = missing_pieces(array)
    if not missing:
        return
    lost_genes = {genes for genes in {place[1:] for place in missing} if _have_values(array, genes, {*missing})}
    lost = [place for place in missing if place[1:] in lost_genes]
    n_pieces = int(np.prod([-(-n // size) for n, size in zip(array.shape, piece_shape(array), strict=True)]))
    if lost or len(missing) == n_pieces:
        first = (lost or missing)[0][0] * piece_shape(array)[0]
        raise InputDataError(
            f"{where} lacks {len(lost or missing)} of {n_pieces} pieces, the first of them of cell {first} and those "
            f"below it. {WRITE_AGAIN}; where they are zeros on purpose, write it under "
            "zarr.config.set({'array.write_empty_chunks': True})."
        )


def _have_values(array: Pieces, genes: tuple[int, ...], missing: set[tuple[int, ...]]) -> bool:
    """True if cells of the pieces that are there have a value in a stretch of genes each, on average."""
    shape = piece_shape(array)
    there = [place for i in range(-(-array.shape[0] // shape[0])) if (place := (i, *genes)) not in missing]
    chosen = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, COMPARED_PIECES).astype(int))] if there else []
    blocks = [np.asarray(array[_slices(place, shape)]) for place in chosen]
    n_cells = sum(len(block) for block in blocks)
    n_values = sum(int(np.count_nonzero(block)) for block in blocks)
    return n_cells > 0 and n_values >= VALUES_OF_CELL * n_cells


def _slices(place: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(i * size, (i + 1) * size) for i, size in zip(place, shape, strict=True))
