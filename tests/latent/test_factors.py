"""PPCA and factor analysis against scikit-learn, SciPy, and each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, sparse, stats
from sklearn.decomposition import PCA, FactorAnalysis

from deltavi.errors import ConvergenceWarning, DeltaviError
from deltavi.latent import LinearGaussian, _factors, common_factors, principal_factors


def expression(n_cells: int = 300, n_genes: int = 12, n_factors: int = 3, seed: int = 0) -> np.ndarray:
    """Log-normalised expression with zeros, of a few factors and uneven noise."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(n_genes, n_factors))
    noise = rng.uniform(0.2, 1.5, n_genes)
    z = rng.normal(size=(n_cells, n_factors))
    x: np.ndarray = np.maximum(z @ loadings.T + 1 + noise * rng.normal(size=(n_cells, n_genes)), 0)
    return x


def covariance(fit: LinearGaussian) -> np.ndarray:
    return np.asarray(fit.loadings @ fit.loadings.T + np.diag(fit.noise))


def test_ppca_is_that_of_scikit_learn_with_the_covariance_of_maximum_likelihood() -> None:
    x = expression()
    fit, oracle = principal_factors(x, 4), PCA(4, svd_solver="full").fit(x)
    np.testing.assert_allclose(covariance(fit), oracle.get_covariance() * (len(x) - 1) / len(x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fit.mean, x.mean(0))
    # scikit-learn's estimate divides by n - 1 and is a little less likely
    assert fit.log_prob(x).mean() >= oracle.score(x)
    assert fit.log_prob(x).mean() == pytest.approx(oracle.score(x), abs=1e-3)


def test_no_other_isotropic_model_is_likelier() -> None:
    x, rng = expression(), np.random.default_rng(1)
    fit = principal_factors(x, 3)
    best = fit.log_prob(x).mean()
    for _ in range(30):
        other = LinearGaussian(
            fit.mean, fit.loadings + 0.05 * rng.normal(size=fit.loadings.shape), fit.noise * np.exp(0.1 * rng.normal())
        )
        covariances = covariance(other)
        assert stats.multivariate_normal(other.mean, covariances).logpdf(x).mean() < best


@pytest.mark.parametrize("fit_with", [principal_factors, common_factors])
def test_log_density_and_posterior_are_those_of_the_gaussian(fit_with: Any) -> None:
    x = expression()
    fit = fit_with(x, 3)
    expected = stats.multivariate_normal(fit.mean, covariance(fit)).logpdf(x)
    np.testing.assert_allclose(fit.log_prob(x), expected, rtol=1e-9)
    # conditioning the joint Gaussian of z and x
    gain = fit.loadings.T @ np.linalg.inv(covariance(fit))
    np.testing.assert_allclose(fit.projection, gain, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(np.diag(1 / fit.precision), np.eye(3) - gain @ fit.loadings, atol=1e-10)
    assert (np.diff(fit.precision) <= 0).all()
    assert (fit.loadings[np.abs(fit.loadings).argmax(0), range(3)] > 0).all()


def test_factor_analysis_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_factors, "TOLERANCE", 1e-12)
    monkeypatch.setattr(_factors, "MOST_ROUNDS", 20_000)
    x = expression(n_cells=500)
    fit = common_factors(x, 3)
    oracle = FactorAnalysis(3, svd_method="lapack", tol=1e-9, max_iter=20_000).fit(x)
    np.testing.assert_allclose(fit.noise, oracle.noise_variance_, rtol=1e-3)
    np.testing.assert_allclose(covariance(fit), oracle.get_covariance(), atol=1e-3)
    assert fit.log_prob(x).mean() == pytest.approx(oracle.score(x), abs=1e-5)
    assert fit.log_prob(x).mean() > principal_factors(x, 3).log_prob(x).mean()


def test_the_largest_eigenvalues_of_many_genes_are_found_alone() -> None:
    x = expression(n_cells=600, n_genes=260, n_factors=3)
    matrix = np.cov(x.T)
    values, vectors = _factors._largest(matrix, 3)
    expected = np.linalg.eigvalsh(matrix)[::-1][:3]
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-6)
    np.testing.assert_array_equal(_factors._largest(matrix, 3)[1], vectors)


def test_without_noise_of_its_own_factor_analysis_finds_what_ppca_does() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20_000, 2)) @ rng.normal(size=(2, 6)) * 2 + 0.5 * rng.normal(size=(20_000, 6))
    np.testing.assert_allclose(covariance(common_factors(x, 2)), covariance(principal_factors(x, 2)), atol=0.05)


