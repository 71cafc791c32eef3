"""The page of the held-out responses: tables of every method, wins, coverage of the intervals, and trust."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from importlib.metadata import version

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from deltavi import _keys
from deltavi.data import select_genes
from deltavi.perturbation import CEILING
from deltavi.tl import PerturbationEvaluation

COLUMNS = {
    "correlation_of_changes": "correlation of changes",
    "correlation_of_changes_top": "top 100",
    "correlation_of_changes_top20": "top 20",
    "r2_of_means_top": "R2 of means, top 100",
    "mse_top": "MSE, top 100",
    "e_distance": "E-distance",
    "mmd": "MMD",
    "variance_ratio": "variance ratio",
    "zero_fraction": "zeros",
}
BY_HOLD_OUT = {"correlation_of_changes": 3, "r2_of_means_top": 3, "e_distance": 1, "variance_ratio": 2}
TOP = 100
PACKAGES = ("deltavi", "scvi-tools", "torch", "anndata")


def markdown(table: pd.DataFrame) -> str:
    """`table`, whose entries are text, as a Markdown table."""
    header = f"| {table.index.name or ''} | " + " | ".join(map(str, table.columns)) + " |"
    rows = [f"| {name} | " + " | ".join(row) + " |" for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join([header, "|---|" + "---:|" * table.shape[1], *rows])


def spread(values: pd.Series, digits: int) -> str:
    """Mean and, of several seeds, the standard deviation over them."""
    if values.notna().sum() == 0:
        return "–"
    deviation = values.std()
    text = f"{values.mean():.{digits}f}"
    return f"{text} ± {deviation:.{digits}f}" if len(values) > 1 and deviation > 0.5 * 10**-digits else text


def over_seeds(table: pd.DataFrame, metric: str, digits: int) -> pd.Series:
    """Mean over hold-outs of each seed, then mean and deviation over seeds, by method."""
    means = table.groupby(["method", "seed"], sort=False)[metric].mean()
    return means.groupby("method", sort=False).agg(lambda values: spread(values, digits))


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """Every score of every method, over all hold-outs."""
    columns = {
        shown: over_seeds(table, metric, 1 if metric == "e_distance" else 3) for metric, shown in COLUMNS.items()
    }
    return pd.DataFrame(columns).rename_axis("method")


def by_hold_out(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One score of every method on every hold-out, mean over seeds."""
    means = table.groupby(["method", "hold_out"], sort=False)[metric].mean().unstack("hold_out", sort=False)
    return means.map(lambda value: "–" if pd.isna(value) else f"{value:.{BY_HOLD_OUT[metric]}f}").rename_axis("method")


def certainty(evaluation: PerturbationEvaluation, adata: AnnData, options: argparse.Namespace) -> pd.DataFrame:
    """Coverage of the intervals, doubt and error of every kept prediction that has them."""
    everything = select_genes(adata, n_top=adata.n_vars)
    condition = everything.obs["condition"].astype(str).to_numpy()
    key = options.hold_out or "cell_type"
    rows = []
    for kept in evaluation.predictions.itertuples():
        predicted = anndata.read_h5ad(options.runs / kept.file)
        if _keys.VARM_LOWER not in predicted.varm:
            continue
        group = everything[everything.obs[key].astype(str).to_numpy() == kept.hold_out, predicted.var_names]
        labels = group.obs["cell_type"].astype(str).to_numpy()
        inside = condition[everything.obs[key].astype(str).to_numpy() == kept.hold_out]
        for column, doubt in zip(
            predicted.varm[_keys.VARM_LOWER], predicted.uns[_keys.UNS_PREDICTION]["trust"]["doubt"], strict=True
        ):
            cells = [group[(labels == column) & (inside == name)] for name in ("control", "stimulated")]
            if min(part.n_obs for part in cells) < 10:
                continue
            before, after = (np.asarray(part.X.mean(0)).ravel() for part in cells)
            lower, change, upper = (
                predicted.varm[name][column].to_numpy()
                for name in (_keys.VARM_LOWER, _keys.VARM_CHANGE, _keys.VARM_UPPER)
            )
            real = after - before
            covered = (real >= lower) & (real <= upper)
            top = np.argsort(-np.abs(change))[:TOP]
            rows.append(
                {
                    "method": kept.method,
                    "hold_out": kept.hold_out,
                    "label": column,
                    "seed": kept.seed,
                    "covered": covered.mean(),
                    "covered_top": covered[top].mean(),
                    "half_width": ((upper - lower) / 2).mean(),
                    "doubt": doubt,
                    "error": ((real - change) ** 2).sum(),
                }
            )
    names = ("method", "hold_out", "label", "seed", "covered", "covered_top", "half_width", "doubt", "error")
    return pd.DataFrame(rows, columns=pd.Index(names))


