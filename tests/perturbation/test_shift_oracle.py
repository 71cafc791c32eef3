"""Every estimator against a hand-computed case and a plain re-implementation of its formula."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.perturbation import Shift, estimate_shift
from deltavi.perturbation.estimators import ESTIMATORS
from deltavi.perturbation.shift import estimate_shifts
from tests.perturbation import plain_kriging

SEEDS = st.integers(0, 2**32 - 1)

# label a: control mean (0, 0), perturbed mean (1, 0); label b: control mean (4, 0), perturbed mean (4, 3);
# label h: control mean (0, 8) and no perturbed cells; the labels have different numbers of cells on purpose
POINTS = np.array([[-1.0, 0], [1, 0], [1, 0], [4, 0], [4, 2], [4, 4], [4, 3], [0, 7], [0, 9]])
LABELS = np.array(["a", "a", "a", "b", "b", "b", "b", "h", "h"])
CONTROL = np.array([1, 1, 0, 1, 0, 0, 0, 1, 1], dtype=bool)
SCENE = {"is_control": CONTROL, "is_perturbed": ~CONTROL, "labels": LABELS}


def shift(estimator, **options):
    return estimate_shift(POINTS, **{**SCENE, "estimator": estimator, **options})


def test_paired_by_hand():
    result = shift("paired")
    np.testing.assert_allclose(result.vector, [0.5, 1.5])
    assert result.weights == {"a": 0.5, "b": 0.5}
    assert result.n_control == {"a": 2, "b": 1}
    assert result.n_perturbed == {"a": 1, "b": 3}
    assert result.length == pytest.approx(np.sqrt(2.5))


def test_global_by_hand():
    result = shift("global")
    np.testing.assert_allclose(result.vector, np.array([13, 9]) / 4 - np.array([4, 16]) / 5)
    assert result.weights == {}
    assert result.n_control == {"all cells": 5}
    assert result.n_perturbed == {"all cells": 4}


def test_scgen_by_hand():
    result = shift("scgen")
    np.testing.assert_allclose(result.vector, [(1 + 4) / 2 - (0 + 4 + 0) / 3, 3 / 2 - 8 / 3])
    assert result.weights == {"a": 0.5, "b": 0.5}
    assert result.n_control == {"a": 2, "b": 1, "h": 2}
    assert result.n_perturbed == {"a": 1, "b": 3}


def test_similarity_by_hand():
    # the query mean (1, 0) is at squared distance 1 from a and 9 from b, 5 on average
    result = shift("similarity", query=np.array([[0.0, 1.0], [2.0, -1.0]]), bandwidth=0.5)
    closeness = np.exp(-(9 - 1) / (0.5 * 5))
    weights = np.array([1, closeness]) / (1 + closeness)
    np.testing.assert_allclose(list(result.weights.values()), weights)
    np.testing.assert_allclose(result.vector, weights @ [[1, 0], [0, 3]])
    assert result.n_control == {"a": 2, "b": 1}


def test_nearest_by_hand():
    result = shift("nearest", query=np.array([[3.0, 0.0]]))
    np.testing.assert_allclose(result.vector, [0, 3])
    assert result.weights == {"a": 0, "b": 1}
    assert result.n_control == {"b": 1}
    assert result.n_perturbed == {"b": 3}


def test_nearest_by_correlation_ignores_size():
    points = np.array([[1.0, 2, 3], [9, 9, 1], [2, 4, 7], [9, 3, 1]])
    scene = {
        "is_control": [True, True, False, False],
        "is_perturbed": [False, False, True, True],
        "labels": list("abab"),
    }
    query = np.array([[10.0, 20, 30]])  # proportional to a, but closer to b
    by_correlation = estimate_shift(points, **scene, query=query, estimator="nearest", metric="correlation")
    by_distance = estimate_shift(points, **scene, query=query, estimator="nearest")
    assert by_correlation.weights == {"a": 1, "b": 0}
    np.testing.assert_allclose(by_correlation.vector, [1, 2, 4])
    assert by_distance.weights == {"a": 0, "b": 1}


def test_nearest_takes_the_first_label_of_equals():
    result = shift("nearest", query=np.array([[2.0, 0.0]]))
    assert result.weights == {"a": 1, "b": 0}


def test_none_is_zero():
    result = shift("none")
    np.testing.assert_array_equal(result.vector, [0, 0])
    assert (result.estimator, result.weights, result.length) == ("none", {}, 0.0)


def test_given_vector_is_copied_and_used_as_it_is():
    given_vector = np.array([3, -4], dtype=np.int32)
    result = shift(given_vector)
    given_vector[0] = 0
    np.testing.assert_array_equal(result.vector, [3, -4])
    assert (result.estimator, result.weights, result.length) == ("vector", {}, 5.0)
    assert shift([3, -4]).length == 5.0


def test_default_is_similarity_at_temperature_a_fifth():
    query = np.array([[1.0, 0.0]])
    result = estimate_shift(POINTS, **SCENE, query=query)
    assert result.estimator == "similarity"
    assert result.weights == shift("similarity", query=query, bandwidth=0.2).weights


@pytest.mark.parametrize("name", ESTIMATORS)
def test_results_name_their_estimator_and_are_double_precision(name):
    result = estimate_shift(POINTS.astype(np.float32), **SCENE, query=POINTS[:2], estimator=name)
    assert isinstance(result, Shift)
    assert result.estimator == name
    assert result.vector.dtype == np.float64
    assert result.vector.shape == (2,)


# a plain re-implementation


def random_scene(seed, n_types=5, n_dims=4):
    """Points, masks, labels and a query; the last type has no perturbed cells and the first no control cells."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([f"type{i}" for i in range(n_types)], rng.integers(6, 15, n_types)))
    places = {name: rng.normal(0, 3, n_dims) for name in np.unique(labels)}
    is_control = rng.random(len(labels)) < 0.5
    is_control[labels == "type0"], is_control[labels == f"type{n_types - 1}"] = False, True
    for i in range(1, n_types - 1):  # the others are seen in both
        members = np.flatnonzero(labels == f"type{i}")
        is_control[members[:2]], is_control[members[2:4]] = True, False
    points = np.array([places[name] for name in labels]) + rng.normal(0, 1, (len(labels), n_dims))
    points[~is_control] += rng.normal(0, 1, n_dims)
    return points, is_control, labels, rng.normal(0, 2, (7, n_dims))


