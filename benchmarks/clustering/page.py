"""The page of the clustering benchmark: Markdown tables of mean ± standard deviation over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd

from benchmarks.harness.data import SETS
from benchmarks.harness.page import DASH, made_by, markdown, spread

PACKAGES = ("deltavi", "scvi-tools", "scanpy", "igraph", "scikit-learn", "torch")
TITLES = {
    "leiden_pca": "Leiden on PCA",
    "leiden_scvi": "Leiden on SCVI",
    "kmeans_pca": "k-means on PCA",
    "mixture_pca": "Gaussian mixture on PCA",
    "kmeans_scvi": "k-means on SCVI",
    "kmeans_mixvi": "k-means on MIXVI's z",
    "mixvi": "MIXVI",
}
# Types of few cells, looked for one by one.
RARE = {
    "pbmc3k": ("DC", "Platelet"),
    "kang_control": ("Megakaryocyte", "Dendritic"),
    "pancreas": ("endothelial", "macrophage"),
}
# Title of each table, its score, digits, and what to know when reading it.
TABLES = (
    ("Adjusted Rand index", "adjusted_rand", 3, "Agreement on pairs of cells; zero is that of chance."),
    ("Normalised mutual information", "normalised_mutual_information", 3, "Over the mean of the two entropies."),
    (
        "Accuracy of matched clusters",
        "accuracy",
        3,
        "Share of cells in the cluster of their type, each type matched to one cluster at most; cells of clusters that "
        "are not matched are wrong.",
    ),
    (
        "Purity on other cells",
        "purity",
        3,
        "Each cluster gets its most frequent type in a random half of the cells, and is scored on the other half.",
    ),
    ("Number of clusters", "n_clusters", 1, "For comparison with the number of types above."),
    (
        "Seconds",
        "seconds",
        1,
        "Processor seconds of one clustering, with those of the space it lies in; choosing the best of three takes "
        "about as long, since the space is the same.",
    ),
)
WHOLE = "mean"
# The granularity that a method is shown at: the default of MIXVI, and a usual one of Leiden.
FIXED = ("resolution 0.8", "12 groups")


def chosen(records: pd.DataFrame) -> pd.DataFrame:
    """One row per run and way to choose the granularity: a fixed one, and the best by the adjusted Rand index.

    A method with a single granularity has one row only.
    """
    rows = []
    for (_, method, _), run in records.groupby(["task", "method", "seed"], sort=False):
        title = TITLES[str(method)]
        if len(run) == 1:
            rows.append({**run.iloc[0], "shown": title})
        else:
            fixed = run[run["granularity"].isin(FIXED)].iloc[0]
            rows.append({**fixed, "shown": f"{title}, {fixed['granularity']}"})
            rows.append({**run.iloc[run["adjusted_rand"].to_numpy().argmax()], "shown": f"{title}, best of {len(run)}"})
    return pd.DataFrame(rows)


def by_task(rows: pd.DataFrame, score: str, digits: int) -> pd.DataFrame:
    """Methods by tasks, with a column of the mean over tasks for methods that have them all."""
    n_seeds = rows["seed"].nunique()
    cells = rows.groupby(["shown", "task"], sort=False)[score].apply(spread, digits=digits, n_seeds=n_seeds)
    table = cells.unstack(fill_value=DASH)[[task for task in SETS if task in set(rows["task"])]]
    if rows["task"].nunique() > 1 and score not in ("seconds", "n_clusters"):
        by_seed = rows.groupby(["shown", "seed"], sort=False)[score]
        # a mean over some of the tasks would compare a method's easy tasks with all of another's
        whole = by_seed.mean()[by_seed.count() == rows["task"].nunique()]
        means = whole.groupby("shown").apply(spread, digits=digits, n_seeds=n_seeds)
        table[WHOLE] = means.reindex(table.index).fillna(DASH)
    return in_order(table, rows)


def in_order(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table` in the order of the methods."""
    names = rows["method"].map({name: place for place, name in enumerate(TITLES)})
    order = rows.assign(place=names).sort_values("place", kind="stable")["shown"].unique()
    return table.reindex(order).rename_axis("method")


def rare_types(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods by rare types: best F1 of a single cluster."""
    columns = {}
    for task, labels in RARE.items():
        of_task = rows[rows["task"] == task]
        if of_task.empty:
            continue
        found, sizes = of_task["found"].map(json.loads), json.loads(of_task["rare"].iloc[0])
        for label in labels:
            values = found.map(lambda f1, label=label: f1[label]).groupby(of_task["shown"], sort=False)
            columns[f"{label} ({task}, {sizes[label]} cells)"] = values.apply(
                spread, digits=2, n_seeds=rows["seed"].nunique()
            )
    return in_order(pd.DataFrame(columns).fillna(DASH), rows)


def task_sizes(records: pd.DataFrame) -> pd.DataFrame:
    """What each task holds."""
    names = {"n_cells": "cells", "n_types": "types", "n_batches": "batches"}
    sizes = records.groupby("task", sort=False)[list(names)].first().rename(columns=names).map("{:,}".format)
    sizes.insert(0, "data", [SETS[task][1] for task in sizes.index])
    return sizes


def page(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Sections of the page; `records` has one row per task, method, seed and granularity."""
    rows = chosen(records)
    yield "# Clustering"
    yield (
        "Clusters that are found without labels, compared with the known types of the cells. 2,000 genes, chosen "
        "without labels. The batch is a covariate of SCVI and MIXVI where there are several; principal components are "
        "of log1p CP10k and not corrected for it. k-means and Gaussian mixtures have the true number of types."
    )
    yield (
        "Leiden and MIXVI are evaluated at three granularities; MIXVI is trained with its 12 components, which are "
        "then merged to 10 and 8. A row with a named granularity has the same one for all data. In *best "
        "of 3* the one with the highest adjusted Rand index is taken in every run, **chosen by the labels**, as is "
        "usual for Leiden, and impossible without labels. The other scores of that row are of the same choice."
    )
    yield f"## Data\n\n{markdown(task_sizes(records))}"
    for title, score, digits, note in TABLES:
        yield f"## {title}\n\n{note}\n\n{markdown(by_task(rows, score, digits))}"
    if set(RARE) & set(rows["task"]):
        yield f"## Rare types\n\nBest F1 of any single cluster for the type.\n\n{markdown(rare_types(rows))}"
    yield (
        f"Mean ± standard deviation over seeds (n = {records['seed'].nunique()}). Every run is in the table "
        f"`clustering.csv` beside this page. {made_by(command, PACKAGES)}"
    )
