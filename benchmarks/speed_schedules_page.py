"""The page of the schedules: for every data set, how soon and how far each of them comes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
from speed_page import markdown, provenance, seconds

# SCVI itself, whose last bound is what the others are to reach.
REFERENCE = "SCVI"
HEADER = ["schedule", "epochs", "SCVI's last bound after", "all epochs", "last bound", "lowest bound", "seeds"]


def first_below(run: pd.Series, bound: float) -> float:
    """Processor seconds until the negative bound is no higher, nan where it stays above."""
    reached = np.flatnonzero(np.array(json.loads(run["bounds"])) <= bound)
    return float(json.loads(run["seconds"])[reached[0]]) if len(reached) else np.nan


def time_to(runs: pd.DataFrame, bound: float) -> str:
    """Mean seconds over seeds, and how many of them did not come so far."""
    found = np.array([first_below(run, bound) for _, run in runs.iterrows()])
    missed = np.isnan(found).sum()
    if missed == len(found):
        return "not reached"
    return seconds(float(np.nanmean(found))) + (f", not by {missed} of {len(found)}" if missed else "")


def rows(runs: pd.DataFrame) -> list[list[str]]:
    """A line per schedule of one data set, SCVI first."""
    found = []
    # as all its epochs have it: the column of last bounds has six digits
    aims = runs.loc[runs["schedule"] == REFERENCE, "bounds"].map(lambda text: json.loads(text)[-1])
    for schedule in sorted(runs["schedule"].unique(), key=lambda name: bool(name != REFERENCE)):
        own = runs[runs["schedule"] == schedule]
        whole = seconds(own["seconds"].map(lambda text: json.loads(text)[-1]).mean())
        reached = time_to(own, aims.mean()) if len(aims) else "–"
        ends = [f"{own[name].mean():.1f}" for name in ("last", "lowest")]
        found.append([str(schedule), f"{own['epochs'].mean():.0f}", reached, whole, *ends, str(len(own))])
    return found


def sections(table: pd.DataFrame) -> Iterator[str]:
    """Sections of the page."""
    yield (
        "# Schedules of training\n\nA `VAE` with its default sizes and a zero-inflated likelihood, trained by one "
        "schedule after another; all but *default* differ from it by what their name says. By default the learning "
        "rate rises to 0.008 over the first tenth of the steps and falls to zero along a cosine, in 50 epochs or as "
        "many as make 1400 steps if that is less, but no fewer than 500 steps; mini-batches have 128 cells, and the "
        "weight of the divergence rises over half of the epochs. *SCVI* is scvi-tools' own model, trained once as it "
        "does by itself: 400 epochs at a constant rate of 0.001. Bounds are negative evidence lower bounds of the "
        "validation cells, a tenth of all and the same for every schedule and seed, in nats per cell, with the whole "
        "divergence and one draw per cell; the lower the better. Times are processor seconds of one thread, without "
        "validation; a dash stands where SCVI has not been trained. All numbers are means over seeds, and two seeds of "
        "one schedule may lie nats apart: small differences mean nothing. The default was chosen with such runs on "
        "some of these cells; that it does well here is not independent evidence for other data."
    )
    for data, runs in table.groupby("data", sort=False):
        yield f"## {data}\n\n{runs['about'].iloc[0]}.\n\n{markdown(HEADER, rows(runs))}"
    yield "Every run is in the table `schedules.csv` beside this page, with the bounds and seconds of all its epochs."
    yield from provenance(table.rename(columns={"schedule": "row"}))


def page(table: pd.DataFrame) -> str:
    """The whole page; `table` has one row per data set, schedule and seed."""
    return "\n\n".join(sections(table) if len(table) else ["# Schedules of training"]) + "\n"