def reference(estimator, points, is_control, labels, query, bandwidth=0.2):
    control, perturbed, control_labels, perturbed_labels = (
        points[is_control],
        points[~is_control],
        labels[is_control],
        labels[~is_control],
    )
    shared = [u for u in np.unique(perturbed_labels) if u in control_labels]
    changes = {u: perturbed[perturbed_labels == u].mean(0) - control[control_labels == u].mean(0) for u in shared}
    means = {u: control[control_labels == u].mean(0) for u in shared}
    if estimator == "paired":
        return np.mean([changes[u] for u in shared], 0)
    if estimator == "nearest":
        return changes[min(shared, key=lambda u: np.linalg.norm(means[u] - query.mean(0)))]
    if estimator == "global":
        return perturbed.mean(0) - control.mean(0)
    if estimator == "scgen":
        perturbed_mean = np.mean([perturbed[perturbed_labels == u].mean(0) for u in np.unique(perturbed_labels)], 0)
        return perturbed_mean - np.mean([control[control_labels == u].mean(0) for u in np.unique(control_labels)], 0)
    if estimator == "none":
        return np.zeros(points.shape[1])
    if estimator == "gp":
        cells = [
            [of[names == u] for u in shared] for of, names in ((control, control_labels), (perturbed, perturbed_labels))
        ]
        weights = plain_kriging.weights_from_cells(*cells, query.mean(0))
        return weights @ np.array([changes[u] for u in shared])
    distances = ((np.array([means[u] for u in shared]) - query.mean(0)) ** 2).sum(1)
    weights = np.exp(-(distances - distances.min()) / (bandwidth * distances.mean()))
    return weights / weights.sum() @ np.array([changes[u] for u in shared])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(seed=SEEDS, form=st.sampled_from([np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array]))
