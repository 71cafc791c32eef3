"""The page of the annotation benchmark: Markdown tables of mean ± standard deviation over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd

from benchmarks.harness.page import DASH, made_by, markdown, spread

MEAN, MEAN_OF_D = "mean of a to c", "mean of d"
PACKAGES = ("deltavi", "scvi-tools", "scikit-learn", "celltypist", "torch", "scanpy")
# Title of each table, its metric, digits, and what to know when reading it.
TABLES = (
    ("Macro-F1", "macro_f1", 3, "On the scored cells; where a type was left out, on the cells of the other types."),
    (
        "Calibration on held-out cells of the reference's study",
        "ece_held_out",
        3,
        "Expected calibration error, 15 equal bins of the highest probability; lower is better.",
    ),
    ("Calibration on the scored cells", "ece_query", 3, "The same on the scored cells of known types."),
    (
        "Recognition of the type that was left out",
        "auroc",
        3,
        "Area under the ROC curve of each method's own score, cells of the left-out type against the other scored "
        "cells; that of the peers is one minus the highest probability.",
    ),
    ("Seconds", "seconds", 1, "Processor seconds to train and predict, including training without labels."),
)
REJECTED = {
    "rejected_held_out": "held-out cells of known types",
    "rejected_query": "scored cells of known types",
    "rejected_left_out": "cells of the left-out type",
}
SIZES = {
    "n_types": "types",
    "is_reference": "labelled cells",
    "is_held_out": "held-out cells",
    "is_test": "scored cells",
    "n_cells": "all cells",
}


def over_seeds(records: pd.DataFrame, metric: str, digits: int) -> pd.DataFrame:
    """Tasks by methods, in the order of the records, with a row of means where tasks a to c have the metric."""
    runs = records.dropna(subset=[metric])
    by_run, n_seeds = runs.groupby(["task", "method"], sort=False)[metric], runs["seed"].nunique()
    rows = by_run.apply(spread, digits=digits, n_seeds=n_seeds).unstack(fill_value=DASH)
    whole, name = runs[~runs["task"].str.startswith("d_")], MEAN
    if whole.empty:
        whole, name = runs, MEAN_OF_D
    if metric != "seconds":
        by_seed = whole.groupby(["seed", "method"], sort=False)[metric]
        # a mean over some of the tasks would compare a method's easy tasks with all of another's
        complete = by_seed.mean()[by_seed.count() == whole["task"].nunique()]
        seeds = complete.unstack()
        rows.loc[name] = [spread(seeds[method], digits) if method in seeds else DASH for method in rows]
    return rows.rename_axis("task").reindex(columns=[m for m in records["method"].unique() if m in rows])


def rejections(records: pd.DataFrame) -> pd.DataFrame:
    """Share of cells rejected at 0.05, tasks and methods by groups of cells."""
    runs = records.dropna(subset=["rejected_held_out"])
    names = runs["task"] + ", " + runs["method"]
    groups = {title: column for column, title in REJECTED.items() if column in runs}
    return pd.DataFrame(
        {title: runs.groupby(names, sort=False)[column].apply(spread, digits=3) for title, column in groups.items()}
    ).rename_axis("task, method")


def task_sizes(records: pd.DataFrame) -> pd.DataFrame:
    """Numbers of cells and types of each task with the first seed, and the types left out over the seeds."""
    by_task = records.groupby("task", sort=False)
    sizes = by_task[list(SIZES)].first().rename(columns=SIZES).map("{:,}".format)
    sizes["left out, by seed"] = by_task["left_out"].agg(lambda names: ", ".join(dict.fromkeys(names.dropna())) or DASH)
    return sizes


def page(records: pd.DataFrame, command: str, title: str = "Annotation of cell types") -> Iterator[str]:
    """Sections of the page; `records` has one row per task, method and seed."""
    yield f"# {title}"
    yield from comparison(records, command)


def settings_page(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Sections of the page of LABELVI's settings."""
    yield "# Settings of LABELVI"
    yield "The column *labelvi* has the defaults; in each of the others one setting is changed."
    yield from comparison(records, command)


def comparison(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Tasks, every table, and how they were made."""
    yield (
        "Labels are known for the reference only; reference and query cells are in the data together, so that methods "
        "may learn from all of them. 2,000 genes, chosen without labels. "
        "a: one study of sorted blood cells, half of them scored, with 10, 50 or all other cells per type labelled. "
        "b: human pancreas between inDrop and CEL-seq. c: blood between pbmc3k and the control cells of Kang et al. "
        "The task is named by its reference. d: the same with one type left out of the reference, another one with "
        "each seed. Where studies differ, a tenth of the reference is held out to measure calibration within a study."
    )
    if "actinn_published" in set(records["method"]):
        yield (
            "*labelvi*, *actinn* and *logistic_deltavi* are models of this package with their defaults, the last of "
            "them ACTINN without hidden layers; *actinn_published* is the single network of its paper. *logistic* is "
            "scikit-learn's regression with a penalty chosen by cross-validation, *scanvi* starts from a trained SCVI "
            "and is trained on all cells."
        )
    yield f"## Tasks\n\n{markdown(task_sizes(records))}"
    dropped = records.groupby("task", sort=False)["dropped"].first().map(lambda names: ", ".join(json.loads(names)))
    for types, tasks in dropped[dropped != ""].groupby(dropped):
        yield f"Too small, and not in the data of {', '.join(tasks.index)}: {types}."
    for title, metric, digits, note in TABLES:
        if metric in records and records[metric].notna().any():
            yield f"## {title}\n\n{note}\n\n{markdown(over_seeds(records, metric, digits))}"
    if "rejected_held_out" in records and records["rejected_held_out"].notna().any():
        note = "Share of cells whose p-value is at most 0.05, for methods that give one."
        yield f"## Rejected cells\n\n{note}\n\n{markdown(rejections(records))}"
    yield f"Mean ± standard deviation over seeds. {made_by(command, PACKAGES, 'one thread per process')}"
