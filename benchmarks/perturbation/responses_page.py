"""The page of responses of groups that were left out: shares explained, intervals, skill and the table of genes."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from benchmarks.harness.page import DASH, made_by, markdown, spread
from benchmarks.perturbation.page import means_of
from deltavi.metrics.significance import MIN_CHANGE

PACKAGES = ("deltavi", "numpy", "scipy")
TABULATED, SAME = "crossed GP", "mean of the same type"
CROSSED = {TABULATED: "auto", "crossed GP, identity": "identity", "crossed GP, similarity": "similarity"}
# Fewest cells of a group, genes that change most, and coverage of intervals.
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
