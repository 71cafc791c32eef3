"""Kriging of responses between labels: a bordered system, Gaussian process regression, limits and invariances."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import cho_factor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from deltavi.perturbation import ShiftBaseline, _kriging, estimate_shift
from deltavi.perturbation._kriging import (
    DEFAULT_WIDTH,
    SMALLEST_NOISE,
    WIDTHS,
    Responses,
    best_width,
    interpolate,
    left_out_errors,
)
from deltavi.perturbation.estimators import ESTIMATORS, GroupMeans
from tests.perturbation import plain_kriging as plain
from tests.perturbation.conftest import make_experiment

SEEDS = st.integers(0, 2**32 - 1)


def scene(seed: int, n_labels: int = 6, n_dims: int = 3, n_values: int = 25) -> tuple[Responses, np.ndarray]:
    """Responses that depend smoothly on where labels lie, measured with unequal noise; and a query."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_labels, n_dims))
    true = np.sin(points @ rng.normal(size=(n_dims, n_values))) + rng.normal(size=n_values)
    errors = rng.uniform(0.01, 0.05, (n_labels, n_values))
    return Responses(points, true + np.sqrt(errors) * rng.normal(size=true.shape), errors), rng.normal(size=n_dims)


# -- against other implementations -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.25, 2.0, 16.0])
@pytest.mark.parametrize("n_labels", [2, 3, 9])
def test_weights_uncertainty_and_spread_solve_the_bordered_system(n_labels: int, width: float) -> None:
    for seed in range(5):
        responses, query = scene(seed, n_labels)
        found, expected = interpolate(responses, query, width), plain.kriging(responses, query, width)
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-9)
        assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-9)
        np.testing.assert_allclose(found.spread, expected.spread, rtol=1e-8)


@pytest.mark.parametrize("width", [0.5, 4.0])
def test_the_kriged_response_is_that_of_gaussian_process_regression(width: float) -> None:
    for seed in range(5):
        responses, query = scene(seed)
        kernel = RBF(np.sqrt(plain.scale(responses.points, width) / 2), length_scale_bounds="fixed")
        process = GaussianProcessRegressor(kernel, alpha=np.array(plain.noise(responses)), optimizer=None)
        mean = plain.mean_weights(responses, width) @ responses.changes
        expected = mean + process.fit(responses.points, responses.changes - mean).predict(query[None])[0]
        found = interpolate(responses, query, width)
        np.testing.assert_allclose(found.weights @ responses.changes, expected, atol=1e-8)


def test_two_labels_by_hand() -> None:
    """Distances 1 and 1 apart on a line, without noise: scale = width * 4."""
    responses = Responses(np.array([[0.0], [2.0]]), np.array([[1.0], [4.0]]), np.zeros((2, 1)))
    middle, beside = (interpolate(responses, np.array([x]), 1.0) for x in (1.0, 0.5))
    np.testing.assert_allclose(middle.weights, [0.5, 0.5])
    between, near, far = np.exp(-1.0), np.exp(-0.25 / 4), np.exp(-2.25 / 4)
    # minimise w C w - 2 w c with w = (1/2 + d, 1/2 - d): d = (near - far) / (2 (1 + noise - between))
    apart = 1 + SMALLEST_NOISE - between
    lean = (near - far) / (2 * apart)
    np.testing.assert_allclose(beside.weights, [0.5 + lean, 0.5 - lean], atol=1e-5)
    weights = beside.weights
    covariance = np.array([[1, between], [between, 1]]) + SMALLEST_NOISE * np.eye(2)
    expected = 1 + weights @ covariance @ weights - 2 * weights @ [near, far]
    assert beside.uncertainty == pytest.approx(expected, abs=1e-5)
    # contrast 3 between two values of variance 1 - between each, and the noise
    assert beside.spread == pytest.approx(9 / (2 * apart), rel=1e-9)


