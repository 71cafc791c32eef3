"""Simulated experiments that the perturbation tests share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.perturbation import ShiftBaseline

TYPES = ("B", "CD4 T", "NK", "monocyte")


def make_experiment(seed=0, n_genes=30, n_cells=12, response="common"):
    """Non-negative log expression of four cell types in two conditions, so many cells of each.

    The response of the first half of the genes is the same for all types, or grows with their place on one axis.
    """
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.5, 3, n_genes)
    axis, effect = rng.uniform(0, 0.5, n_genes), np.where(np.arange(n_genes) < n_genes // 2, 1.2, 0.0)
    blocks, rows = [], []
    for place, name in enumerate(TYPES):
        size = 1.0 if response == "common" else 0.2 + 0.5 * place
        for condition in ("control", "stimulated"):
            mean = base + place * axis + (size * effect if condition == "stimulated" else 0)
            blocks.append(np.clip(mean + rng.normal(0, 0.2, (n_cells, n_genes)), 0, None))
            rows += [(condition, name)] * n_cells
    obs = pd.DataFrame(rows, columns=["condition", "cell_type"], dtype="category")
    obs["depth"] = rng.integers(1000, 5000, len(obs))
    obs.index = [f"cell{i}" for i in range(len(obs))]
    order = rng.permutation(len(obs))
    var = pd.DataFrame({"biotype": "coding"}, index=[f"gene{i}" for i in range(n_genes)])
    return AnnData(np.vstack(blocks)[order].astype(np.float32), obs=obs.iloc[order].copy(), var=var)


@pytest.fixture
def experiment():
    """Factory of simulated experiments."""
    return make_experiment


@pytest.fixture
def adata():
    """All cells of one simulated experiment."""
    return make_experiment()


@pytest.fixture
def split():
    """Function that holds the stimulated cells of one type out: training cells, its control cells, its real cells."""

    def divide(adata, held_out="NK"):
        of_type = (adata.obs["cell_type"] == held_out).to_numpy()
        stimulated = (adata.obs["condition"] == "stimulated").to_numpy()
        train, query, real = adata[~(of_type & stimulated)], adata[of_type & ~stimulated], adata[of_type & stimulated]
        return train.copy(), query.copy(), real.copy()

    return divide


@pytest.fixture(params=["genes", "pca"])
def space(request):
    """Where cells are moved."""
    return request.param


@pytest.fixture
def baseline(adata, space):
    """Baseline trained on all cells of the experiment."""
    return ShiftBaseline(adata, condition_key="condition", labels_key="cell_type", space=space, n_components=5)
