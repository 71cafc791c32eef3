"""Moving log rates until means match, and coupling cells to several targets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deltavi.likelihood import (
    Bernoulli,
    Dispersion,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from deltavi.perturbation.coupling import couple, coupling
from deltavi.perturbation.matching import LARGEST_OFFSET, match_means

SEEDS = st.integers(0, 2**32 - 1)
N_CELLS, N_GENES = 200, 60
Curve = Callable[[np.ndarray], np.ndarray]


def log_mean(seed: int = 0) -> Curve:
    """Mean of log1p of expression that differs between cells, of genes from rare to abundant."""
    cells = np.random.default_rng(seed).gamma(0.5, 1.0, (N_CELLS, N_GENES)) * np.geomspace(0.01, 30.0, N_GENES)
    return lambda move: np.log1p(cells * np.exp(move)).mean(0)


# -- matching --------------------------------------------------------------------------------------------------------


@given(seed=SEEDS)
@settings(deadline=None, max_examples=40)
def test_means_within_reach_are_matched(seed: int) -> None:
    mean_at, rng = log_mean(seed % 1000), np.random.default_rng(seed)
    moves = rng.uniform(-1, 1, N_GENES)
    wanted = mean_at(moves)
    found = match_means(mean_at, wanted)
    assert np.abs(wanted - mean_at(np.zeros(N_GENES))).max() > 0.1
    np.testing.assert_allclose(mean_at(found), wanted, atol=1e-2)
    # and not by accident of flat curves
    steep = mean_at(np.ones(N_GENES)) > 0.5
    np.testing.assert_allclose(found[steep], moves[steep], atol=0.1)


def test_a_linear_mean_is_matched_up_to_the_largest_step() -> None:
    """As for a Gaussian, whose mean is moved itself."""
    start = np.array([0.0, 0.2, 1.0, 3.0])
    wanted = start + np.array([0.7, -0.2, 1.5, -2.5])
    np.testing.assert_allclose(match_means(lambda move: start + move, wanted), wanted - start, atol=1e-9)


@given(seed=SEEDS, spread=st.floats(0.01, 20))
@settings(deadline=None, max_examples=60)
def test_no_gap_grows_and_no_move_is_too_large(seed: int, spread: float) -> None:
    """Whatever is wanted, and however rough the curve is."""
    rng, smooth = np.random.default_rng(seed), log_mean(seed % 1000)
    mean_at = smooth if seed % 2 else lambda move: np.round(4 * smooth(move)) / 4
    start = mean_at(np.zeros(N_GENES))
    wanted = np.maximum(start + spread * rng.normal(size=N_GENES), 0)
    found = match_means(mean_at, wanted)
    assert (np.abs(wanted - mean_at(found)) <= np.abs(wanted - start) + 1e-12).all()
    assert (np.abs(found) <= LARGEST_OFFSET).all()


def test_what_is_out_of_reach_goes_as_far_as_it_may() -> None:
    mean_at = log_mean()
    far = match_means(mean_at, mean_at(np.full(N_GENES, 10.0)))
    assert far.max() == LARGEST_OFFSET
    assert (far > 0.5).all()


def test_a_gene_that_cells_do_not_express_stays_finite() -> None:
    cells = np.random.default_rng(0).gamma(1.0, 1.0, (50, 4)) * [0.0, 0.0, 1.0, 1e-9]

    def mean_at(move: np.ndarray) -> np.ndarray:
        return np.log1p(cells * np.exp(move)).mean(0)

    with np.errstate(all="raise", under="ignore"):
        found = match_means(mean_at, np.array([0.0, 1.0, 0.0, 2.0]))
    assert np.isfinite(found).all()
    assert (np.abs(found) <= LARGEST_OFFSET).all()
    # none of its moves brings it closer
    assert (found[:2] == 0).all()
    assert found[2] < -1


def test_means_that_are_right_already_are_left_alone() -> None:
    mean_at = log_mean()
    np.testing.assert_array_equal(match_means(mean_at, mean_at(np.zeros(N_GENES))), 0)


def test_genes_do_not_disturb_one_another() -> None:
    mean_at = log_mean()
    wanted = mean_at(np.linspace(-1, 1, N_GENES))
    calm = wanted.copy()
    calm[::2] = mean_at(np.zeros(N_GENES))[::2]
    np.testing.assert_array_equal(match_means(mean_at, wanted)[1::2], match_means(mean_at, calm)[1::2])


# -- coupling to several targets ---------------------------------------------------------------------------------------

KINDS = ("poisson", "nb", "zinb", "normal", "bernoulli")


def build(kind: str, seed: int, shape: tuple[int, int] = (40, 6)) -> Likelihood:
    rng = np.random.default_rng(seed)
    rate = torch.from_numpy(rng.gamma(0.7, 4.0, shape) + 1e-3)
    theta = Dispersion(torch.from_numpy(rng.uniform(0.3, 3.0, shape[1])))
    logits = torch.from_numpy(rng.normal(size=shape))
    return {
        "poisson": lambda: Poisson(rate),
        "nb": lambda: NegativeBinomial(rate, theta),
        "zinb": lambda: ZeroInflatedNegativeBinomial(rate, theta, logits),
        "normal": lambda: Gaussian(rate, theta),
        "bernoulli": lambda: Bernoulli(logits),
    }[kind]()


def plain_quantile(kind: str, likelihood: Likelihood, row: int, gene: int) -> Callable[[float], float]:
    """Inverse of SciPy's distribution function of one entry; for zinb by counting up."""
    if kind == "bernoulli":
        return lambda u: float(stats.bernoulli.ppf(u, float(likelihood.mean[row, gene])))
    if kind == "poisson":
        return lambda u: float(stats.poisson.ppf(u, float(likelihood.rate[row, gene])))
    cdf = plain_cdf(kind, likelihood, row, gene)
    return lambda u: float(next(x for x in range(10_000) if cdf(x) >= u))