def test_the_width_is_the_one_that_leave_one_out_prefers() -> None:
    chosen = set()
    for seed in range(12):
        responses, _ = scene(seed, n_labels=4 + seed % 4, n_dims=1 + seed % 3)
        assert best_width(responses) == plain.preferred_width(responses)
        chosen.add(best_width(responses))
        query = np.zeros(responses.points.shape[1])
        np.testing.assert_array_equal(
            interpolate(responses, query).weights, interpolate(responses, query, best_width(responses)).weights
        )
    assert len(chosen) > 1
    assert best_width(scene(0, n_labels=2)[0]) == DEFAULT_WIDTH


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("n_labels", [2, 3, 9])
def test_errors_of_labels_left_out_are_those_of_refitting_the_others(n_labels: int, width: float) -> None:
    for seed in range(4):
        responses, _ = scene(seed, n_labels)
        covariance = interpolate(responses, responses.points[0], width).covariance
        expected = [plain.left_out_error(responses, label, width) for label in range(n_labels)]
        np.testing.assert_allclose(left_out_errors(covariance, responses.changes), expected, atol=1e-8)


def test_the_width_takes_one_factorisation_each(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Mock(wraps=cho_factor)
    monkeypatch.setattr(_kriging, "cho_factor", counted)
    best_width(scene(0, n_labels=40)[0])
    assert counted.call_count == len(WIDTHS)


# -- limits ------------------------------------------------------------------------------------------------------


def test_a_label_without_noise_is_reproduced_where_it_lies() -> None:
    responses, _ = scene(0)
    exact = Responses(responses.points, responses.changes, np.zeros_like(responses.errors))
    for label in range(6):
        found = interpolate(exact, exact.points[label], 1.0)
        # up to the least noise that any measurement is thought to have
        np.testing.assert_allclose(found.weights, np.eye(6)[label], atol=20 * SMALLEST_NOISE)
        np.testing.assert_allclose(found.weights @ exact.changes, exact.changes[label], atol=0.1)
        assert 0 <= found.uncertainty <= SMALLEST_NOISE
        # noise makes the label lean on the others
        noisy = interpolate(responses, exact.points[label], 1.0)
        assert noisy.weights[label] < found.weights[label] - 1e-3
        assert noisy.uncertainty > 1e-3


def test_far_from_all_labels_the_mean_is_predicted_with_an_uncertainty_above_one() -> None:
    for seed in range(5):
        responses, query = scene(seed)
        found = interpolate(responses, 1e3 * query, 1.0)
        np.testing.assert_allclose(found.weights, plain.mean_weights(responses, 1.0), atol=1e-9)
        assert found.uncertainty > 1
        closer = [interpolate(responses, factor * query, 1.0).uncertainty for factor in (3.0, 10.0, 1e3)]
        assert closer == sorted(closer)


def test_a_label_measured_in_few_cells_weighs_less() -> None:
    corners, rng = np.eye(5), np.random.default_rng(0)
    changes, errors = rng.normal(size=(5, 40)), np.full((5, 40), 0.05)
    for query in (corners.mean(0), corners[0], np.full(5, 30.0)):
        weights = []
        for factor in (0.0, 0.1, 0.5, 1.0, 3.0, 10.0):
            noisy = errors.copy()
            noisy[0] *= factor
            weights.append(interpolate(Responses(corners, changes, noisy), query, 2.0).weights)
        assert (np.diff([w[0] for w in weights]) < -1e-3).all()
        # among labels that nothing else tells apart
        np.testing.assert_allclose([w[1:] for w in weights], [[w[1]] * 4 for w in weights], atol=1e-12)


@pytest.mark.parametrize(
    "responses",
    [
        Responses(np.zeros((4, 2)), np.arange(12.0).reshape(4, 3), np.full((4, 3), 0.1)),
        Responses(np.zeros((4, 2)), np.arange(12.0).reshape(4, 3), np.zeros((4, 3))),
        Responses(np.eye(4), np.ones((4, 3)), np.zeros((4, 3))),
        Responses(np.eye(4), np.ones((4, 3)), np.full((4, 3), 0.1)),
        Responses(np.eye(4), np.zeros((4, 3)), np.zeros((4, 3))),
        Responses(np.eye(4)[:1], np.ones((1, 3)), np.zeros((1, 3))),
        Responses(np.eye(4)[:2], np.ones((2, 3)), np.zeros((2, 3))),
        Responses(np.eye(4)[[0, 0, 1]], np.arange(9.0).reshape(3, 3), np.zeros((3, 3))),
        Responses(np.eye(4), np.arange(12.0).reshape(4, 3), np.full((4, 3), 1e6)),
        Responses(np.eye(4)[:3], np.zeros((3, 0)), np.zeros((3, 0))),
    ],
    ids=[
        "one place",
        "one place, no noise",
        "one response",
        "one response, noise",
        "no change",
        "one label",
        "two labels",
        "twins",
        "noise only",
        "no genes",
    ],
)
def test_what_labels_have_in_common_breaks_nothing(responses: Responses) -> None:
    for query in (responses.points[0], np.full(responses.points.shape[1], 0.3)):
        for width in (None, *WIDTHS):
            found = interpolate(responses, query, width)
            assert found.weights.sum() == pytest.approx(1, abs=1e-6)
            assert np.isfinite(found.weights).all()
            assert np.isfinite(found.uncertainty)
            assert found.uncertainty >= 0
            assert np.isfinite(found.spread).all()
            assert (found.spread >= -1e-12).all()


@pytest.mark.parametrize("n_dims", [2, 40])
def test_fewer_dimensions_hold_the_same_labels(n_dims: int) -> None:
    responses, _ = scene(3, n_labels=7, n_dims=n_dims)
    # all in one place, and some of them
    for points in (responses.points, responses.points[[0] * 7], responses.points[[0, 0, 0, 1, 1, 2, 3]]):
        whole = Responses(points, responses.changes, responses.errors)
        few = whole.in_few_dimensions
        assert few.points.shape == (7, min(n_dims, 7))
        for label in range(7):
            found, expected = (interpolate(r.without(label), r.points[label], 2.0) for r in (few, whole))
            np.testing.assert_allclose(found.weights, expected.weights, atol=1e-9)
            assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-9)


