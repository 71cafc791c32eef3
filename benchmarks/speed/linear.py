"""PPCA beside scanpy's principal components: seconds and memory on a large sparse matrix.

    python -m benchmarks speed-linear --runs 3 --write docs/benchmarks/linear_speed.md

Each run is a process of its own, the two programs in turn, one thread each; ratios are those of pairs that ran one
after the other.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

from benchmarks.harness.command import parsed, parser, settle
from benchmarks.harness.page import grid, made_by, publish
from deltavi.model import PPCA

PACKAGES = ("deltavi", "scanpy", "scikit-learn", "numpy")
TITLES = {"scanpy": "`scanpy.pp.pca`", "isotropic": "PPCA", "diagonal": "factor analysis"}


def matrix(n_cells: int, n_genes: int, density: float) -> sp.csr_matrix:
    """Log-normalised expression of a few programs, with about `density` of its entries not zero."""
    rng = np.random.default_rng(0)
    programs = rng.gamma(0.3, 1.0, (8, n_genes))
    blocks = []
    for start in range(0, n_cells, 5000):
        n = min(5000, n_cells - start)
        rates = rng.dirichlet(np.full(8, 0.3), n) @ programs
        # of Poisson counts a share 1 - exp(-rate) is not zero
        counts = rng.poisson(rates * (-np.log(1 - density) / rates.mean()))
        logs = np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))
        blocks.append(sp.csr_matrix(logs.astype(np.float32)))
    return sp.csr_matrix(sp.vstack(blocks))


def run(method: str, file: Path, n_components: int) -> dict[str, float]:
    """Processor seconds of one program, and the peak memory of this process in GiB."""
    settle()
    adata = AnnData(sp.load_npz(file))
    started = time.process_time()
    if method == "scanpy":
        sc.pp.pca(adata, n_comps=n_components)
    else:
        PPCA.setup_anndata(adata)
        model = PPCA(adata, n_latent=n_components, noise="diagonal" if method == "diagonal" else "isotropic")
        started = time.process_time()
        model.train()
        model.get_latent_representation()
    return {"seconds": time.process_time() - started, "peak": peak()}


def peak() -> float:
    """GiB of the largest resident set of this process so far.

    Linux lets a new process start with the getrusage figure of the process that started it; /proc does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = [line.split() for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if found:
            return int(found[0][1]) / 2**20
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**30 if sys.platform == "darwin" else 2**20)


def measured(options: argparse.Namespace, file: Path) -> pd.DataFrame:
    """Seconds and memory of every turn and program, each in a fresh process."""
    rows = []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        for turn in range(options.runs):
            for method in TITLES:
                found = fresh.submit(run, method, file, options.components).result()
                rows.append({"turn": turn, "method": method, **found})
                print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def page(runs: pd.DataFrame, options: argparse.Namespace) -> Iterator[str]:
    """The page, with medians over runs."""
    seconds, memory = (runs.pivot(index="turn", columns="method", values=what) for what in ("seconds", "peak"))
    middle, ratio = seconds.median(), seconds.div(seconds["scanpy"], axis=0).median()
    rows = [
        [title, f"{middle[name]:.1f}", f"{ratio[name]:.2f}", f"{memory.median()[name]:.2f}"]
        for name, title in TITLES.items()
    ]
    yield (
        f"# Linear models: time and memory\n\n{options.cells:,} cells by {options.genes:,} genes, sparse, "
        f"{100 * options.density:.0f} % of entries not zero, {options.components} components. The fit and the "
        "positions of all cells; factor analysis iterates to convergence. Processor seconds, medians of "
        f"{options.runs} processes each, run in turn; the ratio is the median over turns. Memory is the peak of "
        "the whole process, libraries and data included."
    )
    yield grid(["", "seconds", "ratio to scanpy", "peak memory, GiB"], rows)
    yield made_by(options.command, PACKAGES)


def main(study: str, arguments: list[str]) -> None:
    """Run the programs in turn and write the page."""
    made = parser(study, __doc__)
    made.add_argument("--cells", type=int, default=100_000)
    made.add_argument("--genes", type=int, default=2000)
    made.add_argument("--density", type=float, default=0.1)
    made.add_argument("--components", type=int, default=30)
    made.add_argument("--runs", type=int, default=5)
    options = parsed(made, arguments, {"cells": 2000, "genes": 200, "runs": 1})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "matrix.npz")
        sp.save_npz(file, matrix(options.cells, options.genes, options.density), compressed=False)
        table = measured(options, file)
    publish(page(table, options), options.write)
