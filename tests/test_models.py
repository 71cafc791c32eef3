"""The registry of small models: every public model is in it, and does what is declared of it and no more."""

from __future__ import annotations

import numpy as np
import pytest

from deltavi import model, module
from tests.model.conftest import dense
from tests.models import EVERY, MODELS, PERTURBATION, VARIANTS, SmallModel, make

ENTRIES = pytest.mark.parametrize("entry", EVERY.values(), ids=EVERY)


def test_every_public_model_is_in_the_registry() -> None:
    assert {entry.model_class for entry in MODELS.values()} == {getattr(model, name) for name in model.__all__}
    assert all(name == entry.model_class.__name__ for name, entry in MODELS.items())
    assert not MODELS.keys() & VARIANTS.keys()


@pytest.mark.parametrize("entry", MODELS.values(), ids=MODELS)
def test_what_a_class_can_do_is_declared(entry: SmallModel) -> None:
    cls = entry.model_class
    assert {
        "predicts": hasattr(cls, "predict_perturbation"),
        "annotates": hasattr(cls, "predict"),
        "clusters": hasattr(cls, "get_responsibilities"),
        "decodes": hasattr(cls, "impute"),
        "exports": getattr(cls, "_module_cls", None) is module.VAE,
    } == {what: getattr(entry, what) for what in ("predicts", "annotates", "clusters", "decodes", "exports")}


@ENTRIES
def test_an_entry_does_what_it_declares(entry: SmallModel) -> None:
    adata, fitted = make(entry.name, epochs=3)
    assert fitted.is_trained
    assert isinstance(fitted, entry.model_class)
    assert len(fitted.history["train_loss"]) == (3 if entry.by_epochs else 1)
    x = dense(adata.X)
    assert np.array_equal(x, np.floor(x)) == (entry.reads == "counts")
    assert not entry.has_batches or fitted.summary_stats.n_batch == 2
    getattr(fitted, entry.verb)(**(PERTURBATION if entry.verb == "predict_perturbation" else {}))
    if entry.predicts:
        assert entry.has_conditions
        assert fitted.predict_perturbation(**PERTURBATION).n_obs == (adata.obs["condition"] == "control").sum()
    if entry.decodes:
        assert fitted.impute().shape == adata.shape
    if entry.annotates:
        assert entry.has_labels
        assert set(fitted.predict()) <= set(adata.obs["cell_type"])
    if entry.clusters:
        np.testing.assert_allclose(fitted.get_responsibilities().sum(axis=1), 1, rtol=1e-5)


@ENTRIES
def test_a_seed_makes_cells_and_model(entry: SmallModel) -> None:
    (first, one), (again, same), (other, another) = (make(entry.name, seed=seed, epochs=1) for seed in (3, 3, 4))
    assert np.array_equal(dense(first.X), dense(again.X))
    assert not np.array_equal(dense(first.X), dense(other.X))
    assert np.array_equal(one.get_latent_representation(), same.get_latent_representation())
    assert not np.allclose(one.get_latent_representation(), another.get_latent_representation())
    assert first is not again


def test_an_untrained_model_is_made_without_training() -> None:
    adata, untrained = make("VAE")
    assert not untrained.is_trained
    assert untrained.adata is adata
