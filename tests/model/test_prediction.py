"""What a prediction is: means of training cells, scale of the shift, learning, and batch removal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi._cp10k import log1p_cp10k
from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError
from deltavi.metrics import pearson_delta, variance_ratio, zero_fraction
from deltavi.model import SCGEN, VAE
from deltavi.model._asked import positions_of, request_of, totals_of
from deltavi.model._group_sums import group_means
from deltavi.model._shifts import coordinates_of, decoded_change
from deltavi.model._training_means import TrainingMeans, stretched
from deltavi.perturbation import Shift, estimate_shift
from tests.model.conftest import QUIET, SETUP, dense, log_normalised, small_adata, train

ASK = {"control": "control", "perturbation": "stimulated"}


# -- means of the training cells -----------------------------------------------------------------------------


def cells(n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    conditions = rng.choice(["control", "stimulated"], n).astype(object)
    labels = rng.choice(["a", "b", "c"], n).astype(object)
    return rng.standard_normal((n, 4)), rng.poisson(2.0, (n, 7)).astype(float), conditions, labels


@pytest.mark.parametrize("estimator", ["paired", "similarity", "gp", "nearest", "global", "scgen", "none"])
def test_shift_from_means_equals_shift_from_cells(estimator: str) -> None:
    positions, counts, conditions, labels = cells()
    means = TrainingMeans.from_cells(positions, counts, totals=counts.sum(1), conditions=conditions, labels=labels)
    query = positions[conditions == "control"][:5]
    shift = means.shift("control", "stimulated", query=query.mean(0), estimator=estimator, bandwidth=0.2)
    expected = estimate_shift(
        positions,
        is_control=conditions == "control",
        is_perturbed=conditions == "stimulated",
        labels=labels,
        query=query,
        estimator=estimator,
    )
    np.testing.assert_allclose(shift.vector, expected.vector, atol=1e-12)
    assert shift.weights == pytest.approx(expected.weights)
    assert shift.n_control == expected.n_control


def test_means_survive_a_file(tmp_path: Any) -> None:
    from deltavi.io import read_model, write_model

    positions, counts, conditions, labels = cells()
    means = TrainingMeans.from_cells(positions, counts, totals=counts.sum(1), conditions=conditions, labels=labels)
    write_model(tmp_path / "model", {}, {"means": means.as_dict()})
    back = TrainingMeans.from_dict(read_model(tmp_path / "model")[1]["means"])
    for estimator in ("similarity", "global"):
        ask = {"query": positions[0], "estimator": estimator, "bandwidth": 0.2}
        before, after = (m.shift("control", "stimulated", **ask) for m in (means, back))
        np.testing.assert_array_equal(before.vector, after.vector)
        np.testing.assert_array_equal(
            means.observed_change("control", "stimulated", before), back.observed_change("control", "stimulated", after)
        )


@pytest.mark.parametrize("as_sparse", [False, True])
def test_group_means_by_hand(as_sparse: bool) -> None:
    values = np.arange(12.0).reshape(6, 2)
    groups = np.array(["b", "a", "b", "a", "c", "c"], dtype=object)
    inside = np.array([True, True, True, True, True, False])
    means = group_means(sparse.csr_matrix(values) if as_sparse else values, groups, inside, np.full(6, 2.0))
    assert means.labels == ("a", "b", "c")
    assert means.n_cells == (2, 2, 1)
    np.testing.assert_allclose(means.means, 2 * np.array([[4, 5], [2, 3], [8, 9]]))


def test_observed_change_weights_labels_as_the_shift_does() -> None:
    positions, counts, conditions, labels = cells()
    means = TrainingMeans.from_cells(positions, counts, totals=counts.sum(1), conditions=conditions, labels=labels)
    scaled = 1e4 * counts / counts.sum(1, keepdims=True)

    def change(label: str) -> np.ndarray:
        of = lambda condition: scaled[(labels == label) & (conditions == condition)].mean(0)  # noqa: E731
        return np.log1p(of("stimulated")) - np.log1p(of("control"))

    shift = Shift(np.zeros(4), "similarity", {"a": 0.25, "b": 0.75})
    expected = 0.25 * change("a") + 0.75 * change("b")
    np.testing.assert_allclose(means.observed_change("control", "stimulated", shift), expected)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.6])
def test_a_shift_that_decodes_short_is_stretched_by_what_it_lacks(factor: float) -> None:
    rng = np.random.default_rng(0)
    loading = rng.standard_normal((9, 4))
    shift = Shift(rng.standard_normal(4), "paired", {"a": 1.0})
    observed = factor * (loading @ shift.vector)
    scaled, found = stretched(shift, observed, lambda displacement: loading @ displacement)
    assert found == pytest.approx(factor, rel=1e-6)
    np.testing.assert_allclose(scaled.vector, factor * shift.vector)


def test_nothing_is_stretched_without_a_change() -> None:
    shift = Shift(np.ones(3), "paired", {"a": 1.0})
    assert stretched(shift, np.zeros(5), lambda d: np.ones(5))[1] == 1.0
    still = Shift(np.zeros(3), "paired", {"a": 1.0})
    assert stretched(still, np.ones(5), lambda d: np.zeros(5))[1] == 1.0


def test_scale_is_recorded_and_the_papers_shift_is_left_alone(trained: SCGEN) -> None:
    fixed = trained.predict_perturbation(shift_scale=2.0, **ASK)
    assert (fixed.uns["deltavi"]["weights"]["shift_scale"] == 2.0).all()
    plain = trained.predict_perturbation(shift_scale=1.0, **ASK)
    moved = [p.obsm["X_deltavi"] - p.obsm["X_deltavi_control"] for p in (fixed, plain)]
    np.testing.assert_allclose(moved[0], 2 * moved[1], atol=1e-4)
    paper = trained.predict_perturbation(shift="scgen", **ASK)
    assert (paper.uns["deltavi"]["weights"]["shift_scale"] == 1.0).all()
    vector = np.full(4, 0.3)
    given = trained.predict_perturbation(shift=vector, **ASK)
    np.testing.assert_allclose(
        given.obsm["X_deltavi"] - given.obsm["X_deltavi_control"], [vector] * given.n_obs, atol=1e-5
    )
    none = trained.predict_perturbation(shift="none", **ASK)
    np.testing.assert_array_equal(none.obsm["X_deltavi"], none.obsm["X_deltavi_control"])


def test_weights_are_told_and_sum_to_one(trained: SCGEN) -> None:
    weights = trained.predict_perturbation(**ASK).uns["deltavi"]["weights"]
    np.testing.assert_allclose(weights.groupby("query")["weight"].sum(), 1.0)
    assert set(weights["query"]) == {"type_1", "type_2", "type_3"}
    assert (weights["n_control"] > 0).all()


def test_labels_are_compared_by_what_they_decode_to_or_by_position(trained: SCGEN) -> None:
    weights = {
        where: trained.predict_perturbation(similarity_space=where, **ASK)
        .uns["deltavi"]["weights"]
        .set_index(["query", "training_label"])["weight"]
        for where in ("expression", "latent")
    }
    assert not np.allclose(weights["expression"], weights["latent"])
    control = trained.training_means.positions["control"]
    profiles = coordinates_of(trained, 0)(control.means)
    rates = [
        trained.predict_perturbation(small_adata(), shift="none", labels=label, **ASK).layers["rate"].mean(0)
        for label in control.labels
    ]
    # profiles decoded at the mean position are close to the mean of the cells' decoded rates
    for profile, rate in zip(profiles, rates, strict=True):
        assert np.corrcoef(profile, np.log1p(1e4 * rate / rate.sum()))[0, 1] > 0.95


def test_without_labels_similarity_is_global(adata: AnnData) -> None:
    model = train(SCGEN, adata, setup={"condition_key": "condition"}, n_hidden=16, n_latent=4)
    predicted = model.predict_perturbation(**ASK)
    assert predicted.uns["deltavi"]["shift"] == "global"
    assert list(predicted.uns["deltavi"]["weights"]["training_label"]) == ["all cells"]
    with pytest.raises(DeltaviError, match="labels"):
        model.predict_perturbation(shift="paired", **ASK)


def test_cp10k_uses_the_registered_totals_and_rescales_relative_size_factors(adata: AnnData) -> None:
    totals = np.asarray(adata.X.sum(1)).ravel()
    adata.obs["double"], adata.obs["relative"] = 2.0 * totals, totals / totals.mean()
    for key, expected in (("double", 2.0 * totals), ("relative", totals)):
        model = train(SCGEN, adata.copy(), setup={**SETUP, "size_factor_key": key}, n_hidden=8, n_latent=2)
        np.testing.assert_allclose(totals_of(model, model.adata), expected, rtol=1e-5)
        # shares of a factor around one could never reach the counts
        assert model.module.scale_activation == ("softmax_rest" if key == "double" else "exp")
        expected_counts = model.predict_perturbation(shift="none", **ASK).layers["rate"].sum()
        control_counts = adata.X[np.asarray(adata.obs["condition"] == "control")].sum()
        assert expected_counts == pytest.approx(control_counts, rel=0.3)
        predicted = model.predict_perturbation(shift="none", **ASK)
        control = np.asarray(adata.obs["condition"] == "control")
        # no shift: the coupling of a distribution with itself gives each cell's own counts back
        np.testing.assert_allclose(
            dense(predicted.X), log1p_cp10k(dense(adata.X)[control], expected[control]), rtol=1e-4, atol=1e-4
        )


# -- learning ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out() -> tuple[SCGEN, AnnData, np.ndarray]:
    """A model trained without the stimulated cells of one type, all cells, and which were held out."""
    adata = simulate_perturbation(n_genes=200, n_cell_types=5, n_batches=1, n_cells_per_group=150, seed=3)
    hidden = np.asarray((adata.obs["cell_type"] == "type_2") & (adata.obs["condition"] == "stimulated"))
    seen = adata[~hidden].copy()
    SCGEN.setup_anndata(seen, condition_key="condition", labels_key="cell_type")
    model = SCGEN(seen, n_hidden=64, n_latent=20)
    model.train(max_epochs=60, batch_size=128, **QUIET)
    return model, adata, hidden


def log_of(adata: AnnData) -> np.ndarray:
    x = dense(adata.X)
    return log1p_cp10k(x, x.sum(1))


def test_an_unseen_response_is_predicted_better_than_by_a_mean_shift(held_out: Any) -> None:
    model, adata, hidden = held_out
    start = adata[(adata.obs["cell_type"] == "type_2") & (adata.obs["condition"] == "control")].copy()
    predicted = model.predict_perturbation(start, **ASK)
    logs, control = log_of(adata), log_of(start)
    changes = []
    for label in sorted(set(adata.obs["cell_type"]) - {"type_2"}):
        of = [np.asarray((adata.obs["cell_type"] == label) & (adata.obs["condition"] == c)) for c in ASK.values()]
        changes.append(logs[of[1]].mean(0) - logs[of[0]].mean(0))
    mean_shift = np.maximum(control + np.mean(changes, 0), 0)
    scores = [pearson_delta(p, logs[hidden], control=control) for p in (dense(predicted.X), mean_shift)]
    assert scores[0] > scores[1]


def test_predicted_cells_look_like_cells_and_expectations_do_not(held_out: Any) -> None:
    model, adata, hidden = held_out
    start = adata[(adata.obs["cell_type"] == "type_2") & (adata.obs["condition"] == "control")].copy()
    real = log_of(adata)[hidden]
    cell = dense(model.predict_perturbation(start, **ASK).X)
    decoded = dense(model.predict_perturbation(start, output="mean", **ASK).X)
    assert 0.8 < variance_ratio(cell, real) < 1.25
    assert variance_ratio(decoded, real) < 0.5
    assert abs(zero_fraction(cell) - zero_fraction(real)) < 0.05
    assert (cell >= 0).all()
    assert (decoded >= 0).all()


def test_sampled_counts_have_the_decoded_rate(held_out: Any) -> None:
    model, adata, _ = held_out
    start = adata[(adata.obs["cell_type"] == "type_2") & (adata.obs["condition"] == "control")].copy()
    predicted = model.predict_perturbation(start, **ASK)
    counts, rate = dense(predicted.layers["counts"]), predicted.layers["rate"]
    assert (counts == np.floor(counts)).all()
    noise = np.sqrt((rate + rate**2 / np.exp(model.module.px_r.detach().numpy())).sum(0))
    assert (np.abs(counts.sum(0) - rate.sum(0)) < 6 * noise).all()


def test_the_interval_covers_what_the_model_says(held_out: Any) -> None:
    model, adata, _ = held_out
    start = adata[(adata.obs["cell_type"] == "type_2") & (adata.obs["condition"] == "control")][:40].copy()
    predicted = model.predict_perturbation(start, n_samples=60, **ASK)
    drawn = log1p_cp10k(dense(predicted.layers["counts"]), totals_of(model, model._validate_anndata(start)))
    inside = (drawn >= predicted.layers["lower"] - 1e-6) & (drawn <= predicted.layers["upper"] + 1e-6)
    assert inside.mean() > 0.85


# -- the paper's model ---------------------------------------------------------------------------------------


def test_the_papers_model_has_the_papers_shape_and_loss() -> None:
    import torch

    adata = log_normalised(small_adata())
    SCGEN.setup_anndata(adata, condition_key="condition", labels_key="cell_type")
    model = SCGEN(adata, gene_likelihood="normal")
    linear = [m for m in model.module.modules() if isinstance(m, torch.nn.Linear)]
    widths = [(m.in_features, m.out_features) for m in linear]
    assert widths == [(40, 800), (800, 800), (800, 100), (800, 100), (100, 800), (800, 800), (800, 40)]
    names = [type(m).__name__ for m in model.module.modules()]
    assert names.count("BatchNorm1d") == 4
    assert names.count("LeakyReLU") == 4
    dropouts = [m.p for m in model.module.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts == [0.2] * 4
    tensors = {
        "X": torch.from_numpy(np.asarray(adata.X[:8])),
        "batch": torch.zeros(8, 1),
        "labels": torch.zeros(8, 1),
    }
    model.module.eval()
    weight = model.recipe.plan(model)["max_kl_weight"]
    torch.manual_seed(0)
    _, generative, loss = model.module(tensors, loss_kwargs={"kl_weight": weight})
    squares = ((generative["px"].mean - tensors["X"]) ** 2).sum(1)
    kl = loss.kl_local["kl_divergence_z"]
    constant = 40 * 0.5 * np.log(2 * np.pi)
    expected = (0.5 * squares + 0.5 * 5e-5 * kl).mean() + constant
    torch.testing.assert_close(loss.loss, expected, rtol=1e-5, atol=1e-4)


# -- batch removal -------------------------------------------------------------------------------------------


def test_batch_removal_keeps_rows_order_and_metadata(adata: AnnData) -> None:
    adata.obs["note"] = pd.Categorical([f"n{i % 7}" for i in range(adata.n_obs)])
    adata.obsm["X_map"] = np.arange(2.0 * adata.n_obs).reshape(-1, 2)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    original = shuffled.copy()
    model = train(SCGEN, shuffled, n_hidden=16, n_latent=4)
    corrected = model.batch_removal()
    assert list(corrected.obs_names) == list(original.obs_names)
    pd.testing.assert_frame_equal(corrected.obs, original.obs)
    np.testing.assert_array_equal(corrected.obsm["X_map"], original.obsm["X_map"])
    assert (dense(corrected.X) >= 0).all()
    latent = corrected.obsm["X_deltavi"]
    for label in sorted(set(original.obs["cell_type"])):
        of = np.asarray(original.obs["cell_type"] == label)
        means = [
            latent[of & np.asarray(original.obs["batch"] == b)].mean(0) for b in sorted(set(original.obs["batch"]))
        ]
        np.testing.assert_allclose(means[0], means[1], atol=1e-4)
    fresh = model.batch_removal(original)
    np.testing.assert_allclose(fresh.obsm["X_deltavi"], latent, atol=1e-4)


def test_batch_removal_reports_labels_of_one_batch(adata: AnnData) -> None:
    first = adata.obs["batch"].iloc[0]
    keep = np.asarray((adata.obs["cell_type"] != "type_1") | (adata.obs["batch"] == first))
    model = train(SCGEN, adata[keep].copy(), n_hidden=16, n_latent=4)
    corrected = model.batch_removal()
    assert list(corrected.uns["deltavi"]["unmoved_labels"]) == ["type_1"]
    of = np.asarray(corrected.obs["cell_type"] == "type_1")
    np.testing.assert_allclose(corrected.obsm["X_deltavi"][of], model.get_latent_representation()[of], atol=1e-5)


def test_batch_removal_needs_labels_and_batches(adata: AnnData) -> None:
    model = train(SCGEN, adata, setup={"condition_key": "condition"}, n_hidden=8, n_latent=2)
    with pytest.raises(DeltaviError, match="labels_key and batch_key"):
        model.batch_removal()


def test_batch_removal_brings_batches_together() -> None:
    adata = simulate_perturbation(
        n_genes=150,
        n_cell_types=3,
        n_batches=2,
        n_cells_per_group=80,
        batch_effect=0.8,
        conditions=("control", "x"),
        seed=1,
    )
    SCGEN.setup_anndata(adata, condition_key="condition", labels_key="cell_type", batch_key="batch")
    model = SCGEN(adata, n_hidden=64, n_latent=10)
    model.train(max_epochs=30, batch_size=128, **QUIET)
    before, after = log_of(adata), dense(model.batch_removal().X)

    def gap(x: np.ndarray) -> float:
        gaps = []
        for label in sorted(set(adata.obs["cell_type"])):
            of = np.asarray(adata.obs["cell_type"] == label)
            means = [x[of & np.asarray(adata.obs["batch"] == b)].mean(0) for b in sorted(set(adata.obs["batch"]))]
            gaps.append(float(((means[0] - means[1]) ** 2).sum()))
        return float(np.mean(gaps))

    assert gap(after) < 0.5 * gap(before)


def test_a_vae_predicts_too(trained_vae: VAE) -> None:
    predicted = trained_vae.predict_perturbation(labels="type_2", **ASK)
    assert (predicted.obs["cell_type"] == "type_2").all()
    assert "VAE" in trained_vae.summary_string


# -- what others rely on ---------------------------------------------------------------------------------------


def test_a_donor_measured_under_control_only_is_predicted_after_mapping() -> None:
    reference = train(SCGEN, small_adata(), n_hidden=16, n_latent=4)
    query = small_adata(seed=5)
    query = query[query.obs["condition"] == "control"].copy()
    query.obs["batch"] = "new donor"
    mapped = SCGEN.load_query_data(query, reference)
    mapped.train(max_epochs=1, batch_size=32, **QUIET)
    predicted = mapped.predict_perturbation(**ASK)
    assert predicted.n_obs == query.n_obs
    before, after = reference.training_means, mapped.training_means
    assert after.positions["stimulated"].counts() == before.positions["stimulated"].counts()
    gained = sum(after.positions["control"].n_cells) - sum(before.positions["control"].n_cells)
    assert gained == query.n_obs


def test_joined_means_are_those_of_all_cells() -> None:
    positions, counts, conditions, labels = cells()
    half = np.arange(60) < 25

    def means(rows: np.ndarray) -> TrainingMeans:
        return TrainingMeans.from_cells(
            positions[rows], counts[rows], totals=counts[rows].sum(1), conditions=conditions[rows], labels=labels[rows]
        )

    joined, whole = means(half).joined(means(~half)), means(np.ones(60, dtype=bool))
    for name in ("positions", "expression", "overall_positions", "overall_expression"):
        for condition, group in getattr(whole, name).items():
            other = getattr(joined, name)[condition]
            assert (other.labels, other.n_cells) == (group.labels, group.n_cells)
            np.testing.assert_allclose(other.means, group.means)


def test_the_vector_in_uns_gives_the_prediction_back(trained: SCGEN) -> None:
    predicted = trained.predict_perturbation(labels="type_1", empirical_weight=0, **ASK)
    vector = predicted.uns["deltavi"]["vectors"].loc["type_1"].to_numpy()
    again = trained.predict_perturbation(labels="type_1", shift=vector, **ASK)
    np.testing.assert_allclose(dense(again.X), dense(predicted.X), atol=1e-5)


def test_seed_moves_the_noise_and_nothing_else(trained: SCGEN) -> None:
    first, second = (trained.predict_perturbation(seed=seed, n_samples=4, empirical_weight=0, **ASK) for seed in (0, 1))
    np.testing.assert_allclose(first.layers["rate"], second.layers["rate"])
    assert (first.layers["counts"] != second.layers["counts"]).nnz > 0
    assert (first.X != second.X).nnz > 0
    assert not np.array_equal(first.layers["upper"], second.layers["upper"])


def test_coupled_and_sampled_counts_are_different_draws(trained: SCGEN) -> None:
    predicted = trained.predict_perturbation(shift="none", **ASK)
    own = dense(trained.adata[trained.adata.obs["condition"] == "control"].X)
    totals = own.sum(1)
    np.testing.assert_allclose(dense(predicted.X), log1p_cp10k(own, totals), rtol=1e-4, atol=1e-4)
    assert (dense(predicted.layers["counts"]) != own).any()


def test_temperature_reaches_the_weights(trained: SCGEN) -> None:
    spread = []
    for bandwidth in (0.01, 0.2, 50.0):
        weights = trained.predict_perturbation(bandwidth=bandwidth, **ASK).uns["deltavi"]["weights"]["weight"]
        spread.append(float(weights.max() - weights.min()))
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 0.05


def test_a_decoded_change_starts_from_the_control_condition() -> None:
    adata = small_adata()
    model = train(SCGEN, adata, n_hidden=16, n_latent=4, condition_in_decoder=True)
    request = request_of(model, None, control="control", labels=None, drop=False)
    positions = positions_of(model, request.adata, request.cells)
    chosen = np.arange(10)
    change = decoded_change(model, request, chosen, positions[chosen], (0, 1))
    none = decoded_change(model, request, chosen, positions[chosen], (0, 0))
    np.testing.assert_allclose(none(np.zeros(4)), 0.0, atol=1e-6)
    assert np.abs(change(np.zeros(4))).max() > 1e-4


def test_the_interval_holds_nine_tenths_of_the_draws() -> None:
    import torch

    from deltavi.likelihood import Dispersion, Gaussian
    from deltavi.model._decoding import expected_log, predictive_interval
    from deltavi.perturbation.noise import cell_generators

    def decode(z: np.ndarray) -> Gaussian:
        return Gaussian(torch.from_numpy(z @ np.ones((2, 6))), Dispersion(torch.ones(6, dtype=torch.float64)))

    names = [f"c{i}" for i in range(40)]
    lower, upper = predictive_interval(
        decode,
        np.zeros((40, 2)),
        np.full((40, 2), 0.5),
        totals=np.ones(40),
        n_samples=800,
        generators=cell_generators(names, seed=0),
    )
    # variance of the mean is 2 * 0.25, of the noise 1
    width = 2 * 1.6449 * np.sqrt(1.5)
    assert np.mean(upper - lower) == pytest.approx(width, rel=0.05)
    from deltavi.likelihood import Poisson

    rate = torch.full((40, 6), 3.0, dtype=torch.float64)
    expected = expected_log(Poisson(rate), np.full(40, 1e4), cell_generators(names, seed=0))
    support = np.arange(60)
    from scipy import stats

    exact = float((stats.poisson.pmf(support, 3.0) * np.log1p(support)).sum())
    assert float(expected.mean()) == pytest.approx(exact, rel=0.01)


def test_a_decoder_of_counts_starts_at_the_mean_shares(adata: AnnData) -> None:
    totals = np.asarray(adata.X.sum(1)).ravel()
    adata.obs["total_counts"] = 3.0 * totals
    SCGEN.setup_anndata(adata, size_factor_key="total_counts", **SETUP)
    model = SCGEN(adata, n_hidden=16, n_latent=4)
    shares = np.asarray(adata.X.sum(0)).ravel() / (3.0 * totals.sum())
    bias = model.module.decoder.px_scale_decoder[0].bias.detach().numpy()
    np.testing.assert_allclose(bias, np.log(np.maximum(shares, 1e-7)) - np.log(1 - shares.sum()), rtol=1e-4)


def test_batch_removal_decodes_as_if_from_the_reference_batch(trained: SCGEN) -> None:
    corrected = trained.batch_removal()
    references = corrected.uns["deltavi"]["reference_batch"].set_index("label")["batch"]
    moved = np.asarray(
        corrected.obs["batch"].astype(str) != corrected.obs["cell_type"].astype(str).map(references).astype(str)
    )
    own = log_of(trained.adata)
    assert not np.allclose(dense(corrected.X)[moved], own[moved])
    # cells of the reference batch have nowhere to go
    np.testing.assert_allclose(dense(corrected.X)[~moved], own[~moved], rtol=1e-4, atol=1e-4)


def test_queries_are_forgotten_when_nobody_holds_them(trained: SCGEN) -> None:
    import gc

    store = trained._per_instance_manager_store[trained.id]
    for seed in range(3):
        trained.get_latent_representation(small_adata(seed=seed))
    gc.collect()
    assert len(store) == 1


def test_training_warms_up_over_the_share_that_was_asked_for() -> None:
    adata = small_adata()
    SCGEN.setup_anndata(adata, **SETUP)
    model = SCGEN(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=4, batch_size=32, kl_warmup=0.5, **QUIET)
    weights = model.history["kl_weight"].to_numpy(dtype=float).ravel()
    np.testing.assert_allclose(weights, [0.0, 0.15, 0.3, 0.3], atol=1e-6)
    other = SCGEN(adata, n_hidden=8, n_latent=2)
    other.train(max_epochs=1, batch_size=32, seed=3, **QUIET)
    assert not np.array_equal(np.sort(model.train_indices), np.sort(other.train_indices))
    with pytest.raises(DeltaviError, match="kl_warmup"):
        other.train(max_epochs=1, kl_warmup=1.5)