def certainty_table(found: pd.DataFrame) -> pd.DataFrame:
    """Coverage, doubt and error of one method, by hold-out."""
    mean = found.groupby("hold_out", sort=False)[["covered", "covered_top", "half_width", "doubt", "error"]].mean()
    mean.loc["mean"] = mean.mean()
    shown = {
        "covered": "genes in their interval",
        "covered_top": f"of the {TOP} predicted to change most",
        "half_width": "half width, log1p CP10k",
        "doubt": "doubt",
        "error": "squared error of the change",
    }
    digits = {"covered": 3, "covered_top": 2, "half_width": 3, "doubt": 2, "error": 1}
    text = {shown[name]: mean[name].map(lambda value, n=name: f"{value:.{digits[n]}f}") for name in shown}
    return pd.DataFrame(text).rename_axis("held out")


def sections(evaluation: PerturbationEvaluation, adata: AnnData, options: argparse.Namespace) -> Iterator[str]:
    """Sections of the page."""
    table = evaluation.table
    first = evaluation.methods[0]
    names = [name for name in table["method"].unique() if name != CEILING] + [CEILING]
    held = "donor" if options.hold_out == "donor" else "cell type"
    yield f"# Held-out responses: {options.data.stem}" + (f", by {options.hold_out}" if options.hold_out else "")
    yield (
        f"Each of {table['hold_out'].nunique()} {held}s in turn is left without its stimulated cells, which are then "
        f"predicted from its control cells. {'Genes chosen without' if options.no_leak else 'Genes chosen with'} the "
        f"held-out cells; 2,000 genes, log1p CP10k. {table['seed'].nunique()} seeds at most: a deviation is one over "
        "seeds of the mean over all hold-outs. Higher is better but for MSE, E-distance and MMD; variance ratio and "
        "zeros should be those of the two halves. Every score has its formula on the page of the metrics."
    )
    yield "## Mean\n\n" + markdown(averages(table).loc[names])
    yield f"## Against the best baseline\n\n{evaluation.verdict(first)}"
    for metric in BY_HOLD_OUT:
        shown = COLUMNS[metric]
        yield f"## {shown[0].upper()}{shown[1:]}\n\n{markdown(by_hold_out(table, metric).loc[names])}"
    found = certainty(evaluation, adata, options)
    mine = found[found["method"] == first]
    if len(mine):
        rank = stats.spearmanr(mine["doubt"], mine["error"])
        yield (
            f"## How sure\n\nShare of genes of {first} whose measured change of the mean lies in its 90 % interval, "
            "and the doubt of each prediction beside its squared error, summed over genes. Rank correlation of doubt "
            f"and error: {rank.statistic:.2f} over {len(mine)} predictions.\n\n{markdown(certainty_table(mine))}"
        )
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    seconds = table[table["kind"] == "model"].groupby("method", sort=False)["seconds"].mean()
    yield (
        "Processor seconds to train and predict, by method: "
        + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        + "."
    )
    yield (
        f"Made by `python benchmarks/perturbation.py {' '.join(options.given)}` with {packages} on Python "
        f"{platform.python_version()}, {platform.machine()}, one thread per process."
    )


def page(evaluation: PerturbationEvaluation, adata: AnnData, options: argparse.Namespace) -> str:
    """The page as Markdown."""
    return "\n\n".join(sections(evaluation, adata, options)) + "\n"
