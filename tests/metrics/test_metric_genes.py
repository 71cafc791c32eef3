"""Ranking of genes against scipy's Welch test, and principal axes against a singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA

from deltavi.metrics import principal_axes, top_differential_genes

SEEDS = st.integers(0, 2**32 - 1)


def two_groups(seed, n_genes=20):
    rng = np.random.default_rng(seed)
    effect = rng.normal(0, 1, n_genes)
    control = rng.gamma(2, 1, (21, n_genes))
    perturbed = rng.gamma(2, 1, (34, n_genes)) + effect - effect.min()
    return control, perturbed


def same_space(a, b):
    """Cosine of the largest angle between two subspaces given by orthonormal columns."""
    return np.linalg.svd(a.T @ b, compute_uv=False).min()


# top differential genes


@given(seed=SEEDS, n=st.integers(1, 20))
@settings(deadline=None)
def test_ranking_equals_scipys_welch_test(seed, n):
    control, perturbed = two_groups(seed)
    t = stats.ttest_ind(perturbed, control, axis=0, equal_var=False).statistic
    np.testing.assert_array_equal(top_differential_genes(control, perturbed, n=n), np.argsort(-np.abs(t))[:n])


@given(seed=SEEDS, form=st.sampled_from([sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array]))
@settings(deadline=None)
def test_ranking_of_sparse_equals_dense(seed, form):
    control, perturbed = two_groups(seed)
    control[control < 1], perturbed[perturbed < 1] = 0, 0
    np.testing.assert_array_equal(
        top_differential_genes(form(control), form(perturbed)), top_differential_genes(control, perturbed)
    )


@given(seed=SEEDS)
@settings(deadline=None)
def test_ranking_follows_the_genes_and_ignores_cells_sign_and_scale(seed):
    control, perturbed = two_groups(seed)
    rng = np.random.default_rng(seed)
    genes = rng.permutation(20)
    expected = top_differential_genes(control, perturbed)
    moved = top_differential_genes(rng.permutation(control)[:, genes], rng.permutation(perturbed)[:, genes])
    np.testing.assert_array_equal(genes[moved], expected)
    np.testing.assert_array_equal(top_differential_genes(perturbed, control), expected)
    np.testing.assert_array_equal(top_differential_genes(3 * control, 3 * perturbed), expected)


def test_by_hand():
    # gene 0: difference 1, variances 2 each; gene 1: difference 3, same variances; gene 2: no difference
    control = np.array([[0.0, 0.0, 1.0], [2.0, 2.0, 3.0]])
    perturbed = np.array([[1.0, 3.0, 1.0], [3.0, 5.0, 3.0]])
    np.testing.assert_array_equal(top_differential_genes(control, perturbed), [1, 0, 2])


def test_constant_genes_come_last_and_certain_ones_first():
    rng = np.random.default_rng(0)
    control, perturbed = rng.normal(size=(10, 4)), rng.normal(5, 1, (10, 4))
    control[:, 1] = perturbed[:, 1] = 0.0  # constant and equal: t is 0 / 0
    control[:, 3], perturbed[:, 3] = 0.0, 1.0  # constant and different: t is infinite
    ranking = top_differential_genes(control, perturbed)
    assert ranking[0] == 3
    assert ranking[-1] == 1


def test_equal_genes_keep_their_order():
    control, perturbed = (np.repeat(matrix[:, :1], 30, axis=1) for matrix in two_groups(0))
    np.testing.assert_array_equal(top_differential_genes(control, perturbed), np.arange(30))


def test_more_genes_asked_than_there_are():
    assert len(top_differential_genes(*two_groups(0), n=1000)) == 20
    assert len(top_differential_genes(*two_groups(0, n_genes=150))) == 100


def test_recovers_planted_genes():
    rng = np.random.default_rng(3)
    control, perturbed = rng.normal(2, 0.5, (80, 300)), rng.normal(2, 0.5, (80, 300))
    planted = rng.choice(300, 25, replace=False)
    perturbed[:, planted] += 1.0
    assert set(top_differential_genes(control, perturbed, n=25)) == set(planted)


# principal axes


@given(seed=SEEDS, n_components=st.integers(1, 6))
@settings(deadline=None)
def test_axes_span_the_leading_singular_vectors(seed, n_components):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 7)) * np.array([9, 7, 5, 4, 3, 2, 1])
    axes = principal_axes(x, n_components=n_components)
    _, _, rows = np.linalg.svd(x - x.mean(axis=0))
    assert axes.shape == (7, n_components)
    np.testing.assert_allclose(axes.T @ axes, np.eye(n_components), atol=1e-9)
    assert same_space(axes, rows[:n_components].T) == pytest.approx(1, abs=1e-6)


def test_axes_are_scikit_learns():
    x = np.random.default_rng(1).gamma(1, 1, (120, 90))
    expected = PCA(50, random_state=0).fit(x).components_.T
    np.testing.assert_array_equal(principal_axes(x), expected)


def test_axes_of_sparse_and_dense_span_the_same_space():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 40)) + 0.01 * rng.normal(size=(200, 40))
    x[np.abs(x) < 0.3] = 0
    dense, sparse = principal_axes(x, n_components=5), principal_axes(sp.csr_matrix(x), n_components=5)
    assert same_space(dense, sparse) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize(("shape", "expected"), [((6, 30), 6), ((30, 6), 6), ((100, 80), 50)])
def test_number_of_axes_is_what_the_data_allow(form, shape, expected):
    x = np.random.default_rng(0).gamma(1, 1, shape)
    assert principal_axes(form(x)).shape == (shape[1], expected)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_axes_are_reproducible_and_leave_input_and_generator_alone(form):
    x = form(np.random.default_rng(0).gamma(1, 1, (600, 550)))
    kept, before = x.copy(), np.random.get_state()[1].copy()
    first = principal_axes(x, n_components=5)
    np.testing.assert_array_equal(principal_axes(x, n_components=5), first)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert (x != kept).sum() == 0
