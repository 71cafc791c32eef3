"""R2 of gene variances: scGen's definition, cases by hand, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError
from deltavi.metrics import r2_of_means, r2_of_variances, variance_ratio

SEEDS = st.integers(0, 2**32 - 1)


def cells(seed, n_cells=30, n_genes=12):
    """Expression whose genes have spreads of their own and half of whose entries are zero."""
    rng = np.random.default_rng(seed)
    return rng.gamma(1, rng.uniform(0.2, 3, n_genes), (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < 0.5)


def scgen_r2(x, y, statistic):
    """What scGen's plots of means and variances print: the squared rvalue of a regression over genes."""
    return stats.linregress(statistic(x, axis=0), statistic(y, axis=0)).rvalue ** 2


def test_by_hand():
    # population variances 1, 0, 4 and 4, 1, 1: centred (-2, -5, 7) / 3 and (2, -1, -1)
    x = np.array([[0.0, 1.0, 0.0], [2.0, 1.0, 4.0]])
    y = np.array([[0.0, 0.0, 2.0], [4.0, 2.0, 4.0]])
    assert r2_of_variances(x, y) == pytest.approx((-2 * 2 + 5 - 7) ** 2 / (78 * 6))


@given(seed=SEEDS)
@settings(deadline=None)
def test_both_r2_are_those_of_scgen(seed):
    x, y = cells(seed, 20), cells(seed + 1, 35)
    assert r2_of_variances(x, y) == pytest.approx(scgen_r2(x, y, np.var))
    assert r2_of_means(x, y) == pytest.approx(scgen_r2(x, y, np.mean))


@given(seed=SEEDS, form=st.sampled_from([sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array]))
@settings(deadline=None)
def test_sparse_equals_dense(seed, form):
    x, y = cells(seed), cells(seed + 1)
    assert r2_of_variances(form(x), y) == pytest.approx(r2_of_variances(x, y))


@given(seed=SEEDS, factor=st.floats(0.1, 10))
@settings(deadline=None)
def test_it_is_blind_to_scale_place_and_order(seed, factor):
    x, y, rng = cells(seed), cells(seed + 1), np.random.default_rng(seed)
    genes, expected = rng.permutation(12), r2_of_variances(x, y)
    assert r2_of_variances(factor * x + 3.0, y) == pytest.approx(expected)
    assert r2_of_variances(y, x) == pytest.approx(expected)
    assert r2_of_variances(rng.permutation(x)[:, genes], y[:, genes]) == pytest.approx(expected)


def test_what_it_hides_the_ratio_shows():
    real = cells(0)
    assert r2_of_variances(0.1 * real, real) == pytest.approx(1)
    assert variance_ratio(0.1 * real, real) == pytest.approx(0.01)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_cells_that_do_not_vary_score_zero(form):
    copies = np.repeat(cells(0)[:1], 5, axis=0)
    assert r2_of_variances(form(copies), cells(1)) == 0.0
    assert r2_of_variances(form(copies[:1]), cells(1)) == 0.0


def test_genes_can_be_chosen():
    x, y, mask = cells(0), cells(1), np.arange(12) < 5
    assert r2_of_variances(x, y, genes=mask) == r2_of_variances(x[:, :5], y[:, :5])
    assert r2_of_variances(x, y, genes=[0, 1, 2, 3, 4]) == r2_of_variances(x, y, genes=mask)
    with pytest.raises(DeltaviError, match="selects no gene"):
        r2_of_variances(x, y, genes=[])


def test_bad_input():
    with pytest.raises(GeneMatchError, match="predicted has 4, real has 12"):
        r2_of_variances(cells(0)[:, :4], cells(1))
    with pytest.raises(InputDataError, match="real is empty"):
        r2_of_variances(cells(0), cells(1)[:0])
