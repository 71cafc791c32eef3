"""Baselines against plain numpy, and what they learn from simulated experiments."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from deltavi.errors import DeltaviError
from deltavi.metrics import pearson_delta
from deltavi.perturbation import BASELINES, ShiftBaseline, baseline_predictions, estimate_shift
from tests.perturbation import protocol

KEYS = {"condition_key": "condition", "labels_key": "cell_type"}
CONDITIONS = {"control": "control", "perturbation": "stimulated"}
USED = "deltavi"


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("held_out", ["NK", "B"])
def test_baselines_equal_the_protocol(experiment, split, name, held_out):
    train, query, _ = split(experiment(response="graded"), held_out)
    space, shift = BASELINES[name]
    baseline = ShiftBaseline(train, **KEYS, space=space)
    predicted = baseline.predict_perturbation(query, **CONDITIONS, shift=shift)
    expected, weights = protocol.prediction(train, query, space, shift)
    np.testing.assert_allclose(predicted.X, expected, atol=1e-4)
    used = predicted.uns[USED]["weights"][held_out]
    assert used == ({} if shift == "none" else pytest.approx(weights, abs=1e-4))


def test_names_and_order_of_the_baselines():
    assert dict(BASELINES) == {
        "no change": ("genes", "none"),
        "mean shift": ("genes", "paired"),
        "nearest shift": ("genes", "nearest"),
        "similarity shift": ("genes", "similarity"),
        "GP shift": ("genes", "gp"),
        "PCA mean shift": ("pca", "paired"),
        "PCA similarity shift": ("pca", "similarity"),
        "PCA nearest shift": ("pca", "nearest"),
    }
    assert next(iter(BASELINES)) == "no change"
    with pytest.raises(TypeError):
        BASELINES["mine"] = ("genes", "paired")


def test_all_baselines_in_one_call(adata, split):
    train, query, _ = split(adata)
    predictions = baseline_predictions(train, query, **KEYS, **CONDITIONS)
    assert list(predictions) == list(BASELINES)
    for name, (space, shift) in BASELINES.items():
        alone = ShiftBaseline(train, **KEYS, space=space).predict_perturbation(query, **CONDITIONS, shift=shift)
        np.testing.assert_array_equal(predictions[name].X, alone.X)
        assert predictions[name].uns[USED]["space"] == space
        assert predictions[name].uns[USED]["shift"] == shift


def test_no_change_returns_the_control_cells(adata, split):
    train, query, _ = split(adata)
    predicted = ShiftBaseline(train, **KEYS).predict_perturbation(query, **CONDITIONS, shift="none")
    np.testing.assert_array_equal(predicted.X, query.X)


def test_expression_below_zero_is_clipped_unless_asked(adata, split):
    """A vector down to below zero: clipped by default in both spaces, kept with clip=False."""
    train, query, _ = split(adata)
    for space, width in (("genes", adata.n_vars), ("pca", 5)):
        baseline = ShiftBaseline(train, **KEYS, space=space, n_components=5)
        down = np.full(width, -5.0)
        clipped = baseline.predict_perturbation(query, **CONDITIONS, shift=down).X
        kept = baseline.predict_perturbation(query, **CONDITIONS, shift=down, clip=False).X
        assert clipped.min() == 0
        assert kept.min() < 0
        np.testing.assert_array_equal(clipped, np.clip(kept, 0, None))


def test_each_label_moves_by_its_own_shift(experiment):
    adata = experiment(response="graded")
    predicted = ShiftBaseline(adata, **KEYS).predict_perturbation(**CONDITIONS, shift="nearest")
    control = (adata.obs["condition"] == "control").to_numpy()
    types = adata.obs["cell_type"].astype(str).to_numpy()
    assert predicted.n_obs == control.sum()
    for name in np.unique(types):
        own = control & (types == name)
        change = adata.X[~control & (types == name)].mean(0) - adata.X[own].mean(0)
        expected = np.clip(adata.X[own] + change, 0, None)
        np.testing.assert_allclose(predicted[adata.obs_names[own]].X, expected, atol=1e-5)
        assert predicted.uns[USED]["weights"][name][name] == 1
        assert predicted.uns[USED]["length"][name] == pytest.approx(np.linalg.norm(change), rel=1e-5)


def test_query_of_several_types_equals_one_type_at_a_time(experiment):
    adata = experiment(response="graded")
    for space in ("genes", "pca"):
        baseline = ShiftBaseline(adata, **KEYS, space=space)
        together = baseline.predict_perturbation(adata, **CONDITIONS)
        for name in ("B", "NK"):
            alone = baseline.predict_perturbation(adata, **CONDITIONS, labels=name)
            np.testing.assert_array_equal(together[alone.obs_names].X, alone.X)
            assert list(alone.uns[USED]["weights"]) == [name]


def test_query_without_label_column_is_one_group(adata, split):
    train, query, _ = split(adata)
    del query.obs["cell_type"]
    baseline = ShiftBaseline(train, **KEYS)
    predicted = baseline.predict_perturbation(query, **CONDITIONS)
    assert list(predicted.uns[USED]["weights"]) == ["all cells"]
    labelled = baseline.predict_perturbation(split(adata)[1], **CONDITIONS)
    np.testing.assert_array_equal(predicted.X, labelled.X)


def test_query_without_condition_column_is_all_control(adata, split):
    train, query, _ = split(adata)
    del query.obs["condition"]
    predicted = ShiftBaseline(train, **KEYS).predict_perturbation(query, **CONDITIONS)
    assert predicted.n_obs == query.n_obs
    assert (predicted.obs["deltavi_source_condition"] == "control").all()
    assert (predicted.obs["condition"] == "stimulated").all()


def test_without_labels_only_global_works(adata):
    baseline = ShiftBaseline(adata, condition_key="condition")
    predicted = baseline.predict_perturbation(**CONDITIONS, shift="global")
    control = (adata.obs["condition"] == "control").to_numpy()
    change = adata.X[~control].mean(0) - adata.X[control].mean(0)
    np.testing.assert_allclose(predicted.X, np.clip(adata.X[control] + change, 0, None), atol=1e-5)
    with pytest.raises(DeltaviError, match="needs labels"):
        baseline.predict_perturbation(**CONDITIONS)


def test_a_given_shift_may_lead_to_an_unmeasured_condition(adata):
    baseline = ShiftBaseline(adata, **KEYS)
    vector = np.ones(adata.n_vars)
    predicted = baseline.predict_perturbation(control="control", perturbation="both drugs", shift=vector)
    control = adata[(adata.obs["condition"] == "control").to_numpy()]
    np.testing.assert_allclose(predicted.X, control.X + 1, rtol=1e-6)
    assert (predicted.obs["condition"] == "both drugs").all()
    assert predicted.uns[USED]["shift"] == "vector"


def test_shift_is_that_of_estimate_shift(adata, split):
    train, query, _ = split(adata)
    control = (train.obs["condition"] == "control").to_numpy()
    for name in ("paired", "global", "scgen"):
        vector = estimate_shift(
            train.X, is_control=control, is_perturbed=~control, labels=train.obs["cell_type"], estimator=name
        ).vector
        baseline = ShiftBaseline(train, **KEYS)
        by_name = baseline.predict_perturbation(query, **CONDITIONS, shift=name)
        by_vector = baseline.predict_perturbation(query, **CONDITIONS, shift=vector)
        np.testing.assert_array_equal(by_name.X, by_vector.X)


def test_temperature_reaches_the_estimator(experiment, split):
    train, query, _ = split(experiment(response="graded"))
    baseline = ShiftBaseline(train, **KEYS)
    hot = baseline.predict_perturbation(query, **CONDITIONS, bandwidth=1e9)
    paired = baseline.predict_perturbation(query, **CONDITIONS, shift="paired")
    np.testing.assert_allclose(hot.X, paired.X, atol=1e-5)
    cold = baseline.predict_perturbation(query, **CONDITIONS, bandwidth=1e-9)
    assert max(cold.uns[USED]["weights"]["NK"].values()) == 1


def test_further_conditions_take_no_part(adata, split):
    """A third condition shapes the principal components but not the shift."""
    train, query, _ = split(adata)
    third = train[(train.obs["condition"] == "stimulated").to_numpy()].copy()
    third.obs["condition"] = "other"
    third.obs_names = [f"other_{name}" for name in third.obs_names]
    third.X = third.X + 2
    both = anndata.concat([train, third])
    expected = ShiftBaseline(train, **KEYS).predict_perturbation(query, **CONDITIONS)
    np.testing.assert_allclose(
        ShiftBaseline(both, **KEYS).predict_perturbation(query, **CONDITIONS).X, expected.X, atol=1e-6
    )


# learning


@pytest.mark.parametrize("held_out", ["B", "CD4 T", "NK", "monocyte"])
def test_every_shift_recovers_a_common_response(experiment, split, held_out):
    train, query, real = split(experiment(n_cells=60), held_out)
    predictions = baseline_predictions(train, query, **KEYS, **CONDITIONS)
    no_change = np.abs(query.X.mean(0) - real.X.mean(0)).max()
    for name, predicted in predictions.items():
        error = np.abs(predicted.X.mean(0) - real.X.mean(0)).max()
        if name == "no change":
            assert pearson_delta(predicted.X, real.X, control=query.X) == 0
        else:
            assert error < no_change / 5, name
            assert pearson_delta(predicted.X, real.X, control=query.X) > 0.9, name


def test_similarity_beats_the_mean_shift_where_the_response_is_graded(experiment, split):
    train, query, real = split(experiment(n_cells=60, response="graded"), "monocyte")
    predictions = baseline_predictions(train, query, **KEYS, **CONDITIONS)
    error = {name: np.square(predicted.X.mean(0) - real.X.mean(0)).sum() for name, predicted in predictions.items()}
    assert error["similarity shift"] < error["mean shift"] < error["no change"]
    assert error["PCA similarity shift"] < error["PCA mean shift"]


def test_sparse_predictions_equal_dense(adata, split):
    train, query, _ = split(adata)
    for name, predicted in baseline_predictions(train, query, **KEYS, **CONDITIONS).items():
        train_sparse, query_sparse = train.copy(), query.copy()
        train_sparse.X, query_sparse.X = sp.csr_matrix(train.X), sp.csc_matrix(query.X)
        space, shift = BASELINES[name]
        sparse = ShiftBaseline(train_sparse, **KEYS, space=space).predict_perturbation(
            query_sparse, **CONDITIONS, shift=shift
        )
        np.testing.assert_allclose(sparse.X, predicted.X, atol=1e-4)
        assert not sp.issparse(sparse.X)
