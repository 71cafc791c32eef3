"""Metrics of gene means: hand-computed cases, numpy and scipy as oracles, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from deltavi.metrics import direction_accuracy, mse_delta, mse_of_means, pearson_delta, r2_of_means

SEEDS = st.integers(0, 2**32 - 1)
SPARSE = [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array]


def cells(seed, n_cells=30, n_genes=12, density=0.5):
    """Log-normal expression with zeros; every gene has a level of its own."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.2, 3, n_genes)
    return rng.lognormal(0, 0.3, (n_cells, n_genes)) * level * (rng.random((n_cells, n_genes)) < density)


def three(seed):
    return cells(seed, 25), cells(seed + 1, 31), cells(seed + 2, 19)


# hand-computed cases

CONTROL = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])  # means 1, 1, 1
REAL = np.array([[2.0, 1.0, 0.0], [4.0, 3.0, 0.0]])  # means 3, 2, 0: changes 2, 1, -1
PREDICTED = np.array([[2.0, 2.0, 2.0]])  # changes 1, 1, 1
PARTLY = np.array([[3.0, 0.0, 1.0]])  # changes 2, -1, 0


def test_r2_by_hand():
    # centred means: real (4, 1, -5) / 3, partly (5, -4, -1) / 3; covariance 21, squared norms 42 and 42
    assert r2_of_means(PARTLY, REAL) == pytest.approx(0.25)


def test_pearson_delta_by_hand():
    # centred changes: real (4, 1, -5) / 3 and partly (5, -4, -1) / 3
    assert pearson_delta(PARTLY, REAL, control=CONTROL) == pytest.approx(0.5)


def test_mse_by_hand():
    assert mse_of_means(PARTLY, REAL) == pytest.approx((0 + 4 + 1) / 3)


def test_mse_delta_by_hand():
    # changes 2, -1, 0 against 2, 1, -1
    assert mse_delta(PARTLY, REAL, control=CONTROL) == pytest.approx((0 + 4 + 1) / 3)
    assert mse_delta(PARTLY, REAL, control=CONTROL, genes=[1]) == pytest.approx(4)


@given(seed=SEEDS, form=st.sampled_from(SPARSE))
@settings(deadline=None)
def test_control_cancels_from_the_mse_delta(seed, form):
    control, real, predicted = three(seed)
    expected = mse_of_means(predicted, real)
    assert mse_delta(form(predicted), real, control=form(control)) == pytest.approx(expected, rel=1e-5)
    nothing = mse_delta(control, real, control=control)
    assert nothing == pytest.approx(np.mean((real.mean(axis=0) - control.mean(axis=0)) ** 2))


def test_direction_by_hand():
    # gene 0 agrees, gene 1 is opposite, gene 2 is predicted not to change but falls
    assert direction_accuracy(PARTLY, REAL, control=CONTROL, genes=None) == pytest.approx(1 / 3)
    assert direction_accuracy(PARTLY, REAL, control=CONTROL, genes=[0]) == 1.0
    assert direction_accuracy(PARTLY, REAL, control=CONTROL, genes=[1, 2]) == 0.0


def test_perfect_prediction_gets_the_best_scores():
    control, real, _ = three(4)
    assert r2_of_means(real, real) == pytest.approx(1)
    assert pearson_delta(real, real, control=control) == pytest.approx(1)
    assert mse_of_means(real, real) == 0
    assert direction_accuracy(real, real, control=control, genes=None) == 1


def test_opposite_change_gets_the_worst_scores():
    control, real, _ = three(5)
    opposite = 2 * control.mean(axis=0, keepdims=True) - real.mean(axis=0, keepdims=True)
    assert pearson_delta(opposite, real, control=control) == pytest.approx(-1)
    assert direction_accuracy(opposite, real, control=control, genes=None) == 0


# what is constant scores zero, whatever rounding says


def test_constant_prediction_scores_zero():
    constant = np.full((3, 12), 0.1)
    assert r2_of_means(constant, cells(1)) == 0.0


def test_constant_change_scores_zero():
    control, real, _ = three(0)
    assert pearson_delta(control + 0.3, real, control=control) == 0.0


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_change_scores_zero_however_it_is_stored(form, dtype):
    """Sums in another order differ in the last digits; correlating those residues would give any score at all."""
    control, real, _ = three(7)
    unchanged = form(control[::-1].astype(dtype))
    assert pearson_delta(unchanged, real, control=control) == 0.0
    assert direction_accuracy(unchanged, real, control=control, genes=None) == 0.0


def test_single_gene_has_no_correlation():
    control, real, predicted = three(3)
    assert r2_of_means(predicted, real, genes=[4]) == 0.0
    assert pearson_delta(predicted, real, control=control, genes=[4]) == 0.0


def test_small_changes_are_not_taken_for_rounding():
    control, real, _ = three(8)
    predicted = control + 1e-3 * (real.mean(axis=0) - control.mean(axis=0))
    assert pearson_delta(predicted, real, control=control) == pytest.approx(1)


# oracles


@given(seed=SEEDS)
@settings(deadline=None)
def test_r2_equals_scipy(seed):
    _, real, predicted = three(seed)
    expected = stats.pearsonr(predicted.mean(axis=0), real.mean(axis=0))[0] ** 2
    assert r2_of_means(predicted, real) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(seed=SEEDS)
