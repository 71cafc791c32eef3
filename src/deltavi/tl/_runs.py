"""The work of an evaluation: one hold-out and seed at a time, here or in several processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from deltavi._types import State
from deltavi.perturbation import BASELINES, SPLIT_HALF, baseline_predictions
from deltavi.perturbation.inputs import as_names
from deltavi.tl._certainty import UNKNOWN, certainty
from deltavi.tl._experiment import Experiment, prepare, score, training_ranking
from deltavi.tl._methods import Conditions, Method, Prediction, Predictor, run_method
from deltavi.tl._processes import is_elsewhere, spread
from deltavi.tl._resume import RunFolder, described
from deltavi.tl.quiet import collected_warnings, one_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deltavi.tl._splits import HoldOut

NO_CHANGE = "no change"
"""The baseline that stands beside every method."""

MODEL, BASELINE, OF_SPLIT_HALF = "model", "baseline", "split_half"


@dataclass(frozen=True)
class Group:
    """Rows that are computed together: those of one method, the baselines, or the ceiling."""

    kind: str
    name: str


ALL_BASELINES = Group(BASELINE, "all baselines")
ONLY_NO_CHANGE = Group(BASELINE, NO_CHANGE)
THE_SPLIT_HALF = Group(OF_SPLIT_HALF, SPLIT_HALF)


@dataclass(frozen=True, eq=False)
class Plan:
    """Settings that all parts of an evaluation share; methods are described before they run, which may change them."""

    methods: Mapping[str, Method | Predictor]
    control: str
    condition_key: str
    labels_key: str
    n_genes: int
    genes_from_all_cells: bool
    top_genes: str
    keep_predictions: bool
    descriptions: Mapping[str, object]

    def signature(self, group: Group, hold_out: HoldOut) -> dict[str, object]:
        """Settings of a group of rows, beside the data and the settings of all."""
        masks = {"held-out cells": hold_out.held_out, "query": hold_out.query, "reference": hold_out.apart}
        cells = {name: described(mask) for name, mask in masks.items()}
        if group.kind == MODEL:
            return {**cells, "method": self.descriptions[group.name]}
        return {**cells, "method": described(BASELINES) if group == ALL_BASELINES else group.name}


@dataclass(frozen=True, eq=False)
class Task:
    """One hold-out and seed, with the groups of rows still to be computed."""

    hold_out: HoldOut
    seed: int
    groups: tuple[Group, ...]

    def key(self, group: Group) -> tuple[str, ...]:
        """Key under which the rows of a group are stored."""
        return (self.hold_out.name, self.hold_out.perturbation, str(self.seed), group.kind, group.name)


@dataclass(frozen=True)
class Result:
    """Rows of one group, warnings, and paths of predicted cells in the folder (row -> path)."""

    key: tuple[str, ...]
    rows: list[State]
    warnings: list[str] = field(default_factory=list)
    predictions: dict[str, str] = field(default_factory=dict)


def run_tasks(
    adata: AnnData, tasks: Sequence[Task], plan: Plan, folder: RunFolder | None, n_jobs: int
) -> Iterator[Result]:
    """Run every task, in this process or, with several, in processes of one thread each, here or on a cluster."""
    if n_jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield from run_task(adata, task, plan, folder)
        return
    if folder is not None and is_elsewhere():
        folder = folder.anywhere()
    run = partial(_run_elsewhere, plan=plan, folder=folder)
    for results in spread(run, adata, tasks, n_jobs, shared=None if folder is None else folder.path):
        yield from results


def _run_elsewhere(adata: AnnData, task: Task, *, plan: Plan, folder: RunFolder | None) -> list[Result]:
    return list(run_task(adata, task, plan, folder))


def run_task(adata: AnnData, task: Task, plan: Plan, folder: RunFolder | None) -> Iterator[Result]:
    """Prepare one hold-out and compute its groups; each is stored as soon as it is finished."""
    hold_out = task.hold_out
    conditions = Conditions(plan.control, hold_out.perturbation, plan.condition_key, plan.labels_key)
    with one_thread(), collected_warnings():
        cells = prepare(
            adata,
            hold_out,
            condition_key=plan.condition_key,
            layer=None,
            n_genes=plan.n_genes,
            genes_from_all_cells=plan.genes_from_all_cells,
        )
        ranking = training_ranking(cells.train, **conditions.as_dict()) if plan.top_genes == "training" else None
    for group in task.groups:
        try:
            with one_thread(), collected_warnings() as messages:
                predictions = list(_predict(group, cells, conditions, plan, task.seed))
                rows = [
                    row
                    for label in hold_out.labels
                    for row in _rows(task, group, cells, predictions, label, plan, ranking)
                ]
        except Exception as error:
            error.add_note(
                f"This was {group.name!r} on the hold-out {hold_out.name!r} under {hold_out.perturbation!r}."
            )
            raise
        yield _filed(task, group, plan, folder, rows, messages, _kept(task, plan, folder, cells, predictions, group))


def _filed(
    task: Task,
    group: Group,
    plan: Plan,
    folder: RunFolder | None,
    rows: list[State],
    messages: list[str],
    kept: dict[str, str],
) -> Result:
    result = Result(task.key(group), rows, messages, kept)
    if folder is not None:
        folder.write(result.key, plan.signature(group, task.hold_out), asdict(result))
    return result


def _predict(group: Group, cells: Experiment, conditions: Conditions, plan: Plan, seed: int) -> Iterator[Prediction]:
    """Predictions of a group."""
    if group.kind == MODEL:
        yield from run_method(group.name, plan.methods[group.name], cells, conditions, seed)
    elif group == ALL_BASELINES:
        started = time.process_time()
        predicted = baseline_predictions(cells.train, cells.query, **conditions.as_dict())
        # they share most of the work: each is charged an equal part
        seconds = (time.process_time() - started) / len(predicted)
        yield from (Prediction(name, found.X, seconds) for name, found in predicted.items())
    else:
        yield Prediction(NO_CHANGE, cells.query.X, 0.0 if group.kind == BASELINE else float("nan"))


def _rows(
    task: Task,
    group: Group,
    cells: Experiment,
    predictions: Sequence[Prediction],
    label: str,
    plan: Plan,
    ranking: NDArray[np.intp] | None,
) -> list[State]:
    """Rows of one label."""
    parts = cells.query, cells.real, cells.reference
    control, real, reference = (as_names(part.obs[plan.labels_key]) == label for part in parts)
    table = score(
        {prediction.name: prediction.matrix[control] for prediction in predictions},
        cells.real.X[real],
        cells.query.X[control],
        reference=cells.reference.X[reference] if reference.any() else None,
        components=cells.components,
        ranking=ranking,
        split_half=group.kind == OF_SPLIT_HALF,
        seed=task.seed,
    )
    scores: dict[Any, dict[Any, float]] = table.astype(float).to_dict(orient="index")
    seconds = {prediction.name: prediction.seconds for prediction in predictions}
    measured = cells.real.X[real], cells.query.X[control], cells.query.var_names
    sure = {prediction.name: certainty(prediction.evidence, label, *measured) for prediction in predictions}
    shared = {
        "hold_out": task.hold_out.name,
        "label": label,
        "perturbation": task.hold_out.perturbation,
        "seed": task.seed,
    }
    counted = {"n_control": int(control.sum()), "n_reference": int(reference.sum()), "n_real": int(real.sum())}
    names = [SPLIT_HALF] if group.kind == OF_SPLIT_HALF else list(seconds)
    return [
        {
            **shared,
            "method": name,
            "kind": group.kind,
            **counted,
            "seconds": seconds.get(name, float("nan")),
            **sure.get(name, UNKNOWN),
            **scores[name],
        }
        for name in names
    ]


def _kept(
    task: Task, plan: Plan, folder: RunFolder | None, cells: Experiment, predictions: Sequence[Prediction], group: Group
) -> dict[str, str]:
    """Write predicted cells if they are to be kept; row -> path."""
    if folder is None or not plan.keep_predictions or group.kind == OF_SPLIT_HALF:
        return {}
    return {
        prediction.name: folder.write_cells(
            (*task.key(group), prediction.name), _as_cells(prediction, cells.query, task, plan)
        )
        for prediction in predictions
    }


def _as_cells(prediction: Prediction, query: AnnData, task: Task, plan: Plan) -> AnnData:
    """Predicted cells on their own: log1p CP10k in X, obs of the control cells under the perturbed condition."""
    obs = query.obs.copy()
    obs[plan.condition_key] = task.hold_out.perturbation
    matrix = prediction.matrix
    made = AnnData(sparse.csr_matrix(matrix) if sparse.issparse(matrix) else np.asarray(matrix), obs=obs)
    made.var_names = query.var_names
    names = {"method": prediction.name, "hold_out": task.hold_out.name, "perturbation": task.hold_out.perturbation}
    made.uns["evaluation"] = {**names, "seed": task.seed}
    return made
