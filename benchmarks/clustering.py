"""Clustering without labels: agreement of clusters with known cell types, and the rare types among them.

    python benchmarks/clustering.py --cache CACHE --write docs/benchmarks/clustering.md

The tasks are in clustering_tasks.py, the methods in clustering_peers.py; Leiden needs python-igraph. All runs are
written to a table beside the page, a row per granularity. A method that is run again replaces its own rows of the same
tasks and seeds; with --keep it is run only where the table lacks it. Everything runs in one process and one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 - the thread count must be set before NumPy is loaded
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from anndata import AnnData  # noqa: E402
from annotation_tasks import default_folder  # noqa: E402
from clustering_page import RARE, page  # noqa: E402
from clustering_peers import METHODS, Cells, Clustering, leiden  # noqa: E402
from clustering_tasks import TASKS, build  # noqa: E402
from runs import chosen, save  # noqa: E402

from deltavi.metrics import clustering_scores  # noqa: E402

RUN = ["task", "method", "seed"]


@lru_cache(maxsize=len(TASKS))
def task(name: str, folder: Path) -> tuple[Cells, pd.Series]:
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


def run(name: str, method: str, seed: int, options: argparse.Namespace) -> pd.DataFrame:
    """The rows of one run."""
    cells, truth = task(name, options.data)
    about = {"task": name, "method": method, "seed": seed}
    torch.set_num_threads(1)  # graphs of neighbours set it back, which makes training ten times slower
    found = METHODS[method](cells, seed, options.cache)
    rows = pd.DataFrame([{**about, **score(one, truth, seed), **describe(cells, truth)} for one in found])
    shown = rows[["granularity", "adjusted_rand", "n_clusters", "seconds"]].round(3)
    print(name, method, seed, *shown.itertuples(index=False, name=None), flush=True)
    return rows


def replaced(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """`table` with `rows` in place of those of the same runs, in the order of tasks, methods and seeds."""
    if not table.empty:
        rerun = pd.MultiIndex.from_frame(table[RUN]).isin(pd.MultiIndex.from_frame(rows[RUN]))
        rows = pd.concat([table[~rerun], rows], ignore_index=True)
    places = {name: place for names in (TASKS, METHODS) for place, name in enumerate(names)}
    # stable, so that granularities stay in their order
    return rows.sort_values(
        RUN, key=lambda column: column.map(lambda x: places.get(x, x)), kind="stable", ignore_index=True
    )


def missing(table: pd.DataFrame, options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Runs to do: seeds outermost, so that an interrupted benchmark has all tasks and methods."""
    done = set(table[RUN].itertuples(index=False, name=None)) if options.keep and not table.empty else set()
    runs = [(name, m, seed) for seed in range(options.seeds) for name in options.tasks for m in options.methods]
    return [run for run in runs if run not in done]


def warm_up() -> None:
    """Let what Leiden needs be compiled, so that its seconds are not charged to the first run."""
    leiden((np.random.default_rng(0).normal(size=(100, 5)), 0.0), 0)


def arguments() -> argparse.Namespace:
    """Parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of the h5ad files")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated (default: all)")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0; with 0 nothing is run")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the latent spaces of SCVI")
    parser.add_argument("--write", type=Path, help="Markdown file to write, and the table of all runs beside it")
    parser.add_argument("--csv", type=Path, help="table of all runs, if not beside the page")
    parser.add_argument("--keep", action="store_true", help="do not repeat runs that the table has")
    options = parser.parse_args()
    options.tasks, options.methods = chosen(options.tasks, TASKS), chosen(options.methods, METHODS)
    options.csv = options.csv or (options.write and options.write.with_suffix(".csv"))
    if options.csv is None:
        parser.error("--write or --csv must say where the runs are to be kept")
    return options


def main() -> None:
    """Run the methods, write every run to the table, and the page of the whole table."""
    warnings.filterwarnings("ignore")
    options = arguments()
    options.cache.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(options.csv) if options.csv.exists() else pd.DataFrame()
    warm_up()
    for name, method, seed in missing(table, options):
        table = replaced(table, run(name, method, seed, options))
        save(table, options.csv)
    text = page(table)
    if options.write:
        options.write.write_text(text)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
