"""Predictions that rest on the model and the training labels: shares, intervals, uncertainty, invariances."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi._cp10k import log1p_cp10k
from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError
from deltavi.model import LABELVI, MIXVI, PPCA, SCGEN, VAE
from deltavi.perturbation import ResponseModel, ResponsePrediction, ResponseTable
from deltavi.tl import responses
from tests.model.conftest import dense, log_normalised, train

ASK = {"control": "control", "perturbation": "stimulated"}
SETUP = {"condition_key": "condition", "labels_key": "cell_type"}
TABLES = ("deltavi_change", "deltavi_lower", "deltavi_upper")
LABELS = ["type_1", "type_2", "type_3", "type_4"]
SMALL = {"n_hidden": 16, "n_latent": 4}


def cells(*, seed: int = 0, n_per_group: int = 40) -> AnnData:
    """Deeply measured counts of four types; all but the stimulated cells of the second one."""
    simulated = simulate_perturbation(
        n_genes=40, n_cell_types=4, n_batches=1, n_cells_per_group=n_per_group, library_median=2000.0,
        inverse_dispersion=4.0, specific_effect=1.5, seed=seed,
    )  # fmt: skip
    hidden = (simulated.obs["cell_type"] == "type_2") & (simulated.obs["condition"] == "stimulated")
    adata = AnnData(simulated.X.copy(), obs=simulated.obs[["condition", "cell_type"]].copy())
    adata.var_names = simulated.var_names
    return adata[~hidden.to_numpy()].copy()


@pytest.fixture(scope="module")
def model() -> SCGEN:
    """Trained without the stimulated cells of the second type; tests must not change it."""
    return train(SCGEN, cells(), epochs=30, setup=SETUP, **SMALL)


def logs_of(adata: AnnData) -> np.ndarray:
    """Double precision log1p CP10k, or what is on that scale already."""
    x = dense(adata.X).astype(float)
    return log1p_cp10k(x, x.sum(1)).astype(float) if (x == np.floor(x)).all() else x


def measured(adata: AnnData, query: AnnData) -> ResponsePrediction:
    """Response that the crossed process of the labels of `adata` expects of the control cells in `query`."""
    name, log = str(query.obs["cell_type"].iloc[0]), AnnData(logs_of(adata), obs=adata.obs, var=adata.var)
    table = responses(log, condition_key="condition", control="control", context_keys="cell_type")
    return ResponseModel.fit(table).predict("stimulated", context=name)


def gaps(predicted: AnnData, adata: AnnData) -> np.ndarray:
    """Change of each label's mean less that of the process, of well expressed genes."""
    found = []
    for label in LABELS:
        control = adata[(adata.obs["cell_type"] == label) & (adata.obs["condition"] == "control")]
        mean, expected = logs_of(control).mean(0), measured(adata, control).change[0]
        change = dense(predicted[predicted.obs["cell_type"] == label].X).mean(0, dtype=float) - mean
        # a mean cannot fall below zero, nor one of next to no counts be moved
        well = (mean > 2.0) & (mean + expected > 0.5)
        found.append((change - expected)[well])
    return np.concatenate(found)


def size(values: np.ndarray) -> float:
    return float(np.abs(values).mean())


def assert_same(found: AnnData, expected: AnnData, atol: float = 0.0) -> None:
    """Profiles, layers and tables of the same cells and genes."""
    assert list(found.obs_names) == list(expected.obs_names)
    assert found.layers.keys() == expected.layers.keys()
    np.testing.assert_allclose(dense(found.X), dense(expected.X), rtol=0, atol=atol)
    for name in expected.layers:
        np.testing.assert_allclose(dense(found.layers[name]), dense(expected.layers[name]), rtol=atol, atol=atol)
    assert set(found.varm) == set(expected.varm)
    for name in expected.varm:
        np.testing.assert_allclose(found.varm[name], expected.varm[name], rtol=0, atol=atol)


