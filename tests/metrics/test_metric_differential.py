"""Genes called by a test: scipy and scanpy as oracles, planted responses, agreement of calls by hand."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.metrics import (
    DifferentialOverlap,
    deg_overlap,
    differential_genes,
    differential_overlap,
    top_differential_genes,
)
from deltavi.metrics._differential import agreement
from deltavi.metrics.significance import GENES_AT_ONCE, moments, welch_p, wilcoxon_p

SEEDS = st.integers(0, 2**32 - 1)
TESTS = ["welch", "wilcoxon"]
SPARSE = [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array]


def groups(seed, n_genes=30, effect=1.0):
    """Control, real and predicted cells with many zeros; every third gene rises, every third falls."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.5, 3, n_genes)
    response = effect * np.select([np.arange(n_genes) % 3 == 0, np.arange(n_genes) % 3 == 1], [1.0, -0.5], 0.0)

    def draw(n_cells, change):
        cells = rng.gamma(4, (level + change).clip(0.1) / 4, (n_cells, n_genes))
        return cells * (rng.random(cells.shape) < 0.7)

    return draw(40, 0.0), draw(50, response), draw(45, 0.7 * response)


def changed(control, cells):
    """Genes whose mean changes by more than rounding, a millionth of the largest mean."""
    means = [x.mean(axis=0) for x in (control, cells)]
    return {*np.flatnonzero(np.abs(means[1] - means[0]) > 1e-6 * np.max(means))}


def adjusted(p):
    """Benjamini and Hochberg by their definition: the least threshold at which each gene is rejected."""
    n = len(p)
    ranks = np.array([(p <= value).sum() for value in p])
    return np.array([min(n * p[j] / ranks[j] for j in range(n) if p[j] >= value) for value in p]).clip(max=1)


class TestPValues:
    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_welch_is_scipys(self, seed):
        control, perturbed, _ = groups(seed)
        expected = stats.ttest_ind(perturbed, control, axis=0, equal_var=False).pvalue
        np.testing.assert_allclose(welch_p(moments(control), moments(perturbed)), expected, rtol=1e-8)

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=15)
    def test_wilcoxon_is_scipys_one_gene_at_a_time(self, seed):
        control, perturbed, _ = groups(seed, n_genes=6)
        pairs = zip(perturbed.T, control.T, strict=True)
        expected = [stats.mannwhitneyu(y, x, method="asymptotic").pvalue for y, x in pairs]
        for form in (np.asarray, sp.csr_matrix):
            np.testing.assert_allclose(wilcoxon_p(form(control), form(perturbed)), expected, rtol=1e-10)

    def test_wilcoxon_is_scanpys_but_for_continuity(self):
        control, perturbed, _ = groups(0)
        adata = anndata.AnnData(np.vstack([control, perturbed]))
        adata.obs["group"] = np.repeat(["control", "perturbed"], [len(control), len(perturbed)])
        adata.obs["group"] = adata.obs["group"].astype("category")
        sc.tl.rank_genes_groups(adata, "group", reference="control", method="wilcoxon", tie_correct=True)
        found = adata.uns["rank_genes_groups"]
        order = adata.var_names.get_indexer(found["names"]["perturbed"])
        own = wilcoxon_p(control, perturbed)[order]
        np.testing.assert_allclose(np.log(own), np.log(found["pvals"]["perturbed"]), atol=0.06)

    def test_blocks_of_genes_fit_together(self):
        control, perturbed, _ = groups(1, n_genes=GENES_AT_ONCE + 7)
        expected = stats.mannwhitneyu(perturbed, control, axis=0, method="asymptotic").pvalue
        np.testing.assert_allclose(wilcoxon_p(sp.csr_matrix(control), perturbed), expected, rtol=1e-10)

    def test_genes_that_do_not_vary(self):
        control, perturbed = np.zeros((5, 3)), np.zeros((6, 3))
        control[:, 1] = perturbed[:, 1] = 2.0
        perturbed[:, 2] = 1.0
        np.testing.assert_array_equal(welch_p(moments(control), moments(perturbed)), [1, 1, 0])
        p = wilcoxon_p(control, perturbed)
        np.testing.assert_array_equal(p[:2], [1, 1])
        assert p[2] < 0.01


