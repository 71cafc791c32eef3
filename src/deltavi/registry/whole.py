"""Pieces of Zarr stores, of which missing ones would be read as zeros."""

from __future__ import annotations

import os

import zarr
from anndata.abc import CSCDataset, CSRDataset

from deltavi._errors import InputDataError
from deltavi._types import StoredMatrix
from deltavi.registry.joined import JoinedMatrix, store_of


def require_whole(x: StoredMatrix, where: str) -> None:
    """Raise where pieces of a Zarr store are missing, which would be read as zeros."""
    for part in [part.stored for part in x.parts] if isinstance(x, JoinedMatrix) else [x]:
        group = part.group if isinstance(part, CSRDataset | CSCDataset) else {}
        # the indices of one gene are zeros, which Zarr need not write
        for name in ("indices", "data") if part.shape[1] > 1 else ("data",):
            array = group.get(name)
            if _is_listed_whole(array):
                continue
            n_pieces, n_there = getattr(array, "nchunks", 0), getattr(array, "nchunks_initialized", 0)
            if n_there < n_pieces:
                raise InputDataError(
                    f"{where} lacks {n_pieces - n_there} of {n_pieces} pieces of its {name}: they "
                    "were not written, or not copied, and would be read as zeros. Write or copy the store again; "
                    "where zeros were stored on purpose, call eliminate_zeros() before it is written."
                )


def _is_listed_whole(array: object) -> bool:
    """True if a folder holds a file for each piece of an array of one dimension.

    Zarr counts them too, but takes half a second for ten thousand, and rows are read again and again.
    """
    root = store_of(array) if isinstance(array, zarr.Array) else None
    if not isinstance(array, zarr.Array) or root is None:
        return False
    try:
        folder = root / array.path / ("c" if array.metadata.zarr_format == 3 else "")
        n_files = -(-array.shape[0] // (array.shards or array.chunks)[0])
        return sum(entry.name.isdigit() for entry in os.scandir(folder)) >= n_files
    except (AttributeError, OSError):
        # of arrays of former versions, or without a folder
        return False
