"""Genetic perturbations: the response of a cell line left out, and pairs predicted from single perturbations.

    python -m benchmarks perturbation-pairs --runs runs/norman --write docs/benchmarks/perturbation_pairs.md

Part "lines": for every perturbation that all lines saw, one line in turn is left without it. Part "pairs": all cells of
a pair are left out, both of whose single perturbations were measured; the pair is then asked for as the sum of the two.
Of pairs there are as many trainings, each with halves of the control cells of its own, as --seeds; of lines, where
next to nothing responds, one of the linear model.
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
from benchmarks.harness.page import DASH, made_by, markdown, publish
from benchmarks.perturbation.page import LEGACY, OF_HALVES, PACKAGES, averages, means_of
from benchmarks.perturbation.study import add_options
from deltavi.metrics.signals import LEAST_SIGNAL
from deltavi.model import PPCA, SCGEN
from deltavi.perturbation import SPLIT_HALF
from deltavi.tl import Method, PerturbationEvaluation, evaluate_perturbation

FILE = "norman_mcfaline_perturbench.h5ad"
PARTS = ("pairs", "lines")
METHODS = {
    "SCGEN": Method(SCGEN, train_kwargs=QUIET, predict={"": {}, "model alone": {"empirical_weight": 0.0}}),
    "PPCA": Method(PPCA),
}
OF_LINES = ("PPCA",)
CONTROL, SEPARATOR = "control", "+"
# That of the PCA shifts.
N_COMPONENTS = 50
COLUMNS = {
    "explained": "explained",
    "energy_distance": "energy distance",
    "e_distance": "E-distance",
    "variance_ratio": "variance ratio",
    "pearson_delta": f"{LEGACY}Pearson delta",
    "pearson_delta_top20": "top 20",
    "r2_of_means_top": "R2 of means, top 100",
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


def by_pair(evaluation: PerturbationEvaluation) -> pd.DataFrame:
    """Signal and share explained by pair, of all models and baselines; a dash where the response is too small."""
    table, signals = evaluation.table, evaluation.signals().set_index("perturbation")
    shares = means_of(table, ["perturbation", "method"], "explained").unstack("method").drop(columns=SPLIT_HALF)
    shares = shares.where(signals["ranked"], axis=0)[[name for name in table["method"].unique() if name in shares]]
    shown = shares.map(lambda value: DASH if pd.isna(value) else f"{value:.2f}")
    shown.insert(0, "signal z", signals["signal_z"].map("{:.1f}".format))
    return shown.T.rename_axis("method")


def signals_by_line(evaluation: PerturbationEvaluation) -> pd.DataFrame:
    """Signal z of every perturbation and line."""
    found = evaluation.signals().pivot_table(index="perturbation", columns="label", values="signal_z", sort=False)
    return found[sorted(found, key=str.lower)].map("{:.1f}".format).rename_axis("perturbation")


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
        "Counts of 500 genes in four cell lines, from Norman et al. (2019), k562, where genes are activated, and "
        "McFaline-Figueroa et al. (2023), three glioblastoma lines, where genes are repressed. With about a hundred "
        "cells for each perturbation and line the responses are small compared with their noise."
    )
    yield OF_HALVES
    if "pairs" in found:
        yield from section_of_pairs(found["pairs"])
    if "lines" in found:
        yield from section_of_lines(found["lines"], smoothed)
    yield made_by(options.command, PACKAGES, "one thread per process")


def section_of_pairs(evaluation: PerturbationEvaluation) -> Iterator[str]:
    """Section of the pairs, predicted from single perturbations."""
    means = markdown(averages(evaluation.table, COLUMNS, of_distance=2))
    yield f"## Pairs from single perturbations\n\n{ADDITIVE}\n\n{means}\n\n{evaluation.conclusion()}"
    yield (
        "Share explained by pair; a dash where the response is too small to rank anything, which is where the signal z "
        f"is below {LEAST_SIGNAL:g}:\n\n{markdown(by_pair(evaluation))}"
    )
    yield (
        "The changes of both single perturbations are measured from the same control cells, so that the noise of these "
        "is in their sum twice. The Pearson delta, whose measured change has it once, takes that for a response; the "
        "distances compare cells with cells, and do not subtract a control. A method has to shrink what it adds."
    )


def section_of_lines(evaluation: PerturbationEvaluation, smoothed: tuple[float, float]) -> Iterator[str]:
    """Section of the cell lines left out: no verdict, and the reason."""
    signals = evaluation.signals()
    of_glioblastoma = signals["label"] != "k562"
    above = (signals["ranked"] & of_glioblastoma).sum()
    same, apart = smoothed
    yield (
        "## A cell line left out\n\n"
        f"There is no verdict on these lines. Only {above} of {of_glioblastoma.sum()} responses of the glioblastoma "
        f"lines, and {(signals['ranked'] & ~of_glioblastoma).sum()} of {(~of_glioblastoma).sum()} of k562, are "
        f"{LEAST_SIGNAL:g} standard deviations above their noise; and a gene that is repressed in one study is "
        "activated in the other, so that the response of one line need not be that of another. Signal z:"
        f"\n\n{markdown(signals_by_line(evaluation))}"
    )
    yield (
        "Scores of such data show what a score measures beside the response. By the Pearson delta the PCA shifts are "
        "as good as one half of the real cells, and they explain less than nothing:"
        f"\n\n{markdown(averages(evaluation.table, COLUMNS, of_distance=2))}"
    )
    yield (
        f"Control cells that are only projected onto {N_COMPONENTS} principal components, without any response, have "
        f"a Pearson delta of {same:.3f}. Where one half of the control cells is projected, and the change measured "
        f"from the other half, it is {apart:.3f}: the noise of the control mean, of a hundred cells, is part of every "
        "change that is measured from it, and removing it raises the score."
    )


def evaluated(adata: AnnData, part: str, options: argparse.Namespace) -> PerturbationEvaluation:
    """All methods and baselines on what one part leaves out."""
    joined, of_pairs = pairs(adata), part == "pairs"
    asked: dict[str, Any] = {"perturbation": list(joined), "hold_out": joined} if of_pairs else {}
    return evaluate_perturbation(
        adata,
        {name: METHODS[name] for name in (options.methods if of_pairs else OF_LINES)},
        **{"perturbation": everywhere(adata), **asked},
        control=CONTROL,
        n_genes=adata.n_vars,
        seeds=range(options.seeds if of_pairs else 1),
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