def test_labels_in_one_place_are_averaged_by_precision() -> None:
    changes = np.random.default_rng(0).normal(size=(4, 30))
    alike = interpolate(Responses(np.ones((4, 2)), changes, np.full((4, 30), 0.1)), np.ones(2))
    np.testing.assert_allclose(alike.weights, 0.25)
    errors = np.array([0.1, 0.1, 0.2, 0.4])[:, None] * np.ones(30)
    unequal = interpolate(Responses(np.ones((4, 2)), changes, errors), np.ones(2))
    np.testing.assert_allclose(unequal.weights, (1 / errors[:, 0]) / (1 / errors[:, 0]).sum(), rtol=1e-6)
    alone = interpolate(Responses(np.ones((1, 2)), changes[:1], errors[:1]), np.zeros(2))
    assert (alone.weights.tolist(), alone.uncertainty, alone.spread.tolist()) == ([1.0], 1.0, [0.0] * 30)


# -- invariances -------------------------------------------------------------------------------------------------


@given(seed=SEEDS, offset=st.floats(-10, 10), factor=st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
def test_where_labels_lie_counts_up_to_motion_and_scale(seed: int, offset: float, factor: float) -> None:
    responses, query = scene(seed)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    moved = Responses(factor * (responses.points @ turn + offset), responses.changes, responses.errors)
    for width in (1.0, None):
        expected, found = (
            interpolate(responses, query, width),
            interpolate(moved, factor * (query @ turn + offset), width),
        )
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-6)
        assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-6)
        np.testing.assert_allclose(found.spread, expected.spread, rtol=1e-6)


@given(seed=SEEDS, unit=st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
def test_order_of_labels_and_units_of_responses_are_irrelevant(seed: int, unit: float) -> None:
    responses, query = scene(seed)
    order = np.random.default_rng(seed).permutation(6)
    shuffled = Responses(responses.points[order], unit * responses.changes[order], unit**2 * responses.errors[order])
    expected, found = interpolate(responses, query), interpolate(shuffled, query)
    np.testing.assert_allclose(found.weights, expected.weights[order], atol=1e-7)
    assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-7)
    np.testing.assert_allclose(found.spread, unit**2 * expected.spread, rtol=1e-6)
    assert found.weights.sum() == pytest.approx(1, abs=1e-9)


# -- the estimator -----------------------------------------------------------------------------------------------


