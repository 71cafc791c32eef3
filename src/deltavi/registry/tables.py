"""Tables of an AnnData that was read lazily, brought into memory; its matrices stay where they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import h5py
import pandas as pd
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset

from deltavi._compat import put_back_tables
from deltavi._entries import require_anndata
from deltavi._types import is_dask
from deltavi.registry.chunks import rowwise
from deltavi.registry.matrix import read_from
from deltavi.registry.relative import require_there
from deltavi.registry.source import layer_names
from deltavi.registry.stored_rows import places_of
from deltavi.registry.whole import require_whole

Values = TypeVar("Values")


def require_cells(value: object, *, name: str = "adata") -> AnnData:
    """`value`, which must be an AnnData; of one that was read lazily a stand-in with obs and var in memory.

    Parameters
    ----------
    value
        In memory, backed, or of ``anndata.experimental.read_lazy``, which is left as it is.
    name
        Name of the argument, for messages.
    """
    adata = require_anndata(value, name=name, lazy=True)
    require_there(places_of(adata))
    if not is_lazily_read(adata):
        return adata
    layers = {key: adata.layers[key] for key in layer_names(adata)}
    with read_from(adata.obs, f"A table of {name}"):
        obs, var = frame_of(adata.obs), frame_of(adata.var)
    return AnnData(X=adata.X, obs=obs, var=var, layers=layers)


def with_subsets(value: object, *, name: str = "adata") -> AnnData:
    """`value`, of which cells can be chosen: one read lazily with its tables in memory, a view of a file read from it.

    anndata does not choose cells of a view of a backed file.
    """
    cells = require_cells(value, name=name)
    return cells.to_memory() if cells.isbacked and cells.is_view else cells


def in_memory(value: object, *, name: str = "adata") -> AnnData:
    """`value`, which must be an AnnData; one that lies in a file, or is computed by Dask, is read into memory.

    Raises
    ------
    DeltaviError
        If it is no AnnData, or its file cannot be read.
    """
    adata = require_anndata(value, name=name, lazy=True)
    # matrices of a view would be read
    whole = adata._adata_ref if adata.is_view else adata
    matrices = [whole.X, *(whole.layers[key] for key in layer_names(whole))]
    stored = [x for x in matrices if is_dask(x) or isinstance(x, CSRDataset | CSCDataset | h5py.Dataset)]
    if not (stored or adata.isbacked or is_lazily_read(adata)):
        return adata
    with read_from(None, name):
        for x in stored:
            require_whole(rowwise(x), name)
        return adata.to_memory()


@contextmanager
def tables_read(adata: AnnData | None) -> Iterator[None]:
    """Put tables of an AnnData that was read lazily into memory, and back where the block fails."""
    require_there(places_of(adata))
    if adata is None or not is_lazily_read(adata):
        yield
        return
    obs, var = adata.obs, adata.var
    others = [(place, key) for place in (adata.obsm, adata.varm) for key in place if hasattr(place[key], "to_memory")]
    before = [place[key] for place, key in others]
    with read_from(obs, "A table of adata"):
        read = frame_of(obs), frame_of(var), [frame_of(table) for table in before]
    adata.obs, adata.var = read[:2]
    for (place, key), table in zip(others, read[2], strict=True):
        place[key] = table
    try:
        yield
    except BaseException:
        put_back_tables(adata, obs=obs, var=var)
        for (place, key), table in zip(others, before, strict=True):
            place[key] = table
        raise


def is_lazily_read(adata: AnnData) -> bool:
    """True if obs or var are no data frames."""
    return not (isinstance(adata.obs, pd.DataFrame) and isinstance(adata.var, pd.DataFrame))


def frame_of(values: Values) -> Values:
    """A table that is read lazily as a data frame in memory; all else as it is."""
    read = getattr(values, "to_memory", None)
    found: Values = values if read is None else read()
    return found
