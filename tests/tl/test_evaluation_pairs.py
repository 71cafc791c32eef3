"""Pairs of perturbations that training never saw, predicted from single ones."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError
from deltavi.model import PPCA
from deltavi.perturbation import ShiftBaseline
from deltavi.tl import evaluate_perturbation

ASK = {"control": "control", "split_half": False, "progress": False, "n_genes": 60}


@pytest.fixture
def cells() -> AnnData:
    """Two perturbations that raise different genes, and both together."""
    adata = simulate_perturbation(n_genes=60, n_cell_types=3, n_batches=1, n_cells_per_group=60, seed=0)
    rng, names = np.random.default_rng(0), adata.obs["condition"].astype(str).to_numpy(dtype=object)
    treated = np.flatnonzero(names == "stimulated")
    names[treated] = rng.choice(["A", "B", "A+B"], len(treated))
    counts = simulate_perturbation(
        n_genes=60, n_cell_types=3, n_batches=1, n_cells_per_group=60, seed=0, library_median=3000.0
    ).X.toarray()
    base = counts[rng.permutation(np.flatnonzero(adata.obs["condition"] == "control"))[: len(treated)]]
    raised = base.copy()
    for part, genes in {"A": slice(0, 15), "B": slice(15, 30)}.items():
        of_part = np.array([part in name.split("+") for name in names[treated]])
        raised[of_part, genes] += rng.poisson(40, raised[of_part, genes].shape)
    counts[treated] = raised
    adata.X = counts.astype(np.float32)
    adata.obs = adata.obs[["cell_type"]].assign(condition=names)
    return adata


def test_a_pair_is_the_sum_of_its_parts(cells: AnnData) -> None:
    pair = (cells.obs["condition"] == "A+B").to_numpy()
    found = evaluate_perturbation(cells, PPCA, perturbation="A+B", hold_out={"A+B": pair}, **ASK).table
    score = found.groupby("method")["pearson_delta"].mean()
    assert set(found["label"]) == {"type_1", "type_2", "type_3"}
    assert score["mean shift"] > 0.9
    assert score["PPCA"] > 0.9
    assert score["no change"] == 0
    # one part alone explains less than both
    half = evaluate_perturbation(cells, {"A alone": only_a}, perturbation="A+B", hold_out={"A+B": pair}, **ASK).table
    alone = half[half["method"] == "A alone"]["pearson_delta"].mean()
    assert alone < score["mean shift"] - 0.1


def only_a(
    train: AnnData, query: AnnData, *, control: str, condition_key: str, labels_key: str, **_: object
) -> AnnData:
    """What the first part does."""
    baseline = ShiftBaseline(train, condition_key=condition_key, labels_key=labels_key)
    return baseline.predict_perturbation(query, control=control, perturbation="A", shift="paired")


def test_the_table_is_that_of_the_added_shifts(cells: AnnData) -> None:
    pair = (cells.obs["condition"] == "A+B").to_numpy()
    evaluation = evaluate_perturbation(
        cells, {"added": added}, perturbation="A+B", hold_out={"A+B": pair}, baselines=["mean shift"], **ASK
    )
    by_hand, own = (
        evaluation.table[evaluation.table["method"] == name].set_index("label")["mse_delta"]
        for name in ("added", "mean shift")
    )
    np.testing.assert_allclose(own, by_hand, rtol=1e-5)


def added(
    train: AnnData, query: AnnData, *, control: str, condition_key: str, labels_key: str, **_: object
) -> np.ndarray:
    """The mean shifts of both parts, one after the other."""
    x = np.asarray(query.X.toarray() if hasattr(query.X, "toarray") else query.X, dtype=float)
    logs = train.X.toarray() if hasattr(train.X, "toarray") else train.X
    conditions, labels = train.obs["condition"].to_numpy(), train.obs["cell_type"].to_numpy()
    for part in ("A", "B"):
        changes = [
            logs[(labels == label) & (conditions == part)].mean(0)
            - logs[(labels == label) & (conditions == "control")].mean(0)
            for label in np.unique(labels)
        ]
        x = x + np.mean(changes, axis=0)
    return np.clip(x, 0, None)


def test_a_pair_with_an_unknown_part_has_nothing_to_learn_from(cells: AnnData) -> None:
    cells.obs["condition"] = cells.obs["condition"].replace({"A+B": "A+C"})
    pair = (cells.obs["condition"] == "A+C").to_numpy()
    with pytest.raises(DeltaviError, match="nothing to learn from"):
        evaluate_perturbation(cells, PPCA, perturbation="A+C", hold_out={"A+C": pair}, **ASK)
