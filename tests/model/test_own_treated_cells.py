"""Few treated cells of a label among the training cells of real data: an observation of their own."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.metrics import e_distance, principal_axes
from deltavi.model import PPCA
from deltavi.model.own_response import held_out_by_caller
from deltavi.pp import highly_variable_genes
from tests.model.conftest import dense

ASK = {"control": "control", "perturbation": "stimulated"}
TYPES = ["B", "CD14+Mono", "Dendritic", "NK"]
N_TREATED = 5


@pytest.fixture(scope="module")
def cells(kang_path: Path) -> AnnData:
    """The interferon experiment on few genes, log1p CP10k."""
    adata = ad.read_h5ad(kang_path)
    return highly_variable_genes(adata[adata.obs["cell_type"] != "Megakaryocyte"].copy(), n_top=500)


def distance(cells: AnnData, label: str, n_treated: int) -> tuple[float, float]:
    """E-distance of predicted to real cells of a type, of which so many stimulated ones were trained on; own weight."""
    own = np.flatnonzero((cells.obs["cell_type"] == label) & (cells.obs["condition"] == "stimulated"))
    own = np.random.default_rng(0).permutation(own)
    known = np.ones(cells.n_obs, dtype=bool)
    known[own[n_treated:]] = False
    train = cells[known].copy()
    PPCA.setup_anndata(train, condition_key="condition", labels_key="cell_type")
    model = PPCA(train, n_latent=10)
    model.train()
    control = cells[(cells.obs["cell_type"] == label) & (cells.obs["condition"] == "control")].copy()
    with held_out_by_caller():
        predicted = model.predict_perturbation(control, **ASK, empirical_weight=1.0)
    weights = pd.DataFrame(predicted.uns["deltavi"]["own_weights"])
    real, axes = dense(cells[own[N_TREATED:]].X), np.asarray(principal_axes(cells.X))
    return e_distance(dense(predicted.X), real, components=axes), float(weights["own_weight"].iloc[0])


def test_five_treated_cells_among_the_training_cells_bring_a_prediction_nearer(cells: AnnData) -> None:
    without, with_five = ([distance(cells, label, n_treated) for label in TYPES] for n_treated in (0, N_TREATED))
    assert [weight for _, weight in without] == [0.0] * len(TYPES)
    assert all(weight > 0 for _, weight in with_five)
    assert np.mean([d for d, _ in with_five]) < 0.8 * np.mean([d for d, _ in without])
