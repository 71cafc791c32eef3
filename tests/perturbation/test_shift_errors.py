"""What cannot be estimated is refused, with the reason and the way out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError
from deltavi.perturbation import estimate_shift
from deltavi.perturbation.estimators import ESTIMATORS

POINTS = np.arange(12.0).reshape(6, 2)
CONTROL = np.array([True, True, True, False, False, False])
GOOD = {
    "is_control": CONTROL,
    "is_perturbed": ~CONTROL,
    "labels": ["a", "b", "c", "a", "b", "c"],
    "query": POINTS[:1],
}
NEED_LABELS = ["paired", "similarity", "nearest", "scgen"]


def shift(points=POINTS, **options):
    return estimate_shift(points, **{**GOOD, **options})


def test_unknown_estimator_lists_the_known():
    with pytest.raises(
        DeltaviError,
        match=r"'nearst' does not exist. Did you mean 'nearest'\? Known: 'paired', 'similarity'",
    ) as info:
        shift(estimator="nearst")
    assert all(repr(name) in str(info.value) for name in ESTIMATORS)
    assert "or an array" in str(info.value)


@pytest.mark.parametrize("estimator", NEED_LABELS)
def test_labels_are_needed(estimator):
    with pytest.raises(DeltaviError, match=f"'{estimator}' needs labels. Pass them, or use 'global'"):
        shift(labels=None, estimator=estimator)


@pytest.mark.parametrize("estimator", ["similarity", "nearest"])
def test_query_is_needed(estimator):
    with pytest.raises(DeltaviError, match=f"'{estimator}' needs query, the control cells .* or use 'paired'"):
        shift(query=None, estimator=estimator)


@pytest.mark.parametrize("estimator", ["paired", "similarity", "nearest"])
def test_no_label_in_both_conditions_says_which_are_where(estimator):
    message = r"No label is seen in both .* Control: 'a', 'b'; perturbed: 'c', 'd'. Use 'global', .* vector"
    with pytest.raises(DeltaviError, match=message):
        shift(labels=["a", "b", "a", "c", "d", "c"], estimator=estimator)


def test_no_label_at_all_in_one_condition():
    labels = [None, None, None, "a", "b", "a"]
    with pytest.raises(DeltaviError, match="Control: none; perturbed: 'a', 'b'"):
        shift(labels=labels, estimator="paired")
    with pytest.raises(DeltaviError, match="needs a label in each condition"):
        shift(labels=labels, estimator="scgen")
    np.testing.assert_array_equal(shift(labels=labels, estimator="global").vector, [6, 6])


def test_many_labels_are_shortened():
    n = 40
    points = np.zeros((2 * n, 1))
    labels = [f"left{i}" for i in range(n)] + [f"right{i}" for i in range(n)]
    is_control = np.repeat([True, False], n)
    with pytest.raises(DeltaviError, match="and 30 more"):
        estimate_shift(points, is_control=is_control, is_perturbed=~is_control, labels=labels, estimator="paired")


# masks


@pytest.mark.parametrize("name", ["is_control", "is_perturbed"])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([0, 1, 2]), r"boolean mask over the 6 cells .* int64 of shape \(3,\)"),
        (np.array([1, 1, 1, 0, 0, 0]), "boolean mask"),
        (np.array([True, False]), r"of shape \(2,\)"),
        (np.ones((6, 1), dtype=bool), r"of shape \(6, 1\)"),
        (["a"] * 6, "boolean mask"),
    ],
)
def test_what_is_no_mask(name, mask, message):
    with pytest.raises(InputDataError, match=rf"{name} must (be a|hold) .*{message}"):
        shift(**{name: mask})


@pytest.mark.parametrize("name", ["is_control", "is_perturbed"])
def test_empty_condition(name):
    with pytest.raises(InputDataError, match=f"{name} selects no cell"):
        shift(**{name: np.zeros(6, dtype=bool)})


def test_overlapping_conditions():
    with pytest.raises(InputDataError, match="3 cells are both control and perturbed"):
        shift(is_perturbed=np.ones(6, dtype=bool))


# labels, query and points


def test_labels_of_another_length():
    with pytest.raises(InputDataError, match=r"labels has shape \(2,\) for 6 cells"):
        shift(labels=["a", "b"])


def test_query_of_another_width():
    with pytest.raises(GeneMatchError, match="query has 3 dimensions and points 2"):
        shift(query=np.zeros((4, 3)))


@pytest.mark.parametrize("query", [np.zeros((0, 2)), np.zeros(2), [[np.nan, 0.0]]])
def test_query_that_is_no_set_of_cells(query):
    with pytest.raises(InputDataError, match=r"^query "):
        shift(query=query)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite(form, value):
    points = POINTS.copy()
    points[4, 1] = value
    with pytest.raises(InputDataError, match=r"points holds NaN or infinite values in 1 of 6 cells \(rows 4\)"):
        shift(form(points))


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros(6), "points"])
def test_points_that_are_none(points):
    with pytest.raises(InputDataError, match=r"^points "):
        shift(points)


# options


@pytest.mark.parametrize("bandwidth", [0, -1, np.nan, np.inf])
def test_bandwidth_out_of_range(bandwidth):
    with pytest.raises(DeltaviError, match="bandwidth must be a finite number above 0"):
        shift(bandwidth=bandwidth)


def test_unknown_metric():
    with pytest.raises(DeltaviError, match=r"'cosine' does not exist\. Known: 'euclidean', 'correlation'"):
        shift(estimator="nearest", metric="cosine")


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "nearest"])
def test_metric_is_not_ignored_silently(estimator):
    with pytest.raises(DeltaviError, match=f"only applies to estimator='nearest', not to '{estimator}'"):
        shift(estimator=estimator, metric="correlation")


# a given vector


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros(3), r"shape \(3,\); the points need \(2,\)"),
        (np.zeros((1, 2)), r"shape \(1, 2\)"),
        (1.0, r"shape \(\)"),
        (np.array([np.nan, 1.0]), "NaN or infinite values at 1 of 2 positions"),
        (np.array([np.inf, -np.inf]), "at 2 of 2 positions"),
        (["up", "down"], "must be an estimator's name or an array of 2 numbers"),
        (None, r"NaN or infinite|shape"),
    ],
)
def test_bad_vectors(vector, message):
    with pytest.raises(InputDataError, match=message):
        shift(estimator=vector)


def test_a_vector_needs_nothing_else():
    empty = np.zeros(6, dtype=bool)
    result = estimate_shift(POINTS, is_control=empty, is_perturbed=empty, estimator=[1.0, 2.0])
    np.testing.assert_array_equal(result.vector, [1, 2])
