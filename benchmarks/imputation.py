"""Denoising, judged by molecules that were not seen (molecular cross-validation; Batson et al. 2019).

    python benchmarks/imputation.py --write docs/benchmarks/imputation.md

Every molecule of real counts goes to one of two halves at random. A model learns from one half, and its expected
counts are compared with the other half, of the same cells, by the Poisson deviance. One process, one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 - the thread count must be set before NumPy is loaded
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from anndata import AnnData  # noqa: E402
from annotation_page import markdown, spread  # noqa: E402
from annotation_tasks import default_folder  # noqa: E402
from clustering_tasks import TASKS, build  # noqa: E402
from scipy import sparse, special  # noqa: E402

from deltavi.data import log_normalise  # noqa: E402
from deltavi.model import PPCA, VAE  # noqa: E402

QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}


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


METHODS: dict[str, Callable[[AnnData, int], np.ndarray]] = {
    "counts as they are": observed,
    "mean profile": mean_profile,
    "PPCA, 10 factors": linear(10, "isotropic"),
    "PPCA, 30 factors": linear(30, "isotropic"),
    "factor analysis, 10 factors": linear(10, "diagonal"),
    "VAE, negative binomial": counted("nb"),
    "VAE, zero-inflated": counted("zinb"),
}


def page(runs: pd.DataFrame) -> str:
    """The page."""
    cells = runs.groupby(["method", "task"], sort=False)["deviance"].apply(spread, digits=2)
    table = cells.unstack().loc[list(METHODS)].rename_axis("method")
    table["seconds"] = runs.groupby("method")["seconds"].mean().map("{:.0f}".format)
    packages = ", ".join(f"{name} {version(name)}" for name in ("deltavi", "scikit-learn", "torch"))
    n_seeds, tasks = runs["seed"].nunique(), ",".join(runs["task"].unique())
    return (
        "# Denoising\n\nEvery molecule goes to one of two halves at random (molecular cross-validation; Batson et al. "
        "2019). A model learns from one half, and its expected counts are compared with the other half of the same "
        "cells: mean Poisson deviance of an entry, in thousandths of a nat, lower is better. 2,000 genes. What linear "
        "models expect of log1p CP10k is taken back to counts and scaled to the total of the cell; to these and to the "
        "counts themselves a hundredth of the mean profile is added, since a molecule that was not expected at all "
        f"costs without bound. The VAE is asked by `impute()`.\n\n{markdown(table)}\n\nMean ± standard deviation over "
        f"seeds (n = {n_seeds}), of halves and of training; processor seconds. Made by `python "
        f"benchmarks/imputation.py --tasks {tasks} --seeds {n_seeds} --write docs/benchmarks/imputation.md` with "
        f"{packages} on Python {platform.python_version()}, {platform.machine()}, one thread.\n"
    )


def main() -> None:
    """Run every method on every data set and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of the h5ad files")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for task in options.tasks.split(","):
        counts = sparse.csr_matrix(build(task, options.data).X)
        for seed in range(options.seeds):
            for name, method in METHODS.items():
                torch.set_num_threads(1)
                cells, hidden = halves(counts, seed)
                started = time.process_time()
                expected = method(cells, seed)
                seconds = time.process_time() - started
                found = {"task": task, "seed": seed, "method": name, "deviance": deviance(hidden, expected)}
                rows.append({**found, "seconds": seconds})
                print(rows[-1], flush=True)
    text = page(pd.DataFrame(rows))
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
