"""Hold-outs that can be ranked, and the share explained over several of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deltavi.metrics.signals import LEAST_SIGNAL

EXPLAINED, ERROR, SIZE, SIGNAL = "explained", "squared_error", "squared_size", "signal_z"
CASE = ["hold_out", "label", "perturbation"]
"""Columns that say what was predicted."""
# Hold-outs that a sentence names; where there are more, the tables have them all.
MOST_NAMED = 7


def means_of(table: pd.DataFrame, by: Sequence[str], metric: str) -> pd.Series[float]:
    """Mean of a score in each group; of the share explained that of the sums of numerators and denominators."""
    grouped = table.groupby(list(by), sort=False)
    if metric != EXPLAINED or not {ERROR, SIZE} <= set(table.columns):
        return grouped[metric].mean()
    parts = grouped[[ERROR, SIZE]].sum(min_count=1)
    return (1.0 - parts[ERROR] / parts[SIZE].where(parts[SIZE] > 0)).rename(metric)


def statistics_of(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Columns mean, sd and n of a score by method; the sd of the share explained is one over seeds of the whole."""
    found = table.groupby("method", sort=False)[metric].agg(["mean", "std", "count"])
    if metric == EXPLAINED:
        by_seed = means_of(table, ["method", "seed"], metric).groupby("method", sort=False)
        found = found.assign(mean=means_of(table, ["method"], metric), std=by_seed.std())
    return found.rename(columns={"std": "sd", "count": "n"})


def signals_of(table: pd.DataFrame) -> pd.DataFrame:
    """Signal z of every hold-out, mean over seeds, and whether it is large enough; of tables without it, it is."""
    cases = table[CASE].drop_duplicates().reset_index(drop=True)
    if SIGNAL not in table:
        return cases.assign(signal_z=np.nan, ranked=True)
    found = table.groupby(CASE, sort=False)[SIGNAL].mean().reset_index()
    ranked = ~(found[SIGNAL] < LEAST_SIGNAL)
    return found.assign(ranked=ranked)


def worse_than_no_change(table: pd.DataFrame, method: str) -> pd.Series[float]:
    """Share explained by a method of the hold-outs where it is below zero."""
    shares = means_of(table[table["method"] == method], CASE, EXPLAINED)
    return shares[shares < 0]


def case_name(case: Sequence[str], several_perturbations: bool) -> str:
    """Shortest unambiguous name of a hold-out, label and perturbation."""
    hold_out, label, perturbation = case
    name = label if hold_out == label else f"{label} of {hold_out}"
    return f"{name} under {perturbation}" if several_perturbations else str(name)


def listed(names: Sequence[str]) -> str:
    """The first of some names, and the number of the others."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


def said_of_signals(signals: pd.DataFrame) -> list[str]:
    """Sentence on the hold-outs that are not ranked, if there are any."""
    weak = signals[~signals["ranked"]]
    if weak.empty:
        return []
    several = signals["perturbation"].nunique() > 1
    names = [f"{case_name(row[:3], several)} ({row[3]:.2f})" for row in weak[[*CASE, SIGNAL]].itertuples(index=False)]
    if len(weak) == len(signals):
        beginning = f"No method is ranked: all {len(weak)} responses are"
    else:
        beginning = f"{len(weak)} of {len(signals)} responses are not ranked, as they are"
    return [f"{beginning} too small, with a signal z below {LEAST_SIGNAL:g}: {listed(names)}."]


def said_of_harm(table: pd.DataFrame, method: str) -> list[str]:
    """Sentence on the hold-outs where a method was worse than no change, if there are any."""
    if EXPLAINED not in table:
        return []
    shares = worse_than_no_change(table, method)
    several = table["perturbation"].nunique() > 1
    names = [f"{case_name(case, several)} ({share:.2f})" for case, share in shares.items()]  # type: ignore[arg-type]
    return [f"It was worse than no change for {listed(names)}."] if names else []
