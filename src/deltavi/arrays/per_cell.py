"""Values of cells, such as labels and masks: in the order of the cells by the names of a Series, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._entries import shown
from deltavi._errors import InputDataError, examples
from deltavi.arrays.tables import are_counted, text_names

if TYPE_CHECKING:
    from numpy.typing import NDArray


def by_cell(cells: pd.Index | None, like: str = "", /, **given: object) -> dict[str, Any]:
    """Values of cells as arrays, (n_cells,), in the order of `cells`, or else of the first that names them.

    Parameters
    ----------
    cells
        Names of the cells as text, or None.
    like
        Owner of these names, for messages.
    **given
        Series, which name their cells; arrays, lists and Series numbered from 0, which are in order; None stays None.

    Raises
    ------
    InputDataError
        A Series names other cells, or the same ones in another order with names that repeat; entries are masked; or
        it has no order at all, as a set or a mapping.
    """
    arrays: dict[str, Any] = {
        name: None if values is None else one_per_cell(values, name) for name, values in given.items()
    }
    indexes = {name: text_names(values.index) for name, values in given.items() if isinstance(values, pd.Series)}
    every = {**({} if cells is None else {like: cells}), **indexes}
    own = {name: index for name, index in every.items() if not are_counted(index)}
    if not own:
        return arrays
    first, *others = own
    for name in every.keys() - own.keys():
        _require_no_numbers(own[first], every[name], first, name)
    for name in others:
        if not own[name].equals(own[first]):
            arrays[name] = arrays[name][_rows(own[name], own[first], name, first)]
    return arrays


def one_per_cell(values: Any, name: str) -> np.ndarray:
    """`values` as an array of objects of one dimension."""
    if isinstance(values, str | bytes | Mapping | Set | AnnData) or getattr(values, "ndim", 1) != 1:
        shape = f" of shape {values.shape}" if hasattr(values, "shape") else ""
        raise InputDataError(
            f"{name} must hold one value per cell, (n_cells,), as a list, an array or a Series, not a "
            f"{type(values).__name__}{shape}. Of an AnnData, pass a column of .obs."
        )
    require_unmasked(values, name)
    if isinstance(values, np.ndarray):
        return np.asarray(values)
    try:
        listed = list(values)
    except TypeError:
        raise InputDataError(
            f"{name} must hold one hashable value per cell, such as text or a number, not {shown(values)}."
        ) from None
    if any(isinstance(value, list) for value in listed):
        raise InputDataError(
            f"{name} must hold one hashable value per cell, not lists, as those of shape {_shape(listed)} are."
        )
    found = np.empty(len(listed), dtype=object)
    found[:] = listed
    return found


def _shape(listed: list[object]) -> tuple[int, ...]:
    """Shape of lists of lists, as far as they have one."""
    first = next(value for value in listed if isinstance(value, list))
    return (len(listed), len(first))


def require_unmasked(values: object, name: str) -> None:
    """Raise InputDataError if a masked array hides entries, since NumPy would read the hidden values."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputDataError(
            f"{name} has {int(np.ma.getmaskarray(values).sum())} masked entries. Fill them, or leave them out."
        )


def _require_no_numbers(names: pd.Index, numbers: pd.Index, first: str, other: str) -> None:
    """Raise if one index counts from 0 and another has the same numbers in another order, which is ambiguous."""
    if len(names) == len(numbers) and names.isin(numbers).all():
        raise InputDataError(
            f"{other} is numbered from 0, and the index of {first} holds these numbers in another order. Pass "
            f"{other}.loc[{first}.index] if they are names, or arrays if the order is the same."
        )


def _rows(given: pd.Index, cells: pd.Index, name: str, like: str) -> NDArray[np.intp]:
    """Rows of `given` in the order of `cells`."""
    difference = _difference(given, cells, name, like)
    if difference:
        raise InputDataError(f"{like} and {name} have different indexes: {difference}")
    return np.asarray(given.get_indexer(cells), dtype=np.intp)


def _difference(given: pd.Index, cells: pd.Index, name: str, like: str) -> str:
    """Describe the difference of two indexes beside their order, and the way out; "" if there is none."""
    lost = {like: cells[~cells.isin(given)], name: given[~given.isin(cells)]}
    listed = [f"{len(names)} cells only in {of} ({examples(names)})" for of, names in lost.items() if len(names)]
    if listed:
        return f"{', '.join(listed)}. Choose the same cells, or pass arrays if the order is the same."
    if not (given.is_unique and cells.is_unique):
        return (
            f"the same names, but {len(cells)} and {len(given)} cells, or another order of names that repeat. Make the "
            "names unique."
        )
    return ""
