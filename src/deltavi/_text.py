"""Categories as text: the form in which values of any kind are compared, saved and shown."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum
from numbers import Number
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd

# Types that registries, files and tables of pandas hold unchanged.
PLAIN = (str, bool, int, float)
# Types that are read as text. Complex numbers are no categories.
READABLE = (
    *(str, bytes, Number, Enum, UUID, PurePath, np.bool_, np.datetime64, np.timedelta64),
    *(datetime.date, datetime.time, datetime.timedelta, pd.Period, pd.Interval),
)
UNREADABLE = (complex, np.complexfloating)
# Every whole number up to here is exact in double precision.
LARGEST_WHOLE = 2.0**53
# The same number, or the same day, as other programs write it.
WITHOUT_DECIMALS = re.compile(r"([+-]?\d+)\.0*")
MIDNIGHT = re.compile(r"(\d{4}-\d{2}-\d{2})[ T]00:00(:00(\.0+)?)?")


def is_readable(kind: type) -> bool:
    """True if values of this type have a text that identifies them."""
    return issubclass(kind, READABLE) and not issubclass(kind, UNREADABLE)


def as_text(value: object) -> str:
    """Category as text, the same for all types of its column.

    A whole number has no decimals, which pandas adds where others are missing; a day at midnight is a date, and other
    times are ISO 8601 with a space; bytes are UTF-8; a member of an enumeration is its value; a Decimal is the number
    it stands for; and ranges, periods, durations, fractions and UUIDs are written as Python and pandas write them.
    """
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, datetime.datetime | np.datetime64):
        return _moment(pd.Timestamp(value))
    if isinstance(value, datetime.timedelta | np.timedelta64):
        return str(pd.Timedelta(value))
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Decimal) and value.is_finite():
        return str(int(value)) if value == int(value) else f"{value.normalize():f}"
    return str(value)


def _moment(time: Any) -> str:
    """Day if the time is midnight, else day and time."""
    if pd.isna(time):
        return str(time)
    return str(time.date()) if time.tz is None and time == time.normalize() else str(time.isoformat(sep=" "))


def _float(value: float) -> str:
    if value.is_integer():
        return str(int(value)) if abs(value) < LARGEST_WHOLE else str(value)
    with np.errstate(over="ignore"):
        single = np.float32(value)
    # 0.1 in single precision is 0.1, not 0.10000000149011612
    return str(single) if float(single) == value else str(value)


def folded_text(value: object) -> str:
    """Text of a category, without the decimals of a whole number and the midnight of a day."""
    text = as_text(value)
    found = WITHOUT_DECIMALS.fullmatch(text) or MIDNIGHT.fullmatch(text)
    if found is None:
        return text
    return found[1].removeprefix("+") if found[1] not in ("-0", "+0") else "0"


def texts_of(values: pd.Series | pd.Index | np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Position of each value's text among the distinct ones, -1 where it is missing, and these texts.

    Where text and numbers stand in one column, ``0`` and ``"0.0"`` are the same.
    """
    positions, found = pd.factorize(values)
    distinct = list(found)
    mixed = len({isinstance(value, str) for value in distinct}) > 1
    texts = [folded_text(value) if mixed else as_text(value) for value in distinct]
    kept = list(dict.fromkeys(texts))
    places = {text: place for place, text in enumerate(kept)}
    # missing values have the position -1, which is the last entry
    return np.array([*(places[text] for text in texts), -1], dtype=np.int64)[positions], kept


def names_of(values: pd.Series | pd.Index | np.ndarray) -> np.ndarray:
    """Text of each value, ``None`` where it is missing, ``(n_values,)``."""
    positions, texts = texts_of(values)
    names: np.ndarray = np.array([*texts, None], dtype=object)[positions]
    return names


def meant(given: object, known: Iterable[object]) -> str | None:
    """Text of the category of `known` that equals `given`, by text, or by value for numbers in other notations."""
    names = [as_text(value) for value in known]
    text = as_text(given)
    if text in names:
        return text
    alike = {name for name in names if folded_text(name) == folded_text(text)}
    return alike.pop() if len(alike) == 1 else None
