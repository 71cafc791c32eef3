"""Responses of groups that were left out: networks alone, the table of changes alone, and both together.

    python -m benchmarks response-networks --seeds 1 --jobs 2 --write docs/benchmarks/response_networks.md

The groups are those of `responses`, on the genes that the networks model, with the same halves of control cells: one
is seen and predicted from, the change that all are compared with is measured from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.decomposition import TruncatedSVD
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from benchmarks.harness import runs
from benchmarks.harness.command import QUIET
from benchmarks.harness.page import made_by, markdown, spread
from benchmarks.harness.runs import Rows, Run, Study
from benchmarks.perturbation.page import means_of
from benchmarks.perturbation.responses import (
    CONTROL,
    FEWEST,
    TASKS,
    Case,
    Split,
    contexts_of,
    mean,
    measured,
    members,
    nearest,
    no_change,
    shrunken,
    splits,
)
from deltavi.metrics import SquaredError
from deltavi.model import SCGEN, VAE
from deltavi.perturbation import ResponseModel
from deltavi.pp import highly_variable_genes

PACKAGES = ("deltavi", "scvi-tools", "torch", "scikit-learn")
N_GENES, RANK = 2000, 10
UNION = "+"
SWITCHED = "conditional VAE"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Cells to learn from, and the changes of contexts that they lack.

    Parameters
    ----------
    learned
        Counts of the chosen genes, with one half of the control cells of what is left out.
    cases
        Tables of the same genes.
    labels_key
        Column of `learned` that networks tell responses by.
    context_keys
        Columns that make the names of the contexts of `cases`.
    """

    learned: AnnData
    cases: tuple[Case, ...]
    labels_key: str
    context_keys: tuple[str, ...]

    def query(self, context: str) -> AnnData:
        """The control cells of a context that were seen."""
        own = contexts_of(self.learned, self.context_keys) == context
        return self.learned[own & (self.learned.obs["condition"] == CONTROL).to_numpy()].copy()


def held_out(split: Split, seed: int) -> HeldOut:
    """What is left of the cells, and the tables of the contexts that were left out, 20 cells and more on each side."""
    cells, keys, left_out, group_key = split
    control, context = (cells.obs["condition"] == CONTROL).to_numpy(), contexts_of(cells, keys)
    rng, apart = np.random.default_rng(seed), {}
    for name in np.unique(context[left_out]):
        own = np.flatnonzero(control & (context == name))
        if len(own) >= 2 * FEWEST and (left_out & (context == name)).sum() >= FEWEST:
            apart[str(name)] = rng.permutation(own)[: len(own) // 2]
    kept = ~left_out
    kept[np.concatenate(list(apart.values()))] = False
    learned = cells[kept].copy()
    n_top = min(N_GENES, cells.n_vars)
    learned = highly_variable_genes(learned, n_top=n_top, condition_key="condition")
    chosen = cells[:, learned.var_names]
    seen = measured(chosen[kept].copy(), keys)
    cases = [
        Case(seen, measured(chosen[np.concatenate([half, np.flatnonzero(left_out & (context == name))])].copy(), keys),
             name, group_key)
        for name, half in apart.items()
    ]  # fmt: skip
    return HeldOut(learned, tuple(cases), keys[0], keys)


@lru_cache(maxsize=1)
def hold_outs(task: str, data: Path, seed: int) -> tuple[HeldOut, ...]:
    """Everything that a task leaves out, which its methods share."""
    found = (held_out(split, seed) for split in splits(task, data, seed))
    return tuple(one for one in found if one.cases)


# -- methods: change of each pair that is held, (n_pairs, n_genes) ---------------------------------------------


def low_rank(case: Case) -> np.ndarray:
    """Means over contexts, on their first principal directions over perturbations."""
    means = np.stack([case.seen.changes[m].mean(0) for m in rows_by_name(case).values()])
    rank = min(RANK, len(means) - 1)
    if rank < 1:
        return mean(case)
    directions = TruncatedSVD(rank, random_state=0).fit(means).components_
    return np.asarray(mean(case) @ directions.T @ directions)


def rows_by_name(case: Case) -> dict[str, np.ndarray]:
    """Measured pairs of each perturbation."""
    names = np.array(case.seen.names)
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}


def kriging(case: Case) -> np.ndarray:
    """Regression of the change of each perturbation on control means, by a Gaussian process around the mean."""
    own = case.seen.control_means[case.seen.position_of(case.context)][None]
    found = []
    for row in range(case.held.n_pairs):
        parts = [kriged(case, rows, own) for rows in members(case, row)]
        found.append(np.sum(parts, axis=0))
    return np.stack(found)