def test_as_noise_vanishes_the_posterior_mean_is_the_principal_component() -> None:
    rng = np.random.default_rng(0)
    plane, errors = rng.normal(size=(400, 2)) @ np.linalg.qr(rng.normal(size=(7, 2)))[0].T, []
    for sigma in (1e-1, 1e-2, 1e-3):
        x = plane + sigma * rng.normal(size=plane.shape)
        fit, pca = principal_factors(x, 2), PCA(2).fit(x)
        standard = pca.transform(x) / np.sqrt(pca.explained_variance_ * 399 / 400)
        z = (x - fit.mean) @ fit.projection.T
        errors.append(np.abs(np.abs(z) - np.abs(standard)).max())
        angles = linalg.subspace_angles(fit.loadings, pca.components_.T)
        assert angles.max() < 1e-6
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("fit_with", [principal_factors, common_factors])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array], ids=lambda f: f.__name__)
def test_sparse_is_not_densified_and_gives_the_same(fit_with: Any, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = expression()
    expected = fit_with(x, 3)
    matrix = form(x)
    refused = lambda *_, **__: (_ for _ in ()).throw(AssertionError("densified"))  # noqa: E731
    monkeypatch.setattr(type(matrix), "todense", refused)
    original = type(matrix).toarray
    small = lambda self, *a, **k: original(self, *a, **k) if self.shape[0] == x.shape[1] else refused()  # noqa: E731
    monkeypatch.setattr(type(matrix), "toarray", small)
    found = fit_with(matrix, 3)
    np.testing.assert_allclose(covariance(found), covariance(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("n_cells", [200, 30])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_very_many_genes_are_decomposed_without_their_covariance(
    form: Any, n_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = expression(n_cells=n_cells, n_genes=40)
    expected = principal_factors(x, 3)
    monkeypatch.setattr(_factors, "MOST_GENES", 10)
    found = principal_factors(form(x), 3)
    np.testing.assert_allclose(covariance(found), covariance(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fit_with", [principal_factors, common_factors])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_blocks_of_cells_do_not_matter(fit_with: Any, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = form(expression(n_cells=100))
    expected = fit_with(x, 3)
    monkeypatch.setattr(_factors, "BLOCK_CELLS", 7)
    np.testing.assert_allclose(covariance(fit_with(x, 3)), covariance(expected), rtol=1e-8, atol=1e-10)


@given(seed=st.integers(0, 1000), n_latent=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_scale_order_and_copies_of_cells(seed: int, n_latent: int) -> None:
    x = expression(n_cells=60, n_genes=7, seed=seed)
    fit = principal_factors(x, n_latent)
    doubled = principal_factors(np.concatenate([x, x])[np.random.default_rng(seed).permutation(120)], n_latent)
    np.testing.assert_allclose(covariance(doubled), covariance(fit), rtol=1e-6, atol=1e-9)
    stretched = principal_factors(3 * x + 1, n_latent)
    np.testing.assert_allclose(covariance(stretched), 9 * covariance(fit), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(stretched.log_prob(3 * x + 1), fit.log_prob(x) - 7 * np.log(3), rtol=1e-6)


@pytest.mark.parametrize("fit_with", [principal_factors, common_factors])
def test_constant_genes_and_constant_matrices_have_a_density(fit_with: Any) -> None:
    x = expression()
    x[:, [2, 5]] = [0.0, 3.0]
    fit = fit_with(x, 3)
    assert np.isfinite(fit.log_prob(x)).all()
    np.testing.assert_allclose(fit.loadings[[2, 5]], 0, atol=1e-6)
    flat = fit_with(np.ones((20, 5)), 2)
    assert np.isfinite(flat.log_prob(np.ones((20, 5)))).all()
    assert np.isfinite(flat.projection).all()
    # whose standard deviation single precision holds
    assert (np.sqrt(flat.noise).astype(np.float32) > 0).all()


@pytest.mark.parametrize("fit_with", [principal_factors, common_factors])
@pytest.mark.parametrize(("shape", "n_latent"), [((50, 4), 4), ((5, 10), 4), ((3, 10), 10)])
def test_too_many_factors(fit_with: Any, shape: tuple[int, int], n_latent: int) -> None:
    with pytest.raises(DeltaviError, match=rf"n_latent={n_latent}.*{shape[0]} cells and {shape[1]} genes"):
        fit_with(np.random.default_rng(0).normal(size=shape), n_latent)


def test_a_fit_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_factors, "MOST_ROUNDS", 2)
    with pytest.warns(ConvergenceWarning, match="not converged after 2"):
        common_factors(expression(), 3)