def measured(adata: Any) -> tuple[Responses, list[str], dict[str, np.ndarray]]:
    """Responses of the labels of an experiment, their names, and the mean of each one's control cells."""
    names, rows = sorted(set(adata.obs["cell_type"])), []
    for name in names:
        of = [
            adata.X[np.asarray((adata.obs["cell_type"] == name) & (adata.obs["condition"] == c))].astype(float)
            for c in ("control", "stimulated")
        ]
        errors = sum(np.var(x, axis=0, ddof=1) / len(x) for x in of)
        rows.append((of[0].mean(0), of[1].mean(0) - of[0].mean(0), errors))
    points, changes, errors = (np.stack(column) for column in zip(*rows, strict=True))
    return Responses(points, changes, errors), names, dict(zip(names, points, strict=True))


def test_the_shift_is_kriged_from_means_and_standard_errors_of_cells() -> None:
    adata = make_experiment(response="by type")
    responses, names, means = measured(adata)
    of = {c: np.asarray(adata.obs["condition"] == c) for c in ("control", "stimulated")}
    query = adata.X[of["control"]][:7]
    shift = estimate_shift(
        adata.X,
        is_control=of["control"],
        is_perturbed=of["stimulated"],
        labels=adata.obs["cell_type"],
        query=query,
        estimator="gp",
    )
    expected = interpolate(responses, query.mean(0, dtype=float))
    np.testing.assert_allclose(list(shift.weights.values()), expected.weights, atol=1e-6)
    assert list(shift.weights) == names
    np.testing.assert_allclose(shift.vector, expected.weights @ responses.changes, atol=1e-6)
    assert shift.uncertainty == pytest.approx(expected.uncertainty, abs=1e-6)
    predicted = ShiftBaseline(adata, condition_key="condition", labels_key="cell_type").predict_perturbation(
        control="control", perturbation="stimulated", shift="gp", clip=False
    )
    for name in names:
        cells = np.asarray(predicted.obs["cell_type"] == name)
        weights = interpolate(responses, means[name]).weights
        start = adata[predicted.obs_names[cells]].X
        np.testing.assert_allclose(predicted.X[cells] - start, [weights @ responses.changes] * cells.sum(), atol=1e-5)
        recorded = predicted.uns["deltavi"]["weights"][name]
        np.testing.assert_allclose([recorded[label] for label in names], weights, atol=1e-6)


def test_a_label_behind_another_may_weigh_less_than_nothing_and_still_counts() -> None:
    """Responses on a line: beyond its end the trend goes on, and the far end is subtracted."""
    places = np.arange(4.0)
    points = np.concatenate([np.stack([places, places], 1)] * 2 + [np.stack([places, 3 * places], 1)] * 2)
    points += 1e-3 * np.random.default_rng(0).normal(size=points.shape)
    is_control, labels = np.repeat([True, False], 8), np.tile(list("abcd"), 4)
    options = {"is_control": is_control, "is_perturbed": ~is_control, "labels": labels, "query": np.array([[3.6, 3.6]])}
    shift = estimate_shift(points, estimator="gp", **options)
    assert min(shift.weights.values()) < -0.01
    assert sum(shift.weights.values()) == pytest.approx(1)
    assert shift.n_control == shift.n_perturbed == dict.fromkeys("abcd", 2)
    assert shift.vector[1] > 2 * 3
    for estimator in set(ESTIMATORS) - {"gp"}:
        assert np.isnan(estimate_shift(points, estimator=estimator, **options).uncertainty)


def test_errors_of_group_means() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(n, 4)) * [1, 2, 3, 0] for n in (5, 9, 1)]
    sums = np.stack([((x - x.mean(0)) ** 2).sum(0) for x in groups])
    means = GroupMeans.of(("a", "b", "c"), np.stack([x.mean(0) for x in groups]), sums, (5, 9, 1))
    for row in (0, 1):
        np.testing.assert_allclose(means.errors[row], np.var(groups[row], axis=0, ddof=1) / len(groups[row]))
    # the spread within the other groups stands in for that of a single cell
    pooled = (4 * np.var(groups[0], axis=0, ddof=1) + 8 * np.var(groups[1], axis=0, ddof=1)) / 12
    np.testing.assert_allclose(means.errors[2], pooled)
    np.testing.assert_allclose(means.deviations, sums, atol=1e-12)
    np.testing.assert_array_equal(means.only(("c", "a")).errors, means.errors[[2, 0]])
    alone = GroupMeans.of(("a", "b"), np.ones((2, 3)), np.zeros((2, 3)), (1, 1))
    np.testing.assert_array_equal(alone.errors, 0)
