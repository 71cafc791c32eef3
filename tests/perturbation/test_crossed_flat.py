"""Ordinary kriging by the crossed process: a bordered system, Gaussian process regression, limits and invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from deltavi.perturbation import ResponseTable, ShiftBaseline, estimate_shift
from deltavi.perturbation.crossed_flat import DEFAULT_WIDTH, SMALLEST_NOISE, WIDTHS, best_width, interpolate
from deltavi.perturbation.estimators import ESTIMATORS, GroupMeans
from tests.perturbation import plain_kriging as plain
from tests.perturbation.conftest import make_experiment
from tests.perturbation.crossed_scenes import replaced

SEEDS = st.integers(0, 2**32 - 1)


def scene(seed: int, n_labels: int = 6, n_dims: int = 3) -> tuple[ResponseTable, np.ndarray, np.ndarray]:
    """Responses that depend smoothly on where labels lie, measured in unequal numbers of cells; places; a query."""
    rng = np.random.default_rng(seed)
    points, n_genes = rng.normal(size=(n_labels, n_dims)), 25
    true = np.sin(points @ rng.normal(size=(n_dims, n_genes))) + rng.normal(size=n_genes)
    sizes, variances = rng.integers(20, 200, (2, n_labels)), rng.uniform(0.5, 1.5, n_genes)
    errors = (1 / sizes).sum(0)[:, None] * variances
    measured = true + np.sqrt(errors) * rng.normal(size=true.shape)
    return plain.table_of(measured, sizes, variances), points, rng.normal(size=n_dims)


# -- against other implementations -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.25, 2.0, 16.0])
@pytest.mark.parametrize("n_labels", [2, 3, 9])
def test_weights_and_uncertainty_solve_the_bordered_system(n_labels: int, width: float) -> None:
    for seed in range(5):
        table, points, query = scene(seed, n_labels)
        found, expected = interpolate(table, points, query, width), plain.kriging(table, points, query, width)
        np.testing.assert_allclose(found.weights, expected.weights, atol=2e-6)
        assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-9)


@pytest.mark.parametrize("width", [0.5, 4.0])
def test_the_response_is_that_of_gaussian_process_regression(width: float) -> None:
    for seed in range(5):
        table, points, query = scene(seed)
        kernel = RBF(np.sqrt(plain.scale(points, width) / 2), length_scale_bounds="fixed")
        process = GaussianProcessRegressor(kernel, alpha=np.array(plain.noise(table)), optimizer=None)
        mean = plain.mean_weights(table, points, width) @ table.changes
        expected = mean + process.fit(points, table.changes - mean).predict(query[None])[0]
        found = interpolate(table, points, query, width)
        np.testing.assert_allclose(found.weights @ table.changes, expected, atol=1e-5)


def test_the_width_is_the_one_that_leave_one_out_prefers() -> None:
    chosen = set()
    for seed in range(12):
        table, points, _ = scene(seed, n_labels=4 + seed % 4, n_dims=1 + seed % 3)
        assert best_width(table, points) == plain.preferred_width(table, points)
        chosen.add(best_width(table, points))
        query = np.zeros(points.shape[1])
        by_default, chosen_first = (interpolate(table, points, query, w) for w in (None, best_width(table, points)))
        np.testing.assert_array_equal(by_default.weights, chosen_first.weights)
    assert len(chosen) > 1
    assert best_width(*scene(0, n_labels=2)[:2]) == DEFAULT_WIDTH


# -- limits ------------------------------------------------------------------------------------------------------


def test_a_label_without_noise_is_reproduced_where_it_lies() -> None:
    table, points, _ = scene(0)
    many = np.full(6, 1e9)
    exact = replaced(table, n_perturbed=many, n_control=many)
    for label in range(6):
        found = interpolate(exact, points, points[label], 1.0)
        # up to the least noise that any measurement is thought to have
        np.testing.assert_allclose(found.weights, np.eye(6)[label], atol=20 * SMALLEST_NOISE)
        assert 0 <= found.uncertainty <= 1.1 * SMALLEST_NOISE
        # noise makes the label lean on the others
        noisy = interpolate(replaced(table, n_perturbed=many / 1e8), points, points[label], 1.0)
        assert noisy.weights[label] < found.weights[label] - 1e-3
        assert noisy.uncertainty > 1e-3


def test_far_from_all_labels_the_mean_is_predicted_with_an_uncertainty_above_one() -> None:
    for seed in range(5):
        table, points, query = scene(seed)
        found = interpolate(table, points, 1e3 * query, 1.0)
        np.testing.assert_allclose(found.weights, plain.mean_weights(table, points, 1.0), atol=2e-6)
        assert found.uncertainty > 1
        closer = [interpolate(table, points, factor * query, 1.0).uncertainty for factor in (3.0, 10.0, 1e3)]
        assert closer == sorted(closer)


def test_a_label_measured_in_few_cells_weighs_less() -> None:
    corners, rng = np.eye(5), np.random.default_rng(0)
    changes = rng.normal(size=(5, 40))
    for query in (corners.mean(0), corners[0], np.full(5, 30.0)):
        weights = []
        for n_cells in (1000, 100, 40, 20, 8, 2):
            sizes = np.array([[n_cells, 40, 40, 40, 40]] * 2)
            weights.append(interpolate(plain.table_of(changes, sizes, np.ones(40)), corners, query, 2.0).weights)
        assert (np.diff([w[0] for w in weights]) < -1e-3).all()
        # among labels that nothing else tells apart
        np.testing.assert_allclose([w[1:] for w in weights], [[w[1]] * 4 for w in weights], atol=1e-6)


CASES = {
    "one place": (np.zeros((4, 2)), np.arange(12.0).reshape(4, 3), 20),
    "one response": (np.eye(4), np.ones((4, 3)), 20),
    "no change": (np.eye(4), np.zeros((4, 3)), 20),
    "one label": (np.eye(4)[:1], np.ones((1, 3)), 20),
    "two labels": (np.eye(4)[:2], np.ones((2, 3)), 20),
    "twins": (np.eye(4)[[0, 0, 1]], np.arange(9.0).reshape(3, 3), 10**9),
    "noise only": (np.eye(4), 1e-4 * np.arange(12.0).reshape(4, 3), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_what_labels_have_in_common_breaks_nothing(case: str) -> None:
    points, changes, n_cells = CASES[case]
    table = plain.table_of(changes, np.full((2, len(points)), n_cells), np.ones(3))
    for query in (points[0], np.full(points.shape[1], 0.3)):
        for width in (None, *WIDTHS):
            found = interpolate(table, points, query, width)
            assert found.weights.sum() == pytest.approx(1, abs=1e-9)
            assert np.isfinite(found.weights).all()
            assert np.isfinite(found.uncertainty)
            assert found.uncertainty >= 0


def test_labels_in_one_place_are_averaged_by_precision() -> None:
    changes = np.random.default_rng(0).normal(size=(4, 30))
    sizes = np.array([20, 20, 10, 5])
    table = plain.table_of(changes, np.stack([sizes, sizes]), np.ones(30))
    unequal = interpolate(table, np.ones((4, 2)), np.ones(2))
    np.testing.assert_allclose(unequal.weights, sizes / sizes.sum(), rtol=1e-5)
    alone = interpolate(table.of_pairs(np.array([0])), np.ones((1, 2)), np.zeros(2))
    assert (alone.weights.tolist(), alone.uncertainty) == ([1.0], 1.0)


# -- invariances -------------------------------------------------------------------------------------------------


@given(seed=SEEDS, offset=st.floats(-10, 10), factor=st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
def test_where_labels_lie_counts_up_to_motion_and_scale(seed: int, offset: float, factor: float) -> None:
    table, points, query = scene(seed)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    moved, moved_query = (factor * (x @ turn + offset) for x in (points, query))
    for width in (1.0, None):
        expected, found = interpolate(table, points, query, width), interpolate(table, moved, moved_query, width)
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)
        assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-6)


@given(seed=SEEDS, unit=st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
def test_order_of_labels_and_units_of_responses_are_irrelevant(seed: int, unit: float) -> None:
    table, points, query = scene(seed)
    order = np.random.default_rng(seed).permutation(6)
    sizes = np.stack([table.n_perturbed, table.n_control])[:, order]
    shuffled = plain.table_of(unit * table.changes[order], sizes, unit**2 * table.variances[0])
    expected, found = interpolate(table, points, query), interpolate(shuffled, points[order], query)
    np.testing.assert_allclose(found.weights, expected.weights[order], atol=2e-6)
    assert found.uncertainty == pytest.approx(expected.uncertainty, abs=1e-7)


# -- the estimator -----------------------------------------------------------------------------------------------


def measured(adata: Any) -> tuple[ResponseTable, list[str], np.ndarray]:
    """Responses of the labels of an experiment, their names, and the mean of each one's control cells."""
    names = sorted(set(adata.obs["cell_type"]))
    cells = [
        [
            adata.X[np.asarray((adata.obs["cell_type"] == n) & (adata.obs["condition"] == c))].astype(float)
            for n in names
        ]
        for c in ("control", "stimulated")
    ]
    return plain.table_of_cells(*cells), names, np.array([of_label.mean(0) for of_label in cells[0]])


