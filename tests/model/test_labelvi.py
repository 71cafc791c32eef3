"""LABELVI as users meet it: sampling, a start from a trained VAE, learning from few labels, perturbation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError, LabelWarning, NotTrainedError, UnseenCategoryWarning
from deltavi.model import LABELVI, SCGEN, VAE
from deltavi.model._label_column import label_codes
from tests.model.conftest import QUIET, SETUP, dense, log_normalised, small_adata, train

LABELS = {**SETUP, "unlabeled_category": "unknown"}
SMALL = {"n_hidden": 16, "n_latent": 4}


def partly_labelled(*, every: int = 3, **kwargs: Any) -> AnnData:
    adata = small_adata(**kwargs)
    labels = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    labels[::every] = "unknown"
    adata.obs["truth"], adata.obs["cell_type"] = adata.obs["cell_type"].astype(str), labels
    return adata


def fitted(adata: AnnData, *, epochs: int = 2, callbacks: list[Callback] | None = None, **kwargs: Any) -> LABELVI:
    LABELVI.setup_anndata(adata, **LABELS)
    model = LABELVI(adata, **{**SMALL, **kwargs})
    model.train(max_epochs=epochs, batch_size=32, train_size=0.7, callbacks=callbacks, **QUIET)
    return model


# -- sampling ------------------------------------------------------------------------------------------------


class Watcher(Callback):
    """Counts what every mini-batch holds."""

    def __init__(self) -> None:
        self.labelled: list[set[int]] = []
        self.regular = 0

    def on_train_batch_start(self, trainer: Any, plan: Any, batch: dict[str, torch.Tensor], index: int) -> None:
        codes = batch["labels"].ravel().long()
        self.labelled.append(set(codes[codes >= 0].tolist()))
        self.regular += int((batch["drawn_again"] == 0).sum())


def test_a_users_callback_sees_mixed_batches_and_changes_nothing() -> None:
    watcher = Watcher()
    watched, plain = fitted(partly_labelled(), callbacks=[watcher]), fitted(partly_labelled())
    for name, value in plain.module.state_dict().items():
        torch.testing.assert_close(watched.module.state_dict()[name], value, rtol=0, atol=0)
    assert watcher.regular == 2 * len(watched.train_indices)
    assert all(labels == {0, 1, 2} for labels in watcher.labelled)


def test_every_label_is_in_training_and_in_validation() -> None:
    model = fitted(partly_labelled())
    codes = label_codes(model)
    for part in (model.train_indices, model.validation_indices):
        assert set(codes[part]) == {-1, 0, 1, 2}


def test_frequencies_of_training_labels_reach_the_module() -> None:
    adata = partly_labelled()
    adata.obs.loc[adata.obs["cell_type"] == adata.obs["cell_type"].iloc[1], "cell_type"] = "unknown"
    LABELVI.setup_anndata(adata := _add_rare(adata), **LABELS)
    model = LABELVI(adata, y_prior="empirical", **SMALL)
    model.train(max_epochs=1, batch_size=32, train_size=0.7, **QUIET)
    codes = label_codes(model)[model.train_indices]
    counts = np.bincount(codes[codes >= 0], minlength=len(model.label_names)) + 1
    np.testing.assert_allclose(model.module.labels.log_prior.exp().numpy(), counts / counts.sum(), rtol=1e-5)


def _add_rare(adata: AnnData) -> AnnData:
    labels = adata.obs["cell_type"].to_numpy(dtype=object).copy()
    labels[1:5] = "rare"
    adata.obs["cell_type"] = labels
    return adata


@pytest.mark.parametrize("prior", ["uniform", "learned"])
def test_a_uniform_prior_stays_and_a_learned_one_moves(prior: str) -> None:
    model = fitted(partly_labelled(), y_prior=prior, epochs=3)
    frequencies = model.module.get_buffer("label_frequencies")
    start = torch.full((3,), 1 / 3) if prior == "uniform" else frequencies
    moved = not torch.allclose(model.module.labels.log_prior.exp().detach(), start)
    assert moved == (prior == "learned")


# -- start from a trained model ------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [VAE, SCGEN])
def test_from_vae_takes_over_encoder_and_decoder(source: type) -> None:
    adata = partly_labelled()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype("category")
    vae = train(source, adata, **SMALL)
    latent, obs = vae.get_latent_representation(), adata.obs.copy()
    model = LABELVI.from_vae(vae, unlabeled_category="unknown")
    own = model.module.state_dict()
    for name, value in vae.module.state_dict().items():
        torch.testing.assert_close(own[name], value)
    assert adata.obs.equals(obs)
    assert not model.is_trained
    assert list(model.label_names) == sorted(set(adata.obs["truth"]))
    model.train(max_epochs=1, batch_size=32, train_size=0.7, **QUIET)
    assert set(model.predict()) <= set(model.label_names)
    # what the start came from is as it was
    np.testing.assert_array_equal(vae.get_latent_representation(), latent)
    with pytest.raises(NotTrainedError, match="from_vae"):
        LABELVI.from_vae(source(adata, **SMALL), unlabeled_category="unknown")


def test_from_vae_starts_where_the_vae_encodes() -> None:
    adata = partly_labelled()
    vae = train(VAE, adata, **SMALL)
    model = LABELVI.from_vae(vae, unlabeled_category="unknown")
    model.is_trained_ = True
    model.module.eval()
    np.testing.assert_allclose(model.get_latent_representation(), vae.get_latent_representation(), atol=1e-5)


def test_from_vae_names_the_labels_itself_or_says_what_is_missing() -> None:
    adata = partly_labelled()
    VAE.setup_anndata(adata, batch_key="batch")
    vae = VAE(adata, **SMALL)
    vae.train(max_epochs=1, batch_size=32, **QUIET)
    with pytest.raises(DeltaviError, match="labels_key"):
        LABELVI.from_vae(vae)
    model = LABELVI.from_vae(vae, labels_key="cell_type", unlabeled_category="unknown")
    assert len(model.label_names) == 3


def test_from_vae_refuses_batches_the_vae_does_not_know() -> None:
    vae = train(VAE, partly_labelled(), **SMALL)
    other = partly_labelled(seed=1)
    other.obs["batch"] = np.where(np.arange(other.n_obs) % 3, other.obs["batch"].astype(str), "new")
    with pytest.raises(DeltaviError, match=r"batch.*'new'"):
        LABELVI.from_vae(vae, other, unlabeled_category="unknown")
    renamed = partly_labelled(seed=1)
    renamed.obs["batch"] = "other-" + renamed.obs["batch"].astype(str)
    with pytest.raises(DeltaviError, match="weights would stand for others"):
        LABELVI.from_vae(vae, renamed, unlabeled_category="unknown")
    with pytest.raises(DeltaviError, match="settings"):
        LABELVI.from_vae(vae, unlabeled_category="unknown", n_latent=7)


# -- learning ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_few_labels_and_many_cells_do_at_least_as_well_as_the_few_alone() -> None:
    """Ten labelled cells of each of five types; the bar is a logistic regression on the same labels."""
    simulated = simulate_perturbation(n_genes=300, n_cell_types=5, n_batches=2, n_cells_per_group=60, seed=3)
    obs = simulated.obs[["condition", "cell_type", "batch"]].astype(str)
    adata = AnnData(X=simulated.X.copy(), obs=obs)
    rng, known = np.random.default_rng(0), np.zeros(adata.n_obs, dtype=bool)
    for label in obs["cell_type"].unique():
        known[rng.permutation(np.flatnonzero(obs["cell_type"] == label))[:10]] = True
    adata.obs["known"] = np.where(known, obs["cell_type"], "unknown")
    LABELVI.setup_anndata(adata, labels_key="known", unlabeled_category="unknown", batch_key="batch")
    model = LABELVI(adata, n_hidden=64, n_latent=10)
    model.train(max_epochs=40, **QUIET)
    x = dense(log_normalised(adata).X)
    bar = LogisticRegression(max_iter=500, C=0.1).fit(x[known], adata.obs["known"][known]).predict(x[~known])
    truth, predicted = obs["cell_type"][~known], model.predict(indices=np.flatnonzero(~known))
    ours, theirs = (f1_score(truth, p, average="macro") for p in (predicted, bar))
    assert ours >= theirs - 0.01
    assert ours > 0.6


# -- perturbation --------------------------------------------------------------------------------------------


def test_unlabelled_cells_are_moved_by_the_shift_of_their_predicted_label() -> None:
    adata = partly_labelled()
    model = fitted(adata, epochs=5)
    predicted = model.predict_perturbation(control="control", perturbation="stimulated", shift="paired")
    assert "unknown" not in set(predicted.uns["deltavi"]["weights"]["training_label"])
    labels = model.predict(keep_observed=True)
    one = labels.iloc[0]
    some = model.predict_perturbation(control="control", perturbation="stimulated", labels=one)
    control = adata.obs["condition"] == "control"
    assert set(some.obs["deltavi_source_cell"]) == set(adata.obs_names[control & (labels == one).to_numpy()])


def test_numbers_with_missing_values_group_with_the_labels_they_become() -> None:
    adata = partly_labelled()
    numbers = adata.obs["truth"].astype("category").cat.codes.astype(float)
    adata.obs["cell_type"] = numbers.where(adata.obs["cell_type"] != "unknown")
    LABELVI.setup_anndata(adata, **SETUP)
    model = LABELVI(adata, **SMALL)
    model.train(max_epochs=1, batch_size=32, train_size=0.7, **QUIET)
    assert set(model._groups(adata, model._validate_anndata(adata))) == {"0", "1", "2"}


# -- query ---------------------------------------------------------------------------------------------------


def test_an_unlabelled_query_is_mapped_and_keeps_the_calibration() -> None:
    model = fitted(partly_labelled())
    query = small_adata(seed=1)
    query.obs["batch"] = "new"
    del query.obs["cell_type"]
    mapped = LABELVI.load_query_data(query, model)
    mapped.train(max_epochs=1, batch_size=32, **QUIET)
    assert mapped.calibration.temperature == model.calibration.temperature
    assert set(mapped.predict()) <= set(model.label_names)
    # what is frozen gives labels as before
    for name in ("classifier", "labels"):
        for own, theirs in zip(
            getattr(mapped.module, name).parameters(), getattr(model.module, name).parameters(), strict=True
        ):
            torch.testing.assert_close(own, theirs)


def test_a_mapped_model_from_a_file_answers_and_does_not_train_on(tmp_path: Path) -> None:
    query = small_adata(seed=1)
    query.obs["batch"] = "new"
    mapped = LABELVI.load_query_data(query, fitted(partly_labelled()))
    mapped.train(max_epochs=1, batch_size=32, **QUIET)
    mapped.save(tmp_path / "mapped")
    loaded = LABELVI.load(tmp_path / "mapped", query)
    assert loaded.predict().equals(mapped.predict())
    with pytest.raises(DeltaviError, match="frozen"):
        loaded.train(max_epochs=1, **QUIET)


def test_further_training_does_not_forget_a_learned_prior() -> None:
    model = fitted(partly_labelled(), y_prior="learned", epochs=3)
    before = model.module.labels.log_prior.detach().clone()
    model.train(max_epochs=1, batch_size=32, plan_kwargs={"lr": 1e-12}, **QUIET)
    torch.testing.assert_close(model.module.labels.log_prior.detach(), before, rtol=0, atol=1e-5)


def test_keys_name_different_columns_and_no_label_is_called_unassigned() -> None:
    adata = partly_labelled()
    with pytest.raises(DeltaviError, match="column for each"):
        LABELVI.setup_anndata(adata, labels_key="cell_type", batch_key="batch", condition_key="batch")
    adata.obs["cell_type"] = adata.obs["cell_type"].replace({"unknown": "unassigned"})
    with pytest.warns(LabelWarning, match="reads like no label"):
        LABELVI.setup_anndata(adata, labels_key="cell_type")
    with pytest.raises(DeltaviError, match="unassigned"):
        LABELVI(adata)


def test_shuffled_missing_and_extra_genes_and_an_unseen_batch() -> None:
    model, fresh = fitted(partly_labelled()), small_adata()
    labels = model.predict(fresh)
    shuffled = fresh[:, np.random.default_rng(0).permutation(fresh.n_vars)].copy()
    assert (model.predict(shuffled) == labels).all()
    from anndata import concat

    extra = fresh[:, :5].copy()
    extra.var_names = [f"extra{i}" for i in range(5)]
    wider = concat([fresh, extra], axis=1, merge="first")
    assert (model.predict(wider) == labels).all()
    fresh.obs["batch"] = "new"
    with pytest.warns(UnseenCategoryWarning, match="average"):
        # the encoder does not look at the batch
        assert (model.predict(fresh) == labels).all()


def test_a_mapped_query_decays_no_weight_and_keeps_the_label_frequencies() -> None:
    model, query, decay = fitted(partly_labelled()), small_adata(seed=1), []
    query.obs["batch"] = "new"
    query = query[(query.obs["cell_type"] == query.obs["cell_type"].iloc[0]).to_numpy()].copy()
    query.obs_names = "query-" + query.obs_names

    class Look(Callback):
        def on_train_start(self, trainer: Any, plan: Any) -> None:
            decay.extend(group["weight_decay"] for group in trainer.optimizers[0].param_groups)

    mapped = LABELVI.load_query_data(query, model)
    mapped.train(max_epochs=1, batch_size=32, callbacks=[Look()], **QUIET)
    assert set(decay) == {0}
    for own, theirs in (
        (mapped.module.label_frequencies, model.module.label_frequencies),
        (mapped.module.labels.log_prior, model.module.labels.log_prior),
    ):
        torch.testing.assert_close(own, theirs, rtol=0, atol=0)
    with pytest.raises(DeltaviError, match="needs a trained LABELVI"):
        LABELVI.load_query_data(query, train(VAE, small_adata(), **SMALL))
