"""The page of the mixture on the interferon experiment."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

import pandas as pd
from annotation_page import markdown, spread

CEILING = "two halves of the real cells"
# Score, title and digits of the responses.
RESPONSES = {
    "correlation_of_changes": ("correlation of changes", 3),
    "correlation_of_changes_top": ("top 100", 3),
    "r2_of_means_top": ("R2 of means, top 100", 3),
    "e_distance": ("E-distance", 1),
    "variance_ratio": ("variance ratio", 2),
    "zero_fraction": ("zeros", 2),
}
TYPES = {"accuracy": ("accuracy", 3), "macro_f1": ("macro-F1", 3), "ece": ("calibration error", 3)}


def over_seeds(rows: pd.DataFrame, scores: dict[str, tuple[str, int]]) -> pd.DataFrame:
    """Methods by scores: mean and standard deviation over seeds of the mean over held-out types."""
    n_seeds = rows["seed"].nunique()
    by_seed = rows.groupby(["method", "seed"], sort=False)[list(scores)].mean()
    columns = {
        title: by_seed[score].groupby("method", sort=False).apply(spread, digits=digits, n_seeds=n_seeds)
        for score, (title, digits) in scores.items()
    }
    table = pd.DataFrame(columns).rename_axis("method")
    last = [name for name in table.index if name == CEILING]
    return table.loc[[name for name in table.index if name != CEILING] + last]


def by_label(rows: pd.DataFrame, score: str, digits: int) -> pd.DataFrame:
    """Methods by held-out types."""
    n_seeds = rows["seed"].nunique()
    grouped = rows.groupby(["method", "label"], sort=False)[score]
    table = grouped.apply(spread, digits=digits, n_seeds=n_seeds).unstack()
    return table.loc[list(rows["method"].unique())].rename_axis("method")


def sections(records: pd.DataFrame) -> Iterator[str]:
    """Sections of the page."""
    yield "# One mixture on the interferon experiment"
    types = records[records["part"] == "types"]
    if len(types):
        yield (
            "## Types\n\nA random fifth of all cells, of both conditions, is hidden from the labels. MIXVI has one "
            "component per type; logistic regression is ACTINN without hidden layers."
            f"\n\n{markdown(over_seeds(types, TYPES))}"
        )
    responses = records[records["part"] == "responses"]
    if len(responses):
        yield from routes(responses)
    packages = ", ".join(f"{name} {version(name)}" for name in ("deltavi", "scvi-tools", "torch", "anndata"))
    n_seeds = records["seed"].nunique()
    yield (
        f"Mean ± standard deviation over seeds (n = {n_seeds}). Every run is in the table `mixture_kang.csv` beside "
        f"this page. Made by `python benchmarks/mixture_kang.py --seeds {n_seeds} --write "
        f"docs/benchmarks/mixture_kang.md` with {packages} on Python {platform.python_version()}, "
        f"{platform.machine()}, one thread."
    )


def routes(rows: pd.DataFrame) -> Iterator[str]:
    """Sections of the held-out responses."""
    nats = rows[["w_nats", "z_nats"]].mean()
    yield (
        f"## Held-out responses\n\nEach of {rows['label'].nunique()} types in turn is left without its stimulated "
        "cells, which are then predicted from its control cells. MIXVI is one conditional fit with labels, asked by "
        "three routes: decode the cell's own latent position under the other condition (z), decode the mean of its "
        "component under the other condition, given w (w), or add a shift of latent positions; each without "
        "consensus, with the residual that each cell keeps, and for w also without. Genes are chosen with the held-out "
        "cells, as for every method here. "
        "Higher is better but for the E-distance; variance ratio and zeros should be those of the two halves. w says "
        f"{nats['w_nats']:.2f} nats about a cell, z {nats['z_nats']:.1f}.\n\n{markdown(over_seeds(rows, RESPONSES))}"
    )
    for score in ("correlation_of_changes", "e_distance", "variance_ratio"):
        title, digits = RESPONSES[score]
        yield f"### {title[0].upper()}{title[1:]}\n\n{markdown(by_label(rows, score, digits))}"


def page(records: pd.DataFrame) -> str:
    """The whole page; `records` has one row per part, held-out type, method and seed."""
    return "\n\n".join(sections(records)) + "\n"
