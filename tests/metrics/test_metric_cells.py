"""Metrics of the population of cells: E-distance, spread and zeros."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist

from deltavi.metrics import e_distance, energy_distance, principal_axes, variance_ratio, zero_fraction

SEEDS = st.integers(0, 2**32 - 1)
SPARSE = [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array]


def cells(seed, n_cells=30, n_genes=8, shift=0.0):
    rng = np.random.default_rng(seed)
    return shift + rng.gamma(1.0, 1.0, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < 0.6)


def rotation(seed, n):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


# E-distance


def test_e_distance_by_hand():
    # x at 0 and 2, y at 1: 2 * mean(1, 1) - mean(0, 4, 4, 0) - 0
    assert e_distance(np.array([[0.0], [2.0]]), np.array([[1.0]])) == pytest.approx(2 - 2)
    assert e_distance(np.array([[0.0], [2.0]]), np.array([[4.0]])) == pytest.approx(2 * (16 + 4) / 2 - 2)


def reference_e_distance(x, y, components, max_cells=500):
    """The benchmark protocol's function, word for word but for names."""
    x, y = x @ components, y @ components
    rng = np.random.default_rng(0)
    x = x[rng.permutation(len(x))[:max_cells]]
    y = y[rng.permutation(len(y))[:max_cells]]

    def mean_distance(a, b):
        return cdist(a, b, "sqeuclidean").mean()

    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


@given(seed=SEEDS, n_cells=st.integers(1, 60), max_cells=st.integers(1, 50))
@settings(deadline=None)
def test_e_distance_equals_the_protocol(seed, n_cells, max_cells):
    x, y = cells(seed, n_cells), cells(seed + 1, 40, shift=0.5)
    components = rotation(seed, 8)[:, :3]
    expected = reference_e_distance(x, y, components, max_cells)
    assert e_distance(x, y, components=components, max_cells=max_cells) == pytest.approx(expected, abs=1e-9)


def test_e_distance_uses_at_most_500_cells_by_default():
    x, y = cells(1, 700), cells(2, 900)
    expected = reference_e_distance(x, y, np.eye(8))
    assert e_distance(x, y) == pytest.approx(expected)
    assert e_distance(x, y, max_cells=900) != pytest.approx(expected, rel=1e-6)


@given(seed=SEEDS)
@settings(deadline=None)
def test_e_distance_is_twice_the_squared_distance_of_the_means(seed):
    """The closed form behind the warning in the docstring: with squared distances, spread cancels."""
    x, y = cells(seed, 23), cells(seed + 1, 37, shift=0.3)
    expected = 2 * np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    assert e_distance(x, y) == pytest.approx(expected, abs=1e-9)


def test_identical_copies_of_the_mean_cell_have_distance_zero_but_no_variance():
    real = cells(3, 200)
    copies = np.repeat(real.mean(axis=0, keepdims=True), 50, axis=0)
    assert e_distance(copies, real) == pytest.approx(0, abs=1e-9)
    assert variance_ratio(copies, real) == pytest.approx(0, abs=1e-12)


@given(seed=SEEDS)
@settings(deadline=None)
def test_e_distance_is_symmetric_non_negative_and_zero_to_itself(seed):
    x, y = cells(seed, 20), cells(seed + 1, 20, shift=0.4)
    forward = e_distance(x, y)
    assert forward >= -1e-12
    assert e_distance(y, x) == pytest.approx(forward)
    assert e_distance(x, x) == pytest.approx(0, abs=1e-9)


@given(seed=SEEDS, offset=st.floats(-5, 5))
@settings(deadline=None)
def test_e_distance_ignores_rotation_and_translation(seed, offset):
    x, y, turn = cells(seed), cells(seed + 1, shift=0.7), rotation(seed, 8)
    assert e_distance(x @ turn + offset, y @ turn + offset) == pytest.approx(e_distance(x, y), rel=1e-6, abs=1e-9)