# -- how much of the prediction is measured ------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["cells", "mean"])
def test_without_a_share_the_model_alone_predicts(model: SCGEN, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = {**ASK, "output": output, "n_samples": 3}
    found, half = (model.predict_perturbation(empirical_weight=share, **ask) for share in (0, 0.5))
    monkeypatch.setattr("deltavi.model._prediction.evidence_of", lambda *args, **kwargs: None)
    expected = model.predict_perturbation(**ask)
    assert not expected.varm
    for name in (None, *expected.layers):
        np.testing.assert_array_equal(*(dense(p.X if name is None else p.layers[name]) for p in (found, expected)))
        assert (dense(half.X) != dense(expected.X)).any()
    np.testing.assert_array_equal(found.obsm["X_deltavi"], expected.obsm["X_deltavi"])
    np.testing.assert_array_equal(half.obsm["X_deltavi"], expected.obsm["X_deltavi"])


@pytest.mark.parametrize("shift", ["similarity", "gp", "paired"])
def test_the_share_leads_from_the_model_to_the_labels(model: SCGEN, shift: str) -> None:
    of = [
        gaps(model.predict_perturbation(shift=shift, empirical_weight=share, **ASK), model.adata)
        for share in (0, 0.5, 1)
    ]
    assert size(of[0]) > size(of[1]) > size(of[2])
    assert size(of[2]) < 0.15 * size(of[0])
    assert np.quantile(np.abs(of[2]), 0.9) < 0.15
    # gene by gene, half the share goes half the way
    assert np.quantile(np.abs(of[1] - of[0] / 2), 0.9) < 0.1
    assert np.corrcoef(of[1], of[0])[0, 1] > 0.95


def test_profile_rate_and_counts_move_as_cells_do(model: SCGEN) -> None:
    """An expectation is moved by as much; it is the cells whose means are matched."""
    own, moved = (model.predict_perturbation(output="mean", empirical_weight=share, **ASK) for share in (0, 1))
    whole = [model.predict_perturbation(empirical_weight=share, **ASK) for share in (0, 1)]
    cell = np.subtract(*(dense(p.X).mean(0) for p in reversed(whole)))
    decoded = (dense(moved.X) - dense(own.X)).mean(0)
    counts = np.log1p(dense(moved.layers["counts"]).mean(0)) - np.log1p(dense(own.layers["counts"]).mean(0))
    well = (own.layers["rate"].mean(0) > 1) & (np.abs(cell) > 0.15)
    assert well.sum() >= 5
    np.testing.assert_array_equal(np.sign(decoded[well]), np.sign(cell[well]))
    np.testing.assert_array_equal(np.sign(counts[well]), np.sign(cell[well]))
    np.testing.assert_array_equal(moved.layers["rate"], whole[1].layers["rate"])


def test_the_interval_of_a_cell_moves_along(model: SCGEN) -> None:
    """Of the same draws, so that a higher rate never lowers a bound."""
    ask = {**ASK, "labels": "type_2", "n_samples": 20}
    own, moved = (model.predict_perturbation(empirical_weight=share, **ask) for share in (0, 1))
    factor = (moved.layers["rate"] / own.layers["rate"]).mean(0)
    up, down = factor > 1.2, factor < 0.8
    for bound in ("lower", "upper"):
        change = moved.layers[bound] - own.layers[bound]
        assert (change[:, up] >= 0).all()
        assert (change[:, down] <= 0).all()
        assert change[:, up].max() > 0.1
        assert change[:, down].min() < -0.1
    assert (moved.layers["lower"] <= moved.layers["upper"]).all()


# -- by default --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.5),
        ({"shift": "similarity"}, 0.5),
        ({"shift": "gp"}, 0.5),
        ({"shift": "paired"}, 0.0),
        ({"shift": "scgen"}, 0.0),
        ({"shift": np.full(4, 0.1)}, 0.0),
        ({"shift_scale": 1.0}, 0.0),
        ({"shift": "gp", "shift_scale": 2}, 0.0),
        ({"shift": "paired", "empirical_weight": 0.25}, 0.25),
        ({"shift_scale": 1.0, "empirical_weight": 1}, 1.0),
    ],
)
def test_what_share_is_taken(model: SCGEN, options: dict[str, Any], expected: float) -> None:
    predicted = model.predict_perturbation(labels="type_1", **options, **ASK)
    assert predicted.uns["deltavi"]["empirical_weight"] == expected
    explicit = model.predict_perturbation(labels="type_1", **{**options, "empirical_weight": expected}, **ASK)
    assert_same(explicit, predicted)


