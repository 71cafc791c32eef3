"""Small AnnData and trained models for the tests of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.data import simulate_perturbation
from deltavi.model import SCGEN, VAE

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
SETUP = {"condition_key": "condition", "labels_key": "cell_type", "batch_key": "batch"}


def small_adata(*, seed: int = 0, n_genes: int = 40, n_per_group: int = 12) -> AnnData:
    """Counts of three cell types, two conditions and two batches; raw counts in X."""
    simulated = simulate_perturbation(
        n_genes=n_genes, n_cell_types=3, n_batches=2, n_cells_per_group=n_per_group, seed=seed
    )
    obs = simulated.obs[["condition", "cell_type", "batch", "total_counts"]].copy()
    return AnnData(X=simulated.X.copy(), obs=obs, var=pd.DataFrame(index=simulated.var_names))


@pytest.fixture
def adata() -> AnnData:
    return small_adata()


def train(model_class: type, adata: AnnData, *, epochs: int = 2, setup: dict[str, Any] = SETUP, **kwargs: Any) -> Any:
    """A model of `model_class` after a few epochs on `adata`."""
    model_class.setup_anndata(adata, **setup)
    model = model_class(adata, **kwargs)
    model.train(max_epochs=epochs, batch_size=32, **QUIET)
    return model


@pytest.fixture(scope="module")
def trained() -> SCGEN:
    """A briefly trained SCGEN that tests must not change."""
    return train(SCGEN, small_adata(), n_hidden=16, n_latent=4)


@pytest.fixture(scope="module")
def trained_vae() -> VAE:
    """A briefly trained VAE that tests must not change."""
    return train(VAE, small_adata(), n_hidden=16, n_latent=4)


def log_normalised(adata: AnnData) -> AnnData:
    """Copy with log1p CP10k in X."""
    copied = adata.copy()
    x = np.asarray(copied.X.todense(), dtype=np.float64)
    copied.X = np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1)).astype(np.float32)
    return copied


def dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.todense()) if sparse.issparse(matrix) else np.asarray(matrix)


Factory = Callable[[AnnData], Any]
