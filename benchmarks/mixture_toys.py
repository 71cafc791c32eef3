"""Mixtures on toy data: blobs that move with a condition, and digits with few labels or none.

    python benchmarks/mixture_toys.py --write docs/benchmarks/mixtures.md

The tasks are in mixture_toys_tasks.py, the methods in mixture_toys_methods.py. All runs are written to a table beside
the page. A method that is run again replaces its own rows of the same tasks and seeds; with --keep it is run only where
the table lacks it; with --seeds 0 nothing is run, and the page is written from the table. Everything runs in one
process and one thread.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 - the thread count must be set before NumPy is loaded
import pandas as pd  # noqa: E402
from annotation_tasks import default_folder  # noqa: E402
from mixture_toys_methods import METHODS, METHODS_OF  # noqa: E402
from mixture_toys_page import page  # noqa: E402
from mixture_toys_tasks import TASKS, Toy, build, kind_of  # noqa: E402
from runs import chosen, save  # noqa: E402

from deltavi.metrics import clustering_scores  # noqa: E402

RUN = ["task", "method", "seed"]


@lru_cache(maxsize=1)
def toy_of(name: str, folder: Path, seed: int) -> Toy:
    """One draw of a task, kept for the methods that follow one another."""
    return build(name, folder, seed)


def score(toy: Toy, found: np.ndarray) -> dict[str, Any]:
    """The scores that the task has; digits are judged on the images that were not learned from."""
    judged = ~toy.is_learned if toy.kind != "blobs" else toy.is_learned
    if toy.kind == "few labels":
        return {"test_accuracy": float((found[judged] == toy.truth[judged]).mean())}
    scores = clustering_scores(toy.truth[judged], found[judged], seed=toy.seed)
    if toy.kind == "blobs":
        purity, mixing = scores.purity, mixed(toy.condition, found)
    else:
        purity = clustering_scores(toy.truth, found, fit_on=toy.is_learned).purity
        mixing = np.nan
    return {
        "adjusted_rand": scores.adjusted_rand,
        "normalised_mutual_information": scores.normalised_mutual_information,
        "accuracy": scores.accuracy,
        "purity": purity,
        "mixing": mixing,
        "n_clusters": len(np.unique(found)),
    }


def mixed(condition: np.ndarray, clusters: np.ndarray) -> float:
    """Entropy of the condition within a cluster, mean over clusters, relative to that of equal shares."""
    counts = pd.crosstab(clusters, condition).to_numpy(dtype=float)
    shares = counts / counts.sum(1, keepdims=True)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return float(-(shares * logs).sum(1).mean() / np.log(counts.shape[1]))


def run(name: str, method: str, seed: int, folder: Path) -> dict[str, Any]:
    """The row of one run."""
    toy = toy_of(name, folder, seed)
    started = time.process_time()  # of this process: other programs on the machine do not count
    found = METHODS[method](toy)
    seconds = time.process_time() - started
    row = {"task": name, "method": method, "seed": seed, **score(toy, found), "seconds": seconds}
    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def replaced(table: pd.DataFrame, row: dict[str, Any]) -> pd.DataFrame:
    """`table` with `row` in place of that of the same run, in the order of tasks, methods and seeds."""
    rows = pd.DataFrame([row])
    if not table.empty:
        rerun = pd.MultiIndex.from_frame(table[RUN]).isin(pd.MultiIndex.from_frame(rows[RUN]))
        rows = pd.concat([table[~rerun], rows], ignore_index=True)
    places = {name: place for names in (TASKS, METHODS) for place, name in enumerate(names)}
    return rows.sort_values(RUN, key=lambda column: column.map(lambda x: places.get(x, x)), ignore_index=True)


def missing(table: pd.DataFrame, options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Runs to do: seeds outermost, so that an interrupted benchmark has all tasks and methods."""
    done = set(table[RUN].itertuples(index=False, name=None)) if options.keep and not table.empty else set()
    runs = [
        (name, method, seed)
        for seed in range(options.seeds)
        for name in options.tasks
        for method in options.methods
        if method in METHODS_OF[kind_of(name)]
    ]
    return [run for run in runs if run not in done]


def arguments() -> argparse.Namespace:
    """Parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of mnist_t10k.npz")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated (default: all)")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0; with 0 nothing is run")
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
    table = pd.read_csv(options.csv) if options.csv.exists() else pd.DataFrame()
    for name, method, seed in missing(table, options):
        table = replaced(table, run(name, method, seed, options.data))
        save(table, options.csv)
    text = page(table)
    if options.write:
        options.write.write_text(text)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
