"""Columns of an earlier registration or prediction in an AnnData, as from a file or from joined samples."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._compat import SCVI_UUID_KEY
from deltavi._errors import KeyClashError, examples
from deltavi._text import as_text

logger = logging.getLogger("deltavi")

OWN_COLUMNS = ("_scvi_batch", "_scvi_labels", f"_scvi_{_keys.CONDITION}")
OWN_TABLES = ("_scvi_extra_categorical_covs", "_scvi_extra_continuous_covs")
SOURCES = (_keys.OBS_SOURCE_CONDITION, _keys.OBS_SOURCE_CELL)


def left_behind(adata: AnnData) -> list[tuple[str, str]]:
    """Table and key of columns left by an earlier registration, in an AnnData that has none now.

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


def _are_codes(values: pd.Series) -> bool:
    """True if a column can hold codes: whole numbers from -1 on, fewer than cells; missing in joined samples."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(dtype):
        return False
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
        return False
    codes = values.dropna().to_numpy(dtype=float)
    return bool(np.all((codes == np.floor(codes)) & (codes >= -1) & (codes < max(len(values), 1))))


def _is_written_table(values: object) -> bool:
    """True if a table can hold covariates: numbers, as a frame, or as the array that a file or a join makes of one."""
    kinds = values.dtypes if isinstance(values, pd.DataFrame) else [getattr(values, "dtype", np.dtype(object))]
    return all(pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in kinds)


# -- columns of predictions ------------------------------------------------------------------------------------


def require_free_sources(obs: pd.DataFrame, conditions: Iterable[object], *, key: str) -> None:
    """Raise if the columns for the source of a predicted cell hold something else.

    Columns of an earlier prediction are no clash, as when its cells were joined with the measured ones: a prediction
    names the cells of its own call, and the AnnData that was passed stays unchanged.

    Parameters
    ----------
    obs
        Cells to predict from, and the other cells of their AnnData.
    conditions
        Conditions of the training cells.
    key
        Column of conditions; those of `obs` are allowed as well.

    Raises
    ------
    KeyClashError
        If a column of these names was not written by a prediction.
    """
    predicted = _predicted_earlier(obs, {*map(as_text, conditions), *_names_in(obs, key), _keys.NO_SOURCE})
    taken = [name for name in SOURCES if (_is_given(obs, name) & ~predicted).any()]
    if taken:
        raise KeyClashError(f"obs already holds {examples(taken)}, which a prediction writes; rename or drop them.")
    if predicted.any():
        logger.info(
            "%d of %d cells were themselves predicted, by obs[%r]; they are read like measured ones.",
            int(predicted.sum()),
            len(obs),
            _keys.OBS_SOURCE_CONDITION,
        )


def _predicted_earlier(obs: pd.DataFrame, known: set[str]) -> np.ndarray:
    """Cells of an earlier prediction, ``(n_cells,)``: their source is a condition of `known`."""
    if not _names_in(obs, _keys.OBS_SOURCE_CONDITION) <= known:
        return np.zeros(len(obs), dtype=bool)
    return _is_given(obs, _keys.OBS_SOURCE_CONDITION)


def _names_in(obs: pd.DataFrame, key: str) -> set[str]:
    """Names that a column holds, as text; none where there is no such column."""
    return set() if key not in obs else {as_text(value) for value in obs[key].dropna().unique()}


def _is_given(obs: pd.DataFrame, key: str) -> np.ndarray:
    """Cells that have a value in a column, ``(n_cells,)``; none where there is no such column."""
    return np.zeros(len(obs), dtype=bool) if key not in obs else np.asarray(obs[key].notna(), dtype=bool)
