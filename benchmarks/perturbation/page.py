"""The page of the held-out responses: tables of every method, wins, coverage of the intervals, and uncertainty."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
from scipy import stats

from benchmarks.harness.page import DASH, made_by, markdown
from deltavi.perturbation import SPLIT_HALF
from deltavi.tl import PerturbationEvaluation

# Those that are measured with the same control cells on both sides, or that doing nothing raises, come last.
LEGACY = "legacy: "
COLUMNS = {
    "explained": "explained",
    "energy_distance": "energy distance",
    "e_distance": "E-distance",
    "mmd": "MMD",
    "mse_top": "MSE, top 100",
    "variance_ratio": "variance ratio",
    "zero_fraction": "zeros",
    "pearson_delta": f"{LEGACY}Pearson delta",
    "pearson_delta_top": "top 100",
    "pearson_delta_top20": "top 20",
    "r2_of_means_top": "R2 of means, top 100",
}
BY_HOLD_OUT = {"explained": 3, "e_distance": 1, "variance_ratio": 2, "pearson_delta": 3, "r2_of_means_top": 3}
OF_HALVES = (
    "Explained is the share of the response that a method explains, the noise of its measurement subtracted: 0 is no "
    "change, 1 the true response. Methods start from one half of the control cells; the real change is measured from "
    "the other half, which none of them saw. Legacy scores have the same control cells on both sides, so that their "
    "noise is in both changes and smoothing it away raises a score, or are high for doing nothing."
)
PACKAGES = ("deltavi", "scvi-tools", "torch", "anndata")


def spread(values: pd.Series, digits: int) -> str:
    """Mean and, of several seeds, the standard deviation over them."""
    if values.notna().sum() == 0:
        return DASH
    deviation = values.std()
    text = f"{values.mean():.{digits}f}"
    return f"{text} ± {deviation:.{digits}f}" if len(values) > 1 and deviation > 0.5 * 10**-digits else text


def means_of(table: pd.DataFrame, keys: list[str], metric: str) -> pd.Series:
    """Means of a score; of the share explained that of sums of squared errors and of squared sizes."""
    grouped = table.groupby(keys, sort=False)
    if metric != "explained":
        return grouped[metric].mean()
    parts = grouped[["squared_error", "squared_size"]].sum()
    return 1 - parts["squared_error"] / parts["squared_size"]


def over_seeds(table: pd.DataFrame, metric: str, digits: int) -> pd.Series:
    """Mean over hold-outs of each seed, then mean and deviation over seeds, by method."""
    means = means_of(table, ["method", "seed"], metric)
    return means.groupby("method", sort=False).agg(lambda values: spread(values, digits))


def averages(table: pd.DataFrame, columns: Mapping[str, str], of_distance: int = 1) -> pd.DataFrame:
    """Scores of every method over all hold-outs, the ceiling last; `of_distance` digits of the E-distance."""
    digits = {"e_distance": of_distance}
    shown = {title: over_seeds(table, metric, digits.get(metric, 3)) for metric, title in columns.items()}
    names = [name for name in table["method"].unique() if name != SPLIT_HALF] + [SPLIT_HALF]
    return pd.DataFrame(shown).loc[names].rename_axis("method")


def by_hold_out(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One score of every method on every hold-out, mean over seeds."""
    means = means_of(table, ["method", "hold_out"], metric).unstack("hold_out")
    return means.map(lambda value: DASH if pd.isna(value) else f"{value:.{BY_HOLD_OUT[metric]}f}").rename_axis("method")


def certainty_table(found: pd.DataFrame) -> pd.DataFrame:
    """Coverage, uncertainty and error of one method, by hold-out."""
    shown = {
        "coverage": "genes in their interval",
        "coverage_top": "of the 100 predicted to change most",
        "half_width": "half width, log1p CP10k",
        "uncertainty": "uncertainty",
        "mse_delta": "mean squared error of the change, 1e-3",
    }
    mean = found.groupby("hold_out", sort=False)[list(shown)].mean()
    mean["mse_delta"] *= 1e3
    mean.loc["mean"] = mean.mean()
    digits = {"coverage": 3, "coverage_top": 2, "half_width": 3, "uncertainty": 2, "mse_delta": 1}
    text = {shown[name]: mean[name].map(lambda value, n=name: f"{value:.{digits[n]}f}") for name in shown}
    return pd.DataFrame(text).rename_axis("held out")


def without_halves(table: pd.DataFrame) -> str:
    """Sentence on the labels with too few control cells for two halves, if there are any."""
    cases = table.groupby(["hold_out", "label"])["n_reference"].max()
    few = int((cases == 0).sum())
    if not few:
        return ""
    halved = table[table["n_reference"] > 0]
    means = means_of(halved, ["method"], "explained").drop(SPLIT_HALF)
    shown = ", ".join(f"{name} {means[name]:.3f}" for name in means.index)
    return (
        f" {few} of {len(cases)} groups have fewer than 20 control cells, and the same ones on both sides. Explained "
        f"without these: {shown}."
    )


def page(evaluation: PerturbationEvaluation, options: argparse.Namespace) -> Iterator[str]:
    """Sections of the page."""
    table = evaluation.table
    first = evaluation.methods[0]
    means = averages(table, COLUMNS)
    held = "donor" if options.hold_out == "donor" else "cell type"
    yield f"# Held-out responses: {Path(options.file).stem}" + (f", by {options.hold_out}" if options.hold_out else "")
    yield (
        f"Each of {table['hold_out'].nunique()} {held}s in turn is left without its stimulated cells, which are then "
        f"predicted from its control cells. {'Genes chosen without' if options.no_leak else 'Genes chosen with'} the "
        f"held-out cells; 2,000 genes, log1p CP10k. {table['seed'].nunique()} seeds at most: a deviation is one over "
        "seeds of the mean over all hold-outs. Higher is better but for distances, MSE and MMD; variance ratio and "
        "zeros should be those of the split-half ceiling. The page of the metrics has the formula of every score."
    )
    yield OF_HALVES + without_halves(table)
    yield "## Mean\n\n" + markdown(means)
    yield f"## Against the best baseline\n\n{evaluation.conclusion(first)}"
    for metric in BY_HOLD_OUT:
        shown = COLUMNS[metric].removeprefix(LEGACY)
        yield f"## {shown[0].upper()}{shown[1:]}\n\n{markdown(by_hold_out(table, metric).loc[means.index])}"
    mine = table[(table["method"] == first) & table["coverage"].notna()]
    if len(mine):
        rank = stats.spearmanr(mine["uncertainty"], mine["mse_delta"])
        yield (
            f"## Uncertainty\n\nShare of genes of {first} whose measured change of the mean lies in its 90 % interval, "
            "and the uncertainty of each prediction beside its mean squared error. Rank correlation of uncertainty "
            f"and error: {rank.statistic:.2f} over {len(mine)} predictions.\n\n{markdown(certainty_table(mine))}"
        )
    seconds = table[table["kind"] == "model"].groupby("method", sort=False)["seconds"].mean()
    yield (
        "Processor seconds to train and predict, by method: "
        + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        + "."
    )
    yield made_by(options.command, PACKAGES, "one thread per process")
