"""Denoising, judged by molecules that were not seen (molecular cross-validation; Batson et al. 2019).

    python -m benchmarks imputation --seeds 2 --write docs/benchmarks/imputation.md

Every molecule of real counts goes to one of two halves at random. A model learns from one half, and its expected
counts are compared with the other half, of the same cells, by the Poisson deviance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse, special

from benchmarks.harness import runs
from benchmarks.harness.command import QUIET
from benchmarks.harness.data import SETS, build
from benchmarks.harness.page import made_by, markdown, spread
from benchmarks.harness.runs import Rows, Run, Study
from deltavi.model import PPCA, VAE
from deltavi.pp import log_normalise

PACKAGES = ("deltavi", "scikit-learn", "torch")


def halves(counts: sparse.csr_matrix, seed: int) -> tuple[AnnData, np.ndarray]:
    """One half of the molecules as cells to learn from, the other as an array."""
    seen = counts.copy()
    seen.data = np.random.default_rng(seed).binomial(counts.data.astype(int), 0.5).astype(np.float32)
    hidden = (counts - seen).toarray()
    seen.eliminate_zeros()
    return AnnData(seen), hidden


def deviance(counts: np.ndarray, expected: np.ndarray) -> float:
    """Mean Poisson deviance of an entry, in units of 1/1000 nats."""
    expected = np.maximum(expected, 1e-9)
    terms = special.xlogy(counts, counts / expected) - (counts - expected)
    return float(2000 * terms.mean())


def to_totals(expected: np.ndarray, cells: AnnData) -> np.ndarray:
    """Scaled to the total of each cell."""
    totals = np.asarray(cells.X.sum(1))
    return np.asarray(expected * (totals / np.maximum(expected.sum(1, keepdims=True), 1e-9)))


def mean_profile(cells: AnnData, seed: int) -> np.ndarray:
    """The same shares in every cell."""
    return to_totals(np.tile(np.asarray(cells.X.mean(0)), (cells.n_obs, 1)), cells)


def above_zero(expected: np.ndarray, cells: AnnData) -> np.ndarray:
    """With a hundredth of the mean profile: one molecule where none was expected would cost without bound."""
    return np.asarray(0.99 * expected + 0.01 * mean_profile(cells, 0))


def observed(cells: AnnData, seed: int) -> np.ndarray:
    """The counts of the half that was seen."""
    return above_zero(cells.X.toarray(), cells)


def linear(n_latent: int, noise: Any) -> Callable[[AnnData, int], np.ndarray]:
    """PPCA or factor analysis of log1p CP10k, its expectation taken back to counts."""

    def method(cells: AnnData, seed: int) -> np.ndarray:
        log_normalise(cells)
        PPCA.setup_anndata(cells, layer="log1p_cp10k")
        model = PPCA(cells, n_latent=n_latent, noise=noise, seed=seed)
        model.train()
        return above_zero(to_totals(np.expm1(np.maximum(model.impute(), 0)), cells), cells)

    return method


def counted(gene_likelihood: Any) -> Callable[[AnnData, int], np.ndarray]:
    """The VAE with a likelihood of counts."""

    def method(cells: AnnData, seed: int) -> np.ndarray:
        VAE.setup_anndata(cells)
        model = VAE(cells, gene_likelihood=gene_likelihood, seed=seed)
        model.train(**QUIET)
        return np.asarray(model.impute())

    return method


# Name on the page, and what is expected of the cells with a seed.
METHODS: dict[str, tuple[str, Callable[[AnnData, int], np.ndarray]]] = {
    "observed": ("counts as they are", observed),
    "mean": ("mean profile", mean_profile),
    "ppca_10": ("PPCA, 10 factors", linear(10, "isotropic")),
    "ppca_30": ("PPCA, 30 factors", linear(30, "isotropic")),
    "factors_10": ("factor analysis, 10 factors", linear(10, "diagonal")),
    "vae_nb": ("VAE, negative binomial", counted("nb")),
    "vae_zinb": ("VAE, zero-inflated", counted("zinb")),
}


@lru_cache(maxsize=1)
def counts_of(task: str, data: Path) -> sparse.csr_matrix:
    """Counts of a data set."""
    return sparse.csr_matrix(build(task, data).X)


def work(run: Run, data: Path) -> Rows:
    """The row of one run."""
    cells, hidden = halves(counts_of(run.task, data), run.seed)
    started = time.process_time()
    expected = METHODS[run.method][1](cells, run.seed)
    seconds = time.process_time() - started
    return [{"deviance": deviance(hidden, expected), "seconds": seconds}]


def page(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Sections of the page; `records` has one row per task, method and seed."""
    by_run = records.groupby(["method", "task"], sort=False)["deviance"]
    table = by_run.apply(spread, digits=2).unstack().loc[list(records["method"].unique()), records["task"].unique()]
    table["seconds"] = records.groupby("method")["seconds"].mean().map("{:.0f}".format)
    yield (
        "# Denoising\n\nEvery molecule goes to one of two halves at random (molecular cross-validation; Batson et al. "
        "2019). A model learns from one half, and its expected counts are compared with the other half of the same "
        "cells: mean Poisson deviance of an entry, in thousandths of a nat, lower is better. 2,000 genes. Expectations "
        "of linear models are transformed from log1p CP10k to counts and scaled to the total of the cell; to these and "
        "to the counts themselves a hundredth of the mean profile is added, since the deviance of a molecule with an "
        "expectation of zero is infinite. The expectation of the VAE is that of `impute()`."
    )
    yield markdown(table.rename({name: title for name, (title, _) in METHODS.items()}).rename_axis("method"))
    yield (
        f"Mean ± standard deviation over seeds (n = {records['seed'].nunique()}), of halves and of training; processor "
        f"seconds. {made_by(command, PACKAGES)}"
    )


QUICK = {"tasks": ["pbmc3k"], "methods": ["observed", "mean", "ppca_10"]}
STUDY = Study("imputation", __doc__, list(SETS), list(METHODS), work, page, quick=QUICK)


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDY, arguments)
