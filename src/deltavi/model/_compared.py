"""Groups of cells that differential expression compares: chosen by a column of obs, by masks or by queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._entries import names, positions, shown
from deltavi._errors import DeltaviError, unknown_category
from deltavi._text import as_text
from deltavi._types import State

# Column that scvi-tools writes to obs while it compares cells chosen one by one.
TEMPORARY_COLUMN = "_scvi_temp_de"
BY_COLUMN = ("groupby", "group1", "group2")


def read_groups(given: State, cells: AnnData) -> None:
    """Bring the groups of a comparison into a form that has one meaning.

    Parameters
    ----------
    given
        Arguments of the comparison, which are changed.
    cells
        The cells they are about.

    Raises
    ------
    UnknownCategoryError
        If a column or group does not exist.
    DeltaviError
        If a group has no cells, or it is not clear which is meant.
    """
    for name in ("idx1", "idx2", "subset_idx"):
        if given.get(name) is not None:
            given[name] = _mask(given[name], cells, name)
    _check_batches(given)
    if given.get("idx1") is not None:
        _check_chosen(given)
    elif given.get("idx2") is not None:
        raise DeltaviError("idx2 is what the cells of idx1 are compared with: pass idx1 as well.")
    else:
        _read_column(given, cells)


def _mask(chosen: Any, cells: AnnData, name: str) -> np.ndarray:
    """Truth value for each cell, of a mask, positions, or a query of obs in pandas' language."""
    mask = np.zeros(cells.n_obs, dtype=bool)
    mask[_queried(chosen, cells, name) if isinstance(chosen, str) else _positions(chosen, cells, name)] = True
    if not mask.any():
        raise DeltaviError(f"{name} chooses none of {cells.n_obs} cells: there is nothing to compare.")
    return mask


def _positions(chosen: Any, cells: AnnData, name: str) -> np.ndarray:
    return positions(chosen, cells.n_obs, name=name, cells=cells.obs_names)


def _queried(query: str, cells: AnnData, name: str) -> np.ndarray:
    try:
        found = cells.obs.eval(query)
    except Exception as error:  # of the parser, or of what the query does with a column
        columns = ", ".join(repr(str(key)) for key in cells.obs if not str(key).startswith("_scvi"))
        raise DeltaviError(
            f"{name}={shown(query)} is no query of obs: {type(error).__name__}: {error}. Columns: {columns}."
        ) from error
    if np.shape(found) != (cells.n_obs,) or not pd.api.types.is_bool_dtype(found):
        raise DeltaviError(f"{name}={shown(query)} is true of no cell, nor false: compare a column, 'key == value'.")
    return np.asarray(found, dtype=bool)


def _check_chosen(given: State) -> None:
    """Raise where cells chosen one by one are chosen by a column as well, or no others are left."""
    beside = [name for name in BY_COLUMN if given.get(name) is not None]
    if beside:
        raise DeltaviError(f"idx1 chooses the cells to compare: leave out {', '.join(beside)}, or idx1.")
    first, second = given["idx1"], given.get("idx2")
    if second is None and first.all():
        raise DeltaviError("idx1 chooses all cells: none are left to compare them with. Pass idx2.")
    if second is not None and (both := int((first & second).sum())):
        raise DeltaviError(f"{both} cells are in idx1 and in idx2: a cell can be on one side only.")


def _read_column(given: State, cells: AnnData) -> None:
    """Name the groups as the column does, those without cells left out."""
    key = given.get("groupby")
    if key is None:
        raise DeltaviError("Name the groups to compare, groupby='cell_type', or their cells, idx1.")
    if not isinstance(key, str) or key not in cells.obs:
        known = [str(k) for k in cells.obs if not str(k).startswith("_scvi")]
        raise unknown_category("groupby: the obs column", key if isinstance(key, str) else shown(key), known)
    groups = _groups(cells.obs[key], given.get("subset_idx"), key)
    if given.get("group1") is None and len(groups) < 2:
        raise DeltaviError(f"obs[{key!r}] has one group of cells, {', '.join(groups)}: there is nothing to compare.")
    first = list(groups.values()) if given.get("group1") is None else _known(given["group1"], groups, "group1")
    given["group1"] = first
    if given.get("group2") is None:
        if len(groups) == 1:
            raise DeltaviError(f"All cells are of the group {first[0]!r}: none are left to compare it with.")
        return
    second = _known(given["group2"], groups, "group2")
    if len(second) != 1:
        raise DeltaviError(f"group2 must be one group, not {shown(given['group2'])}.")
    if second[0] in first and len(first) == 1:
        raise DeltaviError(f"group1 and group2 are both {second[0]!r}: there is nothing to compare.")
    given["group2"] = second[0]


def _groups(values: pd.Series, subset: np.ndarray | None, key: str) -> State:
    """Values of a column that cells have, by their text, in the order of its categories."""
    # a comparison with a missing value of such a type is neither true nor false
    if values.isna().any() and getattr(values.dtype, "na_value", None) is pd.NA:
        raise DeltaviError(f"obs[{key!r}] is missing in {int(values.isna().sum())} cells: give them a group.")
    present = set(pd.unique((values if subset is None else values[subset]).dropna()))
    return {as_text(value): value for value in values.astype("category").cat.categories if value in present}


def _known(asked: object, groups: State, name: str) -> list[Any]:
    found = names(name, asked)
    if not found:
        raise DeltaviError(f"{name} is empty: name a group.")
    for group in found:
        if as_text(group) not in groups:
            raise unknown_category(f"{name}: the group", group, groups.values())
    return [groups[as_text(group)] for group in found]


def _check_batches(given: State) -> None:
    """Raise where batches are named that nothing is corrected for, or that overlap in part."""
    first, second = (given.get(name) for name in ("batchid1", "batchid2"))
    if first is None and second is None:
        return
    if not given.get("batch_correction", False):
        raise DeltaviError("batchid1 and batchid2 are batches to decode in: pass batch_correction=True as well.")
    if first is None or second is None:
        raise DeltaviError("batchid1 and batchid2 go together: name the batches of both groups, or of neither.")
    if set(first) != set(second) and set(first) & set(second):
        raise DeltaviError("batchid1 and batchid2 must be the same batches, or have none in common.")
