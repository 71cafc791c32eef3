"""ACTINN: what it learns of training cells and keeps, and how well it names real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from deltavi.annotation import fit_temperature, informative_genes
from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.model import ACTINN
from deltavi.model._actinn_training import folds_of, log_moments
from deltavi.model._label_column import label_codes
from deltavi.train import CellSplit, assign_folds, split_labelled
from tests.model.conftest import QUIET, dense, small_adata


def log2_cp10k(x: np.ndarray, totals: np.ndarray | None = None) -> np.ndarray:
    totals = x.sum(1) if totals is None else totals
    return np.log2(1 + 1e4 * x / np.maximum(totals, 1)[:, None])


def fitted(
    adata: AnnData, *, setup: dict[str, Any] | None = None, epochs: int = 1, lr: float | None = None, **kwargs: Any
) -> ACTINN:
    ACTINN.setup_anndata(adata, labels_key="cell_type", **(setup or {}))
    model = ACTINN(adata, **{"n_hidden": (16,), "n_networks": 2, **kwargs})
    plan = {} if lr is None else {"lr": lr}
    model.train(max_epochs=epochs, batch_size=32, train_size=0.7, plan_kwargs=plan, **QUIET)
    return model


def wide(seed: int = 0) -> AnnData:
    """Enough genes for the percentiles to take some away."""
    return small_adata(n_genes=300, seed=seed)


# -- what is learned before the first step -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csr", "dense", "int", "backed"])
def test_moments_equal_numpys_in_any_storage(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltavi.registry.checks.BLOCK_ROWS", 17)
    adata = wide()
    x = dense(adata.X).astype(np.float64)
    x[5] = 0
    adata.X = sparse.csr_matrix(x)
    cells = np.random.default_rng(0).choice(adata.n_obs, 60, replace=False)
    cells = np.sort(np.union1d(cells, [5]))
    if form == "backed":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    matrix = {"dense": x, "int": x.astype(np.int32)}.get(form, adata.X)
    mean, sd = log_moments(matrix, cells, x.sum(1))
    expected = log2_cp10k(x)[cells]
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-10)
    np.testing.assert_allclose(sd, expected.std(0), atol=1e-6)


def test_genes_are_chosen_on_labelled_training_cells() -> None:
    adata = wide()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).where(np.arange(adata.n_obs) % 4 > 0)
    model = fitted(adata, filter_genes=True)
    x = log2_cp10k(dense(adata.X).astype(np.float64))[model.train_indices]
    mask = model.module.gene_mask.numpy() == 1
    np.testing.assert_array_equal(mask, informative_genes(x.mean(0), x.std(0)))
    assert 0 < (x.mean(0) > 0).sum() - mask.sum() < 20
    labelled = adata.obs["cell_type"].notna().to_numpy()
    assert labelled[model.train_indices].all()
    assert labelled[model.validation_indices].all()
    assert sorted(model.test_indices) == np.flatnonzero(~labelled).tolist()


def test_unlabelled_cells_do_not_change_the_model() -> None:
    models = []
    for value in (1, 50):
        adata = wide()
        unlabelled = np.arange(adata.n_obs) % 4 == 0
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).where(~unlabelled)
        x = dense(adata.X)
        x[unlabelled] = value
        adata.X = sparse.csr_matrix(x)
        models.append(fitted(adata))
    for name, value in models[0].module.state_dict().items():
        torch.testing.assert_close(value, models[1].module.state_dict()[name], rtol=0, atol=0, msg=name)


def test_scaling_is_learned_on_training_cells_and_safe_for_constant_genes() -> None:
    adata = wide()
    x = dense(adata.X)
    x[:, 7] = 0
    adata.X = sparse.csr_matrix(x)
    model = fitted(adata, scale=True, filter_genes=False)
    expected = log2_cp10k(x.astype(np.float64))[model.train_indices]
    np.testing.assert_allclose(model.module.gene_centre, expected.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.module.gene_scale, np.where(expected.std(0) > 0, expected.std(0), 1), rtol=1e-4)
    assert np.isfinite(model.predict(soft=True)).all().all()


def test_a_backed_file_gives_the_model_of_the_cells_in_memory(tmp_path: Path) -> None:
    wide().write_h5ad(tmp_path / "cells.h5ad")
    backed = fitted(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), scale=True)
    in_memory = fitted(wide(), scale=True)
    for name, value in in_memory.module.state_dict().items():
        torch.testing.assert_close(backed.module.state_dict()[name], value, msg=name)
    assert backed.predict().equals(in_memory.predict())
    assert in_memory.predict(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")).equals(in_memory.predict())


def test_balanced_label_weights() -> None:
    adata = wide()
    adata = adata[~((adata.obs["cell_type"] == "type_1") & (np.arange(adata.n_obs) % 5 > 0))].copy()
    model = fitted(adata, class_weight="balanced")
    n = np.bincount(label_codes(model)[model.train_indices])
    np.testing.assert_allclose(model.module.label_weight, n.sum() / (3 * n), rtol=1e-6)
    assert fitted(adata).module.label_weight.tolist() == [1, 1, 1]


def test_further_training_keeps_what_was_learned() -> None:
    model = fitted(wide(), filter_genes=True)
    mask, penalty, folds = model.module.gene_mask.clone(), float(model.module.weight_l2), model.folds_.copy()
    assert (mask == 0).any()
    before = model.module.networks[0].output.weight.clone()
    model.train(max_epochs=1, batch_size=32, train_size=0.5, seed=7, **QUIET)
    torch.testing.assert_close(model.module.gene_mask, mask)
    assert float(model.module.weight_l2) == penalty
    assert model.folds_.equals(folds)
    assert not torch.equal(model.module.networks[0].output.weight, before)


@pytest.mark.parametrize("given", [None, 0.5])
def test_the_penalty_falls_with_the_root_of_labelled_training_cells(given: float | None) -> None:
    adata = wide()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).where(np.arange(adata.n_obs) % 4 > 0)
    model = fitted(adata, weight_l2=given)
    expected = 2 / np.sqrt(len(model.train_indices)) if given is None else given
    assert float(model.module.weight_l2) == pytest.approx(expected)


def test_temperature_comes_from_networks_that_did_not_see_the_cell(tmp_path: Path) -> None:
    model = fitted(wide(), epochs=3)
    codes, folds, learned = label_codes(model), model.folds_.to_numpy(), np.asarray(model.train_indices)
    assert set(folds) == {0, 1}
    own = [model.module.networks[k] for k in folds]
    x = torch.from_numpy(log2_cp10k(dense(model.adata.X).astype(np.float64))).float()
    with torch.no_grad():
        apart = torch.stack([net.output(net.hidden(row)) for net, row in zip(own, x, strict=True)]).numpy()
    judged = np.concatenate([learned, model.validation_indices])
    expected = fit_temperature(apart[judged], codes[judged])
    assert model.calibration.temperature == pytest.approx(expected, rel=1e-3)
    model.save(tmp_path / "model")
    again = ACTINN.load(tmp_path / "model", wide())
    np.testing.assert_array_equal(folds_of(again), folds)
    again.calibrate()
    assert again.calibration.temperature == pytest.approx(expected, rel=1e-3)


def test_folds_go_with_the_names_of_cells(tmp_path: Path) -> None:
    """Labels are noise: a network that is asked for what it has learned would look right."""
    adata = wide()
    adata.obs["cell_type"] = np.random.default_rng(0).permutation(adata.obs["cell_type"].astype(str))
    model = fitted(adata, epochs=40, weight_l2=0.001)
    model.save(tmp_path / "model")
    order = np.random.default_rng(1).permutation(adata.n_obs)
    moved = ACTINN.load(tmp_path / "model", adata[order].copy())
    np.testing.assert_array_equal(folds_of(moved), model.folds_.to_numpy()[order])
    with pytest.raises(DeltaviError, match="another order"):
        moved.calibrate()
    gentle = {"max_epochs": 1, "batch_size": 32, "plan_kwargs": {"lr": 1e-9}, **QUIET}
    moved.train(train_size=0.7, **gentle)
    assert moved.calibration.temperature > 2
    part = ACTINN.load(tmp_path / "model", adata[:50].copy())
    part.train(train_size=0.7, **gentle)
    assert part.calibration.temperature > 2
    strangers = wide(seed=1)
    strangers.obs_names = [f"new {k}" for k in range(strangers.n_obs)]
    assert (folds_of(ACTINN.load(tmp_path / "model", strangers)) == -1).all()


@pytest.mark.parametrize("train_size", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("n_networks", [2, 5])
def test_every_network_learns_every_label_of_the_training_cells(n_networks: int, train_size: float) -> None:
    codes = np.repeat(np.arange(5), [2, 3, 4, 10, 40])
    for seed in range(10):
        split = split_labelled(
            codes, train_size=train_size, validation_size=None, batch_size=16, generator=np.random.default_rng(seed)
        )
        folds = assign_folds(codes, n_networks, np.random.default_rng([seed, 1]), training=split.train)
        learned, own = codes[split.train], folds[split.train]
        for network in range(n_networks):
            assert set(learned[own != network]) == set(range(5))
        # each leaves out its share, whatever the split
        assert np.ptp(np.bincount(own[own >= 0], minlength=n_networks)) <= 1
        held_out = folds[split.validation]
        assert len(set(held_out[codes[split.validation] == 4])) > 1


def with_labels(adata: AnnData, types: np.ndarray) -> ACTINN:
    """Two networks, trained on the first 60 cells."""
    adata.obs["cell_type"] = types
    ACTINN.setup_anndata(adata, labels_key="cell_type")
    model = ACTINN(adata, n_hidden=(16,), n_networks=2, weight_l2=0.01)
    split = CellSplit(np.arange(60), np.arange(60, 75), np.arange(75, adata.n_obs))
    model.train(max_epochs=2, batch_size=32, train_indices=split.train, validation_indices=split.validation, **QUIET)
    return model


def test_a_network_learns_nothing_of_its_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    # number 0 leaves out every other cell, whatever the labels
    monkeypatch.setattr(
        "deltavi.model._actinn_training.assign_folds", lambda codes, *_, **__: np.arange(len(codes)) % 2
    )
    types = wide().obs["cell_type"].astype(str).to_numpy(dtype=object)
    left_out = np.arange(0, 60, 2)
    first = left_out[0]
    second = left_out[types[left_out] != types[first]][0]
    exchanged = types.copy()
    exchanged[[first, second]] = types[[second, first]]
    right, wrong = with_labels(wide(), types), with_labels(wide(), exchanged)
    for apart, changed in ((0, False), (1, True)):
        before, after = (dict(model.module.networks[apart].named_parameters()) for model in (right, wrong))
        assert any(not torch.equal(before[name], after[name]) for name in before) == changed


def test_relative_size_factors_are_read_in_units_of_the_training_cells() -> None:
    absolute, relative = wide(), wide()
    unit = absolute.obs["total_counts"].mean()
    relative.obs["total_counts"] = relative.obs["total_counts"] / unit
    setup = {"size_factor_key": "total_counts"}
    models = [fitted(adata, setup=setup) for adata in (absolute, relative)]
    x = dense(relative.X).astype(np.float64)
    training = models[1].train_indices
    given = relative.obs["total_counts"].to_numpy()
    expected = x.sum(1)[training].mean() / given[training].mean()
    assert float(models[1].module.size_factor_unit) == pytest.approx(expected, rel=1e-5)
    assert float(models[0].module.size_factor_unit) == 1
    few = relative[:5].copy()
    np.testing.assert_allclose(models[1].predict(few, soft=True), models[1].predict(soft=True).iloc[:5], atol=1e-6)
    np.testing.assert_allclose(*(model.predict(soft=True) for model in models), atol=0.05)


# -- training ------------------------------------------------------------------------------------------------


def test_epochs_are_those_of_the_program_unless_cells_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ACTINN.__new__(ACTINN)
    for n_labelled, expected in ((100_000, 50), (2560, 50), (1280, 100), (60, 400)):
        codes = np.r_[np.zeros(n_labelled, dtype=int), -np.ones(500, dtype=int)]
        monkeypatch.setattr("deltavi.model._actinn_training.label_codes", lambda _, codes=codes: codes)
        assert model.recipe.epochs(model, 128) == expected


def test_the_published_network_and_optimiser() -> None:
    adata = wide()
    ACTINN.setup_anndata(adata, labels_key="cell_type")
    model = ACTINN(adata, **ACTINN.published)
    seen: dict[str, Any] = {}

    from lightning.pytorch.callbacks import Callback

    class Look(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            seen.update(trainer.optimizers[0].param_groups[0])
            seen["scheduler"] = type(trainer.lr_scheduler_configs[0].scheduler).__name__

    model.train(max_epochs=1, callbacks=[Look()], plan_kwargs=ACTINN.published_plan, **QUIET)
    assert (seen["lr"], seen["eps"], seen["weight_decay"]) == (1e-4, 1e-8, 0)
    assert seen["scheduler"] == "StepLR"
    sizes = [tuple(layer.weight.shape) for layer in model.module.modules() if isinstance(layer, torch.nn.Linear)]
    assert sizes == [(100, 300), (50, 100), (25, 50), (3, 25)]
    assert float(model.module.weight_l2) == pytest.approx(0.005)
    assert (model.module.gene_mask == 0).any()
    assert (model.folds_ == -1).all()


def test_a_trained_logistic_regression_agrees_with_scikit_learn() -> None:
    adata = small_adata(n_per_group=40)
    model = fitted(adata, n_hidden=(), n_networks=1, scale=True, weight_l2=0.1, epochs=1)
    model.train(max_epochs=200, batch_size=512, train_size=0.7, plan_kwargs={"lr": 0.02}, **QUIET)
    x = log2_cp10k(dense(adata.X).astype(np.float64))
    train = x[model.train_indices]
    sd = np.where(train.std(0) > 0, train.std(0), 1)
    oracle = LogisticRegression(C=1 / (0.1 * len(train)), tol=1e-8, max_iter=5000)
    oracle.fit((train - train.mean(0)) / sd, adata.obs["cell_type"].to_numpy()[model.train_indices])
    logits = np.log(model.predict(soft=True).to_numpy()) * model.calibration.temperature
    found = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(found, oracle.predict_proba((x - train.mean(0)) / sd), atol=5e-3)


# -- arguments -----------------------------------------------------------------------------------------------


def test_arguments_that_make_no_sense() -> None:
    adata = small_adata()
    ACTINN.setup_anndata(adata, labels_key="cell_type")
    with pytest.raises(UnknownCategoryError, match="balanced"):
        ACTINN(adata, class_weight="balance")
    with pytest.raises(DeltaviError, match="n_hidden"):
        ACTINN(adata, n_hidden=(10, 0))
    with pytest.raises(DeltaviError, match="setup_anndata"):
        ACTINN()


def test_too_few_genes_for_the_filter() -> None:
    adata = small_adata()
    adata = adata[:, np.argsort(np.asarray(adata.X.sum(0)).ravel())[-2:]]
    adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()
    setup = {"size_factor_key": False}  # its totals are of more genes
    with pytest.raises(DeltaviError, match="filter_genes=False"):
        fitted(adata, setup=setup, filter_genes=True)
    assert len(fitted(adata, setup=setup).predict()) == adata.n_obs


def test_query_mapping_is_refused_with_the_way_out() -> None:
    model = fitted(small_adata())
    with pytest.raises(DeltaviError, match="predict"):
        ACTINN.load_query_data(small_adata(seed=1), model)


def test_attributions_explain_its_logits() -> None:
    pytest.importorskip("captum")
    model = fitted(wide(), epochs=5, filter_genes=True)
    explained = model.get_attributions(indices=np.arange(6))
    assert explained.shape == (6, 300)
    left_out = model.module.gene_mask.numpy() == 0
    assert (dense(explained.X)[:, left_out] == 0).all()
    assert np.abs(explained.obs["deltavi_completeness_gap"]).max() < 1e-2


# -- learning ------------------------------------------------------------------------------------------------

STRANGERS = "CD14+ Monocyte"


@pytest.fixture(scope="module")
def sorted_cells(data_path: Callable[[str], Path]) -> tuple[AnnData, AnnData]:
    """Bead-sorted blood cells, the 800 genes with the most counts: half to learn from, half to name."""
    adata = ad.read_h5ad(data_path("zheng_facs_pbmc.h5ad"))
    genes = np.argsort(-np.asarray(adata.X.sum(0)).ravel())[:800]
    order = np.random.default_rng(0).permutation(adata.n_obs)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    return adata[order[::2], genes].copy(), adata[order[1::2], genes].copy()


@pytest.mark.slow
def test_it_learns_sorted_cells(sorted_cells: tuple[AnnData, AnnData]) -> None:
    training, query = sorted_cells
    model = fitted(training, epochs=30, n_hidden=(100,), n_networks=5)
    truth = query.obs["cell_type"].to_numpy()
    accuracy = (model.predict(query).to_numpy() == truth).mean()
    majority = (truth == training.obs["cell_type"].mode()[0]).mean()
    learned = training[model.train_indices]
    regression = LogisticRegression(C=0.01, tol=1e-2, max_iter=2000)
    regression.fit(log2_cp10k(dense(learned.X)), learned.obs["cell_type"])
    by_regression = (regression.predict(log2_cp10k(dense(query.X))) == truth).mean()
    assert accuracy > majority + 0.4
    assert accuracy > by_regression - 0.01
    probabilities = model.predict(query, soft=True)
    of_truth = probabilities.to_numpy()[np.arange(len(truth)), probabilities.columns.get_indexer(truth)]
    logits = np.log(probabilities) * model.calibration.temperature
    uncalibrated = np.exp(logits.sub(np.logaddexp.reduce(logits, axis=1), axis=0)).to_numpy()
    before = uncalibrated[np.arange(len(truth)), probabilities.columns.get_indexer(truth)]
    assert -np.log(of_truth).mean() < -np.log(before).mean() + 0.01


@pytest.mark.slow
def test_cells_of_a_type_it_never_saw_are_strange(sorted_cells: tuple[AnnData, AnnData]) -> None:
    training, query = sorted_cells
    known = training[training.obs["cell_type"] != STRANGERS].copy()
    model = fitted(known, epochs=10, n_hidden=(100,), n_networks=5)
    scores, strange = model.get_novelty_scores(query), (query.obs["cell_type"] == STRANGERS).to_numpy()
    assert roc_auc_score(strange, scores["novelty_score"]) > 0.7
    rejected = (model.predict(query, reject=0.05) == "unassigned").to_numpy()
    assert rejected[~strange].mean() < 0.1
    assert rejected[strange].mean() > 2 * rejected[~strange].mean()


def test_the_unit_of_size_factors_is_of_training_cells_only() -> None:
    adata = wide()
    unlabelled = np.arange(adata.n_obs) % 4 > 0
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).where(~unlabelled)
    x = np.asarray(adata.X.sum(1)).ravel()
    adata.obs["total_counts"] = x / x.mean() * np.where(unlabelled, 1000.0, 1.0)
    model = fitted(adata, setup={"size_factor_key": "total_counts"})
    assert float(model.module.size_factor_unit) == pytest.approx(x.mean(), rel=1e-4)
