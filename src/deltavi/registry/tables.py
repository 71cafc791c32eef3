"""Tables of an AnnData that was read lazily, brought into memory; its matrices stay where they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

import pandas as pd
from anndata import AnnData

from deltavi._compat import put_back_tables
from deltavi._entries import require_anndata
from deltavi.registry.source import layer_names


class LazyTable(Protocol):
    """Part of the interface of the tables that anndata reads lazily."""

    def to_memory(self) -> pd.DataFrame:
        """The table in memory."""


Table2D: TypeAlias = pd.DataFrame | LazyTable


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
    if not is_lazily_read(adata):
        return adata
    layers = {key: adata.layers[key] for key in layer_names(adata)}
    return AnnData(X=adata.X, obs=_frame(adata.obs), var=_frame(adata.var), layers=layers)


@contextmanager
def tables_read(adata: AnnData | None) -> Iterator[None]:
    """Put tables of an AnnData that was read lazily into memory, and back where the block fails."""
    if adata is None or not is_lazily_read(adata):
        yield
        return
    obs, var = adata.obs, adata.var
    others = [(place, key) for place in (adata.obsm, adata.varm) for key in place if hasattr(place[key], "to_memory")]
    before = [place[key] for place, key in others]
    adata.obs, adata.var = _frame(obs), _frame(var)
    for place, key in others:
        place[key] = _frame(place[key])
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


def _frame(table: Table2D) -> pd.DataFrame:
    return table if isinstance(table, pd.DataFrame) else table.to_memory()