def test_the_shift_is_kriged_from_means_and_numbers_of_cells() -> None:
    adata = make_experiment(response="by type")
    table, names, points = measured(adata)
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
    expected = interpolate(table, points, query.mean(0, dtype=float))
    np.testing.assert_allclose(list(shift.weights.values()), expected.weights, atol=2e-6)
    assert list(shift.weights) == names
    np.testing.assert_allclose(shift.vector, expected.weights @ table.changes, atol=1e-5)
    assert shift.uncertainty == pytest.approx(expected.uncertainty, abs=1e-6)
    predicted = ShiftBaseline(adata, condition_key="condition", labels_key="cell_type").predict_perturbation(
        control="control", perturbation="stimulated", shift="gp", clip=False
    )
    for row, name in enumerate(names):
        cells = np.asarray(predicted.obs["cell_type"] == name)
        weights = interpolate(table, points, points[row]).weights
        start = adata[predicted.obs_names[cells]].X
        np.testing.assert_allclose(predicted.X[cells] - start, [weights @ table.changes] * cells.sum(), atol=2e-5)
        recorded = predicted.uns["deltavi"]["weights"][name]
        np.testing.assert_allclose([recorded[label] for label in names], weights, atol=5e-6)


def test_means_without_errors_are_taken_for_exact() -> None:
    """As of single cells, which nothing tells the noise of: that of all labels is alike, and small."""
    points = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 1.0], [0.5, 2.0], [2.0, 2.0], [8.0, 1.0]])
    options = {"is_control": np.arange(6) < 3, "is_perturbed": np.arange(6) >= 3, "labels": np.tile(list("abc"), 2)}
    shift = estimate_shift(points, estimator="gp", query=points[1:2], **options)
    table = plain.table_of(points[3:] - points[:3], np.full((2, 3), 1e9), np.ones(2))
    expected = interpolate(table, points[:3], points[1])
    np.testing.assert_allclose(list(shift.weights.values()), expected.weights, atol=1e-5)
    assert plain.noise(table) == pytest.approx([SMALLEST_NOISE] * 3)


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