@pytest.mark.parametrize("wrong", [2, -1, -1e-9, float("nan"), float("inf"), True, False, "half", None, [0.5]])
def test_a_share_that_is_none(model: SCGEN, wrong: Any) -> None:
    with pytest.raises(DeltaviError, match="empirical_weight must be"):
        model.predict_perturbation(empirical_weight=wrong, **ASK)


# -- what is told ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empirical_weight", [0, 0.5])
def test_changes_and_their_intervals(model: SCGEN, empirical_weight: float) -> None:
    predicted = model.predict_perturbation(empirical_weight=empirical_weight, **ASK)
    assert set(predicted.varm) == set(TABLES)
    change, lower, upper = (predicted.varm[name] for name in TABLES)
    control = logs_of(model.adata)
    for table in (change, lower, upper):
        assert list(table.columns) == LABELS
        assert table.shape == (40, 4)
        assert table.index.equals(predicted.var_names)
    assert ((lower <= change) & (change <= upper)).to_numpy().all()
    assert (lower < upper).to_numpy().any()
    np.testing.assert_allclose(change - lower, upper - change, atol=1e-12)
    for label in LABELS:
        cells_of = np.asarray((model.adata.obs["cell_type"] == label) & (model.adata.obs["condition"] == "control"))
        mean = dense(predicted[predicted.obs["cell_type"] == label].X).mean(0, dtype=float)
        np.testing.assert_allclose(change[label], mean - control[cells_of].mean(0), atol=1e-4)
    some = model.predict_perturbation(labels=["type_3", "type_1"], empirical_weight=empirical_weight, **ASK)
    assert list(some.varm["deltavi_change"].columns) == ["type_1", "type_3"]
    np.testing.assert_allclose(some.varm["deltavi_upper"], upper[["type_1", "type_3"]], atol=1e-4)


def test_uncertainty_and_intervals_are_those_of_the_process(model: SCGEN) -> None:
    predicted = model.predict_perturbation(**ASK)
    uncertainty = predicted.uns["deltavi"]["uncertainty"].set_index("query")
    assert list(uncertainty.index) == LABELS
    for label in LABELS:
        adata = model.adata
        query = adata[(adata.obs["cell_type"] == label) & (adata.obs["condition"] == "control")]
        expected = measured(adata, query)
        found = uncertainty.loc[label]
        assert found["uncertainty"] == pytest.approx(expected.uncertainty[0], rel=1e-3)
        assert found["expected_skill"] == pytest.approx(expected.expected_skill, rel=1e-3)
        assert (found["n_worse"], found["n_groups"]) == (expected.n_worse, expected.n_groups)
        assert found["flags"] == ", ".join(expected.flags[0])
        # as if as many perturbed cells had been measured
        lower, upper = expected.interval(0.9, n_perturbed=query.n_obs, n_control=query.n_obs)
        width = (predicted.varm["deltavi_upper"] - predicted.varm["deltavi_lower"])[label]
        np.testing.assert_allclose(width, (upper - lower)[0], rtol=1e-3, atol=1e-4)
    assert uncertainty["max_training_uncertainty"].nunique() == 1
    # of the labels with a response, none is farther than when it is left out
    assert (uncertainty["uncertainty"] < uncertainty["max_training_uncertainty"]).drop("type_2").all()
    assert uncertainty["uncertainty"].idxmax() == "type_2"


def test_measured_responses_are_fitted_once_for_the_means_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, fit = [], ResponseModel.fit

    def counted(table: ResponseTable) -> ResponseModel:
        fits.append(table)
        return fit(table)

    monkeypatch.setattr(ResponseModel, "fit", counted)
    model = train(SCGEN, cells(n_per_group=12), epochs=2, setup=SETUP, **SMALL)
    first = model.predict_perturbation(**ASK)
    assert_same(model.predict_perturbation(**ASK), first)
    assert len(fits) == 1
    model.predict_perturbation(control="stimulated", perturbation="control")
    assert len(fits) == 2
    model.save(tmp_path / "model")
    loaded = SCGEN.load(tmp_path / "model", cells(n_per_group=12))
    assert_same(loaded.predict_perturbation(**ASK), first)
    assert len(fits) == 3
    model.train(1, accelerator="cpu")
    model.predict_perturbation(**ASK)
    assert len(fits) == 4


