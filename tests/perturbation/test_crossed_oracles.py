"""The crossed Gaussian process against dense regression, kriging, closed forms and simulated counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel

from deltavi.perturbation.crossed_factor import Factor, blocks_of
from deltavi.perturbation.crossed_kernel import ContextKernel, Weights
from deltavi.perturbation.crossed_loo import leave_one_out
from deltavi.perturbation.crossed_process import Process, Queries
from deltavi.perturbation.crossed_ratios import log_likelihoods, ratios_of, shares_by_em
from tests.perturbation import plain_kriging as plain
from tests.perturbation.crossed_scenes import noise_covariance, replaced, scene, signal_covariance

WEIGHTS = Weights(0.3, 0.2, 0.1, 0.25, 0.15)
KERNELS = {
    "identity": ContextKernel("identity"),
    "similarity": ContextKernel("similarity", 5.0, 0.1),
    "product": ContextKernel("product", shared=(0.4,)),
}


class Dense(Kernel):
    """Covariance of measured changes; rows of the form (pair, 1) carry the noise of their controls, (pair, 0) none."""

    def __init__(self, signal: np.ndarray, shared: np.ndarray) -> None:
        self.signal, self.shared = signal, shared

    def __call__(self, X, Y=None, eval_gradient=False):
        Y = X if Y is None else Y
        rows, columns = X[:, 0].astype(int), Y[:, 0].astype(int)
        measured = X[:, 1][:, None] * Y[:, 1]
        return self.signal[np.ix_(rows, columns)] + measured * self.shared[np.ix_(rows, columns)]

    def diag(self, X):
        return np.diag(self(X))

    def is_stationary(self):
        return False


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ratio", [0.01, 1.0, 40.0])
def test_predictions_are_those_of_dense_regression(kernel: str, ratio: float) -> None:
    for seed in range(3):
        table = scene(seed)
        left_out = table.n_pairs - 1
        kept = np.arange(table.n_pairs) != left_out
        part = table.of_pairs(kept)
        found_kernel = KERNELS[kernel]
        process = Process.of(part, found_kernel, WEIGHTS, ratios=np.array([ratio]), shares=np.array([1.0]))
        found = process.predict(Queries.of_pairs(process, table.of_pairs(~kept)))
        signal, noise = signal_covariance(table, found_kernel, WEIGHTS), noise_covariance(table)
        own = 1 / part.n_perturbed
        dense = Dense(ratio * signal, noise - np.diag(1 / table.n_perturbed))
        regressor = GaussianProcessRegressor(dense, alpha=own, optimizer=None)
        rows = np.column_stack([np.flatnonzero(kept), np.ones(kept.sum())])
        regressor.fit(rows, part.changes / np.sqrt(part.variance))
        mean, spread = regressor.predict(np.array([[left_out, 0]]), return_std=True)
        np.testing.assert_allclose(found.change[0], (mean * np.sqrt(part.variance)).ravel(), atol=1e-8)
        np.testing.assert_allclose(found.variance[0], spread.ravel() ** 2 * part.variance, rtol=1e-7)
        np.testing.assert_allclose(found.weights[0] @ part.changes, found.change[0], atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_densities_are_those_of_the_multivariate_normal(kernel: str) -> None:
    for seed in range(3):
        table = scene(seed)
        factor = Factor.of(table, WEIGHTS, KERNELS[kernel].between(table))
        ratios = ratios_of(table.noise)
        signal, noise = signal_covariance(table, KERNELS[kernel], WEIGHTS), noise_covariance(table)
        normals = [multivariate_normal(np.zeros(table.n_pairs), ratio * signal + noise) for ratio in ratios]
        expected = np.array([[normal.logpdf(y) for normal in normals] for y in table.standardised().T])
        constant = table.n_pairs / 2 * np.log(2 * np.pi)
        np.testing.assert_allclose(log_likelihoods(factor, table, ratios), expected + constant, rtol=1e-9)


def test_blocks_are_perturbations_unless_combinations_join_them() -> None:
    complete = scene(0, 3, 4, complete=True)
    (singles,) = blocks_of(complete.parts)
    assert singles.shape == (4, 3)
    assert (complete.parts[singles].sum(1).max(1) == 3).all()
    joined = blocks_of(np.vstack([complete.parts, [1, 1, 0, 0]]))
    assert sorted(group.shape[1] for group in joined) == [3, 7]
    assert sorted(np.concatenate([group.ravel() for group in joined])) == list(range(13))


@pytest.mark.parametrize("kernel", KERNELS)
def test_leave_one_out_is_a_fit_without_the_pair(kernel: str) -> None:
    table = scene(1)
    process = Process.of(table, KERNELS[kernel], WEIGHTS)
    found = leave_one_out(process)
    signal, noise = signal_covariance(table, KERNELS[kernel], WEIGHTS), noise_covariance(table)
    values, ratios = table.standardised(), process.signal.ratios
    for pair in range(table.n_pairs):
        rest = np.arange(table.n_pairs) != pair
        means, variances, densities, shared = [], [], [], []
        for ratio in ratios:
            covariance = (ratio * signal + noise)[np.ix_(rest, rest)]
            weights = np.linalg.solve(covariance, ratio * signal[rest, pair])
            means.append(weights @ values[rest])
            variances.append(ratio * signal[pair, pair] - ratio * signal[pair, rest] @ weights)
            densities.append(multivariate_normal(np.zeros(rest.sum()), covariance).logpdf(values[rest].T))
            own = table.context_of[pair]
            shared.append(weights @ (table.context_of[rest] == own) / table.n_control[own])
        shares = softmax(np.array(densities) + np.log(process.signal.shares)[:, None], axis=0)
        mean = (shares * means).sum(0)
        variance = (shares * (np.array(variances)[:, None] + (np.array(means) - mean) ** 2)).sum(0)
        np.testing.assert_allclose(found.moments.change[pair], mean * np.sqrt(table.variance), atol=1e-10)
        np.testing.assert_allclose(found.moments.variance[pair], variance * table.variance, rtol=1e-8)
        noise_in_both = np.array(shared) @ shares * table.variance
        np.testing.assert_allclose(found.shared_noise[pair], noise_in_both, atol=1e-12)


def test_a_pair_that_no_ratio_explains_is_predicted_from_the_others() -> None:
    """What one pair makes impossible, to any number that a computer holds, may be what all others say."""
    table = scene(2, 6, 1)
    values = 0.02 * table.changes
    values[0] = 1e3
    table = replaced(table, changes=values)
    process = Process.of(table, KERNELS["identity"], Weights(0.5, 0, 0, 0, 0.5))
    rest = np.arange(6) != 0
    shares = {"ratios": process.signal.ratios, "shares": process.signal.shares}
    without = Process.of(table.of_pairs(rest), KERNELS["identity"], process.weights, **shares)
    expected = without.predict(Queries.of_pairs(without, table.of_pairs(~rest)))
    np.testing.assert_allclose(leave_one_out(process).moments.change[0], expected.change[0], atol=1e-6)


@pytest.mark.parametrize("width", [0.5, 2.0, 8.0])
def test_ordinary_kriging_is_the_special_case_of_one_perturbation(width: float) -> None:
    """A flat prior on the mean, and similarity alone."""
    rng = np.random.default_rng(3)
    points, changes = rng.uniform(0, 2, (7, 12)), rng.normal(size=(6, 12))
    table = plain.table_of(changes, rng.integers(20, 200, (2, 6)), rng.uniform(0.5, 1.5, 12))
    kriged = plain.kriging(table, points[:-1], points[-1], width)
    ratio = np.array([table.noise[0] / plain.noise(table)[0]])
    kernel = ContextKernel("similarity", plain.scale(points[:-1], width))
    weights = Weights(1e7, 0.0, 1.0, 0.0, 0.0)
    known = replaced(table, control_means=points[:-1])
    process = Process.of(known, kernel, weights, ratios=ratio, shares=np.array([1.0]))
    towards = kernel.towards(known, points[-1], [None])
    found = process.predict(Queries(towards[None], np.ones((1, 1)), np.zeros(1), np.zeros((1, 6), dtype=bool)))
    np.testing.assert_allclose(found.weights[0], kriged.weights, atol=1e-5)
    np.testing.assert_allclose(found.change[0], kriged.weights @ changes, atol=1e-5)


def test_balanced_pairs_are_predicted_as_two_way_random_effects() -> None:
    """Best linear unbiased prediction of a balanced layout: deviations of rows and columns, each shrunken."""
    a, b = 5, 4
    base = scene(0, a, b, 3, complete=True)
    table = replaced(base, n_perturbed=np.full(a * b, 10.0), n_control=np.full(a, 1e12))
    of_context, of_perturbation, of_pair, flat = 0.4, 0.25, 0.35, 1e8
    weights = Weights(flat, of_perturbation, of_context, 0.0, of_pair)
    process = Process.of(table, ContextKernel(), weights, ratios=np.array([1.0]), shares=np.array([1.0]))
    queries = Queries.of_pairs(process, table)
    found = process.predict(Queries(queries.similarity, queries.parts, queries.unknown, queries.same_pair & False))
    y = np.empty((a, b, 3))
    y[table.context_of, table.parts.argmax(1)] = table.changes
    error, mean = of_pair + 0.1, y.mean((0, 1))
    rows = of_context / (of_context + error / b) * (y.mean(1) - mean)
    columns = of_perturbation / (of_perturbation + error / a) * (y.mean(0) - mean)
    expected = mean + rows[:, None] + columns
    np.testing.assert_allclose(found.change, expected[table.context_of, table.parts.argmax(1)], atol=1e-5)


def test_noise_is_that_of_simulated_counts() -> None:
    """Changes of two groups of cells share the noise of their controls, and only that."""
    rng = np.random.default_rng(0)
    rate, n_control, n_perturbed, repeats = np.array([0.3, 2.0, 8.0]), 20, (15, 40), 3000

    def cells(n: int) -> np.ndarray:
        counts = rng.poisson(rng.gamma(2.0, rate / 2.0, (repeats, n, 3)))
        return np.log1p(counts)

    variance = cells(200).var(1, ddof=1).mean(0)
    control = cells(n_control).mean(1)
    changes = np.stack([cells(n).mean(1) - control for n in n_perturbed])
    found = np.einsum("arg,brg->gab", changes, changes) / repeats
    one = scene(0, 1, 2, 3, complete=True)
    table = replaced(one, n_perturbed=np.array(n_perturbed), n_control=np.array([n_control]))
    expected = variance[:, None, None] * noise_covariance(table)
    # the standard error of a variance of so many repeats is 3 %
    np.testing.assert_allclose(found, expected, rtol=0.12)


def test_shares_of_ratios_are_the_best_of_a_fine_grid() -> None:
    table = scene(4, 5, 1, 200)
    factor = Factor.of(table, Weights(0.6, 0, 0, 0, 0.4), np.eye(5))
    density = log_likelihoods(factor, table, np.array([0.0, 0.1, 2.0]))
    found = shares_by_em(density)

    def posterior(shares: np.ndarray) -> float:
        return float(np.log(np.exp(density - density.max(1, keepdims=True)) @ shares).sum() + np.log(shares).sum())

    grid = np.linspace(0.005, 0.985, 197)
    tried = [(posterior(np.array([x, y, 1 - x - y])), x, y) for x in grid for y in grid if x + y < 0.996]
    best = max(tried)
    assert posterior(found) >= best[0] - 1e-9
    np.testing.assert_allclose(found[:2], best[1:], atol=0.006)


def test_genes_count_for_so_many_in_the_shares() -> None:
    rng = np.random.default_rng(0)
    density = rng.normal(size=(10, 3))
    twice = shares_by_em(np.repeat(density, 2, axis=0))
    np.testing.assert_allclose(shares_by_em(density, np.full(10, 2.0)), twice, atol=1e-6)
