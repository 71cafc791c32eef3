"""Clustering without labels: agreement of clusters with known cell types, and the rare types among them.

    python -m benchmarks clustering --write docs/benchmarks/clustering.md

The methods are in methods.py; Leiden needs igraph. Every granularity of a run is a row of the table.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from benchmarks.clustering.methods import METHODS, Cells, Clustering, leiden
from benchmarks.clustering.page import RARE, page
from benchmarks.harness import runs
from benchmarks.harness.data import SETS, build
from benchmarks.harness.runs import Rows, Run, Study
from deltavi.metrics import clustering_scores


@lru_cache(maxsize=len(SETS))
def cells_of(name: str, folder: Path) -> tuple[Cells, pd.Series]:
    """The cells of a task without their types, and the types."""
    adata = build(name, folder)
    truth = adata.obs["label_true"].astype(str)
    hidden = AnnData(adata.X, obs=adata.obs[["batch", "total_counts"]].copy(), var=adata.var[[]].copy())
    return Cells(name, hidden, truth.nunique()), truth


def describe(cells: Cells, truth: pd.Series) -> dict[str, Any]:
    """What the page says about a task."""
    sizes = truth.value_counts()
    rare = {label: int(sizes[label]) for label in RARE.get(cells.task, ())}
    about = {"n_cells": len(truth), "n_types": len(sizes), "n_batches": cells.adata.obs["batch"].nunique()}
    return {**about, "rare": json.dumps(rare)}


def score(found: Clustering, truth: pd.Series, seed: int) -> dict[str, Any]:
    """Every score of one clustering."""
    scores = clustering_scores(truth.to_numpy(), found.clusters, seed=seed)
    return {
        "granularity": found.granularity,
        "adjusted_rand": scores.adjusted_rand,
        "normalised_mutual_information": scores.normalised_mutual_information,
        "accuracy": scores.accuracy,
        "purity": scores.purity,
        "n_clusters": len(np.unique(found.clusters)),
        "seconds": found.seconds,
        "found": json.dumps({label: round(f1, 4) for label, f1 in scores.found.items()}),
    }


def work(run: Run, data: Path) -> Rows:
    """The rows of one run."""
    if run.method.startswith("leiden"):
        warm_up()
    cells, truth = cells_of(run.task, data)
    torch.set_num_threads(1)  # graphs of neighbours set it back, which makes training ten times slower
    about = describe(cells, truth)
    return [score(one, truth, run.seed) | about for one in METHODS[run.method](cells, run.seed)]


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Let what Leiden needs be compiled, so that its seconds are not charged to the first run."""
    leiden((np.random.default_rng(0).normal(size=(100, 5)), 0.0), 0)


def together(run: Run) -> tuple[str, str, int]:
    """Methods on the same space, which is found once."""
    return run.task, run.method.split("_")[-1], run.seed


QUICK = {"tasks": ["pbmc3k"], "methods": ["kmeans_pca"]}
STUDY = Study("clustering", __doc__, list(SETS), list(METHODS), work, page, None, together, QUICK)


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDY, arguments)
