"""Scores that every metric gives to doing nothing, to a mean shift, to its opposite, and to two halves of real cells.

    python -m benchmarks metrics --write docs/metrics.md

The stimulated cells of one type are held out. Genes are the 2,000 most variable of all cells, as in the tables of
held-out responses; the table replaces what stands between the two marks of the page. One thread.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp

from benchmarks.harness.command import parsed, parser, settle
from benchmarks.harness.data import KANG, kang_cells
from benchmarks.harness.page import made_by, markdown, publish_between_marks
from deltavi.metrics import differential_overlap, principal_axes, r2_of_means
from deltavi.perturbation import SPLIT_HALF, baseline_predictions, compare

PACKAGES = ("deltavi", "scanpy", "scipy", "numpy")
TESTS: tuple[Literal["welch", "wilcoxon"], ...] = ("welch", "wilcoxon")
WRONG = "mean shift, wrong sign"
KEYS = {"condition_key": "condition", "labels_key": "cell_type", "control": "control", "perturbation": "stimulated"}


def log_expression(path: Path, n_genes: int) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Log1p CP10k expression, dense, of all genes and of variable genes; the type with too few cells is left out."""
    adata = kang_cells(path)
    counts = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.layers["counts"] = counts
    sc.pp.highly_variable_genes(adata, n_top_genes=n_genes, flavor="seurat_v3", layer="counts", batch_key="condition")
    del adata.layers["counts"]
    adata.X = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    return adata, adata[:, adata.var["highly_variable"]].copy()


def pairs_of_cells(adata: anndata.AnnData, label: str) -> tuple[dict[str, tuple[Any, Any]], Any, Any]:
    """Predicted and real cells of every row, the control cells predicted from, and those that no method sees."""
    of_type = (adata.obs["cell_type"] == label).to_numpy()
    stimulated = (adata.obs["condition"] == "stimulated").to_numpy()
    controls = np.random.default_rng(0).permutation(np.flatnonzero(of_type & ~stimulated))
    first, other = controls[: len(controls) // 2], controls[len(controls) // 2 :]
    hidden = of_type & stimulated
    hidden[other] = True
    train, control, real = adata[~hidden], adata[first], adata[of_type & stimulated]
    moved = baseline_predictions(train, control, **KEYS)["mean shift"].X
    order = np.random.default_rng(0).permutation(real.n_obs)
    half = real.n_obs // 2
    pairs = {
        "no change": (control.X, real.X),
        "mean shift": (moved, real.X),
        WRONG: (np.clip(2 * control.X - moved, 0, None), real.X),
        SPLIT_HALF: (real.X[order[:half]], real.X[order[half:]]),
    }
    return pairs, control.X, adata[other].X


def scores(everything: anndata.AnnData, adata: anndata.AnnData, label: str) -> pd.DataFrame:
    """Every score of the four rows, R2 over all genes, and the calls behind the differential scores."""
    pairs, control, reference = pairs_of_cells(adata, label)
    real = pairs["no change"][1]
    predictions = {name: predicted for name, (predicted, _) in pairs.items() if name != SPLIT_HALF}
    table = compare(predictions, real, control, reference=reference, components=principal_axes(adata.X))
    of_all, _, _ = pairs_of_cells(everything, label)
    table[f"R2 of means, all {everything.n_vars:,} genes"] = [r2_of_means(*of_all[name]) for name in table.index]
    for test, least in itertools.product(TESTS, (0.1, 0.0)):
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


def main(study: str, arguments: list[str]) -> None:
    """Score the rows and write the table."""
    made = parser(study, __doc__)
    made.add_argument("--file", default=KANG, help="h5ad with obs condition and cell_type (default: %(default)s)")
    made.add_argument("--type", default="CD4T", help="cell type to hold out (default: %(default)s)")
    made.add_argument("--genes", type=int, default=2000, help="variable genes (default: %(default)s)")
    options = parsed(made, arguments, {"type": "Dendritic", "genes": 200})
    settle()
    table = scores(*log_expression(options.data / options.file, options.genes), options.type)
    columns = {written(name): [rounded(value, name) for value in table[name]] for name in map(str, table)}
    shown = pd.DataFrame.from_dict(columns, orient="index", columns=table.index).rename_axis("score")
    publish_between_marks([markdown(shown), made_by(options.command, PACKAGES)], options.write)