def kriged(case: Case, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Change of one perturbation in a context with these control means, ``(n_genes,)``."""
    points, changes = case.seen.control_means[case.seen.context_of[rows]], case.seen.changes[rows]
    average = changes.mean(0)
    variance, noise = float(changes.var(0).sum()), float(case.seen.squared_errors[rows].sum(1).mean())
    signal = variance - noise
    if len(rows) < 3 or signal <= 0:
        return np.asarray(average)
    width = float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))
    kernel = ConstantKernel(1.0, "fixed") * RBF(width, (0.3 * width, 10 * width))
    process = GaussianProcessRegressor(kernel, alpha=noise / signal, random_state=0)
    unit = np.sqrt(signal / changes.shape[1])
    return np.asarray(average + unit * process.fit(points, (changes - average) / unit).predict(own)[0])


def crossed(case: Case) -> np.ndarray:
    """The crossed Gaussian process."""
    model = ResponseModel.fit(case.seen, group_key=case.group_key)
    return np.asarray(model.predict(case.held.names, context=case.context).change)


TABLES: dict[str, Callable[[Case], np.ndarray]] = {
    "no change": no_change,
    "mean or sum": mean,
    "the same, shrunken": shrunken,
    "nearest context": nearest,
    "low rank": low_rank,
    "kriging": kriging,
    "crossed GP": crossed,
}
NETWORKS: dict[str, tuple[type[VAE], dict[str, Any]]] = {
    "SCGEN": (SCGEN, {}),
    SWITCHED: (VAE, {"condition_in_decoder": True, "n_latent": 20}),
}
# Arguments of a prediction: without the table of changes, and with it.
OF_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "SCGEN alone": ("SCGEN", {"empirical_weight": 0.0}),
    "SCGEN with the GP": ("SCGEN", {}),
    "conditional VAE alone": (SWITCHED, {"shift": "none"}),
    "conditional VAE with the GP": (SWITCHED, {}),
}


@lru_cache(maxsize=8)
def trained(name: str, task: str, data: Path, seed: int, place: int) -> VAE:
    """A network that learned from what is left of the cells."""
    one = hold_outs(task, data, seed)[place]
    kind, options = NETWORKS[name]
    learned = one.learned.copy()
    keys = {"condition_key": "condition", "labels_key": one.labels_key, "size_factor_key": "total_counts"}
    kind.setup_anndata(learned, layer="counts", **keys)
    model = kind(learned, seed=seed, **options)
    model.train(**QUIET)
    return model


def by_network(model: VAE, one: HeldOut, case: Case, options: dict[str, Any]) -> np.ndarray:
    """Change of the mean of the control cells that were seen, under each perturbation."""
    query = one.query(case.context)
    before = np.asarray(query.X.mean(0)).ravel()
    found = []
    for name in case.held.names:
        asked = {"control": CONTROL, "perturbation": name, **options}
        found.append(np.asarray(model.predict_perturbation(query, **asked).X.mean(0)).ravel() - before)
    return np.stack(found)


def work(run: Run, data: Path) -> Rows:
    """A row for each pair that is held out."""
    rows: Rows = []
    for place, one in enumerate(hold_outs(run.task, data, run.seed)):
        for case in one.cases:
            if run.method in TABLES:
                changes = TABLES[run.method](case)
            elif OF_NETWORKS[run.method][0] == SWITCHED and any(UNION in name for name in case.held.names):
                changes = np.full(case.held.changes.shape, np.nan)  # decoders of one condition each cannot join two
            else:
                name, options = OF_NETWORKS[run.method]
                changes = by_network(trained(name, run.task, data, run.seed, place), one, case, options)
            rows += [
                scores(case, row, change) | {"context": case.context, "perturbation": case.held.names[row]}
                for row, change in enumerate(changes)
            ]
    return rows


def scores(case: Case, row: int, change: np.ndarray) -> dict[str, float]:
    """Parts of the share explained, and the correlation of changes."""
    if np.isnan(change).any():
        return dict.fromkeys(("squared_error", "squared_size", "pearson"), np.nan)
    held = case.held
    error = SquaredError.of_changes(change, held.changes[row], noise=held.squared_errors[row])
    pearson = np.corrcoef(change, held.changes[row])[0, 1] if change.any() else np.nan
    return {"squared_error": error.squared_error, "squared_size": error.squared_size, "pearson": float(pearson)}


# -- page ------------------------------------------------------------------------------------------------------


def page(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Sections of the page; `records` has one row per task, method, seed and pair."""
    methods, tasks = list(records["method"].unique()), list(records["task"].unique())

    def table(metric: str) -> str:
        by_seed = means_of(records, ["method", "task", "seed"], metric)
        shown = by_seed.groupby(["method", "task"], sort=False).apply(spread, digits=3).unstack().loc[methods, tasks]
        return markdown(shown.rename(columns=TASKS).rename_axis("method"))

    yield (
        "# Networks and the table of changes\n\nThe same groups are left out as for [the responses from "
        "tables](responses.md), and everything is measured on the genes that the networks model: the "
        f"{N_GENES:,} most variable ones of what is left, or all where there are fewer. Networks predict the cells of "
        "the control half that was seen; their change is that of the mean."
    )
    yield (
        "## Share explained\n\nThe noise of the measurement taken off, sums over all that was left out: 0 is no "
        f"change, 1 the true response.\n\n{table('explained')}"
    )
    yield f"## Correlation of changes\n\nMeans over pairs, noise included.\n\n{table('pearson')}"
    yield (
        '"Alone" is SCGEN with `empirical_weight=0` and the conditional VAE with `shift="none"`; "with the GP" is the '
        "default, where half of the change of each gene is that of the table. The conditional VAE has "
        "`condition_in_decoder=True` and 20 latent dimensions; its decoder cannot join two conditions. "
        f"Mean ± standard deviation over seeds (n = {records['seed'].nunique()}), of trainings, of the halves of "
        f"control cells and of the screens. {made_by(command, PACKAGES)}"
    )


def same_hold_outs(run: Run) -> tuple[str, str, int]:
    """Runs that share their networks, or tables."""
    return run.task, OF_NETWORKS.get(run.method, ("",))[0], run.seed


QUICK = {"tasks": ["pairs"], "methods": ["no change", "mean or sum", "SCGEN alone", "SCGEN with the GP"]}
METHODS = [*TABLES, *OF_NETWORKS]
STUDY = Study("response-networks", __doc__, list(TASKS), METHODS, work, page, together=same_hold_outs, quick=QUICK)


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDY, arguments)
