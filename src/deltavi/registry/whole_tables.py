"""Pieces of the tables of a Zarr store: missing ones would be empty names of cells or genes, or first categories."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData

from deltavi._errors import InputDataError
from deltavi.registry.stored_rows import places_of
from deltavi.registry.whole import WRITE_AGAIN, missing_pieces, piece_shape


def require_whole_names(adata: AnnData) -> None:
    """Raise where names of cells or genes are empty, as those are whose pieces a Zarr store lacks.

    Parameters
    ----------
    adata
        Cells whose matrix lies in a store; of all others nothing is looked at.

    Raises
    ------
    InputDataError
        If pieces of the names are missing in the store, and the names of `adata` are empty there.
    """
    for table, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        for group in _tables(adata, table):
            stored = group.get(str(group.attrs.get("_index", "_index")))
            # nullable text is a group, as anndata writes names from 0.13 on
            stored = stored.get("values") if isinstance(stored, zarr.Group) else stored
            lost = _lost(stored, len(names))
            n_empty = int((np.asarray(names, dtype=object)[lost] == "").sum())
            if n_empty:
                raise InputDataError(f"{n_empty} names of {table} are empty: their pieces are missing. {WRITE_AGAIN}.")


def require_whole_column(adata: AnnData, values: pd.Series, key: str) -> None:
    """Raise where cells of the first category are those whose pieces a Zarr store lacks, and a category has no cell.

    Parameters
    ----------
    adata
        Cells whose matrix lies in a store.
    values
        Their column of obs, as it was read.
    key
        Name of the column.

    Raises
    ------
    InputDataError
        If pieces of its codes are missing, all of their cells have the first category, and another has no cells.
    """
    if not isinstance(values.dtype, pd.CategoricalDtype):
        return
    codes = np.asarray(values.cat.codes)
    for group in _tables(adata, "obs"):
        stored = group.get(key)
        lost = _lost(stored.get("codes") if isinstance(stored, zarr.Group) else None, len(codes))
        without = values.cat.categories[np.bincount(codes[codes >= 0], minlength=len(values.cat.categories)) == 0]
        if lost.any() and not codes[lost].any() and len(without):
            raise InputDataError(
                f"obs[{key!r}] says {values.cat.categories[0]!r} of {int(lost.sum())} cells, whose pieces the store "
                f"lacks, and no cell has the category {without[0]!r}. {WRITE_AGAIN}; where no cell has it on purpose, "
                f"adata.obs[{key!r}] = adata.obs[{key!r}].cat.remove_unused_categories()."
            )


def _tables(adata: AnnData, name: str) -> Iterator[zarr.Group]:
    """Tables of this name in the Zarr stores that the matrices of `adata` lie in."""
    for place in sorted(places_of(adata)):
        if place.is_dir():
            table = zarr.open_group(str(place), mode="r").get(name)
            if isinstance(table, zarr.Group):
                yield table


def _lost(stored: object, length: int) -> np.ndarray:
    """Mask ``(length,)`` of the values of an array of one dimension whose pieces are missing."""
    lost = np.zeros(length, dtype=bool)
    if isinstance(stored, zarr.Array) and tuple(stored.shape) == (length,):
        size = piece_shape(stored)[0]
        for (number,) in missing_pieces(stored):
            lost[number * size : (number + 1) * size] = True
    return lost
