"""Genetic perturbations: the response of a cell line left out, and pairs predicted from single perturbations.

    python -m benchmarks perturbation-pairs --runs runs/norman --write docs/benchmarks/perturbation_pairs.md

Part "lines": for every perturbation that all lines saw, one line in turn is left without it. Part "pairs": all cells of
a pair are left out, both of whose single perturbations were measured; the pair is then asked for as the sum of the two.
Finished parts are kept in the folder of --runs. One thread per process.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA

from benchmarks.harness.command import QUIET, add_names, parsed, parser, settle
from benchmarks.harness.page import made_by, markdown, publish
from benchmarks.perturbation.page import PACKAGES, averages
from benchmarks.perturbation.study import add_options
from deltavi.model import PPCA, SCGEN
from deltavi.perturbation import SPLIT_HALF
from deltavi.tl import Method, PerturbationEvaluation, evaluate_perturbation

FILE = "norman_mcfaline_perturbench.h5ad"
PARTS = ("pairs", "lines")
METHODS = {
    "SCGEN": Method(SCGEN, train_kwargs=QUIET, predict={"": {}, "model alone": {"empirical_weight": 0.0}}),
    "PPCA": Method(PPCA),
}
CONTROL, SEPARATOR = "control", "+"
# That of the PCA shifts.
N_COMPONENTS = 50
COLUMNS = {
    "pearson_delta": "Pearson delta",
    "pearson_delta_top20": "top 20",
    "r2_of_means_top": "R2 of means, top 100",
    "e_distance": "E-distance",
    "variance_ratio": "variance ratio",
}
ADDITIVE = (
    "For a pair the shifts of its two single perturbations are added, by baselines and models alike: the mean shift is "
    "then the sum of the mean changes, and as both were measured in the line, the nearest shift is the sum of its own."
)


def pairs(adata: AnnData) -> dict[str, pd.Series]:
    """Pairs of which both single perturbations were measured, and their cells."""
    conditions = adata.obs["condition"].astype(str)
    known = set(conditions)
    joined = [name for name in sorted(known) if SEPARATOR in name and set(name.split(SEPARATOR)) <= known]
    return {name: (conditions == name).to_numpy() for name in joined}


def everywhere(adata: AnnData) -> list[str]:
    """Perturbations that all cell lines saw."""
    seen = pd.crosstab(adata.obs["condition"], adata.obs["cell_type"])
    return [str(name) for name in seen.index[(seen > 0).all(axis=1)] if name != CONTROL]


def by_case(evaluation: PerturbationEvaluation, column: str) -> pd.DataFrame:
    """Pearson delta by what was held out, of models, the best baseline and the ceiling."""
    table = evaluation.table
    score = table.groupby([column, "method"], sort=False)["pearson_delta"].mean().unstack("method")
    kinds = dict(zip(table["method"], table["kind"], strict=True))
    best = score[[name for name in score if kinds[str(name)] == "baseline"]].max(axis=1)
    shown = score[[name for name in score if kinds[str(name)] == "model"]].assign(**{"best baseline": best})
    return shown.assign(**{SPLIT_HALF: score[SPLIT_HALF]}).map(lambda value: f"{value:.3f}").rename_axis(column)


def smoothing_alone(adata: AnnData) -> tuple[float, float]:
    """Pearson delta of control cells that were projected onto principal components, without any response.

    First with changes measured from these cells, as always; then projected from one half of the control cells and
    measured from the other half. Means over perturbations that all lines saw, and lines.
    """
    rows = adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)
    logs = np.log1p(1e4 * rows / np.maximum(rows.sum(1, keepdims=True), 1.0))
    conditions, lines = (adata.obs[key].astype(str).to_numpy() for key in ("condition", "cell_type"))
    rng, found = np.random.default_rng(0), []
    for line in sorted(set(lines)):
        control = rng.permutation(np.flatnonzero((lines == line) & (conditions == CONTROL)))
        halves = np.array_split(control, 2)
        for perturbation in everywhere(adata):
            held_out = (lines == line) & (conditions == perturbation)
            axes = PCA(N_COMPONENTS, random_state=0).fit(logs[~held_out])
            real = logs[held_out].mean(0)
            found.append(
                [
                    correlation(axes, logs[projected], logs[measured].mean(0), real)
                    for projected, measured in ((control, control), halves)
                ]
            )
    same, apart = np.mean(found, axis=0)
    return float(same), float(apart)


def correlation(axes: PCA, cells: np.ndarray, control: np.ndarray, real: np.ndarray) -> float:
    """Of the change that projection makes of the mean of `cells` with the change of `real` from `control`."""
    change = axes.inverse_transform(axes.transform(cells)).mean(0) - cells.mean(0)
    return float(np.corrcoef(change, real - control)[0, 1])


def page(
    found: dict[str, PerturbationEvaluation], smoothed: tuple[float, float], options: argparse.Namespace
) -> Iterator[str]:
    """Sections of the page."""
    yield "# Perturbations of genes"
    yield (
        "Counts of 500 genes in four cell lines, from Norman et al. (2019) and McFaline-Figueroa et al. (2023). With "
        "about a hundred cells for each perturbation and line, the split-half ceiling is low: the responses are small "
        "compared with the noise, and a prediction from many cells may score higher than one half of the real cells."
    )
    titles = {"lines": "## A cell line left out", "pairs": "## Pairs from single perturbations"}
    for part, evaluation in found.items():
        means = markdown(averages(evaluation.table, COLUMNS, of_distance=2))
        yield f"{titles[part]}\n\n{means}\n\n{evaluation.conclusion(evaluation.methods[0])}"
        if part == "lines":
            same, apart = smoothed
            yield (
                f"Part of the score is no response: control cells that are only projected onto {N_COMPONENTS} "
                f"principal components have a Pearson delta of {same:.3f}. Where one half of the control cells is "
                f"projected, and the change measured from the other half, it is {apart:.3f}. The noise of the "
                "control mean, of a hundred cells, is part of every measured change, and removing it raises the score: "
                "this explains the lead of the PCA shifts, and part of the ceiling. The E-distance, beside that of no "
                "change, shows the attainable improvement."
            )
        yield f"Pearson delta:\n\n{markdown(by_case(evaluation, 'perturbation'))}"
    yield ADDITIVE
    yield made_by(options.command, PACKAGES, "one thread per process")


def evaluated(adata: AnnData, part: str, options: argparse.Namespace) -> PerturbationEvaluation:
    """All methods and baselines on what one part leaves out."""
    joined = pairs(adata)
    asked: dict[str, Any] = {"perturbation": list(joined), "hold_out": joined} if part == "pairs" else {}
    return evaluate_perturbation(
        adata,
        {name: METHODS[name] for name in options.methods},
        **{"perturbation": everywhere(adata), **asked},
        control=CONTROL,
        n_genes=adata.n_vars,
        seeds=range(options.seeds),
        n_jobs=options.jobs,
        folder=options.runs and options.runs / part,
    )


def main(study: str, arguments: list[str]) -> None:
    """Evaluate what is missing, and write the page."""
    made = parser(study, __doc__)
    add_options(made, FILE)
    add_names(made, "--methods", METHODS)
    add_names(made, "--parts", PARTS)
    options = parsed(made, arguments, {"methods": ["PPCA"], "parts": ["lines"]})
    settle()
    adata = anndata.read_h5ad(options.data / options.file)
    found = {part: evaluated(adata, part, options) for part in options.parts}
    publish(page(found, smoothing_alone(adata), options), options.write)
