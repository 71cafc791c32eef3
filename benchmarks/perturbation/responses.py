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

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial.distance import cdist

from benchmarks.harness import runs
from benchmarks.harness.data import KANG, kang_cells
from benchmarks.harness.page import DASH, made_by, markdown, spread
from benchmarks.harness.runs import Rows, Run, Study
from benchmarks.perturbation.page import means_of
from deltavi.datasets import simulate_screen
from deltavi.get import response_df
from deltavi.metrics import SquaredError
from deltavi.metrics.significance import MIN_CHANGE
from deltavi.perturbation import Experiment, ResponseModel, ResponseTable, called_genes
from deltavi.tl import differential_response, responses

PACKAGES = ("deltavi", "numpy", "scipy")
NORMAN, LINE = "norman_mcfaline_perturbench.h5ad", "k562"
TABULATED, SAME = "crossed GP", "mean of the same type"
FEWEST, N_TOP, COVERAGE = 20, 100, 0.9
# False discovery rates that the table of genes states, and bins of its probabilities.
STATED, N_BINS = (0.05, 0.1, 0.2), 10
TASKS = {
    "types": "Kang, each of 7 types",
    "donors": "Kang, each donor",
    "pairs": "k562, pairs of perturbations",
    "similar": "screen, responses alike in similar contexts",
    "random": "screen, responses alike at random",
}


# Tasks whose table of genes is shown, and that the shift of other donors is compared on.
GENES_OF, DONORS = ("types",), "donors"


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


