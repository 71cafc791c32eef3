"""Cells of a small screen, all genes of which a model of half of them does not see."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi.datasets import simulate_screen
from deltavi.perturbation import ResponseModel
from deltavi.tl import responses
from tests.model.conftest import train

SETUP = {"condition_key": "condition", "labels_key": "context", "size_factor_key": "total_counts"}
SMALL = {"n_hidden": 16, "n_latent": 4}
N_GENES, N_OWN = 120, 60
CONTEXTS = ["context_1", "context_2", "context_3"]


def screen(*, seed: int = 0, hidden: bool = True) -> AnnData:
    """Counts of three contexts under "A", "B" and "C", without the cells of the last context under "C" if hidden."""
    found = simulate_screen(
        n_genes=N_GENES, n_contexts=3, n_perturbations=3, n_batches=1, n_cells_per_group=30, n_control_cells=40,
        library_median=2000.0, unevenness=0.2, inert_fraction=0.0, responding_fraction=0.3, seed=seed,
    )  # fmt: skip
    given = sorted(set(found.obs["condition"]) - {"control"})
    names = {"control": "control", **dict(zip(given, "ABC", strict=True))}
    obs = pd.DataFrame(
        {
            "condition": found.obs["condition"].astype(str).map(names),
            "context": found.obs["context"].astype(str),
            "total_counts": np.asarray(found.X.sum(1)).ravel(),
        },
        index=found.obs_names,
    )
    adata = AnnData(found.X.astype(np.float32), obs=obs, var=pd.DataFrame(index=found.var_names))
    left_out = (obs["condition"] == "C") & (obs["context"] == CONTEXTS[2]) & hidden
    return adata[~left_out.to_numpy()].copy()


def trained_on(model_class: type, adata: AnnData, *, epochs: int = 5, **kwargs: Any) -> Any:
    """Model of the first half of the genes."""
    own = adata[:, :N_OWN].copy()
    return train(model_class, own, epochs=epochs, setup=SETUP, **{**SMALL, **kwargs})


def table_of(adata: AnnData) -> ResponseModel:
    """Measured responses of all genes."""
    return ResponseModel.fit(
        responses(
            adata,
            condition_key="condition",
            control="control",
            context_keys="context",
            size_factor_key="total_counts",
        )
    )


def query(*, seed: int = 0) -> AnnData:
    """Control cells with all genes, under names that no training cell has."""
    adata = screen(seed=seed)
    found = adata[adata.obs["condition"] == "control"].copy()
    found.obs_names = "query " + found.obs_names
    return found


def shuffled(adata: AnnData) -> AnnData:
    rng = np.random.default_rng(1)
    return adata[rng.permutation(adata.n_obs)][:, rng.permutation(adata.n_vars)].copy()


def read(path: Any) -> AnnData:
    return ad.read_h5ad(path) if str(path).endswith(".h5ad") else ad.read_zarr(path)
