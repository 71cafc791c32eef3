"""Annotation of cell types: macro-F1, calibration and the recognition of types that the reference lacks.

    python -m benchmarks annotation --jobs 2 --write docs/benchmarks/annotation.md

Tasks, other methods and those of this package are in the modules beside this one. Two pages more: settings of LABELVI,
one changed at a time, and a mixture that carries labels from one study to another.

    python -m benchmarks annotation-settings --jobs 2 --write docs/benchmarks/annotation_settings.md
    python -m benchmarks transfer --write docs/benchmarks/transfer.md
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from benchmarks.annotation.ours import METHODS as OWN
from benchmarks.annotation.ours import SETTINGS
from benchmarks.annotation.page import page, settings_page
from benchmarks.annotation.peers import PEERS, Peer
from benchmarks.annotation.tasks import NAMES, Result, Task, build_task, family
from benchmarks.harness import runs
from benchmarks.harness.runs import Rows, Run, Study
from deltavi.metrics import calibration

Method = Callable[[Task, int], Result]
LEVEL = 0.05


def from_peer(peer: Peer) -> Method:
    """The method that a peer's table of probabilities makes: strange is a cell whose highest probability is low."""

    def method(task: Task, seed: int) -> Result:
        started = time.process_time()  # of this process: other programs on the machine do not count
        found = peer(task, seed)
        seconds = time.process_time() - started + found.attrs.get("seconds_before", 0.0)
        novelty_score = 1 - found.to_numpy().max(1)
        probabilities = found.div(found.sum(axis=1), axis=0)  # CellTypist's rows do not sum to one
        return Result(probabilities, novelty_score, None, seconds)

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
        found["auroc"] = roc_auc_score(strange[test], result.novelty_score[test])
    if result.p_values is not None:
        groups = {"held_out": held_out, "query": known} | ({"left_out": test & strange} if task.left_out else {})
        found |= {f"rejected_{name}": (result.p_values[cells] <= LEVEL).mean() for name, cells in groups.items()}
    return {name: float(value) for name, value in found.items()}


def describe(task: Task) -> dict[str, Any]:
    """What the page says about a task."""
    sizes = {column: int(task.mask(column).sum()) for column in ("is_reference", "is_held_out", "is_test")}
    about = {"n_cells": task.adata.n_obs, "n_types": len(task.types), "left_out": task.left_out}
    return {"dropped": json.dumps(task.dropped), **about, **sizes}


def work(run: Run, data: Path) -> Rows:
    """The row of one run."""
    task = build_task(run.task, data, run.seed)
    return [describe(task) | score(task, METHODS[run.method](task, run.seed))]


def together(run: Run) -> tuple[str, str, int]:
    """Tasks that share their cells, so that what a method learned without labels can be used again."""
    return family(run.task), run.method, run.seed


QUICK = {"tasks": ["a_10"], "methods": ["logistic_deltavi", "knn"]}
# MIXVI has a page of its own, and CellTypist need not be installed.
UNUSUAL = {*SETTINGS, "mixvi", *([] if find_spec("celltypist") else ["celltypist"])}
USUAL = [name for name in METHODS if name not in UNUSUAL]
STUDIES = {
    "annotation": Study("annotation", __doc__, NAMES, list(METHODS), work, page, USUAL, together, QUICK),
    "annotation-settings": Study(
        "annotation-settings", __doc__, ("a_all", "b_celseq", "c_pbmc3k"), ["labelvi", *SETTINGS], work, settings_page
    ),
    "transfer": Study(
        "transfer",
        __doc__,
        ("c_pbmc3k", "c_kang"),
        ("mixvi", "labelvi", "actinn", "logistic", "scanvi"),
        work,
        partial(page, title="Labels from one study to another"),
        together=together,
    ),
}


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDIES[study], arguments)
