r"""Annotation of cell types: macro-F1, calibration and the recognition of types that the reference lacks.

    python benchmarks/annotation.py --jobs 2 --cache CACHE --write docs/benchmarks/annotation.md

The tasks are in annotation_tasks.py, the methods in annotation_peers.py and annotation_ours.py. Every run leaves a
small file in the folder of --cache, so that an interrupted benchmark goes on where it was. One thread per process.
With --settings LABELVI is compared with itself, one setting changed at a time:

    python benchmarks/annotation.py --settings --tasks a_all,b_celseq,c_pbmc3k --seeds 2 --jobs 2 --cache CACHE \
        --write docs/benchmarks/annotation_settings.md

All runs are also written to a table beside the page; --resume puts those of its methods that are named into the cache,
which spares hours for peers that have not changed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pandas as pd  # noqa: E402 - the thread count must be set before NumPy is loaded
from annotation_ours import METHODS as OWN  # noqa: E402
from annotation_ours import SETTINGS  # noqa: E402
from annotation_page import page  # noqa: E402
from annotation_peers import PEERS, Peer  # noqa: E402
from annotation_tasks import NAMES, Result, Task, build_task, default_folder, family  # noqa: E402
from runs import chosen  # noqa: E402
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score  # noqa: E402

from deltavi.metrics import calibration  # noqa: E402

Method = Callable[[Task, int], Result]
LEVEL = 0.05


def from_peer(peer: Peer) -> Method:
    """The method that a peer's table of probabilities makes: strange is a cell whose highest probability is low."""

    def method(task: Task, seed: int) -> Result:
        started = time.process_time()  # of this process: other programs on the machine do not count
        found = peer(task, seed)
        seconds = time.process_time() - started + found.attrs.get("seconds_before", 0.0)
        strangeness = 1 - found.to_numpy().max(1)
        probabilities = found.div(found.sum(axis=1), axis=0)  # CellTypist's rows do not sum to one
        return Result(probabilities, strangeness, None, seconds)

    return method


METHODS: dict[str, Method] = {**OWN, **{name: from_peer(peer) for name, peer in PEERS.items()}}


def score(task: Task, result: Result) -> dict[str, float]:
    """Every metric of one run; those of left-out types only where the task has one."""
    truth = task.adata.obs["label_true"].astype(str)
    strange = (truth == task.left_out).to_numpy()
    test, held_out = task.mask("is_test"), task.mask("is_held_out")
    known = test & ~strange
    predicted = result.probabilities.idxmax(axis=1)
    types = sorted(set(truth[known]))
    found = {
        "macro_f1": f1_score(truth[known], predicted[known], labels=types, average="macro", zero_division=0),
        "accuracy": accuracy_score(truth[known], predicted[known]),
        "seconds": result.seconds,
    }
    for name, cells in (("held_out", held_out), ("query", known)):
        judged = calibration(result.probabilities[cells], truth[cells])
        found |= {f"ece_{name}": judged.ece, f"brier_{name}": judged.brier}
    if task.left_out is not None:
        found["auroc"] = roc_auc_score(strange[test], result.strangeness[test])
    if result.p_values is not None:
        groups = {"held_out": held_out, "query": known} | ({"left_out": test & strange} if task.left_out else {})
        found |= {f"rejected_{name}": (result.p_values[cells] <= LEVEL).mean() for name, cells in groups.items()}
    return {name: float(value) for name, value in found.items()}


def describe(task: Task) -> dict[str, Any]:
    """What the page says about a task."""
    sizes = {column: int(task.mask(column).sum()) for column in ("is_reference", "is_held_out", "is_test")}
    about = {"n_cells": task.adata.n_obs, "n_types": len(task.types), "left_out": task.left_out}
    return {"task": task.name, "seed": task.seed, "dropped": list(task.dropped), **about, **sizes}


@dataclass(frozen=True)
class Job:
    """Tasks that share their cells, with one seed: what one process does at a time."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seed: int
    data: Path
    cache: Path

    def files(self) -> dict[tuple[str, str], Path]:
        """File of each task and method."""
        return {(t, m): self.cache / f"{t}--{m}--{self.seed}.json" for t in self.tasks for m in self.methods}


def run(job: Job) -> None:
    """Run what is missing in the cache, and write it there."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    missing = {key: path for key, path in job.files().items() if not path.exists()}
    for method in job.methods:  # one method after the other, so that what it learned without labels can be used again
        for name in job.tasks:
            if (name, method) in missing:
                task = build_task(name, job.data, job.seed)
                record = describe(task) | {"method": method} | score(task, METHODS[method](task, job.seed))
                write(missing[name, method], json.dumps(record, indent=1))
                shown = {key: round(value, 3) for key, value in record.items() if isinstance(value, float)}
                print(name, method, job.seed, shown, flush=True)


def write(path: Path, text: str) -> None:
    """Write a file that is either whole or not there."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text)
    unfinished.replace(path)


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """One job per seed and family of tasks."""
    families: dict[str, list[str]] = {}
    for task in options.tasks:
        families.setdefault(family(task), []).append(task)
    return [
        Job(tuple(tasks), tuple(options.methods), seed, options.data, options.cache)
        for seed in range(options.seeds)
        for tasks in families.values()
    ]


def arguments() -> argparse.Namespace:
    """Parsed command line."""
    usual = [name for name in METHODS if name not in SETTINGS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of the h5ad files")
    parser.add_argument("--tasks", default=",".join(NAMES), help="comma-separated (default: all)")
    parser.add_argument("--methods", default=",".join(usual), help="comma-separated (default: all)")
    parser.add_argument("--settings", action="store_true", help="compare settings of LABELVI, instead of methods")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each of one thread")
    parser.add_argument("--cache", type=Path, required=True, help="folder with a small file per run")
    parser.add_argument("--write", type=Path, help="Markdown file to write, and a table of all runs beside it")
    parser.add_argument("--resume", default="", help="comma-separated methods whose runs are taken from that table")
    parser.add_argument("--title", default="Annotation of cell types", help="of the page")
    parser.add_argument("--collect", action="store_true", help="run nothing: write what the cache holds")
    options = parser.parse_args()
    if options.settings:
        options.methods = ",".join(["labelvi", *SETTINGS])
    options.tasks, options.methods = chosen(options.tasks, NAMES), chosen(options.methods, METHODS)
    return options


def resume(options: argparse.Namespace) -> None:
    """Put runs of the table beside the page into the cache, where it lacks them."""
    table = pd.read_csv(options.write.with_suffix(".csv"))
    for row in table[table["method"].isin(options.resume.split(","))].to_dict("records"):
        path = options.cache / f"{row['task']}--{row['method']}--{row['seed']}.json"
        if not path.exists():
            present = {key: value for key, value in row.items() if not pd.isna(value)}
            write(path, json.dumps({"left_out": None} | present | {"dropped": json.loads(row["dropped"])}, indent=1))


def main() -> None:
    """Run what is missing and write the page."""
    options = arguments()
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.resume:
        resume(options)
    jobs = jobs_of(options)
    if not options.collect:
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            list(pool.map(run, jobs))
    paths = [path for job in jobs for path in job.files().values() if path.exists()]
    records = pd.DataFrame([json.loads(path.read_text()) for path in paths])
    text = page(records, options)
    print(f"\n{text}")
    if options.write:
        options.write.write_text(text)
        kept = records.assign(dropped=records["dropped"].map(json.dumps)).sort_values(["task", "method", "seed"])
        kept.to_csv(options.write.with_suffix(".csv"), index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
