"""Small experiments and cheap methods that the tests of evaluations share."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from deltavi.datasets import simulate_perturbation
from deltavi.tl import PerturbationEvaluation, evaluate_perturbation

# Settings of every evaluation here; few genes, so that the choice of genes matters.
ASK: dict[str, Any] = {"control": "control", "perturbation": "stimulated", "n_genes": 40, "progress": False}


def mean_change(
    train: AnnData, query: AnnData, *, control: str, perturbation: str, condition_key: str, **_: Any
) -> Any:
    """A method without a model: add the mean difference of the conditions to every control cell."""
    condition = train.obs[condition_key].astype(str).to_numpy()
    difference = train.X[condition == perturbation].mean(0) - train.X[condition == control].mean(0)
    return np.clip(query.X.toarray() + np.asarray(difference), 0, None)


def noisy(train: AnnData, query: AnnData, **_: Any) -> Any:
    """A method that draws from the global generator."""
    return query.X.toarray() + np.random.rand(query.n_obs, query.n_vars)


def halves(adata: AnnData, query: Any, label: str, seed: int = 0, perturbation: str = "stimulated") -> tuple[Any, Any]:
    """Masks of the control cells of a label that methods start from, and of those set apart; written again, plainly."""
    rows = np.flatnonzero(query)
    if len(rows) < 20:
        return query.copy(), np.zeros_like(query)
    start = np.random.default_rng([seed, zlib.crc32(f"{label}\x1f{perturbation}".encode())]).integers(2**63)
    drawn = [np.random.default_rng([start, zlib.crc32(adata.obs_names[i].encode())]).random() for i in rows]
    apart = np.zeros_like(query)
    apart[rows[np.argsort(drawn)[: len(rows) // 2]]] = True
    return query & ~apart, apart


def without(adata: AnnData, label: str, condition: str, keep: int) -> AnnData:
    """Cells with only the first few of a label in a condition."""
    group = np.asarray((adata.obs["cell_type"] == label) & (adata.obs["condition"] == condition))
    return adata[~group | (np.cumsum(group) <= keep)].copy()


def lean(adata: AnnData) -> AnnData:
    """Counts, condition, label and batch alone; other values may then be put in."""
    made = AnnData(adata.X.copy(), obs=adata.obs[["condition", "cell_type", "batch"]].copy())
    made.var_names = adata.var_names
    return made


@pytest.fixture(scope="session")
def experiment() -> AnnData:
    """Three types, two conditions, two donors: 15 cells of each."""
    return lean(simulate_perturbation(n_genes=60, n_cell_types=3, n_batches=2, n_cells_per_group=15, seed=3))


@pytest.fixture
def adata(experiment: AnnData) -> AnnData:
    """A copy of the experiment that a test may change."""
    return experiment.copy()


@pytest.fixture(scope="session")
def evaluation(experiment: AnnData) -> PerturbationEvaluation:
    """Every type in turn, two seeds."""
    methods = {"mean change": mean_change, "noisy": noisy}
    return evaluate_perturbation(experiment, methods, **ASK, seeds=(0, 1))
