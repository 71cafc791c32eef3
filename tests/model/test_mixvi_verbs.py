"""MIXVI's verbs: positions of w, routes to another condition, made-up cells, clusters to start from, nats, groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from deltavi.errors import DeltaviError, MixtureWarning, NotTrainedError, UnknownCategoryError
from deltavi.latent import Usage
from deltavi.model import _mixture_training
from deltavi.model._decoding import CellDecoder
from deltavi.model._mixvi import MIXVI
from tests.model.conftest import QUIET, SETUP, dense, log_normalised, small_adata

SMALL: dict[str, Any] = {"n_hidden": 16, "n_latent": 4}
SWITCH = {"control": "control", "perturbation": "stimulated"}
UNLABELLED = {key: value for key, value in SETUP.items() if key != "labels_key"}


def untrained(adata: AnnData, setup: dict[str, Any], **kwargs: Any) -> MIXVI:
    MIXVI.setup_anndata(adata, **setup)
    return MIXVI(adata, **{**SMALL, "n_components": 4, **kwargs})


def fitted(adata: AnnData, setup: dict[str, Any], *, epochs: int = 2, **kwargs: Any) -> MIXVI:
    model = untrained(adata, setup, **kwargs)
    model.train(max_epochs=epochs, batch_size=32, **QUIET)
    return model


@pytest.fixture(scope="module")
def conditional() -> MIXVI:
    """Labels, w and a condition, where one label of five components has few known cells; not to be changed."""
    adata = small_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).where(np.arange(144) % 3 > 0, "unknown")
    setup = {**SETUP, "unlabeled_category": "unknown"}
    return fitted(adata, setup, epochs=3, conditional=True, n_w=2, n_components=5)


@pytest.fixture(scope="module")
def clusters() -> MIXVI:
    """Components without labels or w, in a model that knows conditions and minds none; not to be changed."""
    return fitted(small_adata(), UNLABELLED, epochs=4)


def batch_of(model: MIXVI, cells: Any) -> dict[str, torch.Tensor]:
    """Those cells of the model as one mini-batch."""
    loader = model._make_data_loader(adata=model.adata, indices=cells, batch_size=len(cells))
    tensors: dict[str, torch.Tensor] = next(iter(loader))
    return tensors


# -- positions of w ------------------------------------------------------------------------------------------


def test_w_is_its_posterior_mean_in_the_order_that_is_asked_for(conditional: MIXVI) -> None:
    w = conditional.get_latent_representation(of="w")
    with torch.inference_mode():
        expected = conditional.module.w_means(batch_of(conditional, np.arange(144))).numpy()
    assert w.shape == (144, 2)
    assert w.std(0).min() > 0
    np.testing.assert_allclose(w, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(conditional.get_latent_representation(of="w"), w)
    order = [100, 3, 57]
    np.testing.assert_allclose(conditional.get_latent_representation(of="w", indices=order), w[order], atol=1e-6)
    np.testing.assert_allclose(conditional.get_latent_representation(small_adata(), of="w"), w, atol=1e-6)
    mask = np.isin(np.arange(144), order)
    np.testing.assert_allclose(conditional.get_latent_representation(of="w", indices=mask), w[mask], atol=1e-6)
    assert conditional.get_latent_representation().shape == (144, 4)


def test_positions_that_do_not_exist(conditional: MIXVI, clusters: MIXVI) -> None:
    with pytest.raises(DeltaviError, match=r"no w: make it with n_w of at least 1"):
        clusters.get_latent_representation(of="w")
    with pytest.raises(DeltaviError, match="of must be 'z' or 'w', not 'y'"):
        conditional.get_latent_representation(of="y")  # type: ignore[arg-type]
    with pytest.raises(DeltaviError, match=r"w takes no \['give_mean'\]"):
        conditional.get_latent_representation(of="w", give_mean=False)
    with pytest.raises(NotTrainedError, match="get_latent_representation"):
        untrained(small_adata(), SETUP, n_w=1).get_latent_representation(of="w")


# -- routes --------------------------------------------------------------------------------------------------


def test_the_route_of_z_decodes_the_same_position_under_the_target(conditional: MIXVI) -> None:
    cells = np.flatnonzero(conditional.adata.obs["condition"] == "control")
    predicted = conditional.predict_perturbation(**SWITCH, shift="z")
    before = conditional.get_latent_representation(indices=cells)
    np.testing.assert_array_equal(predicted.obsm["X_deltavi"], predicted.obsm["X_deltavi_control"])
    np.testing.assert_allclose(predicted.obsm["X_deltavi"], before, atol=1e-6)
    perturbation = list(conditional._categories("condition")).index("stimulated")
    with torch.inference_mode():
        decode = CellDecoder(conditional.module, batch_of(conditional, cells))
        rate, unchanged = (decode(before, condition=code).mean.numpy() for code in (perturbation, 1 - perturbation))
    np.testing.assert_allclose(predicted.layers["rate"], rate, rtol=1e-4)
    assert not np.isclose(rate, unchanged, rtol=1e-4).any(0).all()
    assert set(predicted.obs["condition"]) == {"stimulated"}
    assert predicted.obs["deltavi_source_cell"].tolist() == conditional.adata.obs_names[cells].tolist()
    assert predicted.uns["deltavi"].items() >= {"model": "MIXVI", "shift": "z", **SWITCH}.items()
    # a vector of zeros leaves positions where they are, too
    still = conditional.predict_perturbation(**SWITCH, shift=np.zeros(4))
    np.testing.assert_array_equal(still.layers["rate"], predicted.layers["rate"])
    np.testing.assert_array_equal(dense(still.X), dense(predicted.X))


def test_the_route_of_w_decodes_the_mean_of_the_component_under_the_target(conditional: MIXVI) -> None:
    cells = np.flatnonzero(conditional.adata.obs["condition"] == "control")
    predicted = conditional.predict_perturbation(**SWITCH, shift="w")
    perturbation = list(conditional._categories("condition")).index("stimulated")
    tensors = batch_of(conditional, cells)
    assert 0 < int((tensors["labels"] < 0).sum()) < len(cells)
    with torch.inference_mode():
        after = conditional.module.component_means(tensors, condition=perturbation).numpy()
        rate = CellDecoder(conditional.module, tensors)(after, condition=perturbation).mean.numpy()
    np.testing.assert_allclose(predicted.obsm["X_deltavi"], after, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predicted.layers["rate"], rate, rtol=1e-3)
    assert predicted.uns["deltavi"]["shift"] == "w"
    # what w and the label say of a cell is all that is left of it
    assert (after.var(0) < predicted.obsm["X_deltavi_control"].var(0)).all()


@pytest.mark.parametrize("route", ["z", "w"])
def test_a_route_depends_on_the_cell_alone(conditional: MIXVI, route: str) -> None:
    query = small_adata()
    query.obs["cell_type"] = conditional.adata.obs["cell_type"].to_numpy()
    whole = conditional.predict_perturbation(query, **SWITCH, shift=route)
    some = query[np.random.default_rng(0).permutation(144)[:50]].copy()
    parts = conditional.predict_perturbation(some, **SWITCH, shift=route, batch_size=7)
    assert 0 < parts.n_obs < whole.n_obs
    expected = whole[parts.obs_names]
    np.testing.assert_allclose(parts.obsm["X_deltavi"], expected.obsm["X_deltavi"], atol=1e-5)
    np.testing.assert_allclose(parts.layers["rate"], expected.layers["rate"], rtol=1e-4)
    assert np.isclose(dense(parts.X), dense(expected.X), atol=1e-4).mean() > 0.999
    alone = conditional.predict_perturbation(query, **SWITCH, shift=route, labels="type_2")
    np.testing.assert_allclose(alone.layers["rate"], whole[alone.obs_names].layers["rate"], rtol=1e-4)


def test_routes_that_lead_nowhere(conditional: MIXVI, clusters: MIXVI) -> None:
    for route in ("z", "w"):
        with pytest.raises(DeltaviError, match=f"shift='{route}' switches the condition.*conditional=True"):
            clusters.predict_perturbation(**SWITCH, shift=route)
        for shift_scale in (1.0, 2):
            with pytest.raises(DeltaviError, match=f"shift_scale is the factor of a latent shift, and shift='{route}'"):
                conditional.predict_perturbation(**SWITCH, shift=route, shift_scale=shift_scale)
        conditional.predict_perturbation(**SWITCH, shift=route, shift_scale="match")
    with pytest.raises(DeltaviError, match="'y' does not exist"):
        conditional.predict_perturbation(**SWITCH, shift="y")
    with pytest.raises(NotTrainedError):
        untrained(small_adata(), SETUP, conditional=True).predict_perturbation(**SWITCH, shift="z")


@pytest.mark.parametrize("shift", ["similarity", "paired", "nearest", "global", "scgen"])
def test_shifts_of_other_models_work_on_a_conditional_one(conditional: MIXVI, shift: str) -> None:
    predicted = conditional.predict_perturbation(**SWITCH, shift=shift, labels="type_1")
    moved = predicted.obsm["X_deltavi"] - predicted.obsm["X_deltavi_control"]
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-5)
    assert np.abs(moved).max() > 1e-4
    assert predicted.uns["deltavi"]["shift"] == shift


# -- made-up cells -------------------------------------------------------------------------------------------


def test_a_sample_is_decided_by_its_seed_and_leaves_the_users_alone(conditional: MIXVI) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    first, again, other = (conditional.sample(20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    np.testing.assert_array_equal(dense(again.X), dense(first.X))
    np.testing.assert_array_equal(again.layers["rate"], first.layers["rate"])
    np.testing.assert_array_equal(again.obsm["X_deltavi"], first.obsm["X_deltavi"])
    assert again.obs.equals(first.obs)
    assert not np.isclose(other.obsm["X_deltavi"], first.obsm["X_deltavi"]).any()
    assert first.var_names.tolist() == conditional.adata.var_names.tolist()


def test_sampled_counts_are_whole_numbers_around_their_rate(conditional: MIXVI) -> None:
    drawn = conditional.sample(3000, batch=str(conditional._categories("batch")[0]))
    counts, rate = dense(drawn.X).astype(np.float64), drawn.layers["rate"].astype(np.float64)
    assert sparse.isspmatrix_csr(drawn.X)
    assert (counts >= 0).all()
    np.testing.assert_array_equal(counts, counts.round())
    theta = conditional.module.px_r.exp().detach().numpy()
    z_scores = (counts - rate).sum(0) / np.sqrt((rate + rate**2 / theta).sum(0))
    assert np.abs(z_scores).max() < 5
    assert 0.6 < z_scores.std() < 1.5


def test_components_are_drawn_as_often_as_they_are_used(clusters: MIXVI, monkeypatch: pytest.MonkeyPatch) -> None:
    uneven = np.arange(1.0, 1 + len(clusters.component_names))
    monkeypatch.setattr(clusters, "usage_", Usage(tuple(uneven / uneven.sum())))
    n, shares = 5000, np.asarray(clusters.usage_.shares)
    drawn = clusters.sample(n)
    found = drawn.obs["component"].value_counts().reindex(clusters.component_names, fill_value=0).to_numpy()
    assert (np.abs(found - n * shares) < 5 * np.sqrt(n * shares * (1 - shares)) + 1e-9).all()
    mixture = clusters.module.mixture
    for k, name in enumerate(clusters.component_names):
        z = clusters.sample(2000, component=name, seed=1).obsm["X_deltavi"]
        scale = (mixture.log_variance[k].exp() + 1e-4).sqrt().detach().numpy()
        error = (z.mean(0) - mixture.loc[k].detach().numpy()) / (scale / np.sqrt(2000))
        assert np.abs(error).max() < 5
        np.testing.assert_allclose(z.std(0), scale, rtol=0.1)


def test_a_component_is_named_by_its_label_or_its_number(conditional: MIXVI) -> None:
    for name in ("type_2", "component 4"):
        assert conditional.sample(5, component=name).obs["component"].tolist() == [name] * 5
    with pytest.raises(UnknownCategoryError, match=r"component 'type_9'.*Did you mean 'type_3'"):
        conditional.sample(5, component="type_9")


def test_the_condition_of_a_sample_matters_to_a_conditional_model(conditional: MIXVI, clusters: MIXVI) -> None:
    for model, matters in ((conditional, True), (clusters, False)):
        first, default, second = (model.sample(6, condition=name) for name in ("control", None, "stimulated"))
        assert [set(one.obs["condition"]) for one in (first, second)] == [{"control"}, {"stimulated"}]
        np.testing.assert_array_equal(default.layers["rate"], first.layers["rate"])
        assert np.allclose(second.layers["rate"], first.layers["rate"], rtol=1e-4) is not matters
        with pytest.raises(UnknownCategoryError, match=r"condition 'stimulate'.*Did you mean 'stimulated'"):
            model.sample(6, condition="stimulate")


def test_the_batch_and_the_library_of_a_sample(conditional: MIXVI) -> None:
    batches = [str(name) for name in conditional._categories("batch")]
    for code, name in enumerate([*batches, None]):
        drawn = conditional.sample(6, batch=name, library_size=500.0)
        with torch.inference_mode():
            expected = conditional.module.likelihood_anywhere(
                torch.from_numpy(drawn.obsm["X_deltavi"]),
                condition=0,
                batch=-1 if name is None else code,
                library=500.0,
            )
        np.testing.assert_allclose(drawn.layers["rate"], expected.rate.numpy(), rtol=1e-4)
        np.testing.assert_allclose(drawn.layers["rate"].sum(1), 500, rtol=1e-4)
        larger = conditional.sample(6, batch=name, library_size=2000)
        np.testing.assert_allclose(larger.layers["rate"], 4 * drawn.layers["rate"], rtol=1e-4)
    with pytest.raises(UnknownCategoryError, match="batch 'nowhere'"):
        conditional.sample(6, batch="nowhere")


def test_no_cells_and_senseless_numbers_of_cells(conditional: MIXVI) -> None:
    nothing = conditional.sample(0)
    assert nothing.shape == (0, 40)
    assert list(nothing.obs) == ["component", "condition"]
    assert nothing.obsm["X_deltavi"].shape == (0, 4)
    for n in (-1, 2.5, True, "3"):
        with pytest.raises(DeltaviError, match="n must be a whole number"):
            conditional.sample(n)  # type: ignore[arg-type]
    for size in (0, -1.0, float("nan")):
        with pytest.raises(DeltaviError, match="library_size must be a "):
            conditional.sample(3, library_size=size)
    with pytest.raises(NotTrainedError, match="sample"):
        untrained(small_adata(), SETUP).sample(3)


def test_samples_of_detection_and_of_log_expression() -> None:
    detected = small_adata()
    detected.X = (dense(detected.X) > 1).astype(np.float32)
    drawn = fitted(detected, {}, gene_likelihood="bernoulli").sample(2000)
    rate = drawn.layers["rate"].astype(np.float64)
    assert set(np.unique(drawn.X)) == {0, 1}
    z_scores = (drawn.X - rate).sum(0) / np.sqrt((rate * (1 - rate)).sum(0))
    assert np.abs(z_scores).max() < 5
    model = fitted(log_normalised(small_adata()), {}, gene_likelihood="normal", dispersion="fixed", noise_variance=0.25)
    drawn = model.sample(2000, library_size=17.0)
    np.testing.assert_array_equal(drawn.layers["rate"], model.sample(2000).layers["rate"])
    residual = drawn.X - drawn.layers["rate"]
    np.testing.assert_allclose(residual.std(0), 0.5, rtol=0.1)
    assert list(drawn.obs) == ["component"]


# -- clusters to start from ----------------------------------------------------------------------------------


class Watch(Callback):
    """Whether labels are let go, in every epoch."""

    def __init__(self, model: MIXVI) -> None:
        self.model, self.released = model, list[bool]()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if len(self.released) == trainer.current_epoch:
            self.released.append(self.model.module.labels_dropped)


def test_clusters_name_components_and_every_argument_arrives() -> None:
    adata = small_adata()
    adata.layers["raw"], adata.obs["age"], adata.obs["site"] = adata.X.copy(), np.arange(adata.n_obs) % 7, "a"
    adata.obs["leiden"] = pd.Categorical((np.arange(144) % 3).astype(str), categories=["0", "1", "2", "never"])
    setup: dict[str, Any] = {**UNLABELLED, "layer": "raw", "size_factor_key": "total_counts"}
    setup |= {"categorical_covariate_keys": ["site"], "continuous_covariate_keys": ["age"]}
    model = MIXVI.from_clusters(adata, "leiden", conditional=True, n_w=1, **setup, **SMALL)
    assert model.component_names.tolist() == ["0", "1", "2"]
    assert {**model.registry_["setup_args"]} == {**setup, "labels_key": "leiden", "unlabeled_category": None}
    assert (model.drop_labels_after, model.module.n_w, model.module.conditional) == (0.6, 1, True)
    more = MIXVI.from_clusters(small_adata(), "cell_type", n_components=5, drop_labels_after=0.2, **SMALL)
    assert more.component_names.tolist() == ["type_1", "type_2", "type_3", "component 3", "component 4"]


def test_clusters_that_were_let_go_stay_so_in_a_file(tmp_path: Path) -> None:
    setup: dict[str, Any] = {"condition_key": "condition", "conditional": True}
    model = MIXVI.from_clusters(small_adata(), "cell_type", **setup, **SMALL)
    model.train(max_epochs=6, batch_size=32, **QUIET)
    model.save(tmp_path / "model")
    again = MIXVI.load(tmp_path / "model", small_adata())
    routed, expected = (one.predict_perturbation(**SWITCH, shift="w").obsm["X_deltavi"] for one in (again, model))
    np.testing.assert_array_equal(routed, expected)
    model.module.labels_dropped = False
    assert not np.allclose(model.predict_perturbation(**SWITCH, shift="w").obsm["X_deltavi"], expected)


@pytest.mark.parametrize(("share", "first"), [(0.0, 4), (0.5, 5), (0.75, 8), (1.0, 10)])
def test_clusters_are_let_go_at_the_stated_epoch_and_not_before(share: float, first: int) -> None:
    """Of ten epochs; never before components are placed, which is in the fourth."""
    model = MIXVI.from_clusters(small_adata(), "cell_type", drop_labels_after=share, **SMALL)
    watch = Watch(model)
    model.train(max_epochs=10, batch_size=64, callbacks=[watch], **QUIET)
    assert watch.released == [epoch >= first for epoch in range(10)]
    # there is none before components are placed
    cross_entropy = model.history["classification_loss_train"].iloc[:, 0].astype(float)
    assert len(cross_entropy) == 7
    assert (cross_entropy.to_numpy() > 0).tolist() == [epoch < first for epoch in range(3, 10)]


# -- nats and groups -----------------------------------------------------------------------------------------


def test_nats_are_means_over_cells_by_dimension(conditional: MIXVI, clusters: MIXVI) -> None:
    nats, some = conditional.get_kl_per_dimension(), [5, 90, 33]
    assert nats.index.tolist() == ["z 0", "z 1", "z 2", "z 3", "w 0", "w 1"]
    assert (nats >= 0).all()
    with torch.inference_mode():
        expected = conditional.module.kl_per_dimension(batch_of(conditional, some)).mean(0).numpy()
    np.testing.assert_allclose(conditional.get_kl_per_dimension(indices=some), expected, rtol=1e-3)
    np.testing.assert_allclose(conditional.get_kl_per_dimension(small_adata()), nats, rtol=1e-4)
    assert clusters.get_kl_per_dimension().index.tolist() == ["z 0", "z 1", "z 2", "z 3"]


def test_a_w_that_says_nothing_warns() -> None:
    model = untrained(small_adata(), SETUP, n_w=2, n_components=5)
    with torch.no_grad():
        for parameter in model.module.w_encoder.parameters():
            parameter.zero_()
    with pytest.warns(MixtureWarning, match="w says .* nats.*free_bits_w"):
        model.train(max_epochs=1, batch_size=32, plan_kwargs={"lr": 1e-9}, **QUIET)
    assert model.get_kl_per_dimension()[["w 0", "w 1"]].max() < 0.01


def test_components_that_overlap_are_merged(clusters: MIXVI, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = pd.DataFrame(np.repeat([[0.6, 0, 0.4, 0], [0, 1, 0, 0], [0.2, 0, 0.8, 0], [0, 0.1, 0, 0.9]], 5, axis=0))
    monkeypatch.setattr(clusters, "get_responsibilities", lambda: shares)
    names = clusters.component_names
    for most, expected in ((0.2, [0, 1, 0, 3]), (0.05, [0, 1, 0, 1]), (0.9, [0, 1, 2, 3])):
        merged = clusters.merge_components(max_overlap=most)
        assert merged.index.tolist() == names.tolist()
        assert merged.tolist() == names[expected].tolist()
    with pytest.raises(DeltaviError, match=r"n_groups.*max_overlap"):
        clusters.merge_components()


# -- components that are not used ----------------------------------------------------------------------------


def test_a_component_without_cells_goes_out_of_use_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _mixture_training._place_components

    def far_away(self: MIXVI, cells: np.ndarray) -> None:
        place(self, cells)
        with torch.no_grad():
            self.module.mixture.loc[1] = 1e3

    monkeypatch.setattr(_mixture_training, "_place_components", far_away)
    model = fitted(small_adata(), UNLABELLED)
    left = ["component 0", "component 2", "component 3"]
    assert model.component_names.tolist() == left
    model.save(tmp_path / "model")
    again = MIXVI.load(tmp_path / "model", small_adata())
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert model.component_names.tolist() == left
    for one in (model, again):
        shares = one.get_responsibilities()
        assert shares.columns.tolist() == left
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
        assert set(one.predict()) <= set(left)
        assert len(one.usage_.shares) == 3
        assert "component 1" not in set(one.sample(200).obs["component"])
        with pytest.raises(UnknownCategoryError, match="'component 1'"):
            one.sample(2, component="component 1")
        with pytest.raises(DeltaviError, match="number of components, 3"):
            one.merge_components(4)
