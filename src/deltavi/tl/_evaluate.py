"""Held-out evaluation of predicted responses, in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

import deltavi
from deltavi import _entries as entries
from deltavi._entries import flag, seed_number, shown, whole_number
from deltavi._errors import DeltaviError, unknown_category
from deltavi._reading import known_arguments
from deltavi.perturbation import BASELINES
from deltavi.perturbation.inputs import check_unique_genes
from deltavi.pp.prepare import TOTAL_COUNTS
from deltavi.registry.columns import user_columns
from deltavi.registry.counts import counts_of
from deltavi.registry.tables import require_cells
from deltavi.tl._evaluation import (
    COLUMNS,
    PREDICTION_COLUMNS,
    SCORES,
    SKIPPED_COLUMNS,
    PerturbationEvaluation,
    require_own_tables,
)
from deltavi.tl._halves import few_controls, halved
from deltavi.tl._masks import CellIdentities
from deltavi.tl._methods import Given, resolve_methods
from deltavi.tl._resume import RunFolder, data_fingerprint, described
from deltavi.tl._runs import (
    ALL_BASELINES,
    BASELINE,
    MODEL,
    NO_CHANGE,
    ONLY_NO_CHANGE,
    THE_SPLIT_HALF,
    Group,
    Plan,
    Result,
    Task,
    run_tasks,
)
from deltavi.tl._splits import HoldOut, Question, Skipped, question_of, resolve_hold_outs
from deltavi.tl.quiet import collected_warnings
from deltavi.train.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP_GENES = ("held-out", "training")
IN_FOLDER = "evaluate_perturbation(folder=...)"


@known_arguments
def evaluate_perturbation(
    adata: AnnData,
    methods: Given | Iterable[Given] | Mapping[str, Given] | None = None,
    *,
    control: str,
    perturbation: str | Sequence[str] | None = None,
    condition_key: str = "condition",
    labels_key: str = "cell_type",
    layer: str | None = None,
    hold_out: str | Iterable[str] | Mapping[str, object] | None = None,
    n_genes: int = 2000,
    genes_from_all_cells: bool = False,
    top_genes: Literal["held-out", "training"] = "held-out",
    baselines: bool | str | Sequence[str] = True,
    split_half: bool = True,
    seeds: int | Sequence[int] = (0,),
    n_jobs: int = 1,
    folder: str | os.PathLike[str] | None = None,
    keep_predictions: bool = False,
    progress: bool = True,
) -> PerturbationEvaluation:
    """Hold out responses in turn, predict each with methods trained without it, and score all of them.

    For every hold-out the control cells of each of its labels are cut into two random halves, where there are at least
    20. One half is held out with the perturbed cells: the real change of the share explained is measured from it. Genes
    are chosen anew without these cells, methods and baselines are trained on all others, and predict from the first
    half, which is among the training cells. Held-out cells are used for scores alone: for the differential genes of the
    scores named "top" (unless `top_genes` says otherwise) and, with all others, for the axes along which distances are
    measured. Each process uses one thread.

    Parameters
    ----------
    adata
        Raw counts of all genes, (n_cells, n_genes). It is not changed. Counts in a file are read into memory.
    methods
        One or several of: a model class, a :class:`Method`, a function
        ``f(train, query, *, control, perturbation, condition_key, labels_key, seed)`` that returns predicted cells as
        AnnData or matrix (n_query, n_genes), log1p CP10k; or a mapping from name to such. SCGEN when None. Functions
        get log1p CP10k in X and raw counts in ``layers["counts"]``.
    control, perturbation
        Condition to start from, and one or several to predict; every other condition when None.
    condition_key, labels_key
        obs columns of condition and label.
    layer
        Layer with the raw counts; X when None.
    hold_out
        Cells to hold out: None each label under each perturbation in turn; the name of an obs column, such as a donor,
        the perturbed cells of each of its values in turn, of all labels; several label names these labels; a mapping
        from name to a boolean mask over all cells, or to a :class:`Split`, your own splits.
    n_genes
        Number of variable genes.
    genes_from_all_cells
        Choose genes with the held-out cells, too: a small leak, the same for every method, that some published
        comparisons have.
    top_genes
        Source of the genes of the scores named "top": ``"held-out"``, those that change most between the query
        and the real held-out cells; ``"training"``, those that change most in the training cells, on average over the
        labels seen in both conditions.
    baselines
        Baselines beside the methods: all, none but "no change", which always stands there, or those named.
    split_half
        Add what one half of the real cells predicts of the other.
    seeds
        Seed or seeds; each is a training of its own, with halves of its own.
    n_jobs
        Processes to spread hold-outs and seeds over; -1 for one per core. The result does not depend on it. Within
        ``joblib.parallel_config("dask")`` those of a cluster, which read the cells from a hidden file in `folder`.
    folder
        Write every finished part here at once, and do not compute again what is there: an interrupted call goes on
        where it stopped, and one with further methods, seeds or hold-outs adds them. Other files in it stay; where one
        has a name that is needed, the folder is refused before the first training.
    keep_predictions
        Write the predicted cells to the folder, too.
    progress
        Show a progress bar on standard error, where that is a terminal, or in a notebook.

    Returns
    -------
    The scores and what was skipped.

    Raises
    ------
    UnknownCategoryError
        If a column, condition, label or baseline does not exist.
    InputDataError
        If the matrix does not hold raw counts, a cell is on both sides of a split, a mask is invalid, or a method
        returns the wrong number of cells, or NaN.
    GeneMatchError
        If gene names repeat, or a method returns other genes.
    DeltaviError
        If a label asked for by name has too few cells, nothing is left to learn from or to hold out, names clash, or
        the folder belongs to another evaluation.

    Examples
    --------
    >>> from deltavi.datasets import simulate_perturbation
    >>> from deltavi.model import PPCA
    >>> from deltavi.tl import evaluate_perturbation
    >>> cells = simulate_perturbation(n_genes=200, n_cell_types=4, n_batches=1, n_cells_per_group=30)
    >>> evaluation = evaluate_perturbation(cells, PPCA, control="control", progress=False)
    >>> evaluation.summary("e_distance").index[-1]
    'split-half ceiling'
    """
    n_genes, n_jobs = whole_number("n_genes", n_genes, least=1), whole_number("n_jobs", n_jobs)
    switches = {"genes_from_all_cells": genes_from_all_cells, "split_half": split_half, "progress": progress}
    for switch, value in {**switches, "keep_predictions": keep_predictions}.items():
        flag(switch, value)
    names = {"condition_key": condition_key, "labels_key": labels_key}
    # others than AnnData are refused below
    adata = require_cells(adata) if isinstance(adata, AnnData) else adata
    question = question_of(adata, control=control, perturbation=perturbation, **names)
    settings: dict[str, object] = {
        "control": question.control,
        "condition_key": condition_key,
        "labels_key": labels_key,
        "layer": layer,
        "n_genes": n_genes,
        "genes_from_all_cells": bool(genes_from_all_cells),
        "top_genes": top_genes,
    }
    if folder is not None:
        folder = require_own_tables(folder)
    numbers = _seeds(seeds)
    _check_options(top_genes, n_jobs, folder, keep_predictions)
    wanted = _baselines(baselines)
    resolved = resolve_methods(methods)
    plan = Plan(
        resolved,
        question.control,
        **names,
        n_genes=n_genes,
        genes_from_all_cells=genes_from_all_cells,
        top_genes=top_genes,
        keep_predictions=keep_predictions,
        descriptions={name: described(method) for name, method in resolved.items()},
    )
    hold_outs, skipped = resolve_hold_outs(question, hold_out)
    with collected_warnings():
        cells = _lean(adata, layer)
    tasks = [(halved(part, question, seed), seed) for part in hold_outs for seed in numbers]
    _require_apart(cells, [part for part, _ in tasks])
    place = None if folder is None else RunFolder(folder, _identity(cells, question, settings))
    groups = _groups(plan, wanted, split_half)
    results = _computed(cells, [Task(*task, groups) for task in tasks], plan, place, n_jobs, progress)
    settings |= {
        "perturbations": list(question.perturbations),
        "hold_outs": [[part.name, part.perturbation, *part.labels] for part in hold_outs],
        "seeds": list(numbers),
        "baselines": wanted,
        "split_half": bool(split_half),
        "methods": plan.descriptions,
        "deltavi_version": deltavi.__version__,
    }
    evaluation = _assembled(results, settings, skipped, wanted)
    if place is not None:
        evaluation.save(place.path)
    return evaluation


def _seeds(given: Any) -> tuple[int, ...]:
    try:
        numbers = [seed_number("seeds", one) for one in ([given] if np.ndim(given) == 0 else given)]
    except (DeltaviError, ValueError):  # of lists of unequal length
        numbers = []
    if not numbers:
        raise DeltaviError(
            f"seeds is {shown(given)}; pass one or several whole numbers of at least 0, such as (0, 1, 2)."
        )
    return tuple(dict.fromkeys(numbers))


def _check_options(top_genes: str, n_jobs: int, folder: object, keep_predictions: bool) -> None:
    if not isinstance(top_genes, str) or top_genes not in TOP_GENES:
        raise unknown_category("top_genes", top_genes, TOP_GENES, among="the choices")
    if n_jobs == 0:
        raise DeltaviError(f"n_jobs is {n_jobs!r}; pass a number of processes, or -1 for one per core.")
    if keep_predictions and folder is None:
        raise DeltaviError("keep_predictions needs a folder to write the predicted cells to: pass folder=...")


def _baselines(given: bool | str | Iterable[str]) -> list[str]:
    """Names of the baselines wanted, in the order of `BASELINES`; "no change" is always one."""
    if isinstance(given, bool):
        return list(BASELINES) if given else [NO_CHANGE]
    names = entries.names("baselines", given)
    for name in names:
        if name not in BASELINES:
            raise unknown_category("baseline", name, BASELINES, among="the baselines")
    return [name for name in BASELINES if name in {NO_CHANGE, *names}]


def _lean(adata: AnnData, layer: str | None) -> AnnData:
    """Counts and obs alone, in memory, in one form for any form of the input."""
    check_unique_genes(adata.var_names, "adata")
    counts = counts_of(adata, layer)
    counts.eliminate_zeros()
    counts.sum_duplicates()
    lean = AnnData(counts, obs=user_columns(adata.obs))
    lean.var_names = adata.var_names.copy()
    return lean


def _require_apart(adata: AnnData, hold_outs: list[HoldOut]) -> None:
    identities = CellIdentities(adata)
    for part in hold_outs:
        where = f"hold-out {part.name!r} under {part.perturbation!r}"
        identities.require_apart(part.held_out, where)
        if part.apart is not None:
            identities.require_apart(part.apart, f"{where}, control cells set apart", others=~part.hidden)


def _identity(adata: AnnData, question: Question, settings: Mapping[str, object]) -> dict[str, object]:
    """Settings shared by all parts in a folder."""
    columns = {"conditions": question.conditions, "labels": question.labels}
    if TOTAL_COUNTS in adata.obs:
        columns[TOTAL_COUNTS] = adata.obs[TOTAL_COUNTS].to_numpy()
    return {
        "written by": IN_FOLDER,
        "deltavi_version": deltavi.__version__,
        "scores": list(SCORES),
        "data": data_fingerprint(adata, columns),
        "settings": dict(settings),
    }


def _groups(plan: Plan, baselines: list[str], split_half: bool) -> tuple[Group, ...]:
    """Groups of rows that are computed together, in the order of the table."""
    shared = ONLY_NO_CHANGE if baselines == [NO_CHANGE] else ALL_BASELINES
    return (*(Group(MODEL, name) for name in plan.methods), shared, *([THE_SPLIT_HALF] if split_half else []))


def _computed(
    adata: AnnData,
    tasks: list[Task],
    plan: Plan,
    place: RunFolder | None,
    n_jobs: int,
    progress: bool,
) -> list[Result]:
    """Results of all groups in the order of hold-outs, seeds and groups; from the folder if they are there."""
    done = {} if place is None else {result.key: result for task in tasks for result in _finished(task, plan, place)}
    pending = [
        Task(task.hold_out, task.seed, missing)
        for task in tasks
        if (missing := tuple(group for group in task.groups if task.key(group) not in done))
    ]
    n_parts = sum(len(task.groups) for task in tasks)
    with progress_bar(n_parts, "evaluating", initial=len(done), wanted=progress) as bar:
        for result in run_tasks(adata, pending, plan, place, n_jobs):
            done[result.key] = result
            bar.set_postfix_str(f"{result.key[0]}: {result.key[-1]}", refresh=False)
            bar.update()
    return [done[task.key(group)] for task in tasks for group in task.groups]


def _finished(task: Task, plan: Plan, place: RunFolder) -> Iterator[Result]:
    """Groups of a task that are in the folder, with their predicted cells if those are kept."""
    for group in task.groups:
        found = place.read(task.key(group), plan.signature(group, task.hold_out))
        if found is None:
            continue
        files = found["predictions"].values()
        lacking = plan.keep_predictions and group != THE_SPLIT_HALF and not files
        if not lacking and all((place.path / name).is_file() for name in files):
            yield Result(task.key(group), found["rows"], found["warnings"], found["predictions"])


def _assembled(
    results: list[Result], settings: Mapping[str, object], skipped: list[Skipped], baselines: list[str]
) -> PerturbationEvaluation:
    rows = [row for result in results for row in result.rows if row["kind"] != BASELINE or row["method"] in baselines]
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    # rows are grouped: all methods of one label, in the order in which they were computed
    places = {key: i for i, key in enumerate(dict.fromkeys(_case(row) for row in rows))}
    order = sorted(range(len(rows)), key=lambda i: places[_case(rows[i])])
    messages = [_few_controls(row) for row in rows if not row["n_reference"]]
    messages += [f"{result.key[-1]} on {result.key[0]}: {text}" for result in results for text in result.warnings]
    kept = [
        {
            "hold_out": result.key[0],
            "perturbation": result.key[1],
            "seed": int(result.key[2]),
            "method": name,
            "file": file,
        }
        for result in results
        for name, file in result.predictions.items()
    ]
    return PerturbationEvaluation(
        table.iloc[order].reset_index(drop=True),
        settings,
        pd.DataFrame([asdict(part) for part in skipped], columns=pd.Index(SKIPPED_COLUMNS)),
        tuple(dict.fromkeys(messages)),
        pd.DataFrame(kept, columns=pd.Index(PREDICTION_COLUMNS)),
    )


def _few_controls(row: Mapping[str, Any]) -> str:
    of = "" if row["hold_out"] == row["label"] else f" of {row['hold_out']}"
    return few_controls(row["n_control"], f"{row['label']}{of} under {row['perturbation']}")


def _case(row: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("hold_out", "perturbation", "seed", "label"))


__all__ = ["evaluate_perturbation"]