@settings(deadline=None)
def test_pearson_delta_equals_scipy(seed):
    control, real, predicted = three(seed)
    reference = control.mean(axis=0)
    expected = stats.pearsonr(predicted.mean(axis=0) - reference, real.mean(axis=0) - reference)[0]
    assert pearson_delta(predicted, real, control=control) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(seed=SEEDS)
@settings(deadline=None)
def test_mse_and_direction_equal_numpy(seed):
    control, real, predicted = three(seed)
    predicted_mean, real_mean, reference = predicted.mean(axis=0), real.mean(axis=0), control.mean(axis=0)
    agreement = np.mean((predicted_mean > reference) == (real_mean > reference))
    assert mse_of_means(predicted, real) == pytest.approx(np.mean((predicted_mean - real_mean) ** 2))
    assert direction_accuracy(predicted, real, control=control, genes=None) == pytest.approx(agreement)


@given(seed=SEEDS, chosen=st.lists(st.integers(0, 11), min_size=3, max_size=12, unique=True))
@settings(deadline=None)
def test_genes_by_position_mask_and_subset_agree(seed, chosen):
    control, real, predicted = three(seed)
    mask = np.isin(np.arange(12), chosen)
    subset = [matrix[:, chosen] for matrix in (predicted, real, control)]
    expected = pearson_delta(subset[0], subset[1], control=subset[2])
    for genes in (chosen, np.array(chosen), mask):
        assert pearson_delta(predicted, real, control=control, genes=genes) == pytest.approx(expected)
        assert r2_of_means(predicted, real, genes=genes) == pytest.approx(r2_of_means(*subset[:2]))
        assert mse_of_means(predicted, real, genes=genes) == pytest.approx(mse_of_means(*subset[:2]))


# properties


def all_scores(predicted, real, control):
    return np.array(
        [
            r2_of_means(predicted, real),
            mse_of_means(predicted, real),
            pearson_delta(predicted, real, control=control),
            direction_accuracy(predicted, real, control=control, genes=None),
        ]
    )


@given(seed=SEEDS)
@settings(deadline=None)
def test_order_of_cells_and_of_genes_is_irrelevant(seed):
    control, real, predicted = three(seed)
    rng = np.random.default_rng(seed)
    genes = rng.permutation(12)
    moved = [rng.permutation(matrix, axis=0)[:, genes] for matrix in (predicted, real, control)]
    np.testing.assert_allclose(all_scores(*moved), all_scores(predicted, real, control), rtol=1e-9, atol=1e-12)


@given(seed=SEEDS, form=st.sampled_from(SPARSE))
@settings(deadline=None)
def test_sparse_equals_dense(seed, form):
    control, real, predicted = three(seed)
    sparse = [form(matrix) for matrix in (predicted, real, control)]
    np.testing.assert_allclose(all_scores(*sparse), all_scores(predicted, real, control), rtol=1e-9, atol=1e-12)


@given(seed=SEEDS, factor=st.floats(0.01, 100))
@settings(deadline=None)
def test_correlations_ignore_the_unit_and_the_size_of_the_response(seed, factor):
    control, real, predicted = three(seed)
    expected = pearson_delta(predicted, real, control=control)
    reference = control.mean(axis=0)
    # a change as small as the rounding of a mean counts as none
    smallest = np.abs(predicted.mean(axis=0) - reference).min()
    assume(min(factor, 1) * smallest > 1e-4 * max(reference.max(), predicted.mean(axis=0).max()))
    scaled = reference + factor * (predicted - reference)
    assert pearson_delta(scaled, real, control=control) == pytest.approx(expected, abs=1e-8)
    in_unit = pearson_delta(factor * predicted, factor * real, control=factor * control)
    assert in_unit == pytest.approx(expected, abs=1e-8)
    assert mse_of_means(factor * predicted, factor * real) == pytest.approx(factor**2 * mse_of_means(predicted, real))


@given(seed=SEEDS)
@settings(deadline=None)
def test_scores_stay_in_their_range_and_are_symmetric(seed):
    control, real, predicted = three(seed)
    r2, mse, correlation, direction = all_scores(predicted, real, control)
    assert 0 <= r2 <= 1
    assert mse >= 0
    assert -1 <= correlation <= 1
    assert 0 <= direction <= 1
    np.testing.assert_allclose(all_scores(real, predicted, control), [r2, mse, correlation, direction], rtol=1e-12)


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_array])
def test_single_precision_means_are_summed_in_double(form):
    """Many cells of one value: a running sum in single precision would drift."""
    predicted = form(np.full((1_000_000, 2), [0.1, 0.7], dtype=np.float32))
    assert mse_of_means(predicted, np.array([[0.1, 0.7]], dtype=np.float32)) < 1e-20


def test_r2_is_high_for_no_change_where_the_pearson_delta_is_not():
    """The warning in the docstrings, as numbers: genes differ more than conditions do."""
    rng = np.random.default_rng(0)
    level = rng.exponential(1, 200)
    control = level + rng.normal(0, 0.05, (50, 200))
    real = level + 0.1 * rng.normal(size=200) + rng.normal(0, 0.05, (50, 200))
    assert r2_of_means(control, real) > 0.95
    assert abs(pearson_delta(control, real, control=control)) < 0.01
