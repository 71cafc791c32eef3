"""Maximum mean discrepancy: a plain double loop, scikit-learn's kernels, invariances, and what the mean cannot see."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import rbf_kernel

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError
from deltavi.metrics import e_distance, mmd
from deltavi.metrics._mmd import BANDWIDTH_FACTORS

SEEDS = st.integers(0, 2**32 - 1)
FACTORS = np.array([0.5, np.sqrt(0.5), 1.0, np.sqrt(2.0), 2.0])


def cells(seed, n_cells=20, n_genes=6, shift=0.0):
    """Expression with zeros; the first gene has none, so that no two cells are equal."""
    rng = np.random.default_rng(seed)
    expressed = rng.random((n_cells, n_genes)) < 0.6
    expressed[:, 0] = True
    return shift + rng.gamma(1.0, 1.0, (n_cells, n_genes)) * expressed


def rotation(seed, n):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def mmd_by_loop(x, y, bandwidths):
    """The definition, one pair of cells at a time."""

    def mean_kernel(a, b):
        values = [np.exp(-np.sum((u - v) ** 2) / (2 * h**2)) for u in a for v in b for h in bandwidths]
        return np.mean(values)

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def test_by_hand():
    # one cell each, two bandwidths apart: 1 + 1 - 2 exp(-2)
    assert mmd([[0.0]], [[2.0]], bandwidths=1.0) == pytest.approx(2 - 2 * np.exp(-2))
    assert mmd([[0.0]], [[2.0]], bandwidths=[1.0, 2.0]) == pytest.approx(2 - np.exp(-2) - np.exp(-0.5))


def test_factors_are_the_documented_ones():
    np.testing.assert_allclose(BANDWIDTH_FACTORS, FACTORS)


@given(seed=SEEDS, n_predicted=st.integers(1, 15), n_real=st.integers(2, 15))
@settings(deadline=None, max_examples=25)
def test_default_equals_a_plain_loop_with_the_median_of_real_cells(seed, n_predicted, n_real):
    x, y = cells(seed, n_predicted, shift=0.4), cells(seed + 1, n_real)
    widths = FACTORS * np.median(pdist(y))
    assert mmd(x, y) == pytest.approx(mmd_by_loop(x, y, widths), abs=1e-9)


@given(seed=SEEDS, bandwidth=st.floats(0.1, 20))
@settings(deadline=None, max_examples=25)
def test_one_bandwidth_equals_scikit_learns_kernel(seed, bandwidth):
    x, y, gamma = cells(seed, 11), cells(seed + 1, 17, shift=0.3), 1 / (2 * bandwidth**2)
    expected = rbf_kernel(x, gamma=gamma).mean() + rbf_kernel(y, gamma=gamma).mean()
    expected -= 2 * rbf_kernel(x, y, gamma=gamma).mean()
    assert mmd(x, y, bandwidths=bandwidth) == pytest.approx(expected, abs=1e-9)


def test_predicted_cells_have_no_say_in_the_bandwidths():
    real = cells(0)
    widths = FACTORS * np.median(pdist(real))
    for predicted in (cells(1), 10 * cells(2), cells(3, shift=50.0)):
        assert mmd(predicted, real) == pytest.approx(mmd(predicted, real, bandwidths=widths))


def test_copies_of_real_cells_do_not_lower_the_bandwidth():
    real = cells(0, 8)
    doubled, predicted = np.repeat(real, 2, axis=0), cells(1)
    assert mmd(predicted, doubled) == pytest.approx(mmd(predicted, real))
    assert mmd(predicted, np.repeat(real, 40, axis=0), max_cells=400) == pytest.approx(mmd(predicted, real))


@given(seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_zero_to_itself_never_negative_and_at_most_two(seed):
    x, y = cells(seed), cells(seed + 1, shift=0.4)
    assert mmd(x, x) == pytest.approx(0, abs=1e-12)
    assert -1e-12 <= mmd(x, y) <= 2
    assert mmd(x, y, bandwidths=2.0) == pytest.approx(mmd(y, x, bandwidths=2.0))
    assert mmd(x + 1e6, y, bandwidths=1.0) == pytest.approx(
        rbf_kernel(x, gamma=0.5).mean() + rbf_kernel(y, gamma=0.5).mean(), abs=1e-6
    )


@given(seed=SEEDS, offset=st.floats(-5, 5), factor=st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_rotation_translation_and_scale_do_not_matter(seed, offset, factor):
    x, y, turn = cells(seed), cells(seed + 1, shift=0.7), rotation(seed, 6)
    moved = [factor * (matrix @ turn) + offset for matrix in (x, y)]
    assert mmd(*moved) == pytest.approx(mmd(x, y), rel=1e-6, abs=1e-9)


@given(seed=SEEDS, form=st.sampled_from([sp.csr_matrix, sp.csc_matrix, sp.csr_array]))
@settings(deadline=None, max_examples=20)
def test_sparse_equals_dense_along_axes_too(seed, form):
    x, y, axes = cells(seed), cells(seed + 1), rotation(seed, 6)[:, :2]
    assert mmd(form(x), form(y)) == pytest.approx(mmd(x, y))
    assert mmd(form(x), y, components=axes) == pytest.approx(mmd(x @ axes, y @ axes), abs=1e-9)


def test_it_sees_spread_where_the_e_distance_sees_the_mean_only():
    real = np.random.default_rng(0).normal(size=(300, 5))
    copies = np.repeat(real.mean(axis=0, keepdims=True), 50, axis=0)
    assert e_distance(copies, real) == pytest.approx(0, abs=1e-9)
    assert mmd(copies, real) > 10 * mmd(real[:150], real[150:])


def test_samples_of_the_same_cells_score_the_documented_bias():
    rng = np.random.default_rng(1)
    # for standard normal cells of 8 genes |x - y|^2 is twice a chi-squared of 8, whose exponential is known
    mean_kernel = (1 + 4 / (2 * 4.0**2)) ** -4
    found = [mmd(rng.normal(size=(20, 8)), rng.normal(size=(30, 8)), bandwidths=4.0) for _ in range(1000)]
    assert np.mean(found) == pytest.approx((1 / 20 + 1 / 30) * (1 - mean_kernel), rel=0.05)


def test_better_predictions_score_better_and_far_ones_alike():
    rng = np.random.default_rng(0)
    real, noise = rng.normal(size=(2, 100, 10))
    found = [mmd(noise + offset, real) for offset in (0.0, 0.5, 1.0, 2.0)]
    assert all(closer < farther for closer, farther in itertools.pairwise(found))
    assert mmd(noise + 100, real) == pytest.approx(mmd(noise + 1000, real))


def test_at_most_500_cells_are_drawn_by_the_seed():
    x, y = cells(1, 700), cells(2, 600)
    rng = np.random.default_rng(0)
    drawn = [matrix[rng.permutation(len(matrix))[:500]] for matrix in (x, y)]
    assert mmd(x, y) == pytest.approx(mmd(*drawn, bandwidths=FACTORS * np.median(pdist(drawn[1]))))
    assert mmd(x, y, max_cells=50, seed=3) == mmd(x, y, max_cells=50, seed=3)
    assert mmd(x, y, max_cells=50, seed=3) != mmd(x, y, max_cells=50, seed=4)


def test_real_cells_that_do_not_differ():
    same = np.ones((4, 6))
    assert np.isnan(mmd(cells(0), same))
    assert np.isfinite(mmd(cells(0), same, bandwidths=1.0))
    with pytest.raises(InputDataError, match="real has 1 cell; the bandwidth is the median"):
        mmd(cells(0), cells(1)[:1])
    assert np.isfinite(mmd(cells(0)[:1], cells(1)))


@pytest.mark.parametrize("bad", [0, -1.0, [1.0, 0.0], [], np.nan, np.inf, [[1.0]], "wide", None, [None]])
def test_bad_bandwidths(bad):
    if bad is None:
        assert np.isfinite(mmd(cells(0), cells(1), bandwidths=bad))
        return
    with pytest.raises(DeltaviError, match="bandwidths must be one or more positive numbers"):
        mmd(cells(0), cells(1), bandwidths=bad)


def test_bad_components_and_counts():
    with pytest.raises(GeneMatchError, match="with 6 rows"):
        mmd(cells(0), cells(1), components=np.ones((5, 2)))
    with pytest.raises(DeltaviError, match="max_cells must be"):
        mmd(cells(0), cells(1), max_cells=0)