def plain_cdf(kind: str, likelihood: Likelihood, row: int, gene: int) -> Callable[[float], float]:
    if kind == "bernoulli":
        return lambda x: float(stats.bernoulli.cdf(x, float(likelihood.mean[row, gene])))
    mu = float(likelihood.rate[row, gene])
    if kind == "poisson":
        return lambda x: float(stats.poisson.cdf(x, mu))
    theta = float(likelihood.dispersion.gathered()[gene])
    dropout = 1 / (1 + np.exp(-float(likelihood.dropout_logits[row, gene]))) if kind == "zinb" else 0.0
    return lambda x: 0.0 if x < 0 else float(dropout + (1 - dropout) * stats.nbinom.cdf(x, theta, theta / (theta + mu)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_coupling_serves_several_targets(kind: str) -> None:
    rng = np.random.default_rng(0)
    source, targets = build(kind, 0), [build(kind, seed) for seed in (1, 2, 3)]
    observed = source.sample(rng).numpy()
    if source.of_counts:
        observed[0] = 60  # far above expectation, where quantiles are counted from above
    uniform = rng.random(observed.shape)
    moved = coupling(observed, source, uniform=uniform)
    found = [moved(target) for target in targets]
    # called again in another order, it says the same
    for target, expected in zip(reversed(targets), reversed(found), strict=True):
        np.testing.assert_array_equal(moved(target), expected)
        np.testing.assert_array_equal(couple(observed, source, target, uniform=uniform), expected)
    np.testing.assert_allclose(moved(source), np.maximum(observed, 0), atol=1e-6)
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "normal"])
def test_a_coupling_goes_through_quantiles_one_by_one(kind: str) -> None:
    rng = np.random.default_rng(1)
    source, targets = build(kind, 0, (8, 5)), [build(kind, seed, (8, 5)) for seed in (1, 2)]
    observed = source.sample(rng).numpy()
    uniform = rng.random(observed.shape)
    moved = coupling(observed, source, uniform=uniform)
    for target in targets:
        found = moved(target)
        for row, gene in np.ndindex(observed.shape):
            cdf, x = plain_cdf(kind, source, row, gene), observed[row, gene]
            u = cdf(x - 1) + uniform[row, gene] * (cdf(x) - cdf(x - 1))
            assert found[row, gene] == plain_quantile(kind, target, row, gene)(u)


def test_the_noise_of_a_gaussian_is_kept_in_units_of_its_spread() -> None:
    rng = np.random.default_rng(1)
    source, target = build("normal", 0), build("normal", 1)
    observed = source.sample(rng).numpy()
    found = coupling(observed, source, uniform=np.zeros(0))(target)
    residual = (observed - source.rate.numpy()) / source.dispersion.values.numpy()
    expected = target.rate.numpy() + residual * target.dispersion.values.numpy()
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-6)