@given(seed=SEEDS)
@settings(deadline=None)
def test_e_distance_ignores_the_order_of_cells_and_genes(seed):
    x, y, rng = cells(seed), cells(seed + 1, shift=0.7), np.random.default_rng(seed)
    genes = rng.permutation(8)
    axes = rotation(seed, 8)[:, :4]
    moved = [rng.permutation(matrix, axis=0)[:, genes] for matrix in (x, y)]
    assert e_distance(*moved, components=axes[genes]) == pytest.approx(e_distance(x, y, components=axes))


@given(seed=SEEDS, form=st.sampled_from(SPARSE))
@settings(deadline=None)
def test_e_distance_of_sparse_equals_dense(seed, form):
    x, y, axes = cells(seed), cells(seed + 1), rotation(seed, 8)[:, :2]
    assert e_distance(form(x), form(y), components=axes) == pytest.approx(e_distance(x, y, components=axes))
    assert e_distance(form(x), y) == pytest.approx(e_distance(x, y))


def test_e_distance_depends_on_the_seed_only():
    x, y = cells(1, 300), cells(2, 300)
    np.random.seed(1)
    first = e_distance(x, y, max_cells=50, seed=3)
    np.random.seed(2)
    assert e_distance(x, y, max_cells=50, seed=3) == first
    assert e_distance(x, y, max_cells=50, seed=4) != first