@settings(deadline=None, max_examples=40)
def test_estimators_equal_their_formulas(estimator, seed, form):
    points, is_control, labels, query = random_scene(seed)
    result = estimate_shift(
        form(points),
        is_control=is_control,
        is_perturbed=~is_control,
        labels=labels,
        query=form(query),
        estimator=estimator,
    )
    expected = reference(estimator, points, is_control, labels, query)
    # kriging solves equations
    tolerance = 1e-6 if estimator == "gp" else 1e-9
    np.testing.assert_allclose(result.vector, expected, rtol=tolerance, atol=1e-3 * tolerance)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_nearest_by_correlation_equals_numpy(seed):
    points, is_control, labels, query = random_scene(seed, n_dims=6)
    result = estimate_shift(
        points,
        is_control=is_control,
        is_perturbed=~is_control,
        labels=labels,
        query=query,
        estimator="nearest",
        metric="correlation",
    )
    shared = list(result.weights)
    means = [points[is_control & (labels == u)].mean(0) for u in shared]
    correlations = [np.corrcoef(mean, query.mean(0))[0, 1] for mean in means]
    assert result.weights[shared[int(np.argmax(correlations))]] == 1


@given(seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_cells_of_neither_condition_are_not_used(seed):
    points, is_control, labels, query = random_scene(seed)
    extra = np.random.default_rng(seed).normal(50, 1, (9, points.shape[1]))
    padded = np.vstack([points, extra])
    padded_labels = np.concatenate([labels, np.repeat("type1", 9)])
    no_cell = np.zeros(9, dtype=bool)
    for estimator in ESTIMATORS:
        plain = estimate_shift(
            points, is_control=is_control, is_perturbed=~is_control, labels=labels, query=query, estimator=estimator
        )
        with_more = estimate_shift(
            padded,
            is_control=np.concatenate([is_control, no_cell]),
            is_perturbed=np.concatenate([~is_control, no_cell]),
            labels=padded_labels,
            query=query,
            estimator=estimator,
        )
        np.testing.assert_allclose(with_more.vector, plain.vector)
        assert with_more.n_perturbed == plain.n_perturbed


@pytest.mark.parametrize("estimator", [*ESTIMATORS, np.arange(4.0)])
def test_several_queries_equal_one_at_a_time(estimator):
    points, is_control, labels, query = random_scene(3)
    options = {"is_control": is_control, "is_perturbed": ~is_control, "labels": labels, "estimator": estimator}
    together = estimate_shifts(points, {"near": query, "far": query + 5}, **options)
    assert list(together) == ["near", "far"]
    for result, cells in zip(together.values(), (query, query + 5), strict=True):
        alone = estimate_shift(points, query=cells, **options)
        np.testing.assert_array_equal(result.vector, alone.vector)
        assert (result.weights, result.n_control) == (alone.weights, alone.n_control)


# forms of labels

FORMS = {
    "list": list,
    "array of objects": lambda names: np.array(names, dtype=object),
    "series": pd.Series,
    "series with another index": lambda names: pd.Series(names, index=range(100, 100 + len(names))),
    "categorical": pd.Categorical,
    "categorical series": lambda names: pd.Series(pd.Categorical(names, categories=["unused", *sorted(set(names))])),
    "nullable strings": lambda names: pd.array(names, dtype="string"),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_any_form(form):
    assert shift("paired", labels=FORMS[form](LABELS.tolist())).weights == {"a": 0.5, "b": 0.5}


def test_labels_are_compared_as_strings():
    codes = np.unique(LABELS, return_inverse=True)[1]
    assert shift("paired", labels=codes).weights == {"0": 0.5, "1": 0.5}


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_cells_without_label_only_count_globally(missing):
    labels = LABELS.astype(object)
    labels[0] = missing
    result = shift("paired", labels=labels)
    assert result.n_control == {"a": 1, "b": 1}
    np.testing.assert_allclose(result.vector, [0, 1.5])
    np.testing.assert_allclose(shift("global", labels=labels).vector, shift("global").vector)
    np.testing.assert_allclose(shift("global", labels=None).vector, shift("global").vector)
