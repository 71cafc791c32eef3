"""Invariances of the shift estimators, for random scenes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.perturbation import estimate_shift
from deltavi.perturbation.estimators import ESTIMATORS, similarity_weights

SEEDS = st.integers(0, 2**32 - 1)
WEIGHTED = ["paired", "similarity", "nearest", "scgen"]


def scene(seed, n_types=4, n_dims=3):
    rng = np.random.default_rng(seed)
    labels = np.tile([f"type{i}" for i in range(n_types)], 10)
    places = rng.normal(0, 2, (n_types, n_dims))
    points = np.tile(places, (10, 1)) + rng.normal(0, 0.5, (10 * n_types, n_dims))
    is_control = np.repeat([True, False], 5 * n_types)
    is_control &= labels != "type0"  # one type is held out of the control
    points[~is_control] += rng.normal(0, 1, n_dims)
    return {
        "points": points,
        "is_control": is_control,
        "is_perturbed": np.repeat([False, True], 5 * n_types),
        "labels": labels,
        "query": places[0] + rng.normal(0, 0.5, (6, n_dims)),
    }


def estimate(estimator, points, **options):
    return estimate_shift(points, estimator=estimator, **options)


def rotation(seed, n):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=SEEDS, offset=st.floats(-20, 20))
@settings(deadline=None, max_examples=30)
def test_translation_changes_nothing(estimator, seed, offset):
    data = scene(seed)
    expected = estimate(estimator, **data)
    moved = estimate(estimator, **{**data, "points": data["points"] + offset, "query": data["query"] + offset})
    np.testing.assert_allclose(moved.vector, expected.vector, atol=1e-9)
    assert moved.weights == pytest.approx(expected.weights, abs=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_rotation_turns_the_shift_along(estimator, seed):
    data, turn = scene(seed), rotation(seed, 3)
    expected = estimate(estimator, **data)
    turned = estimate(estimator, **{**data, "points": data["points"] @ turn, "query": data["query"] @ turn})
    np.testing.assert_allclose(turned.vector, expected.vector @ turn, atol=1e-9)
    assert turned.weights == pytest.approx(expected.weights, abs=1e-9)
    assert turned.length == pytest.approx(expected.length)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=SEEDS, factor=st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
def test_scale_scales_the_shift(estimator, seed, factor):
    data = scene(seed)
    expected = estimate(estimator, **data)
    scaled = estimate(estimator, **{**data, "points": factor * data["points"], "query": factor * data["query"]})
    np.testing.assert_allclose(scaled.vector, factor * expected.vector, rtol=1e-9, atol=1e-9)
    assert scaled.weights == pytest.approx(expected.weights)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_order_of_cells_and_dimensions_is_irrelevant(estimator, seed):
    data, rng = scene(seed), np.random.default_rng(seed)
    expected = estimate(estimator, **data)
    cells, dims = rng.permutation(40), rng.permutation(3)
    moved = {name: data[name][cells] for name in ("is_control", "is_perturbed", "labels")}
    result = estimate(estimator, data["points"][cells][:, dims], query=rng.permutation(data["query"])[:, dims], **moved)
    np.testing.assert_allclose(result.vector, expected.vector[dims], atol=1e-12)
    assert result.weights == pytest.approx(expected.weights)
    assert (result.n_control, result.n_perturbed) == (expected.n_control, expected.n_perturbed)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=SEEDS, form=st.sampled_from([sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array]))
@settings(deadline=None, max_examples=30)
def test_sparse_equals_dense(estimator, seed, form):
    data = scene(seed)
    data["points"][np.abs(data["points"]) < 0.5] = 0
    expected = estimate(estimator, **data)
    result = estimate(estimator, **{**data, "points": form(data["points"]), "query": form(data["query"])})
    np.testing.assert_allclose(result.vector, expected.vector, atol=1e-12)
    assert result.weights == pytest.approx(expected.weights)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=SEEDS)
@settings(deadline=None, max_examples=20)
def test_renaming_labels_only_renames_the_weights(estimator, seed):
    data = scene(seed)
    expected = estimate(estimator, **data)
    renamed = np.array([f"prefix/{name}" for name in data["labels"]])
    result = estimate(estimator, **{**data, "labels": renamed})
    np.testing.assert_allclose(result.vector, expected.vector)
    assert result.weights == pytest.approx({f"prefix/{name}": weight for name, weight in expected.weights.items()})


@pytest.mark.parametrize("estimator", WEIGHTED)
@given(seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_weights_sum_to_one_over_usable_labels(estimator, seed):
    result = estimate(estimator, **scene(seed))
    assert sum(result.weights.values()) == pytest.approx(1)
    assert all(0 <= weight <= 1 for weight in result.weights.values())
    usable = {"type0", "type1", "type2", "type3"} if estimator == "scgen" else {"type1", "type2", "type3"}
    assert set(result.weights) == usable


@pytest.mark.parametrize("estimator", ["paired", "similarity", "nearest", "scgen"])
@given(seed=SEEDS)
@settings(deadline=None, max_examples=20)
def test_repeating_the_cells_of_a_label_changes_nothing(estimator, seed):
    """Labels count equally, however many cells they have."""
    data = scene(seed)
    rows = np.concatenate([np.arange(40), np.repeat(np.flatnonzero(data["labels"] == "type2"), 3)])
    repeated = {name: value if name == "query" else value[rows] for name, value in data.items()}
    np.testing.assert_allclose(estimate(estimator, **repeated).vector, estimate(estimator, **data).vector, atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_same_answer_each_time_and_no_global_randomness(estimator):
    data = scene(5)
    np.random.seed(0)
    first = estimate(estimator, **data)
    state = np.random.get_state()[1].copy()
    again = estimate(estimator, **data)
    np.testing.assert_array_equal(first.vector, again.vector)
    assert first.weights == again.weights
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_inputs_are_left_untouched(estimator, form):
    data = scene(6)
    data["points"], data["query"] = form(data["points"]), form(data["query"])
    kept = {name: value.copy() for name, value in data.items()}
    estimate(estimator, **data)
    for name, value in data.items():
        different = value != kept[name]
        assert different.sum() == 0, name


def test_result_cannot_be_reassigned():
    result = estimate("paired", **scene(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.vector = np.zeros(3)


# the weights of `similarity`


@given(
    distances=st.lists(st.floats(0, 1e100, allow_subnormal=True), min_size=1, max_size=8),
    bandwidth=st.floats(1e-6, 1e6),
)
@settings(deadline=None)
def test_similarity_weights_are_weights(distances, bandwidth):
    with np.errstate(all="raise", under="ignore", over="ignore"):
        weights = similarity_weights(np.array(distances), bandwidth)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    assert weights[int(np.argmin(distances))] == weights.max()


@given(distance=st.floats(0, 1e6), n=st.integers(1, 6), bandwidth=st.floats(0.01, 10))
def test_equal_distances_weigh_equally(distance, n, bandwidth):
    np.testing.assert_allclose(similarity_weights(np.full(n, distance), bandwidth), np.full(n, 1 / n))


@given(seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_temperature_leads_from_nearest_to_paired(seed):
    data = scene(seed)
    cold, hot = (estimate("similarity", **data, bandwidth=t) for t in (1e-9, 1e9))
    np.testing.assert_allclose(cold.vector, estimate("nearest", **data).vector, atol=1e-6)
    np.testing.assert_allclose(hot.vector, estimate("paired", **data).vector, atol=1e-6)


def test_single_label_gets_all_the_weight_even_at_distance_zero():
    points = np.array([[1.0, 2.0], [3.0, 3.0]])
    options = {"is_control": [True, False], "is_perturbed": [False, True], "labels": ["a", "a"]}
    for query in (points[:1], points[1:]):
        for estimator in ("similarity", "nearest", "paired"):
            result = estimate(estimator, points, **options, query=query)
            np.testing.assert_array_equal(result.vector, [2, 1])
            assert result.weights == {"a": 1}


def test_all_distances_zero_weigh_all_labels_equally():
    points = np.array([[0.0], [0.0], [1.0], [3.0]])
    result = estimate(
        "similarity",
        points,
        is_control=[True, True, False, False],
        is_perturbed=[False, False, True, True],
        labels=list("abab"),
        query=points[:1],
    )
    assert result.weights == {"a": 0.5, "b": 0.5}
    np.testing.assert_array_equal(result.vector, [2])


def test_labels_whose_weight_vanishes_count_no_cells():
    data = scene(2)
    result = estimate("similarity", **data, bandwidth=1e-9)
    assert list(result.n_control) == [max(result.weights, key=result.weights.get)]
