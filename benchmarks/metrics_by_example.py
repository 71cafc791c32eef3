"""What every metric gives to doing nothing, to a mean shift, to its opposite, and to two halves of the real cells.

    python benchmarks/metrics_by_example.py --data kang_9k_genes.h5ad --write docs/metrics.md

The stimulated cells of one type are held out. Genes are the 2,000 most variable of all cells, as in the tables of
held-out responses; the table replaces what stands between the two marks of the page. One thread.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import anndata  # noqa: E402 - the thread count must be set before NumPy is loaded
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scanpy as sc  # noqa: E402
import scipy.sparse as sp  # noqa: E402

from deltavi.metrics import differential_overlap, principal_axes, r2_of_means  # noqa: E402
from deltavi.perturbation import CEILING, baseline_predictions, compare  # noqa: E402

MARKS = ("<!-- values: begin -->", "<!-- values: end -->")
WRONG = "mean shift, wrong sign"
KEYS = {"condition_key": "condition", "labels_key": "cell_type", "control": "control", "target": "stimulated"}


def log_expression(path: Path, n_genes: int) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Log1p CP10k expression, dense, of all genes and of variable genes; the type with too few cells is left out."""
    adata = anndata.read_h5ad(path)
    adata = adata[adata.obs["cell_type"] != "Megakaryocyte"].copy()
    counts = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.layers["counts"] = counts
    sc.pp.highly_variable_genes(adata, n_top_genes=n_genes, flavor="seurat_v3", layer="counts", batch_key="condition")
    del adata.layers["counts"]
    adata.X = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    return adata, adata[:, adata.var["highly_variable"]].copy()


def pairs_of_cells(adata: anndata.AnnData, label: str) -> tuple[dict[str, tuple[Any, Any]], Any]:
    """Predicted and real cells of every row, and the control cells."""
    of_type = (adata.obs["cell_type"] == label).to_numpy()
    stimulated = (adata.obs["condition"] == "stimulated").to_numpy()
    train, control, real = adata[~(of_type & stimulated)], adata[of_type & ~stimulated], adata[of_type & stimulated]
    moved = baseline_predictions(train, control, **KEYS)["mean shift"].X
    order = np.random.default_rng(0).permutation(real.n_obs)
    half = real.n_obs // 2
    pairs = {
        "no change": (control.X, real.X),
        "mean shift": (moved, real.X),
        WRONG: (np.clip(2 * control.X - moved, 0, None), real.X),
        CEILING: (real.X[order[:half]], real.X[order[half:]]),
    }
    return pairs, control.X


def scores(everything: anndata.AnnData, adata: anndata.AnnData, label: str) -> pd.DataFrame:
    """Every score of the four rows, R2 over all genes, and the calls behind the differential scores."""
    pairs, control = pairs_of_cells(adata, label)
    real = pairs["no change"][1]
    predictions = {name: predicted for name, (predicted, _) in pairs.items() if name != CEILING}
    table = compare(predictions, real, control, components=principal_axes(adata.X))
    of_all, _ = pairs_of_cells(everything, label)
    table[f"R2 of means, all {everything.n_vars:,} genes"] = [r2_of_means(*of_all[name]) for name in table.index]
    for test, least in itertools.product(("welch", "wilcoxon"), (0.1, 0.0)):
        overlap = [
            differential_overlap(*pairs[name], control=control, test=test, min_change=least) for name in table.index
        ]
        name = f"{test}, change of at least {least:g}"
        table[f"genes called, {name}"] = [float(one.n_predicted) for one in overlap]
        table[f"F1, {name}"] = [one.f1 for one in overlap]
    return table


def written(name: str) -> str:
    """A field as code, other names as they are."""
    return f"`{name}`" if name.isidentifier() else name


def rounded(value: float, name: str) -> str:
    """Three decimals, one of large scores, none of counts."""
    if name.startswith("genes called"):
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def main() -> None:
    """Score the rows and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="h5ad with obs condition and cell_type")
    parser.add_argument("--type", default="CD4T", help="cell type to hold out (%(default)s)")
    parser.add_argument("--genes", type=int, default=2000, help="variable genes (%(default)s)")
    parser.add_argument("--write", type=Path, help="Markdown page with the two marks")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    table = scores(*log_expression(options.data, options.genes), options.type)
    lines = ["| score | " + " | ".join(table.index) + " |", "|---|" + "---:|" * len(table)]
    lines += [
        f"| {written(name)} | " + " | ".join(rounded(value, name) for value in column) + " |"
        for name, column in table.items()
    ]
    given = " ".join(Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:])
    packages = ", ".join(f"{name} {version(name)}" for name in ("deltavi", "scanpy", "scipy", "numpy"))
    lines += ["", f"Made by `python benchmarks/metrics_by_example.py {given}` with {packages} on Python "]
    lines[-1] += f"{platform.python_version()}, {platform.machine()}."
    section = "\n".join(lines)
    print(section)
    if options.write:
        page = options.write.read_text()
        begin, end = page.index(MARKS[0]) + len(MARKS[0]), page.index(MARKS[1])
        options.write.write_text(f"{page[:begin]}\n\n{section}\n\n{page[end:]}")


if __name__ == "__main__":
    main()
