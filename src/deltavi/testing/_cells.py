"""Small simulated cells, and how a model of them is set up and trained without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from deltavi.data import simulate_perturbation

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
SETUP = {"condition_key": "condition", "labels_key": "cell_type", "batch_key": "batch"}


def small_adata(*, seed: int = 0, n_genes: int = 40, n_per_group: int = 12) -> AnnData:
    """Counts of three cell types, two conditions and two batches; raw counts in X."""
    simulated = simulate_perturbation(
        n_genes=n_genes, n_cell_types=3, n_batches=2, n_cells_per_group=n_per_group, seed=seed
    )
    obs = simulated.obs[["condition", "cell_type", "batch", "total_counts"]].copy()
    return AnnData(X=simulated.X.copy(), obs=obs, var=pd.DataFrame(index=simulated.var_names))


def log_normalised(adata: AnnData) -> AnnData:
    """Copy with log1p CP10k in X."""
    copied = adata.copy()
    x = np.asarray(copied.X.todense(), dtype=np.float64)
    copied.X = np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1)).astype(np.float32)
    return copied


def dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.todense()) if sparse.issparse(matrix) else np.asarray(matrix)