def test_extrapolation_is_logged_and_nothing_else_is(model: SCGEN, caplog: pytest.LogCaptureFixture) -> None:
    query = cells()
    query = query[(query.obs["cell_type"] == "type_1") & (query.obs["condition"] == "control")].copy()
    with caplog.at_level(logging.WARNING, logger="deltavi"):
        near = model.predict_perturbation(query, **ASK)
    assert "extrapolated" not in caplog.text
    x = dense(query.X)
    rank = np.argsort(np.argsort(x.mean(0)))
    query.X = x[:, np.argsort(-x.mean(0))[rank]]  # the rarest gene the most abundant, and so on
    with caplog.at_level(logging.WARNING, logger="deltavi"):
        far = model.predict_perturbation(query, **ASK)
    assert "control cells of 'type_1' lie farther from the training labels" in caplog.text
    uncertainty, usual = far.uns["deltavi"]["uncertainty"].loc["0", ["uncertainty", "max_training_uncertainty"]]
    assert uncertainty > usual > near.uns["deltavi"]["uncertainty"].loc["0", "uncertainty"]
    assert f"uncertainty {uncertainty:.2f}, otherwise at most {usual:.2f}" in caplog.text


def test_a_slash_in_a_label_fits_into_a_file(tmp_path: Path) -> None:
    adata = cells(n_per_group=12)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace({"type_1": "T/NK", "type_3": "."})
    model = train(SCGEN, adata, setup=SETUP, **SMALL)
    predicted = model.predict_perturbation(**ASK)
    assert list(predicted.varm["deltavi_change"].columns) == ["%2E", "T%2FNK", "type_2", "type_4"]
    assert list(predicted.uns["deltavi"]["uncertainty"]["query"]) == [".", "T/NK", "type_2", "type_4"]
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    read = ad.read_h5ad(tmp_path / "predicted.h5ad")
    for name in TABLES:
        np.testing.assert_array_equal(read.varm[name], predicted.varm[name])
        assert list(read.varm[name].columns) == list(predicted.varm[name].columns)
    assert read.uns["deltavi"]["uncertainty"].equals(predicted.uns["deltavi"]["uncertainty"])
    assert read.uns["deltavi"]["empirical_weight"] == 0.5


def test_two_labels_give_no_interval(caplog: pytest.LogCaptureFixture) -> None:
    adata = cells(n_per_group=12)
    kept = ~np.asarray((adata.obs["condition"] == "stimulated") & (adata.obs["cell_type"] == "type_3"))
    model = train(SCGEN, adata[kept].copy(), setup=SETUP, **SMALL)
    predicted = model.predict_perturbation(**ASK)
    assert predicted.varm["deltavi_lower"].isna().to_numpy().all()
    assert predicted.varm["deltavi_upper"].isna().to_numpy().all()
    assert np.isfinite(predicted.varm["deltavi_change"]).to_numpy().all()
    assert predicted.uns["deltavi"]["uncertainty"]["max_training_uncertainty"].isna().all()
    assert predicted.uns["deltavi"]["empirical_weight"] == 0.5
    assert "extrapolated" not in caplog.text


# -- where labels say nothing ------------------------------------------------------------------------------------


def test_a_model_of_an_older_version_predicts_as_it_did(model: SCGEN, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = SCGEN.load(tmp_path / "model", cells())
    loaded.training_means = replace(loaded.training_means, log_expression=None)
    loaded.save(tmp_path / "old")
    old = SCGEN.load(tmp_path / "old", cells())
    assert old.training_means.log_expression is None
    found, expected = old.predict_perturbation(**ASK), model.predict_perturbation(empirical_weight=0, **ASK)
    assert not found.varm
    assert not {"uncertainty", "empirical_weight"} & set(found.uns["deltavi"])
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))


def test_without_labels_the_model_alone_predicts() -> None:
    model = train(SCGEN, cells(n_per_group=12), setup={"condition_key": "condition"}, **SMALL)
    predicted = model.predict_perturbation(**ASK)
    assert not predicted.varm
    assert not {"uncertainty", "empirical_weight"} & set(predicted.uns["deltavi"])
    assert_same(model.predict_perturbation(empirical_weight=1, **ASK), predicted)
    with pytest.raises(DeltaviError, match="empirical_weight"):
        model.predict_perturbation(empirical_weight=2, **ASK)


