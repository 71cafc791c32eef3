"""Tables of numbers that plots take: checked, and brought to the same rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deltavi._entries import shown
from deltavi._errors import DeltaviError, InputDataError, examples, unknown_category
from deltavi._types import BoolArray, FloatArray
from deltavi.perturbation.gene_table import GeneTable


def number_table(name: str, value: object) -> pd.DataFrame:
    """`value` as a table of float64, with rows and columns named by text, each once."""
    if not isinstance(value, pd.DataFrame):
        raise DeltaviError(f"{name} must be a DataFrame, with names of rows and columns, not {shown(value)}.")
    if not value.size:
        raise DeltaviError(f"{name} is empty: it has shape {value.shape}.")
    table = value.set_axis(value.index.map(str), axis=0).set_axis(value.columns.map(str), axis=1)
    for side, names in (("rows", table.index), ("columns", table.columns)):
        if not names.is_unique:
            raise DeltaviError(f"{name} repeats {side}: {examples(names[names.duplicated()].unique())}.")
    try:
        return table.astype(np.float64)
    except (TypeError, ValueError):
        raise DeltaviError(f"{name} must hold numbers.") from None


def like(table: pd.DataFrame, name: str, value: object, *, of: str) -> pd.DataFrame:
    """`value` with the rows and columns of `table`, which is called `of` in messages."""
    other = number_table(name, value)
    for side, ours, theirs in (("row", table.index, other.index), ("column", table.columns, other.columns)):
        missing = ours.difference(theirs)
        if len(missing):
            raise unknown_category(f"{side} of {of}", missing[0], theirs, among=name)
    return other.loc[table.index, table.columns]


def gene_frame(table: object, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of a table of genes as float64, a row per gene, without genes that lack a value."""
    frame = table.to_frame() if isinstance(table, GeneTable) else table
    if not isinstance(frame, pd.DataFrame):
        raise DeltaviError(f"table must be a GeneTable or its DataFrame, not {shown(table)}.")
    if "group" in frame.columns and frame["group"].nunique() > 1:
        raise InputDataError(
            f"table holds {frame['group'].nunique()} groups ({examples(list(frame['group'].unique()))}): pass the rows "
            "of one."
        )
    if "gene" in frame.columns:
        frame = frame.set_index("gene")
    for column in columns:
        if column not in frame.columns:
            raise unknown_category("column", column, frame.columns, among="table")
    found = number_table("table", frame[list(columns)]).dropna()
    if not len(found):
        raise InputDataError("table holds no gene that has a value in all of " + ", ".join(map(repr, columns)) + ".")
    return found


def points(name: str, values: object, n: int | None = None) -> FloatArray:
    """`values` as numbers ``(n_points,)``, missing ones NaN."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DeltaviError(f"{name} must hold one number per point.") from None
    if found.ndim != 1 or not found.size or (n is not None and len(found) != n):
        there = "" if n is None else f": {n} points"
        raise DeltaviError(f"{name} must hold one number per point{there}, but has shape {found.shape}.")
    return found


def mask(name: str, values: object, n: int) -> BoolArray:
    """`values` as truth values ``(n_points,)``; none are true for None."""
    if values is None:
        return np.zeros(n, dtype=bool)
    found = points(name, values, n)
    if not np.isin(found, (0, 1)).all():
        raise DeltaviError(f"{name} must hold true or false only.")
    return found.astype(bool)
