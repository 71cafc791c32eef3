"""Columns of obs that files can hold."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._errors import examples
from deltavi._text import as_text, is_readable, names_of
from deltavi.registry.columns import user_columns

logger = logging.getLogger("deltavi")


def writable_columns(obs: pd.DataFrame) -> pd.DataFrame:
    """Copy of the user's columns in types and under names that h5ad and Zarr files can hold.

    Dates, ranges, periods, durations, Decimals, bytes and text among numbers become text, numbers of Arrow and of
    nullable floats those of NumPy.
    """
    found = user_columns(obs)
    converted = []
    for place, name in enumerate(found.columns):
        values = found.iloc[:, place]
        written = _writable(values)
        if written is not values:
            converted.append(name)
            found.isetitem(place, written)
    if converted:
        logger.info(
            "obs %s: files cannot hold values of that kind; they are text or plain numbers.", examples(converted)
        )
    if not all(isinstance(name, str) for name in found.columns):
        found.columns = pd.Index(found.columns.map(as_text), dtype=object)
    return found


def writable_cells(adata: AnnData) -> AnnData:
    """`adata` itself where a file can hold its obs, else a stand-in that shares all but these columns."""
    own = [key for key in adata.obs if str(key).startswith("_scvi")]
    columns = [adata.obs.iloc[:, place] for place in range(adata.obs.shape[1])]
    if adata.isbacked or all(isinstance(c.name, str) and _writable(c) is c for c in columns):
        return adata
    obs = writable_columns(adata.obs).join(adata.obs[own])
    parts = {name: getattr(adata, name) for name in ("var", "uns", "obsm", "varm", "layers", "obsp", "varp")}
    return AnnData(adata.X, obs=obs, **parts)


def _writable(values: pd.Series) -> Any:
    """`values` themselves if a file can hold them, else their text or numbers."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return values if _is_plain(dtype.categories) else pd.Categorical(_texts(values), ordered=False)
    if isinstance(dtype, pd.SparseDtype):
        return _writable(pd.Series(np.asarray(values), index=values.index))
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return values if _is_plain(values.dropna()) and not _is_empty(values) else _of_objects(values)
    if isinstance(dtype, np.dtype):
        return values if dtype.kind in "biufc" else pd.Categorical(_texts(values))
    if isinstance(dtype, pd.StringDtype | pd.BooleanDtype) or str(dtype).startswith(("Int", "UInt")):
        return values
    numeric = pd.api.types.is_numeric_dtype(dtype)
    return values.to_numpy(dtype=float, na_value=np.nan) if numeric else pd.Categorical(_texts(values))


def _is_plain(values: pd.Series | pd.Index) -> bool:
    """True if values are all text, or numbers of NumPy."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind == "O":
        return all(isinstance(value, str) for value in values)
    return isinstance(values.dtype, pd.StringDtype) or getattr(values.dtype, "kind", "") in "biuf"


def _is_empty(values: pd.Series) -> bool:
    return len(values) > 0 and bool(values.isna().all())


def _of_objects(values: pd.Series) -> Any:
    """Numbers or truth values that are stored as objects in a type of their own; text of others."""
    found = values.infer_objects()
    if found.dtype != object and getattr(found.dtype, "kind", "") in "biuf":
        return found
    return pd.Categorical(_texts(values))


def _texts(values: pd.Series) -> np.ndarray:
    """Text of each value, ``None`` if it is missing; of lists, records and the like their ``str``."""
    present = values.dropna()
    if all(is_readable(kind) for kind in {type(value) for value in present}):
        return names_of(values)
    return np.array(
        [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)], dtype=object
    )