def test_a_query_without_labels_or_cells(model: SCGEN) -> None:
    query = cells()
    del query.obs["cell_type"]
    predicted = model.predict_perturbation(query, **ASK)
    assert list(predicted.varm["deltavi_change"].columns) == ["all cells"]
    assert list(predicted.uns["deltavi"]["uncertainty"]["query"]) == ["all cells"]
    for share in (0, 1, "auto"):
        none = model.predict_perturbation(query[:0].copy(), empirical_weight=share, n_samples=2, **ASK)
        assert none.shape == (0, 40)
        assert not none.varm
    one = model.predict_perturbation(cells()[:1].copy(), empirical_weight=1, **ASK)
    assert np.isfinite(dense(one.X)).all()
    assert np.isfinite(one.varm["deltavi_upper"]).to_numpy().all()


# -- what must not matter ----------------------------------------------------------------------------------------


def stored(adata: AnnData, matrix: Any) -> AnnData:
    """The same cells with another matrix."""
    return AnnData(matrix, obs=adata.obs.copy(), var=adata.var.copy())


FORMS: dict[str, Callable[[AnnData], AnnData]] = {
    "genes backwards": lambda adata: adata[:, ::-1].copy(),
    "dense": lambda adata: stored(adata, dense(adata.X)),
    "columns": lambda adata: stored(adata, sparse.csc_matrix(adata.X)),
    "view": lambda adata: adata[:],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_query_is_irrelevant(model: SCGEN, form: str) -> None:
    expected = model.predict_perturbation(empirical_weight=1, **ASK)
    assert_same(model.predict_perturbation(FORMS[form](cells()), empirical_weight=1, **ASK), expected, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_cells_at_a_time_are_irrelevant(model: SCGEN, batch_size: int) -> None:
    expected = model.predict_perturbation(n_samples=2, **ASK)
    assert_same(model.predict_perturbation(n_samples=2, batch_size=batch_size, **ASK), expected, atol=1e-4)


def test_other_labels_in_the_query_are_irrelevant_and_the_same_call_says_the_same(model: SCGEN) -> None:
    whole, alone = model.predict_perturbation(**ASK), model.predict_perturbation(labels="type_2", **ASK)
    np.testing.assert_allclose(dense(alone.X), dense(whole[alone.obs_names].X), atol=1e-4)
    state = np.random.get_state()[1].copy()
    assert_same(model.predict_perturbation(**ASK), whole)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_a_saved_model_predicts_the_same(model: SCGEN, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    expected = model.predict_perturbation(**ASK)
    assert_same(SCGEN.load(tmp_path / "model", cells()).predict_perturbation(**ASK), expected)
    assert_same(SCGEN.load(tmp_path / "model").predict_perturbation(cells(), **ASK), expected)


# -- other models and likelihoods --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (VAE, {**SMALL, "gene_likelihood": "poisson", "library": "learned"}),
        (LABELVI, {**SMALL, "gene_likelihood": "nb"}),
        (MIXVI, {**SMALL, "n_components": 4}),
        (SCGEN, {**SMALL, "gene_likelihood": "zinb", "condition_in_decoder": True}),
        (SCGEN, {**SMALL, "gene_likelihood": "normal"}),
        (PPCA, {"n_latent": 4}),
    ],
    ids=["VAE", "LABELVI", "MIXVI", "zinb", "normal", "PPCA"],
)
def test_every_model_comes_closer_to_what_labels_say(model_class: type, options: dict[str, Any]) -> None:
    adata = cells(n_per_group=24)
    of_counts = not (model_class is PPCA or options.get("gene_likelihood") == "normal")
    if not of_counts:
        adata = log_normalised(adata)
        adata.X = sparse.csr_matrix(adata.X)
    if model_class is PPCA:
        PPCA.setup_anndata(adata, **SETUP)
        model = PPCA(adata, **options)
        model.train()
    else:
        model = train(model_class, adata, epochs=10, setup=SETUP, **options)
    predicted = [model.predict_perturbation(empirical_weight=share, **ASK) for share in (0, 0.5, 1)]
    found = [size(gaps(p, adata)) for p in predicted]
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.35 * found[0]
    assert all((dense(p.X) >= 0).all() for p in predicted)
    assert list(predicted[0].varm["deltavi_lower"].columns) == LABELS
    assert model.training_means.is_log == (not of_counts)
