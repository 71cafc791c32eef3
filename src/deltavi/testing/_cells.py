"""Small simulated cells, and keywords with which a model of them is set up and trained quietly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from deltavi.datasets import simulate_perturbation

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
SETUP = {"condition_key": "condition", "labels_key": "cell_type", "batch_key": "batch"}


def small_adata(*, seed: int = 0, n_genes: int = 40, n_per_group: int = 12) -> AnnData:
    """Simulated cells of three types, two conditions and two batches; raw counts in X.

    Parameters
    ----------
    seed
        Seed of the simulation.
    n_genes
        Genes.
    n_per_group
        Cells of each type, condition and batch; with the default 144 in all.

    Returns
    -------
    AnnData with ``condition`` (``"control"``, ``"stimulated"``), ``cell_type``, ``batch`` and ``total_counts`` in obs.
    """
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
    """A matrix, dense or sparse, as an array."""
    return np.asarray(matrix.todense()) if sparse.issparse(matrix) else np.asarray(matrix)
