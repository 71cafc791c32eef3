"""Names from before the first release: files that hold them are still read, and arguments with them are refused.

A former argument is no alias: it is refused, with its name of today.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# entries of uns["deltavi"] and columns of the tables in it -> today's
RECORD: Mapping[str, str] = {
    "consensus": "empirical_weight",
    "dose": "effect_scale",
    "doubt": "uncertainty",
    "magnitude": "shift_scale",
    "n_target": "n_perturbed",
    "profile": "output",
    "target": "perturbation",
    "trust": "uncertainty",
    "usual_doubt": "max_training_uncertainty",
}
# entry of today -> its former values -> today's
RECORD_VALUES: Mapping[str, Mapping[str, str]] = {
    "output": {"cell": "cells", "decoded": "mean"},
    "shift": {"kriging": "gp"},
}

# arguments of functions -> today's; the second part is what users of scgen write
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    # of the prediction of one perturbation; that of many has contexts
    "labels": ("contexts",),
    "ceiling": ("split_half",),
    "consensus": ("empirical_weight",),
    "distance": ("similarity_space",),
    "dose": ("effect_scale",),
    "magnitude": ("shift_scale",),
    "is_target": ("is_perturbed",),
    "profile": ("output",),
    "target": ("perturbation", "perturbed"),
    "release_labels": ("drop_labels_after",),
    "temperature": ("bandwidth",),
    "warmup": ("prior_warmup",),
    "adata_to_predict": ("adata",),
    "celltype_to_predict": ("labels", "label"),
    "ctrl_key": ("control",),
    "stim_key": ("perturbation",),
}
# parts of a model in its file -> today's
STATE: Mapping[str, str] = {"labels_released": "labels_dropped", "surprise": "reconstruction_error"}
# scores, and methods and kinds in tables of an evaluation -> today's
SCORES: Mapping[str, str] = {
    "correlation_of_changes": "pearson_delta",
    "correlation_of_changes_top": "pearson_delta_top",
    "correlation_of_changes_top20": "pearson_delta_top20",
    "correlation_of_changes_top50": "pearson_delta_top50",
    "differential_overlap": "deg_overlap",
    "mse_of_changes": "mse_delta",
}
ROWS: Mapping[str, str] = {
    "ceiling": "split_half",
    "kriging shift": "GP shift",
    "two halves of the real cells": "split-half ceiling",
}
# values of arguments -> today's
VALUES: Mapping[str, tuple[str, ...]] = {
    **{old: (new,) for old, new in {**SCORES, **ROWS}.items()},
    "cell": ("cells",),
    "decoded": ("mean", "expression"),
    "kriging": ("gp",),
    "observed": ("match",),
    "strangeness": ("novelty_score",),
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


def current_table(table: pd.DataFrame) -> pd.DataFrame:
    """Table of an evaluation, its columns, methods and kinds by their names of today."""
    if not {"target", *SCORES} & set(table.columns):
        return table
    current = table.rename(columns={**RECORD, **SCORES})
    return current.assign(**{name: current[name].replace(ROWS) for name in ("method", "kind") if name in current})


def current_init(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Arguments that a model was made with; former ones of which `known` has today's name get that."""
    return {name if name in known else renamed_argument(name, known) or name: value for name, value in given.items()}


def current_state(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a model as its file holds them, by their names of today."""
    return {STATE.get(name, name): value for name, value in saved.items()}


def _current_entry(key: str, value: Any) -> tuple[str, Any]:
    import pandas as pd  # the command line reads names of arguments without it

    if isinstance(value, pd.DataFrame):
        return key, value.rename(columns=RECORD)
    return key, RECORD_VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value
