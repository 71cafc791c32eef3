"""Responses of groups that were left out, from tables of measured changes: no networks, no cells.

    python -m benchmarks responses --seeds 3 --write docs/benchmarks/responses.md

A type, a donor, a pair of perturbations or a context of a simulated screen is left out in turn. Methods see one half of
the control cells of what is left out, and the change that they are compared with is measured from the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial.distance import cdist

from benchmarks.harness import runs
from benchmarks.harness.data import KANG, kang_cells
from benchmarks.harness.runs import Rows, Run, Study
from benchmarks.perturbation.responses_page import (
    COVERAGE,
    CROSSED,
    FEWEST,
    N_BINS,
    N_TOP,
    SAME,
    STATED,
    TABULATED,
    TASKS,
    page,
)
from deltavi.datasets import simulate_screen
from deltavi.get import response_df
from deltavi.metrics import SquaredError
from deltavi.metrics.significance import MIN_CHANGE
from deltavi.perturbation import Experiment, ResponseModel, ResponseTable, called_genes
from deltavi.tl import differential_response, responses

CONTROL = "control"
NORMAN, LINE = "norman_mcfaline_perturbench.h5ad", "k562"


@dataclass(frozen=True, eq=False)
class Case:
    """Changes of a context that were left out, and what was measured of all others.

    Parameters
    ----------
    seen
        Table without them; it has the context, by one half of its control cells.
    held
        Table of them, by the other half.
    context
        Name of the context.
    group_key
        Key of contexts whose values were left out together.
    truth
        True changes of the held pairs, ``(n_pairs, n_genes)``, of a simulated screen.
    """

    seen: ResponseTable
    held: ResponseTable
    context: str
    group_key: str | None = None
    truth: np.ndarray | None = None

    @property
    def alike(self) -> np.ndarray:
        """Positions of the measured pairs of contexts with the same first key, such as the cell type; else of all."""
        table = self.seen
        own = table.levels[table.position_of(self.context)][0]
        same = np.array([table.levels[context][0] == own for context in table.context_of])
        return np.flatnonzero(same) if same.any() else np.arange(table.n_pairs)


def measured(cells: AnnData, keys: tuple[str, ...]) -> ResponseTable:
    """Table of changes of counts, with totals over all genes of the file."""
    names = {"condition_key": "condition", "control": "control", "context_keys": keys}
    return responses(cells, **names, size_factor_key="total_counts")


def contexts_of(cells: AnnData, keys: tuple[str, ...]) -> np.ndarray:
    """Name of the context of each cell."""
    return np.asarray(cells.obs[list(keys)].astype(str).agg(", ".join, axis=1))


class Split(NamedTuple):
    """Cells, keys of their contexts, those that are left out, and the key of contexts that are left out together."""

    cells: AnnData
    keys: tuple[str, ...]
    left_out: np.ndarray
    group_key: str | None = None


def without(split: Split, seed: int) -> Iterator[Case]:
    """Cases of the contexts of the cells that are left out, those of 20 cells and more on each side."""
    cells, keys, left_out, group_key = split
    control, context = (cells.obs["condition"] == CONTROL).to_numpy(), contexts_of(cells, keys)
    for name in np.unique(context[left_out]):
        own = np.flatnonzero(control & (context == name))
        treated = np.flatnonzero(left_out & (context == name))
        if len(own) < 2 * FEWEST or len(treated) < FEWEST:
            continue
        apart = np.random.default_rng(seed).permutation(own)[: len(own) // 2]
        kept = ~left_out
        kept[apart] = False
        held = cells[np.concatenate([apart, treated])].copy()
        case = Case(measured(cells[kept].copy(), keys), measured(held, keys), name, group_key)
        yield replace(case, truth=true_changes(cells, case)) if "truth" in cells.uns else case


def kang(data: Path) -> AnnData:
    """The interferon experiment, all genes of the file."""
    cells = kang_cells(data / KANG)
    cells.obs["total_counts"] = np.asarray(cells.X.sum(1)).ravel()
    return cells


def pairs_of_k562(data: Path) -> AnnData:
    """Activated genes in one line, alone and in pairs."""
    cells = anndata.read_h5ad(data / NORMAN)
    cells = cells[(cells.obs["cell_type"] == LINE).to_numpy()].copy()
    # over all genes; the file has 500 of them
    cells.obs["total_counts"] = cells.obs["ncounts"]
    return cells


def measured_pairs(cells: AnnData) -> list[str]:
    """Pairs of perturbations whose single ones were measured."""
    names = set(cells.obs["condition"].astype(str))
    return sorted(name for name in names if "+" in name and set(name.split("+")) <= names)


def screen_cells(gains: str, seed: int) -> AnnData:
    """A simulated screen."""
    return simulate_screen(
        n_genes=1000, n_contexts=8, n_perturbations=25, n_pairs=0, n_drugs=0, n_batches=1, gains=gains, seed=seed
    )


def by_value(
    cells: AnnData, keys: tuple[str, ...], key: str, *, group_key: str | None = None, most: int | None = None
) -> Iterator[Split]:
    """Perturbed cells of each value of a column in turn."""
    perturbed = (cells.obs["condition"] != CONTROL).to_numpy()
    for name in sorted(cells.obs[key].unique())[:most]:
        yield Split(cells, keys, perturbed & (cells.obs[key] == name).to_numpy(), group_key)


def splits(task: str, data: Path, seed: int) -> Iterator[Split]:
    """Each type, donor, pair of perturbations whose single ones were measured, or two contexts of a screen."""
    if task == "types":
        yield from by_value(kang(data), ("cell_type",), "cell_type")
    elif task == "donors":
        yield from by_value(kang(data), ("cell_type", "donor"), "donor", group_key="donor")
    elif task == "pairs":
        cells = pairs_of_k562(data)
        for pair in measured_pairs(cells):
            yield Split(cells, ("cell_type",), (cells.obs["condition"] == pair).to_numpy())
    else:
        yield from by_value(screen_cells(task, seed), ("context",), "context", most=2)


def true_changes(cells: AnnData, case: Case) -> np.ndarray:
    """True changes of the held pairs of a simulated screen."""
    truth, held = cells.uns["truth"], case.held
    context = list(truth["contexts"]).index(case.context)
    rows = [list(truth["conditions"]).index(name) for name in held.names]
    return truth["change"][context][rows][:, pd.Index(truth["genes"]).get_indexer(list(held.genes))]


@lru_cache(maxsize=1)
def cases_of(task: str, data: Path, seed: int) -> tuple[Case, ...]:
    """All cases of a task, which its methods share."""
    return tuple(case for split in splits(task, data, seed) for case in without(split, seed))


# -- methods: change of each pair that is held, (n_pairs, n_genes) ---------------------------------------------


def members(case: Case, row: int) -> list[np.ndarray]:
    """Positions of the measured pairs of each part of a held pair, in all contexts."""
    names, parts = case.seen.names, case.held.names[row].split("+")
    whole = [np.flatnonzero([name == case.held.names[row] for name in names])]
    return whole if len(whole[0]) else [np.flatnonzero([name == part for name in names]) for part in parts]


def no_change(case: Case) -> np.ndarray:
    """Zero."""
    return np.zeros_like(case.held.changes)


def mean(case: Case) -> np.ndarray:
    """Mean over the contexts that were measured, summed over the parts of a pair."""
    rows = range(case.held.n_pairs)
    return np.stack([np.sum([case.seen.changes[m].mean(0) for m in members(case, row)], axis=0) for row in rows])


def shrunken(case: Case) -> np.ndarray:
    """The same, shrunken by its share of noise (James and Stein)."""
    found = mean(case)
    errors = case.seen.squared_errors
    for row, change in enumerate(found):
        noise = sum(float(errors[m].sum()) / len(m) ** 2 for m in members(case, row))
        found[row] = max(1 - noise / float(change @ change), 0.0) * change
    return found


def nearest(case: Case) -> np.ndarray:
    """Change of the context whose control cells are most alike, summed over the parts of a pair."""
    own = case.seen.control_means[case.seen.position_of(case.context)][None]
    apart = cdist(case.seen.control_means, own)[:, 0]
    return np.stack(
        [
            np.sum(
                [case.seen.changes[m[np.argmin(apart[case.seen.context_of[m]])]] for m in members(case, row)], axis=0
            )
            for row in range(case.held.n_pairs)
        ]
    )


def same_type(case: Case) -> np.ndarray:
    """The shift of other donors in the same type: mean over measured contexts with the same first key."""
    chosen = replace(case, seen=case.seen.of_pairs(case.alike))
    rows = range(case.held.n_pairs)
    found = mean(case)
    for row in rows:
        if all(len(part) for part in members(chosen, row)):
            found[row] = np.sum([chosen.seen.changes[m].mean(0) for m in members(chosen, row)], axis=0)
    return found


PLAIN: dict[str, Callable[[Case], np.ndarray]] = {
    "no change": no_change,
    "mean, or sum": mean,
    "the same, shrunken": shrunken,
    SAME: same_type,
    "nearest context": nearest,
}


def work(run: Run, data: Path) -> Rows:
    """A row for each pair that is held out."""
    return [row for case in cases_of(run.task, data, run.seed) for row in rows_of(case, run.method)]


def rows_of(case: Case, method: str) -> Rows:
    """Scores of a method on one case."""
    held = case.held
    if method in PLAIN:
        changes, beside = PLAIN[method](case), [{} for _ in held.names]
    else:
        model = ResponseModel.fit(case.seen, kernel=CROSSED[method], group_key=case.group_key)
        found = model.predict(held.names, context=case.context)
        changes, beside = found.change, []
        for row in range(held.n_pairs):
            sizes = {"n_perturbed": held.n_perturbed[row], "n_control": held.n_control[0]}
            lower, upper = (end[row] for end in found.interval(COVERAGE, **sizes))
            inside = (held.changes[row] >= lower) & (held.changes[row] <= upper)
            top = np.argsort(-np.abs(held.changes[row]))[:N_TOP]
            values = {"inside": inside.mean(), "inside_top": inside[top].mean()}
            values |= {"uncertainty": found.uncertainty[row], "expected": found.expected_skills[row]}
            values |= {} if case.truth is None else of_truth(case.truth[row], changes[row], inside)
            beside.append(values | genes_of(case, model, row) if method == TABULATED else values)
    rows = []
    for row, name in enumerate(held.names):
        error = SquaredError.of_changes(changes[row], held.changes[row], noise=held.squared_errors[row])
        parts = {"squared_error": error.squared_error, "squared_size": error.squared_size}
        parts["pearson"] = correlation(changes[row], held.changes[row])
        rows.append({"context": case.context, "perturbation": name, **parts, **beside[row]})
    return rows


def correlation(predicted: np.ndarray, found: np.ndarray) -> float:
    """Pearson correlation of two changes over genes; NaN where one is constant."""
    return float(np.corrcoef(predicted, found)[0, 1]) if np.ptp(predicted) > 0 and np.ptp(found) > 0 else float("nan")


def of_truth(truth: np.ndarray, predicted: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """Relative squared error against true changes, and measured changes inside of the genes that truly change most."""
    top = np.argsort(-np.abs(truth))[:N_TOP]
    error = float(((predicted - truth) ** 2).sum() / (truth**2).sum())
    return {"true_error": error, "inside_true_top": inside[top].mean()}


def genes_of(case: Case, model: ResponseModel, row: int) -> dict[str, float]:
    """Errors of the table of genes of a held pair: the calls of its cells are what is predicted."""
    held = case.held
    sizes = {"n_perturbed": int(held.n_perturbed[row]), "n_control": int(held.n_control[0])}
    cells = AnnData(np.zeros((1, held.n_genes)), var=pd.DataFrame(index=list(held.genes)))
    differential_response(cells, model, held.names[row], contexts=case.context, **sizes)
    table = response_df(cells).set_index("gene").loc[list(held.genes)]
    experiment = Experiment(**sizes, min_change=MIN_CHANGE)
    called = called_genes(held.changes[row], held.variances[0], experiment=experiment)
    turned = np.sign(held.changes[row]) != np.sign(table["change"].to_numpy())
    found = {}
    for rate in STATED:
        chosen = (table["false_discovery_rate"] <= rate).to_numpy()
        found |= {f"chosen_{rate}": chosen.sum(), f"false_{rate}": (chosen & ~called).sum()}
    found["turned"] = (turned & (table["false_discovery_rate"] <= STATED[0]).to_numpy()).sum()
    probability = table["probability_called"].to_numpy()
    bins = np.minimum((probability * N_BINS).astype(int), N_BINS - 1)
    off = [abs(np.sum((probability - called)[bins == place])) for place in range(N_BINS)]
    return {**found, "calibration": float(np.sum(off)) / held.n_genes}


def same_cases(run: Run) -> tuple[str, int]:
    """Runs that share their tables."""
    return run.task, run.seed


QUICK = {"tasks": ["pairs"], "methods": ["no change", "mean, or sum", "crossed GP"]}
STUDY = Study("responses", __doc__, list(TASKS), [*PLAIN, *CROSSED], work, page, together=same_cases, quick=QUICK)


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDY, arguments)
