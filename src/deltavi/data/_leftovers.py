"""Columns that an earlier registration left in an AnnData, as in a file or where samples were joined."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._compat import SCVI_UUID_KEY
from deltavi._errors import KeyClashError, examples

logger = logging.getLogger("deltavi")

OWN_COLUMNS = ("_scvi_batch", "_scvi_labels", f"_scvi_{_keys.CONDITION}")
OWN_TABLES = ("_scvi_extra_categorical_covs", "_scvi_extra_continuous_covs")


def left_behind(adata: AnnData) -> list[tuple[str, str]]:
    """Table and key of what another registration left in an AnnData that none holds now.

    Raises
    ------
    KeyClashError
        If a column has the name of one that registration writes, and holds something else.
    """
    if SCVI_UUID_KEY in adata.uns:
        # registered as it is, or read from a file that was written so: written over, column by column
        return []
    found = [("obs", key, _are_codes(adata.obs[key])) for key in OWN_COLUMNS if key in adata.obs]
    found += [("obsm", key, _is_written_table(adata.obsm[key])) for key in OWN_TABLES if key in adata.obsm]
    for table in ("obs", "obsm"):
        if taken := [key for name, key, is_own in found if name == table and not is_own]:
            raise KeyClashError(
                f"{table} already holds {examples(taken)}, which registration would overwrite; rename or drop them."
            )
    return [(table, key) for table, key, _ in found]


def drop(adata: AnnData, left: list[tuple[str, str]], written: set[tuple[str, str]]) -> None:
    """Drop what was left behind and not written anew, and log all of it."""
    for table, key in left:
        if (table, key) not in written:
            del getattr(adata, table)[key]
    if left:
        logger.info(
            "adata held %s, which an earlier registration with scvi-tools or deltavi wrote; dropped.",
            ", ".join(f"{table}[{key!r}]" for table, key in left),
        )


def _are_codes(values: Any) -> bool:
    """Whether a column can be one of codes: whole numbers from -1 on, fewer than cells; missing where samples met."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(dtype):
        return False
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
        return False
    codes = values.dropna().to_numpy(dtype=float)
    return bool(np.all((codes == np.floor(codes)) & (codes >= -1) & (codes < max(len(values), 1))))


def _is_written_table(values: Any) -> bool:
    """Whether a table can be one of covariates: numbers, as a frame, or the array a file or a join makes of one."""
    kinds = values.dtypes if isinstance(values, pd.DataFrame) else [getattr(values, "dtype", np.dtype(object))]
    return all(pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in kinds)
