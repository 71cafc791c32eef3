"""Learning: what the estimators recover of a known response when one cell type is held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.perturbation import estimate_shift

TYPES = np.array(["type0", "type1", "type2", "type3", "type4"])
HELD_OUT = "type4"


def common_response(seed, n_dims=6, n_cells=20):
    """Every type shifts by the same vector, so that means are exact; the last one has no perturbed cells."""
    rng = np.random.default_rng(seed)
    true_shift = rng.normal(0, 1, n_dims)
    labels = np.repeat(TYPES, n_cells)
    control = rng.normal(0, 3, (len(TYPES), n_dims))[np.repeat(np.arange(len(TYPES)), n_cells)]
    control = control + rng.normal(0, 1, control.shape)
    seen = labels != HELD_OUT
    data = {
        "points": np.vstack([control, control[seen] + true_shift]),
        "is_control": np.repeat([True, False], [len(labels), seen.sum()]),
        "is_perturbed": np.repeat([False, True], [len(labels), seen.sum()]),
        "labels": np.concatenate([labels, labels[seen]]),
        "query": control[~seen],
    }
    return true_shift, data


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_paired_is_exact_and_scgen_is_off_by_the_closed_form(seed):
    true_shift, data = common_response(seed)
    points, is_control, labels = data["points"], data["is_control"], data["labels"]
    means = {name: points[is_control & (labels == name)].mean(axis=0) for name in TYPES}
    others = np.mean([means[name] for name in TYPES if name != HELD_OUT], axis=0)
    bias = (others - means[HELD_OUT]) / len(TYPES)

    paired = estimate_shift(estimator="paired", **data)
    scgen = estimate_shift(estimator="scgen", **data)
    np.testing.assert_allclose(paired.vector, true_shift, atol=1e-12)
    np.testing.assert_allclose(scgen.vector - true_shift, bias, atol=1e-12)
    assert np.linalg.norm(bias) > 1e-3, "the scene must show the bias"


@pytest.mark.parametrize("estimator", ["paired", "similarity", "nearest"])
def test_pairing_estimators_recover_a_common_shift_whatever_their_weights(estimator):
    true_shift, data = common_response(3)
    np.testing.assert_allclose(estimate_shift(estimator=estimator, **data).vector, true_shift, atol=1e-12)


def test_the_bias_vanishes_when_nothing_is_held_out():
    true_shift, data = common_response(4)
    kept = data["labels"] != HELD_OUT
    complete = {name: value if name == "query" else value[kept] for name, value in data.items()}
    np.testing.assert_allclose(estimate_shift(estimator="scgen", **complete).vector, true_shift, atol=1e-12)


def test_global_is_biased_by_the_composition_of_the_conditions():
    """Half of the perturbed cells of one type are lost: the same response, yet all cells against all cells is off."""
    true_shift, data = common_response(5)
    lost = np.flatnonzero(data["is_perturbed"] & (data["labels"] == "type0"))[:15]
    kept = np.setdiff1d(np.arange(len(data["labels"])), lost)
    thinned = {name: value if name == "query" else value[kept] for name, value in data.items()}
    error = {
        name: np.linalg.norm(estimate_shift(estimator=name, **thinned).vector - true_shift)
        for name in ("global", "paired")
    }
    expected = (
        thinned["points"][thinned["is_perturbed"]].mean(axis=0)
        - thinned["points"][thinned["is_control"]].mean(axis=0)
        - true_shift
    )
    assert error["global"] == pytest.approx(np.linalg.norm(expected))
    assert error["global"] > error["paired"]


def graded_response(seed, n_dims=5, n_cells=60):
    """The response of a type depends smoothly on where the type lies: what a held-out type needs is its neighbours."""
    rng = np.random.default_rng(seed)
    direction, effect = np.eye(n_dims)[0], np.eye(n_dims)[1]
    places = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    labels = np.repeat(TYPES, n_cells)
    position = np.repeat(places, n_cells)[:, None]
    control = 3 * position * direction + rng.normal(0, 0.3, (len(labels), n_dims))
    perturbed = 3 * position * direction + position * effect + rng.normal(0, 0.3, control.shape)
    seen = labels != HELD_OUT
    data = {
        "points": np.vstack([control, perturbed[seen]]),
        "is_control": np.repeat([True, False], [len(labels), seen.sum()]),
        "is_perturbed": np.repeat([False, True], [len(labels), seen.sum()]),
        "labels": np.concatenate([labels, labels[seen]]),
        "query": control[~seen],
    }
    return 4.0 * effect, data


@pytest.mark.parametrize("seed", range(5))
def test_similar_types_predict_a_graded_response_better_than_all_types(seed):
    true_shift, data = graded_response(seed)
    error = {
        name: np.linalg.norm(estimate_shift(estimator=name, **data).vector - true_shift)
        for name in ("paired", "similarity", "nearest", "scgen")
    }
    assert error["similarity"] < error["paired"] < error["scgen"]
    assert error["nearest"] < error["paired"]


def test_similarity_weights_order_the_types_by_closeness():
    _, data = graded_response(0)
    weights = estimate_shift(estimator="similarity", **data, bandwidth=1.0).weights
    ordered = [weights[f"type{i}"] for i in range(4)]
    assert ordered == sorted(ordered)