class TestCalls:
    @given(seed=SEEDS, alpha=st.floats(0.001, 0.5), least=st.floats(0, 1))
    @settings(deadline=None, max_examples=40)
    def test_calls_are_those_of_the_definition(self, seed, alpha, least):
        control, perturbed, _ = groups(seed)
        change = perturbed.mean(axis=0) - control.mean(axis=0)
        for test in TESTS:
            p = (
                stats.ttest_ind(perturbed, control, axis=0, equal_var=False).pvalue
                if test == "welch"
                else stats.mannwhitneyu(perturbed, control, axis=0, method="asymptotic").pvalue
            )
            expected = np.where((adjusted(p) <= alpha) & (np.abs(change) >= least), np.sign(change), 0)
            found = differential_genes(control, perturbed, alpha=alpha, min_change=least, test=test)
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == np.int8

    @pytest.mark.parametrize("test", TESTS)
    def test_recovers_planted_genes_with_their_direction(self, test):
        rng = np.random.default_rng(0)
        control, perturbed = rng.normal(3, 0.5, (2, 100, 300))
        perturbed[:, :20] += 0.6
        perturbed[:, 20:30] -= 0.6
        found = differential_genes(control, perturbed, test=test)
        np.testing.assert_array_equal(found[:30], [1] * 20 + [-1] * 10)
        assert np.count_nonzero(found[30:]) <= 5

    @pytest.mark.parametrize("test", TESTS)
    def test_nothing_is_called_between_halves_of_the_same_cells(self, test):
        called = [np.count_nonzero(differential_genes(*groups(seed, effect=0)[:2], test=test)) for seed in range(40)]
        assert np.mean(np.array(called) > 0) <= 0.15  # the error of any false call is 0.05

    @given(seed=SEEDS, form=st.sampled_from(SPARSE), test=st.sampled_from(TESTS))
    @settings(deadline=None, max_examples=30)
    def test_sparse_equals_dense_and_order_follows(self, seed, form, test):
        control, perturbed, _ = groups(seed)
        rng = np.random.default_rng(seed)
        genes, expected = rng.permutation(30), differential_genes(control, perturbed, test=test)
        np.testing.assert_array_equal(differential_genes(form(control), form(perturbed), test=test), expected)
        moved = differential_genes(rng.permutation(control)[:, genes], perturbed[:, genes], test=test)
        np.testing.assert_array_equal(moved, expected[genes])
        np.testing.assert_array_equal(differential_genes(perturbed, control, test=test), -expected)

    def test_a_shift_of_one_hundredth_makes_ranks_absurdly_significant(self):
        """The warning in the docstring: all zeros become one other number, so every rank changes."""
        control = groups(0)[0] * (np.random.default_rng(0).random((40, 30)) < 0.3)
        shifted = control + 0.01
        p = wilcoxon_p(control, shifted)
        assert np.median(p) < 0.001
        assert (welch_p(moments(control), moments(shifted)) > 0.5).all()
        assert (differential_genes(control, shifted, test="wilcoxon", min_change=0) == 1).mean() > 0.9
        assert not differential_genes(control, shifted, test="wilcoxon").any()

    def test_change_within_rounding_is_no_change(self):
        control = groups(0)[0]
        assert not differential_genes(control, control[::-1].astype(np.float32), min_change=0, alpha=0.99).any()


class TestOverlap:
    def test_by_hand(self):
        predicted = np.array([1, 1, -1, 0, 0, 1], dtype=np.int8)
        real = np.array([1, -1, -1, 1, 0, 0], dtype=np.int8)
        found = agreement(predicted, real)
        assert found == DifferentialOverlap(0.5, 0.5, 0.5, 2 / 6, 4, 4, 2)
        assert list(found.as_dict()) == [
            "precision", "recall", "f1", "jaccard", "n_predicted", "n_real", "n_common",
        ]  # fmt: skip

    @given(seed=SEEDS, test=st.sampled_from(TESTS))
    @settings(deadline=None, max_examples=30)
    def test_it_is_the_agreement_of_sets_of_calls(self, seed, test):
        control, real, predicted = groups(seed)
        calls = [differential_genes(control, cells, test=test) for cells in (predicted, real)]
        a, b = ({(gene, sign) for gene, sign in enumerate(signs) if sign} for signs in calls)
        found = differential_overlap(predicted, real, control=control, test=test)
        assert (found.n_predicted, found.n_real, found.n_common) == (len(a), len(b), len(a & b))
        if a and b:
            assert found.precision == pytest.approx(len(a & b) / len(a))
            assert found.recall == pytest.approx(len(a & b) / len(b))
            assert found.f1 == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
            assert found.jaccard == pytest.approx(len(a & b) / len(a | b))

    def test_thresholds_are_passed_on(self):
        control, real, predicted = groups(2)
        numbers = {
            differential_overlap(predicted, real, control=control, alpha=alpha, min_change=least).n_real
            for alpha, least in ((0.05, 0.1), (1e-9, 0.1), (0.05, 0.8))
        }
        assert len(numbers) == 3

    def test_perfect_opposite_and_no_change(self):
        control, real, _ = groups(3)
        perfect = differential_overlap(real, real, control=control)
        assert (perfect.precision, perfect.recall, perfect.f1, perfect.jaccard) == (1, 1, 1, 1)
        opposite = differential_overlap(2 * control.mean(axis=0) - real, real, control=control)
        assert opposite.f1 == opposite.jaccard == 0
        assert opposite.n_predicted == opposite.n_real > 0
        for cells in (real, control):
            nothing = differential_overlap(control, cells, control=control)
            assert (nothing.precision, nothing.recall, nothing.f1, nothing.jaccard) == (0, 0, 0, 0)

    def test_result_cannot_be_changed(self):
        control, real, predicted = groups(0)
        with pytest.raises(dataclasses.FrozenInstanceError):
            differential_overlap(predicted, real, control=control).f1 = 1.0


