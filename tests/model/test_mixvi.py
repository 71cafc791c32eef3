"""MIXVI: clusters without labels, labels that name components, and where components are placed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from deltavi.errors import DeltaviError, InputDataError, InputDataWarning, KeyClashError, MixtureWarning
from deltavi.latent import Usage
from deltavi.model import MIXVI, _mixture_training
from tests.model.conftest import QUIET, dense, log_normalised, small_adata

SMALL: dict[str, Any] = {"n_hidden": 16, "n_latent": 4}


def fitted(adata: AnnData, *, setup: dict[str, Any] | None = None, epochs: int = 2, **kwargs: Any) -> MIXVI:
    MIXVI.setup_anndata(adata, **(setup or {}))
    model = MIXVI(adata, **{**SMALL, "n_components": 4, **kwargs})
    model.train(max_epochs=epochs, batch_size=32, **QUIET)
    return model


# -- training ------------------------------------------------------------------------------------------------


def test_components_are_placed_once_and_training_goes_on_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[np.ndarray] = []
    original = _mixture_training._place_components

    def watched(self: MIXVI, cells: np.ndarray) -> None:
        original(self, cells)
        calls.append(self.module.mixture.loc.detach().numpy().copy())
        assert self.module.training

    monkeypatch.setattr(_mixture_training, "_place_components", watched)
    model = fitted(small_adata(), epochs=4)
    assert len(calls) == 1
    after = model.module.mixture.loc.detach().numpy()
    assert not np.array_equal(after, calls[0])
    # what the optimiser remembers of the time before must not throw them off their places
    assert np.abs(after - calls[0]).max() < 1
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert len(calls) == 1


def partly_labelled(seed: int = 0) -> AnnData:
    """Without unlabelled cells a free component has none."""
    adata = small_adata(seed=seed)
    adata.obs["cell_type"] = np.where(np.arange(adata.n_obs) % 3 == 0, "unknown", adata.obs["cell_type"].astype(str))
    return adata


PARTLY = {"labels_key": "cell_type", "unlabeled_category": "unknown"}


# -- clusters and labels -------------------------------------------------------------------------------------


def test_clusters_have_names_shares_and_no_calibration() -> None:
    model = fitted(small_adata())
    shares, names = model.get_responsibilities(), model.predict()
    assert shares.columns.tolist() == [f"component {k}" for k in range(4)]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert names.tolist() == shares.idxmax(axis=1).tolist()
    assert model.predict(soft=True).equals(shares)
    assert model.predict(indices=[3, 1]).equals(names.iloc[[3, 1]])
    assert model.get_responsibilities(indices=[]).shape == (0, 4)
    usage = model.get_responsibilities(indices=model.train_indices).mean(axis=0)
    np.testing.assert_allclose(model.usage_.shares, usage, atol=1e-6)
    for call in (lambda: model.predict(reject=0.05), lambda: model.predict(keep_observed=True)):
        with pytest.raises(DeltaviError, match="without labels"):
            call()
    for call in (model.calibrate, model.get_novelty_scores):
        with pytest.raises(DeltaviError, match="labels_key"):
            call()


def test_labels_name_the_first_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mixture_training, "_prune_empty", lambda self: None)
    model = fitted(partly_labelled(), setup=PARTLY, n_components=5)
    labels = list(model.label_names)
    assert model.component_names.tolist() == [*labels, "component 3", "component 4"]
    probabilities = model.predict(soft=True)
    assert probabilities.columns.tolist() == labels
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    model.save(tmp_path / "model")
    again = MIXVI.load(tmp_path / "model", partly_labelled())
    assert again.usage_ == model.usage_
    assert again.get_responsibilities().equals(model.get_responsibilities())


def test_components_are_merged_under_the_name_of_their_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mixture_training, "_prune_empty", lambda self: None)
    model = fitted(partly_labelled(), setup=PARTLY, n_components=6)
    labels = list(model.label_names)
    merged = model.merge_components(3)
    assert merged.index.tolist() == model.component_names.tolist()
    assert set(merged) == set(labels)
    assert merged[labels].tolist() == labels
    assert model.merge_components(6).tolist() == model.component_names.tolist()
    with pytest.raises(DeltaviError, match="between 3 and"):
        model.merge_components(2)


def test_the_default_number_of_components() -> None:
    for setup, expected in (({}, 12), ({"labels_key": "cell_type"}, 8)):
        adata = small_adata()
        MIXVI.setup_anndata(adata, **setup)
        assert MIXVI(adata, **SMALL).module.n_components == expected


def test_a_collapsed_mixture_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Usage, "of", classmethod(lambda cls, _: cls((1.0, 0.0, 0.0, 0.0))))
    with pytest.warns(MixtureWarning, match=r"collapsed: 1\.0 of 4"):
        fitted(small_adata())


# -- input ---------------------------------------------------------------------------------------------------


def test_arguments_that_make_no_sense() -> None:
    adata = small_adata()
    with pytest.raises(DeltaviError, match="setup_anndata"):
        MIXVI()
    with pytest.raises(DeltaviError, match="pass both"):
        MIXVI.setup_anndata(adata, unlabeled_category="unknown")
    with pytest.raises(DeltaviError, match="name a column for each"):
        MIXVI.setup_anndata(adata, labels_key="cell_type", condition_key="cell_type")
    MIXVI.setup_anndata(adata, labels_key="cell_type")
    with pytest.raises(DeltaviError, match="there are 3"):
        MIXVI(adata, n_components=2)
    with pytest.raises(DeltaviError, match="condition_key"):
        MIXVI(adata, conditional=True)
    with pytest.raises(DeltaviError, match="1000 components are more than the"):
        fitted(small_adata(), n_components=1000)


def test_a_condition_of_one_level_warns() -> None:
    adata = small_adata()
    adata.obs["condition"] = "control"
    MIXVI.setup_anndata(adata, condition_key="condition")
    with pytest.warns(InputDataWarning, match="one condition only"):
        MIXVI(adata, conditional=True, **SMALL)


# -- learning ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blood(data_path: Callable[[str], Path]) -> AnnData:
    """Blood cells of pbmc3k, the 600 genes with the most counts."""
    adata = ad.read_h5ad(data_path("pbmc3k_labelled.h5ad"))
    adata.obs["total_counts"] = np.asarray(adata.X.sum(1)).ravel()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    return adata[:, np.argsort(-np.asarray(adata.X.sum(0)).ravel())[:600]].copy()


@pytest.mark.slow
def test_clusters_of_blood_are_its_types_rather_than_chance(blood: AnnData) -> None:
    adata = blood.copy()
    MIXVI.setup_anndata(adata, size_factor_key="total_counts")
    model = MIXVI(adata, n_components=10)
    model.train(max_epochs=25, **QUIET)
    truth = adata.obs["cell_type"]
    found = adjusted_rand_score(truth, model.predict())
    shuffled = adjusted_rand_score(np.random.default_rng(0).permutation(truth), model.predict())
    assert found > 0.4
    assert abs(shuffled) < 0.05
    assert model.usage_.effective_number > 5


@pytest.mark.slow
def test_a_few_labels_name_the_other_cells(blood: AnnData) -> None:
    adata = blood.copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    place = adata.obs["cell_type"].iloc[order].groupby(adata.obs["cell_type"].iloc[order]).cumcount()
    few = place.loc[adata.obs_names].to_numpy() < 20
    truth = adata.obs["cell_type"].copy()
    adata.obs["known"] = truth.where(few, "unknown")
    MIXVI.setup_anndata(adata, labels_key="known", unlabeled_category="unknown", size_factor_key="total_counts")
    model = MIXVI(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train(max_epochs=25, **QUIET)
    named = model.predict()[~few]
    majority = truth[~few].value_counts(normalize=True).iloc[0]
    assert (named == truth[~few]).mean() > majority + 0.3
    assert torch.isfinite(model.module.mixture.loc).all()


# -- likelihoods ---------------------------------------------------------------------------------------------


def detection(seed: int = 0) -> AnnData:
    adata = small_adata(seed=seed)
    adata.X = (dense(adata.X) > 1).astype(np.float32)
    return adata


def test_detection_of_genes_is_learned_and_predicted() -> None:
    adata = detection()
    setup = {"labels_key": "cell_type", "condition_key": "condition"}
    model = fitted(adata, setup=setup, epochs=10, gene_likelihood="bernoulli", conditional=True)
    history = model.history["reconstruction_loss_train"].iloc[:, 0]
    assert history.iloc[-1] < history.iloc[0]
    predicted = model.predict_perturbation(control="control", perturbation="stimulated")
    assert set(np.unique(predicted.X)) == {0.0, 1.0}
    assert "counts" not in predicted.layers
    rate = np.asarray(predicted.layers["rate"])
    assert ((rate > 0) & (rate < 1)).all()
    decoded = model.predict_perturbation(control="control", perturbation="stimulated", output="mean")
    np.testing.assert_array_equal(decoded.X, rate)
    normalised = model.get_normalized_expression(return_numpy=True)
    assert ((normalised > 0) & (normalised < 1)).all()


def test_counts_are_refused_where_detection_is_asked_for() -> None:
    MIXVI.setup_anndata(adata := small_adata())
    with pytest.raises(InputDataError, match=r"values up to \d+.*adata.X > 0"):
        MIXVI(adata, gene_likelihood="bernoulli", **SMALL)
    model = fitted(detection(), gene_likelihood="bernoulli")
    with pytest.raises(InputDataError, match=r"query.*values up to"):
        model.predict(small_adata(seed=1))


@pytest.mark.parametrize("dispersion", ["gene", "shared", "fixed"])
def test_gaussian_noise_is_learned_or_given(dispersion: str) -> None:
    settings = {"gene_likelihood": "normal", "dispersion": dispersion, "noise_variance": 0.25}
    model = fitted(log_normalised(small_adata()), epochs=3, **settings)
    x = torch.as_tensor(dense(model.adata.X))
    likelihood = model.module.forward({"X": x, "batch": torch.zeros(len(x), 1)}, compute_loss=False)[1]["likelihood"]
    n_variances = len(torch.unique(likelihood.variance))
    assert n_variances == {"gene": x.shape[1], "shared": 1, "fixed": 1}[dispersion]
    assert (dispersion != "fixed") or likelihood.variance.max().item() == pytest.approx(0.25)


def test_cells_without_a_column_of_conditions_are_controls() -> None:
    setup = {"condition_key": "condition", "labels_key": "cell_type"}
    model = fitted(small_adata(), setup=setup, conditional=True, n_components=None)
    fresh = small_adata(seed=1)
    controls = fresh[(fresh.obs["condition"] == "control").to_numpy()].copy()
    bare = controls.copy()
    del bare.obs["condition"]
    for shift in ("z", "w", "global"):
        ask = {"control": "control", "perturbation": "stimulated", "shift": shift}
        expected, found = model.predict_perturbation(controls, **ask), model.predict_perturbation(bare, **ask)
        np.testing.assert_array_equal(found.layers["rate"], expected.layers["rate"])


@pytest.mark.parametrize("ending", [{"early_stopping": True, "early_stopping_patience": 1}, {"max_steps": 3}])
def test_training_that_ends_early_still_places_components(ending: dict[str, Any]) -> None:
    MIXVI.setup_anndata(adata := small_adata())
    model = MIXVI(adata, n_components=4, **SMALL)
    if "max_steps" in ending:
        with pytest.warns(MixtureWarning, match="ended before components were placed"):
            model.train(20, batch_size=32, **ending, **QUIET)
    else:
        model.train(20, batch_size=32, kl_warmup=0.1, **ending, **QUIET)
        assert len(model.history["train_loss"]) > 6
    assert model.module.is_placed
    assert model.get_responsibilities().to_numpy().std() > 0


def test_labels_that_could_be_components_are_refused() -> None:
    adata = small_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace("type_1", "component 3")
    MIXVI.setup_anndata(adata, labels_key="cell_type")
    with pytest.raises(KeyClashError, match="'component 3'"):
        MIXVI(adata, **SMALL)


def test_cells_without_counts_are_in_no_cluster() -> None:
    adata = small_adata()
    adata.X = dense(adata.X)
    adata.X[3] = 0
    with pytest.warns(InputDataWarning, match="no counts"):
        model = fitted(adata)
        named = model.predict()
    assert named.iloc[3] == "unassigned"
    assert (named.drop(named.index[3]) != "unassigned").all()
