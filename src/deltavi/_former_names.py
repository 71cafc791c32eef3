"""Names from before the first release: files that hold them are still read, and arguments with them are refused.

A former argument is no alias: it is refused, with its name of today.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

# entries of uns["deltavi"] and columns of the tables in it -> today's
RECORD: Mapping[str, str] = {
    "consensus": "empirical_weight",
    "dose": "effect_scale",
    "magnitude": "shift_scale",
    "profile": "output",
}
# entry of today -> its former values -> today's
RECORD_VALUES: Mapping[str, Mapping[str, str]] = {"output": {"cell": "cells", "decoded": "mean"}}

# arguments of functions -> today's; the second part is what users of scgen write
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "consensus": ("empirical_weight",),
    "distance": ("similarity_space",),
    "dose": ("effect_scale",),
    "magnitude": ("shift_scale",),
    "profile": ("output",),
    "temperature": ("bandwidth",),
    "adata_to_predict": ("adata",),
    "celltype_to_predict": ("labels", "label"),
    "ctrl_key": ("control",),
}
# values of arguments -> today's
VALUES: Mapping[str, tuple[str, ...]] = {
    "cell": ("cells",),
    "decoded": ("mean", "expression"),
    "observed": ("match",),
}


def renamed_argument(name: str, known: Collection[str]) -> str | None:
    """Argument among `known` that was called `name`."""
    return next((new for new in ARGUMENTS.get(name, ()) if new in known), None)


def renamed_value(value: str, known: Collection[str]) -> str | None:
    """Value among `known` that was called `value`."""
    return next((new for new in VALUES.get(value, ()) if new in known), None)


def current_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that a prediction keeps of itself, and the columns of their tables, by their names of today."""
    return dict(_current_entry(RECORD.get(key, key), value) for key, value in record.items())


def _current_entry(key: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, pd.DataFrame):
        return key, value.rename(columns=RECORD)
    return key, RECORD_VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value
