"""Moving counts between distributions: marginals, order, zeros, determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deltavi._cp10k import log1p_cp10k
from deltavi.likelihood import Dispersion, Gaussian, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from deltavi.perturbation.batches import batch_moves
from deltavi.perturbation.coupling import couple
from deltavi.perturbation.noise import cell_generators, normals, uniforms

N = 4000


def negative_binomial(rate: float, theta: float = 1.5, n: int = N) -> NegativeBinomial:
    return NegativeBinomial(
        rate=torch.full((n, 1), rate, dtype=torch.float64), dispersion=Dispersion(torch.tensor([theta]).double())
    )


def zinb(rate: float, logit: float, n: int = N) -> ZeroInflatedNegativeBinomial:
    return ZeroInflatedNegativeBinomial(
        rate=torch.full((n, 1), rate, dtype=torch.float64),
        dispersion=Dispersion(torch.tensor([1.5]).double()),
        dropout_logits=torch.full((n, 1), logit, dtype=torch.float64),
    )


PAIRS = [
    (negative_binomial(0.5), negative_binomial(4.0)),
    (negative_binomial(6.0), negative_binomial(0.2)),
    (negative_binomial(1.0, 0.3), negative_binomial(1.0, 20.0)),
    (zinb(3.0, 0.0), zinb(5.0, -1.0)),
    (Poisson(torch.full((N, 1), 2.0)), Poisson(torch.full((N, 1), 3.0))),
]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_cells_that_follow_the_source_come_out_following_the_target(source: object, target: object) -> None:
    rng = np.random.default_rng(0)
    observed = source.sample(rng).numpy()
    moved = couple(observed, source, target, uniform=rng.random((N, 1)))
    expected = target.sample(np.random.default_rng(1)).numpy()
    top = int(max(moved.max(), expected.max()))
    counts = np.stack([np.bincount(a.astype(int).ravel(), minlength=top + 1) for a in (moved, expected)])
    common = counts[:, counts.sum(0) >= 10]
    assert stats.chi2_contingency(common).pvalue > 1e-3


@given(seed=st.integers(0, 1000), before=st.floats(0.05, 20), after=st.floats(0.05, 20))
@settings(max_examples=40, deadline=None)
def test_the_coupling_keeps_order(seed: int, before: float, after: float) -> None:
    rng = np.random.default_rng(seed)
    observed = rng.integers(0, 30, (50, 1)).astype(float)
    moved = couple(
        observed, negative_binomial(before, n=50), negative_binomial(after, n=50), uniform=np.full((50, 1), 0.5)
    )
    order = np.argsort(observed.ravel(), kind="stable")
    assert (np.diff(moved.ravel()[order]) >= 0).all()
    assert (moved >= 0).all()
    assert (moved == np.floor(moved)).all()


def test_coupling_a_distribution_with_itself_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    for likelihood in (negative_binomial(2.0), zinb(3.0, 0.5), Poisson(torch.full((N, 1), 2.0))):
        observed = likelihood.sample(rng).numpy()
        moved = couple(observed, likelihood, likelihood, uniform=rng.random((N, 1)))
        np.testing.assert_array_equal(moved, observed)


def test_counts_far_above_expectation_are_not_cut_off() -> None:
    """At 300 times the mean the cdf rounds to one; the quantile counted from above still tells counts apart."""
    observed = np.array([[50.0], [100.0], [300.0]])
    source = negative_binomial(1.0, 5.0, n=3)
    np.testing.assert_array_equal(couple(observed, source, source, uniform=np.full((3, 1), 0.3)), observed)
    raised = couple(observed, source, negative_binomial(2.0, 5.0, n=3), uniform=np.full((3, 1), 0.3))
    assert (np.diff(raised.ravel()) > 0).all()
    assert (raised > observed).all()


def test_a_gaussian_keeps_the_standardised_residual_and_is_clipped_at_zero() -> None:
    observed = np.array([[1.0, 0.1], [3.0, 0.0]])
    source = Gaussian(torch.tensor([[1.0, 1.0], [2.0, 1.0]]), Dispersion(torch.tensor([1.0, 1.0])))
    target = Gaussian(torch.tensor([[2.0, 0.2], [5.0, 0.5]]), Dispersion(torch.tensor([2.0, 1.0])))
    moved = couple(observed, source, target, uniform=np.zeros(0))
    np.testing.assert_allclose(moved, [[2.0, 0.0], [7.0, 0.0]], atol=1e-6)


def test_log_cp10k_is_scanpys_normalisation() -> None:
    import scanpy as sc
    from anndata import AnnData

    counts = np.random.default_rng(0).poisson(1.0, (20, 30)).astype(np.float32)
    adata = AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(log1p_cp10k(counts, counts.sum(1)), adata.X, rtol=1e-5)
    assert (log1p_cp10k(np.zeros((1, 3)), np.zeros(1)) == 0).all()


def test_noise_belongs_to_the_cell_and_to_the_seed() -> None:
    names = ["AAAC", "CCTG", "β-cell"]
    together = uniforms(cell_generators(names, seed=1), 5)
    alone = np.concatenate([uniforms(cell_generators([name], seed=1), 5) for name in names])
    np.testing.assert_array_equal(together, alone)
    assert not np.allclose(together, uniforms(cell_generators(names, seed=2), 5))
    assert len(np.unique(together)) == together.size
    assert normals(cell_generators(names, seed=1), 4).shape == (3, 4)
    assert uniforms([], 4).shape == normals([], 4)[:, :4].shape == (0, 4)


def test_batches_of_a_label_meet_at_the_largest() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], [30, 20, 10])
    batches = np.concatenate([np.repeat(["x", "y"], [20, 10]), np.repeat(["x", "y"], [5, 15]), np.repeat(["x"], 10)])
    positions = rng.standard_normal((60, 3)) + (batches == "y")[:, None] * 5.0
    moves = batch_moves(positions, labels=labels, batches=batches)
    moved = positions + moves.vectors
    for label in "ab":
        means = [moved[(labels == label) & (batches == batch)].mean(0) for batch in "xy"]
        np.testing.assert_allclose(means[0], means[1])
    assert moves.references == {"a": "x", "b": "y", "c": "x"}
    assert moves.single_batch == ("c",)
    assert (moves.vectors[labels == "c"] == 0).all()
    # within a batch of a label nothing but the mean changes
    inside = (labels == "a") & (batches == "y")
    np.testing.assert_allclose(moved[inside] - moved[inside].mean(0), positions[inside] - positions[inside].mean(0))
    assert list(moves.reference[labels == "b"]) == ["y"] * 20


def test_a_higher_place_within_a_count_never_lands_lower() -> None:
    """In the upper half, too, where quantiles are counted from above."""
    uniform = np.linspace(0.01, 0.99, 60)[:, None]
    source, target = negative_binomial(1.0, 5.0, n=60), negative_binomial(7.0, 5.0, n=60)
    for count in (0.0, 1.0, 4.0, 9.0):
        moved = couple(np.full((60, 1), count), source, target, uniform=uniform)
        assert (np.diff(moved.ravel()) >= 0).all()
        assert moved[-1] > moved[0]


def test_of_batches_of_equal_size_the_first_in_order_is_the_reference() -> None:
    labels, batches = np.repeat(["a"], 4), np.array(["y", "y", "x", "x"])
    moves = batch_moves(np.arange(8.0).reshape(4, 2), labels=labels, batches=batches)
    assert moves.references == {"a": "x"}


def test_a_cell_of_less_than_one_count_is_not_blown_up() -> None:
    assert log1p_cp10k(np.array([[0.5]]), np.array([0.5])).item() == pytest.approx(np.log1p(5e3))