def test_e_distance_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()
    e_distance(cells(1), cells(2), max_cells=5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_e_distance_in_fewer_axes_is_never_larger():
    x, y = cells(1, 100), cells(2, 100, shift=0.2)
    axes = principal_axes(np.vstack([x, y]), n_components=8)
    distances = [e_distance(x, y, components=axes[:, :k]) for k in range(1, 9)]
    assert np.all(np.diff(distances) >= -1e-9)
    assert distances[-1] == pytest.approx(e_distance(x, y))


def test_single_precision_components_are_promoted():
    x, y, axes = cells(1, 100), cells(2, 100), rotation(0, 8)
    single = e_distance(x.astype(np.float32), y.astype(np.float32), components=axes.astype(np.float32))
    assert single == pytest.approx(e_distance(x, y, components=axes), rel=1e-4)


# spread


def test_variance_ratio_by_hand():
    predicted = np.array([[0.0, 1.0], [2.0, 1.0]])  # population variances 1, 0
    real = np.array([[0.0, 0.0], [4.0, 2.0]])  # population variances 4, 1
    assert variance_ratio(predicted, real) == pytest.approx(0.2)


@given(seed=SEEDS, form=st.sampled_from([np.asarray, *SPARSE]), dtype=st.sampled_from([np.float32, np.float64]))
@settings(deadline=None)
def test_variance_ratio_equals_numpy(seed, form, dtype):
    x, y = cells(seed).astype(dtype), (2 * cells(seed + 1, 17)).astype(dtype)
    expected = x.var(axis=0, dtype=np.float64).mean() / y.var(axis=0, dtype=np.float64).mean()
    assert variance_ratio(form(x), form(y)) == pytest.approx(expected, rel=1e-9)


@given(seed=SEEDS, factor=st.floats(0.1, 10))
@settings(deadline=None)
def test_variance_ratio_is_quadratic_in_scale_and_ignores_shifts(seed, factor):
    x = cells(seed)
    assert variance_ratio(factor * x, x) == pytest.approx(factor**2)
    assert variance_ratio(x + factor, x) == pytest.approx(1)
    assert variance_ratio(np.random.default_rng(seed).permutation(x), x) == pytest.approx(1)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_variance_ratio_without_real_variance_is_missing(form):
    assert np.isnan(variance_ratio(form(cells(1)), form(np.ones((5, 8)))))
    assert np.isnan(variance_ratio(form(cells(1)), form(cells(2, 1))))


def test_variance_of_a_high_mean_is_not_lost_to_rounding():
    rng = np.random.default_rng(0)
    x = (1000 + rng.normal(size=(4000, 1))).astype(np.float32)
    y = rng.normal(size=(4000, 1)).astype(np.float32)
    assert variance_ratio(sp.csr_matrix(x), sp.csr_matrix(y)) == pytest.approx(float(x.std() / y.std()) ** 2, rel=1e-3)


# zeros


def test_zero_fraction_by_hand():
    assert zero_fraction(np.array([[0.0, 1.0], [0.0, -2.0], [0.0, 0.5]])) == pytest.approx(0.5)


@given(seed=SEEDS, form=st.sampled_from(SPARSE))
@settings(deadline=None)
def test_zero_fraction_of_sparse_equals_dense(seed, form):
    x = cells(seed)
    assert zero_fraction(form(x)) == zero_fraction(x) == pytest.approx(np.mean(x == 0))


def test_stored_zeros_and_repeated_entries_count_as_what_they_are():
    stored = sp.csr_matrix((np.array([0.0, 3.0]), np.array([0, 1]), np.array([0, 1, 2])), shape=(2, 2))
    assert zero_fraction(stored) == 0.75
    repeated = sp.csr_matrix((np.array([1.0, 1.0, 2.0]), np.array([0, 0, 1]), np.array([0, 2, 3])), shape=(2, 2))
    dense = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert zero_fraction(repeated) == zero_fraction(dense) == 0.5
    assert variance_ratio(repeated, dense) == pytest.approx(1)
    assert repeated.nnz == 3, "the caller's matrix must not be rewritten"


def test_all_zero_matrix():
    assert zero_fraction(sp.csr_matrix((3, 4))) == 1.0
    assert zero_fraction(np.zeros((3, 4))) == 1.0


# energy distance


@given(seed=SEEDS, n_cells=st.integers(1, 40), shift=st.floats(0, 2))
@settings(deadline=None)
def test_energy_distance_of_one_gene_is_that_of_scipy(seed, n_cells, shift):
    """Scipy has the square root, of distributions on a line alone."""
    x, y = cells(seed, n_cells, 1), cells(seed + 1, 30, 1, shift=shift)
    expected = stats.energy_distance(x.ravel(), y.ravel()) ** 2
    assert energy_distance(x, y) == pytest.approx(expected, abs=1e-6)


@given(seed=SEEDS, max_cells=st.integers(1, 50))
@settings(deadline=None, max_examples=25)
def test_energy_distance_from_all_pairs(seed, max_cells):
    x, y = cells(seed, 35), cells(seed + 1, 40, shift=0.5)
    axes, rng = rotation(seed, 8)[:, :3], np.random.default_rng(0)
    a, b = ((part @ axes)[rng.permutation(len(part))[:max_cells]] for part in (x, y))
    expected = 2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean()
    assert energy_distance(x, y, components=axes, max_cells=max_cells) == pytest.approx(expected, abs=1e-6)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_energy_distance_is_none_of_equal_cells_and_never_negative(seed):
    x, y = cells(seed, 30), cells(seed + 1, 30)
    assert energy_distance(x, x[::-1]) == pytest.approx(0, abs=1e-6)
    assert energy_distance(x, y) >= 0
    assert energy_distance(sp.csr_matrix(x), y) == pytest.approx(energy_distance(x, y))


def test_energy_distance_sees_spread_where_the_e_distance_does_not():
    real = cells(0, 200)
    copies = np.tile(real.mean(0), (200, 1))
    assert e_distance(copies, real) == pytest.approx(0, abs=1e-9)
    assert energy_distance(copies, real) > 10 * energy_distance(cells(1, 200), real)


@given(seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_the_e_distance_is_twice_the_squared_distance_of_the_means(seed):
    x, y = cells(seed, 20), cells(seed + 1, 33, shift=0.3)
    assert e_distance(x, y) == pytest.approx(2 * ((x.mean(0) - y.mean(0)) ** 2).sum(), abs=1e-9)