class TestOverlapTop:
    @given(seed=SEEDS, n=st.integers(1, 40))
    # the predicted mean of one gene is that of control cells but for rounding: it ranks last, and is left out
    @example(seed=6509, n=30)
    @settings(deadline=None, max_examples=40)
    def test_it_is_the_share_of_the_rankings_in_common(self, seed, n):
        control, real, predicted = groups(seed)
        a, b = ({*top_differential_genes(control, cells, n=n)} & changed(control, cells) for cells in (predicted, real))
        assert deg_overlap(predicted, real, control=control, n=n) == pytest.approx(len(a & b) / len(b))
        sparse = [sp.csr_matrix(cells) for cells in (predicted, real, control)]
        assert deg_overlap(sparse[0], sparse[1], control=sparse[2], n=n) == pytest.approx(len(a & b) / len(b))

    def test_no_change_has_no_top_genes(self):
        control, real, _ = groups(0)
        assert deg_overlap(control[::-1].astype(np.float32), real, control=control, n=30) == 0.0
        assert deg_overlap(real, control, control=control, n=30) == 0.0

    def test_perfect_prediction_shares_all_even_where_few_genes_change(self):
        control, real, _ = groups(1)
        real = control.copy()
        real[:, :3] += np.random.default_rng(0).random((40, 3))
        assert deg_overlap(real, real, control=control, n=20) == 1.0
        assert deg_overlap(groups(1)[2], real, control=control, n=30) == 1.0  # all three are among the thirty

    def test_direction_does_not_count(self):
        control, real, _ = groups(4)
        assert deg_overlap(2 * control.mean(axis=0) - real, real, control=control, n=5) == 1.0

    def test_one_vector_for_all_cells_puts_silent_genes_first(self):
        """The warning in the docstring."""
        control, real, _ = groups(5)
        control[:, -5:] = 0.0
        shift = real.mean(axis=0) - control.mean(axis=0)
        assert set(top_differential_genes(control, control + shift, n=5)) == set(range(25, 30))


class TestBadInput:
    @pytest.mark.parametrize("alpha", [0, 1, -0.1, np.nan])
    def test_alpha(self, alpha):
        control, real, predicted = groups(0)
        with pytest.raises(DeltaviError, match=r"alpha must .* 0 (and|to) 1"):
            differential_genes(control, real, alpha=alpha)
        with pytest.raises(DeltaviError, match=r"alpha must .* 0 (and|to) 1"):
            differential_overlap(predicted, real, control=control, alpha=alpha)

    @pytest.mark.parametrize("least", [-0.1, np.inf, np.nan])
    def test_least_change(self, least):
        with pytest.raises(DeltaviError, match=r"min_change must be a (finite )?number of at least 0"):
            differential_genes(*groups(0)[:2], min_change=least)

    def test_unknown_test(self):
        with pytest.raises(
            UnknownCategoryError, match=r"test 'wilcoxn' is not in those on offer\. Did you mean 'wilcoxon'"
        ):
            differential_genes(*groups(0)[:2], test="wilcoxn")

    def test_single_cells(self):
        control, real, predicted = groups(0)
        with pytest.raises(InputDataError, match="perturbed has 1 cell"):
            differential_genes(control, real[:1])
        for name, cells in {
            "predicted": (predicted[:1], real, control),
            "real": (predicted, real[:1], control),
            "control": (predicted, real, control[:1]),
        }.items():
            for metric in (differential_overlap, deg_overlap):
                with pytest.raises(InputDataError, match=f"{name} has 1 cell"):
                    metric(cells[0], cells[1], control=cells[2])

    def test_control_with_other_genes_and_count(self):
        control, real, predicted = groups(0)
        for metric in (differential_overlap, deg_overlap):
            with pytest.raises(GeneMatchError, match="control has 4"):
                metric(predicted, real, control=control[:, :4])
        with pytest.raises(DeltaviError, match="n must be"):
            deg_overlap(predicted, real, control=control, n=0)
