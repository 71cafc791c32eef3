"""Counts moved to another mean: exact distributions, means that are reached, and cells that keep their rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse, stats

from deltavi.perturbation.all_genes import (
    GroupCounts,
    binomial_quantile,
    drawn,
    expected_log1p,
    moved,
    negative_binomial_quantile,
)
from deltavi.perturbation.noise import cell_generators


def group(n_cells: int = 300, n_genes: int = 40, *, dispersion: float = 0.3, seed: int = 0) -> GroupCounts:
    """Negative binomial counts of cells of different depth; the first gene is silent."""
    rng = np.random.default_rng(seed)
    totals = rng.lognormal(8, 0.5, n_cells).round()
    rates = np.concatenate([[0.0], np.exp(rng.normal(1, 1.5, n_genes - 1))])
    means = totals[:, None] / 1e4 * rates
    counts = rng.poisson(means * rng.gamma(1 / dispersion, dispersion, means.shape))
    names = tuple(f"cell {i}" for i in range(n_cells))
    return GroupCounts(sparse.csr_matrix(counts, dtype=np.float32), totals, names)


def logs(counts: sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
    return np.asarray(np.log1p(counts.toarray().astype(float) * 1e4 / totals[:, None]))


def test_quantiles_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    u, mean, n, share = rng.random(5000), np.exp(rng.normal(0, 2.5, 5000)), rng.integers(1, 90, 5000), rng.random(5000)
    spread = np.where(rng.random(5000) < 0.3, 0, rng.random(5000))
    few = stats.poisson.ppf(u, mean)
    expected = np.where(spread > 0, stats.nbinom.ppf(u, 1 / np.maximum(spread, 1e-9), 1 / (1 + spread * mean)), few)
    np.testing.assert_array_equal(negative_binomial_quantile(u, mean, spread), expected)
    np.testing.assert_array_equal(binomial_quantile(u, n.astype(float), share), stats.binom.ppf(u, n, share))
    sure = np.ones(3)
    np.testing.assert_array_equal(binomial_quantile(np.array([0.1, 0.5, 0.999]), 7 * sure, sure), 7 * sure)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_expected_logs_are_those_of_draws(spread: float) -> None:
    rng, mean, factor = np.random.default_rng(0), np.array([1e-3, 0.2, 3.0, 80.0, 900.0]), np.full(5, 5.0)
    rates = mean * (rng.gamma(1 / spread, spread, (200_000, 5)) if spread else 1.0)
    drawn_logs = np.log1p(factor * rng.poisson(rates, (200_000, 5)))
    error = drawn_logs.std(0) / np.sqrt(200_000)
    found = expected_log1p(mean, factor, spread)
    assert (np.abs(found - drawn_logs.mean(0))[:4] < 5 * error[:4]).all()
    assert found[4] == pytest.approx(drawn_logs[:, 4].mean(), abs=0.05)


def test_dispersion_is_the_planted_one() -> None:
    assert group(2000, dispersion=0.3).dispersion == pytest.approx(0.3, abs=0.05)
    assert group(2000, dispersion=1e-6).dispersion == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("sign", [-1, 1])
def test_means_change_as_asked_and_counts_stay_counts(sign: int) -> None:
    cells = group()
    change = sign * np.random.default_rng(1).uniform(0, 1, cells.counts.shape[1])
    found, rates = moved(cells, change, seed=0)
    values = found.toarray()
    assert (values >= 0).all()
    assert (values == np.floor(values)).all()
    before, after = logs(cells.counts, cells.totals).mean(0), logs(found, cells.totals).mean(0)
    np.testing.assert_allclose(after, np.maximum(before + change, 0), atol=0.02)
    assert (np.sign(rates - cells.rates)[1:] == sign).all()
    zeros = (values == 0).sum(0) - (cells.counts.toarray() == 0).sum(0)
    assert (zeros[1:] * sign < 0).all()


def test_no_change_leaves_every_count() -> None:
    cells = group()
    found, _ = moved(cells, np.zeros(cells.counts.shape[1]), seed=0)
    np.testing.assert_array_equal(found.toarray(), cells.counts.toarray())


def test_cells_keep_their_rank_and_independent_ones_do_not() -> None:
    cells = group(400)
    change = np.full(cells.counts.shape[1], 0.5)
    kept, _ = moved(cells, change, seed=0)
    new, _ = drawn(cells, change, generators=cell_generators(cells.names, seed=0))
    gene = int(np.argmax(cells.rates))
    own = logs(cells.counts, cells.totals)[:, gene]
    together = [np.corrcoef(own, logs(one, cells.totals)[:, gene])[0, 1] for one in (kept, new)]
    assert together[0] > 0.8
    assert abs(together[1]) < 0.2


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_moved_counts_have_the_distribution_of_the_new_rate(factor: float) -> None:
    """Thinned and added counts of a negative binomial are one again, with the dispersion it had."""
    rng, rate, spread, n = np.random.default_rng(0), 3.0, 0.5, 20_000
    counts = rng.poisson(rate * rng.gamma(1 / spread, spread, n)).astype(float)
    u = rng.random(n)
    if factor < 1:
        after = binomial_quantile(u, counts, np.full(n, factor))
    else:
        own = (1 + spread * counts) / (1 + spread * rate)
        after = counts + negative_binomial_quantile(u, (factor - 1) * rate * own, spread / (1 + spread * counts))
    assert after.mean() == pytest.approx(factor * rate, rel=0.03)
    assert after.var() == pytest.approx(factor * rate + spread * (factor * rate) ** 2, rel=0.06)
    assert (after == 0).mean() == pytest.approx((1 + spread * factor * rate) ** (-1 / spread), abs=0.01)


def by_moving(cells: GroupCounts, change: np.ndarray, seed: int) -> np.ndarray:
    return np.asarray(moved(cells, change, seed=seed)[0].toarray())


def by_drawing(cells: GroupCounts, change: np.ndarray, seed: int) -> np.ndarray:
    return np.asarray(drawn(cells, change, generators=cell_generators(cells.names, seed=seed))[0].toarray())


@pytest.mark.parametrize("predict", [by_moving, by_drawing])
def test_noise_is_that_of_seed_and_name(predict: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    cells = group(50)
    change = np.full(cells.counts.shape[1], 0.4)
    found = predict(cells, change, 3)
    np.testing.assert_array_equal(predict(cells, change, 3), found)
    assert (predict(cells, change, 4) != found).any()
    order = np.random.default_rng(0).permutation(50)
    names = tuple(np.array(cells.names)[order])
    again = predict(GroupCounts(sparse.csr_matrix(cells.counts[order]), cells.totals[order], names), change, 3)
    np.testing.assert_array_equal(again, found[order])
    # genes in one block or in several
    monkeypatch.setattr("deltavi.perturbation.all_genes.ENTRIES", 350)
    np.testing.assert_array_equal(predict(cells, change, 3), found)


def test_independent_draws_have_the_mean_in_expectation() -> None:
    cells = group(200)
    change = np.random.default_rng(2).uniform(-0.3, 0.8, cells.counts.shape[1])
    draws = np.stack([by_drawing(cells, change, seed) for seed in range(20)])
    means = np.log1p(draws * 1e4 / cells.totals[:, None]).mean(1)
    wanted = np.maximum(logs(cells.counts, cells.totals).mean(0) + change, 0)
    error = means.std(0, ddof=1) / np.sqrt(20)
    assert (np.abs(means.mean(0) - wanted) < 5 * error + 0.01).all()
    # two samples of independent cells differ by the noise of their means, which matched cells do not
    assert (means.std(0)[wanted > 0.05] > 0.005).all()


def test_no_cells_and_no_counts() -> None:
    nothing = GroupCounts(sparse.csr_matrix((3, 2), dtype=np.float32), np.array([100.0, 200.0, 0.0]), ("a", "b", "c"))
    found, _ = moved(nothing, np.array([-1.0, 0.0]), seed=0)
    assert found.nnz == 0
    risen, _ = moved(nothing, np.array([3.0, 0.0]), seed=0)
    assert risen[:, [0]].nnz > 0
    assert nothing.dispersion == 0
