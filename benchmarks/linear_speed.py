"""PPCA beside scanpy's principal components: seconds and memory on a large sparse matrix.

    python benchmarks/linear_speed.py --write docs/benchmarks/linear_speed.md

Each run is a process of its own, the two programs in turn, one thread each; ratios are those of pairs that ran one
after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 - the thread count must be set before NumPy is loaded
import scipy.sparse as sp  # noqa: E402
from anndata import AnnData  # noqa: E402

GIB = 2**30


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
    """Seconds of one program, and the memory that the process came to need beyond the data."""
    import torch

    from deltavi.model import PPCA

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    adata = AnnData(sp.load_npz(file))
    import scanpy as sc

    if method != "scanpy":
        PPCA.setup_anndata(adata)
        model = PPCA(adata, n_latent=n_components, noise=method)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, clock = time.process_time(), time.perf_counter()
    if method == "scanpy":
        sc.pp.pca(adata, n_comps=n_components)
    else:
        model.train()
        model.get_latent_representation()
    return {
        "seconds": time.process_time() - started,
        "wall": time.perf_counter() - clock,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        "before": before * 1024 / GIB,
    }


def measured(method: str, file: Path, n_components: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", method, "--file", str(file), "--components", str(n_components)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def page(runs: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> str:
    """The page, with medians over runs."""

    def median(method: str, what: str) -> float:
        return float(np.median([one[what] for one in runs[method]]))

    rows = []
    for method, title in (("scanpy", "`scanpy.pp.pca`"), ("isotropic", "PPCA"), ("diagonal", "factor analysis")):
        pairs = zip(runs[method], runs["scanpy"], strict=True)
        ratio = np.median([one["seconds"] / other["seconds"] for one, other in pairs])
        rows.append(f"| {title} | {median(method, 'seconds'):.1f} | {ratio:.2f} | {median(method, 'peak'):.2f} |")
    table = "\n".join(["| | seconds | ratio to scanpy | peak memory, GiB |", "|---|---:|---:|---:|", *rows])
    packages = ", ".join(f"{name} {version(name)}" for name in ("deltavi", "scanpy", "scikit-learn", "numpy"))
    return (
        f"# Linear models: time and memory\n\n{options.cells:,} cells by {options.genes:,} genes, sparse, "
        f"{100 * options.density:.0f} % of entries not zero, {options.components} components. The fit and the "
        "positions of all cells; factor analysis takes as many rounds as it needs. Processor seconds, medians of "
        f"{len(runs['scanpy'])} processes each, run in turn; the ratio is the median over turns. Memory is the peak of "
        f"the whole process, libraries and data included.\n\n{table}\n\nMade by `python benchmarks/linear_speed.py "
        f"--runs {len(runs['scanpy'])} --write docs/benchmarks/linear_speed.md` with {packages} on Python "
        f"{platform.python_version()}, {platform.machine()}, one thread.\n"
    )


def main() -> None:
    """Run the programs in turn and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--components", type=int, default=30)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--file", type=Path, default=Path("linear_speed.npz"), help="matrix, made if it is missing")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one, options.file, options.components)))
        return
    if not options.file.exists():
        sp.save_npz(options.file, matrix(options.cells, options.genes, options.density), compressed=False)
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.runs):
        for method in ("scanpy", "isotropic", "diagonal"):
            runs.setdefault(method, []).append(measured(method, options.file, options.components))
            print(method, runs[method][-1], flush=True)
    text = page(runs, options)
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