def without(
    cells: AnnData, keys: tuple[str, ...], left_out: np.ndarray, seed: int, group_key: str | None = None
) -> Iterator[Case]:
    """Cases of the contexts of the cells that are left out, those of 20 cells and more on each side."""
    control = (cells.obs["condition"] == "control").to_numpy()
    context = cells.obs[list(keys)].astype(str).agg(", ".join, axis=1).to_numpy()
    for name in np.unique(context[left_out]):
        own = np.flatnonzero(control & (context == name))
        treated = np.flatnonzero(left_out & (context == name))
        if len(own) < 2 * FEWEST or len(treated) < FEWEST:
            continue
        apart = np.random.default_rng(seed).permutation(own)[: len(own) // 2]
        kept = ~left_out
        kept[apart] = False
        held = cells[np.concatenate([apart, treated])].copy()
        yield Case(measured(cells[kept].copy(), keys), measured(held, keys), name, group_key)


def kang(data: Path) -> AnnData:
    """The interferon experiment, all genes of the file."""
    cells = kang_cells(data / KANG)
    cells.obs["total_counts"] = np.asarray(cells.X.sum(1)).ravel()
    return cells


def of_types(data: Path, seed: int) -> Iterator[Case]:
    """Each cell type in turn."""
    cells = kang(data)
    stimulated = (cells.obs["condition"] == "stimulated").to_numpy()
    for label in sorted(cells.obs["cell_type"].unique()):
        yield from without(cells, ("cell_type",), stimulated & (cells.obs["cell_type"] == label).to_numpy(), seed)


def of_donors(data: Path, seed: int) -> Iterator[Case]:
    """All types of each donor in turn."""
    cells = kang(data)
    stimulated = (cells.obs["condition"] == "stimulated").to_numpy()
    for donor in sorted(cells.obs["donor"].unique()):
        left_out = stimulated & (cells.obs["donor"] == donor).to_numpy()
        yield from without(cells, ("cell_type", "donor"), left_out, seed, "donor")


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


def of_pairs(data: Path, seed: int) -> Iterator[Case]:
    """Each pair of perturbations whose single ones were measured."""
    cells = pairs_of_k562(data)
    for pair in measured_pairs(cells):
        yield from without(cells, ("cell_type",), (cells.obs["condition"] == pair).to_numpy(), seed)


def screen_cells(gains: str, seed: int) -> AnnData:
    """A simulated screen."""
    return simulate_screen(
        n_genes=1000, n_contexts=8, n_perturbations=25, n_pairs=0, n_drugs=0, n_batches=1, gains=gains, seed=seed
    )


def of_screen(gains: str) -> Callable[[Path, int], Iterator[Case]]:
    """Two contexts of a simulated screen in turn."""

    def cases(data: Path, seed: int) -> Iterator[Case]:
        cells = screen_cells(gains, seed)
        perturbed = (cells.obs["condition"] != "control").to_numpy()
        for context in sorted(cells.obs["context"].unique())[:2]:
            left_out = perturbed & (cells.obs["context"] == context).to_numpy()
            for case in without(cells, ("context",), left_out, seed):
                yield replace(case, truth=true_changes(cells, case))

    return cases


def true_changes(cells: AnnData, case: Case) -> np.ndarray:
    """True changes of the held pairs of a simulated screen."""
    truth, held = cells.uns["truth"], case.held
    context = list(truth["contexts"]).index(case.context)
    rows = [list(truth["conditions"]).index(name) for name in held.names]
    return truth["change"][context][rows][:, pd.Index(truth["genes"]).get_indexer(list(held.genes))]


CASES: dict[str, Callable[[Path, int], Iterator[Case]]] = {
    "types": of_types,
    "donors": of_donors,
    "pairs": of_pairs,
    "similar": of_screen("similar"),
    "random": of_screen("random"),
}


@lru_cache(maxsize=1)
def cases_of(task: str, data: Path, seed: int) -> tuple[Case, ...]:
    """All cases of a task, which its methods share."""
    return tuple(CASES[task](data, seed))


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
CROSSED = {TABULATED: "auto", "crossed GP, identity": "identity", "crossed GP, similarity": "similarity"}


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


# -- page ------------------------------------------------------------------------------------------------------


def page(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Sections of the page; `records` has one row per task, method, seed and pair."""
    methods, tasks = list(records["method"].unique()), list(records["task"].unique())
    by_seed = means_of(records, ["method", "task", "seed"], "explained")
    table = by_seed.groupby(["method", "task"], sort=False).apply(spread, digits=3).unstack().loc[methods, tasks]
    yield (
        "# Responses from tables of changes\n\nWhat measured changes say of a group that was left out, without a "
        "network and without cells: [the model of responses](../models/responses.md) beside plain means. Share "
        "explained, the noise of the measurement taken off: 0 is no change, 1 the true response. Sums over all that "
        "were left out."
    )
    yield f"## Share explained\n\n{markdown(table.rename(columns=TASKS).rename_axis('method'))}"
    yield from crossed(records[records["method"].isin(CROSSED)], tasks)
    yield ahead(records)
    n_pairs = records.groupby("task")[["context", "perturbation"]].apply(lambda rows: len(rows.drop_duplicates()))
    counted = ", ".join(f"{n_pairs[task]} ({TASKS[task]})" for task in tasks)
    yield (
        f"Pairs of a context and a perturbation that were left out: {counted}; those of {FEWEST} cells and more on "
        "each side. The weighting of genes and the form of the generic part of the model were chosen with some of the "
        "pairs of k562 in view, so that this column is somewhat optimistic. Mean ± standard deviation over seeds "
        f"(n = {records['seed'].nunique()}), of the halves of control cells and of the screens. "
        f"{made_by(command, PACKAGES)}"
    )


def crossed(records: pd.DataFrame, tasks: list[str]) -> Iterator[str]:
    """Intervals and expected skill of the model."""
    if records.empty:
        return
    found = records[records["method"] == records["method"].iloc[0]]
    by_task = found.groupby("task", sort=False)
    table = pd.DataFrame(
        {
            "inside, all genes": by_task["inside"].mean(),
            "worst pair": by_task["inside"].min(),
            f"inside, top {N_TOP}": by_task["inside_top"].mean(),
            f"top {N_TOP} of the truth": by_task["inside_true_top"].mean(),
            "explained": means_of(found, ["task"], "explained"),
            "expected": by_task["expected"].mean(),
        }
    ).loc[tasks]
    shown = table.map(lambda value: DASH if pd.isna(value) else f"{value:.3f}").rename(TASKS).rename_axis("left out")
    measured_error = (found["squared_error"] / found["squared_size"]).where(found["squared_size"] > 0)
    truth = found["true_error"].fillna(measured_error)
    ranks = [values.corr(found["uncertainty"], method="spearman") for values in (truth, measured_error)]
    yield (
        f"## Intervals of {COVERAGE:.0%}, and expected skill\n\n{markdown(shown)}\n\nThe top {N_TOP} genes are those "
        "that were found to change most, a choice that selects misses, most where a response is no larger than the "
        "noise of its measurement, as in the screens; there those of the true changes stand beside. Expected is the "
        "share explained of what is left out of the training data in the same way, which stands with every prediction. "
        "Rank correlation of the stated uncertainty with the relative squared error, over all pairs: "
        f"{ranks[0]:.2f} with the true changes of the screens, {ranks[1]:.2f} with the measured ones, whose noise is "
        "several times the response there."
    )
    yield from genes(found[found["task"].isin(GENES_OF)])


def ahead(records: pd.DataFrame) -> str:
    """Sentence on changes of donors beside the shift of other donors in the same type."""
    of_donors = records[records["task"] == DONORS]
    means = of_donors.groupby(["context", "method"])[["squared_error", "pearson"]].mean().unstack("method")
    if of_donors.empty or not {TABULATED, SAME} <= set(of_donors["method"]):
        return "Donors beside the shift of other donors: not run."
    error, pearson = means["squared_error"], means["pearson"]
    correlations = ", ".join(f"{pearson[name].mean():.3f} ({name})" for name in (TABULATED, SAME))
    return (
        f"{TASKS[DONORS]}: of {len(means)} groups of a donor and a type the {TABULATED} has the smaller squared error "
        f"than the {SAME} in {(error[TABULATED] < error[SAME]).sum()}, and the higher Pearson correlation of the "
        f"change over all genes of the file in {(pearson[TABULATED] > pearson[SAME]).sum()}: {correlations} on "
        "average, with noise of the measurement in both."
    )


def genes(records: pd.DataFrame) -> Iterator[str]:
    """False discoveries of the table of genes, by group that was left out."""
    if records.empty or "calibration" not in records:
        return
    by_context = records.groupby("context", sort=False)
    columns = {
        f"not called, stated {rate:.0%}": by_context[f"false_{rate}"].sum() / by_context[f"chosen_{rate}"].sum()
        for rate in STATED
    }
    columns["other direction"] = by_context["turned"].sum() / by_context[f"chosen_{STATED[0]}"].sum()
    columns["calibration error"] = by_context["calibration"].mean()
    table = pd.DataFrame(columns)
    table.loc["mean"] = table.mean()
    chosen = by_context[f"chosen_{STATED[0]}"].mean()
    table.insert(0, f"genes at {STATED[0]:.0%}", [*chosen, chosen.mean()])
    shown = table.map("{:.3f}".format).rename_axis("left out")
    shown.iloc[:, 0] = table.iloc[:, 0].map("{:.0f}".format)
    yield (
        f"## Table of genes, {TASKS[GENES_OF[0]]}\n\n{markdown(shown)}\n\nGenes of `differential_response` that the "
        "cells left out do not call, at a stated false discovery rate; the test has as many cells as were measured, "
        f"and a least change of {MIN_CHANGE:g}. The calibration error is the mean distance of stated probabilities "
        f"from shares called, in {N_BINS} bins."
    )


def same_cases(run: Run) -> tuple[str, int]:
    """Runs that share their tables."""
    return run.task, run.seed


QUICK = {"tasks": ["pairs"], "methods": ["no change", "mean, or sum", "crossed GP"]}
STUDY = Study("responses", __doc__, list(TASKS), [*PLAIN, *CROSSED], work, page, together=same_cases, quick=QUICK)


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDY, arguments)
