"""Linear Gaussian models in closed form: probabilistic principal components, and factor analysis."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import eigsh
from sklearn.decomposition import PCA

from deltavi._errors import ConvergenceWarning, DeltaviError, InputDataError, examples
from deltavi._types import Rows, StoredMatrix, is_sparse
from deltavi.registry.checks import row_blocks

# Up to so many genes their covariance is decomposed; beyond, the matrix itself by Lanczos iterations.
MOST_GENES = 5000
# Beyond so many cells the covariance of a sparse matrix costs more than those iterations.
MOST_CELLS = 20_000
# Cells whose products of genes are summed at a time.
BLOCK_CELLS = 4096
# Factor analysis stops when the mean log likelihood rises by less than this many nats, or after so many rounds.
TOLERANCE, MOST_ROUNDS = 1e-4, 300
# Up to so many genes all eigenvalues cost no more than the largest.
FEW_GENES = 200
# Least noise of a gene relative to the average variance of genes: a constant gene would have none.
LEAST_NOISE = 1e-6
# Absolute least noise, for equal cells: the resolution of single precision.
LEAST_VARIANCE = float(np.finfo(np.float32).eps) ** 2


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """x = W z + mean + noise with z ~ N(0, I), turned so that the factors are independent given x.

    Parameters
    ----------
    mean
        ``(n_genes,)``.
    loadings
        ``(n_genes, n_latent)``, strongest factor first; the loading of largest size is positive.
    noise
        Variance of the noise, ``(n_genes,)``.
    """

    mean: np.ndarray
    loadings: np.ndarray
    noise: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Posterior precision of every factor, ``(n_latent,)``: the posterior covariance is diagonal."""
        return np.asarray(1 + (self.loadings**2 / self.noise[:, None]).sum(0))

    @property
    def projection(self) -> np.ndarray:
        """Map from x - mean to the posterior mean of z, ``(n_latent, n_genes)``."""
        return np.asarray((self.loadings / self.noise[:, None]).T / self.precision[:, None])

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Log density of each row of `x` ``(n_cells, n_genes)``, ``(n_cells,)`` nats."""
        residual = np.asarray(x, dtype=np.float64) - self.mean
        explained = (residual @ self.projection.T) ** 2 @ self.precision
        distance = (residual**2 / self.noise).sum(1) - explained
        log_determinant = np.log(self.noise).sum() + np.log(self.precision).sum()
        return np.asarray(-0.5 * (distance + log_determinant + len(self.mean) * np.log(2 * np.pi)))


def principal_factors(x: StoredMatrix, n_latent: int, *, seed: int = 0) -> LinearGaussian:
    """Maximum likelihood of probabilistic principal components (Tipping and Bishop 1999).

    W = U (Lambda - sigma2 I)^(1/2) with the `n_latent` largest eigenvalues of the covariance of `x`, and sigma2 the
    mean of the others. They are those of the covariance itself; if that is too large, of scikit-learn's iterative PCA.

    Parameters
    ----------
    x
        ``(n_cells, n_genes)`` log-normalised expression, dense or sparse; a sparse matrix is never densified. Data
        in a file are read in blocks of cells, or into memory where iterations need it.
    n_latent
        Components.
    seed
        Seed of the Lanczos iterations, which are used where there are very many genes.
    """
    _check_size(x.shape, n_latent)
    n_cells, n_genes = x.shape
    # Lanczos iterations cost a pass over what is not zero for each, the covariance a square of the genes for each cell
    if n_genes <= MOST_GENES and not (sparse.issparse(x) and n_cells > MOST_CELLS):
        mean, covariance = _moments(x)
        total = float(np.trace(covariance))
        variances, vectors = _largest(covariance, n_latent)
    else:
        mean, total, variances, vectors = _by_iteration(_in_memory(x), n_latent, seed)
    noise = (total - float(variances.sum())) / (n_genes - n_latent)
    noise = max(noise, LEAST_NOISE * float(variances.mean()), LEAST_VARIANCE)
    loadings = vectors * np.sqrt(np.maximum(variances - noise, 0.0))
    return _turned(mean, loadings, np.full(n_genes, noise))


def common_factors(x: StoredMatrix, n_latent: int) -> LinearGaussian:
    """Maximum likelihood of factor analysis: noise of its own for every gene.

    Alternates between loadings, W = Psi^(1/2) U (Lambda - I)^(1/2) from the largest eigenvalues of
    Psi^(-1/2) S Psi^(-1/2), and noise, Psi = diag(S - W W') (Joereskog 1967; the algorithm of scikit-learn's
    FactorAnalysis, on the covariance S of the genes so that a sparse matrix stays one).

    Parameters
    ----------
    x, n_latent
        As in :func:`principal_factors`.
    """
    _check_size(x.shape, n_latent)
    mean, covariance = _moments(x)
    variances = np.diag(covariance)
    floor = max(LEAST_NOISE * float(variances.mean()), LEAST_VARIANCE)
    noise, before, loadings = np.maximum(variances, floor), -np.inf, np.zeros((len(mean), n_latent))
    for _ in range(MOST_ROUNDS):
        root = np.sqrt(noise)
        values, vectors = _largest(covariance / np.outer(root, root), n_latent)
        loadings = root[:, None] * vectors * np.sqrt(np.maximum(values - 1, 0.0))
        likelihood = _mean_log_likelihood(variances, noise, values)
        noise = np.maximum(variances - (loadings**2).sum(1), floor)
        if likelihood - before < TOLERANCE:
            break
        before = likelihood
    else:
        message = (
            f"Factor analysis has not converged after {MOST_ROUNDS} rounds on {x.shape[0]} cells of {len(mean)} genes: "
            "fewer factors, more cells or noise='isotropic' settle sooner."
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
    return _turned(mean, loadings, noise)


def _mean_log_likelihood(variances: np.ndarray, noise: np.ndarray, values: np.ndarray) -> float:
    """Mean log density of a cell at the best loadings for `noise`, up to a constant, nats."""
    above = np.maximum(values, 1.0)
    return float(-0.5 * (np.log(noise).sum() + (variances / noise).sum() + (np.log(above) - above + 1).sum()))


def _largest(matrix: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The `n` largest eigenvalues, falling, and their vectors."""
    last = len(matrix) - 1
    if len(matrix) > FEW_GENES and n < len(matrix) // 10 and matrix.any():
        start = np.random.default_rng(0).standard_normal(len(matrix))
        values, vectors = eigsh(matrix, k=n, which="LA", v0=start)
        order = np.argsort(-values)
        return values[order], vectors[:, order]
    values, vectors = linalg.eigh(matrix, subset_by_index=[last - n + 1, last])
    return values[::-1], vectors[:, ::-1]


def _moments(x: StoredMatrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the genes, the latter divided by the number of cells."""
    n_cells, n_genes = x.shape
    sums, squares = np.zeros(n_genes), np.zeros((n_genes, n_genes))
    for _, block in row_blocks(x, size=BLOCK_CELLS):
        values = block.astype(np.float64)
        sums += np.asarray(values.sum(0)).ravel()
        _require_finite(sums)
        products = values.T @ values
        squares += products.toarray() if is_sparse(products) else products
    mean = sums / n_cells
    return mean, squares / n_cells - np.outer(mean, mean)


def _by_iteration(x: Rows, n_latent: int, seed: int) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Mean and total variance of the genes, and the largest eigenvalues and vectors of their covariance."""
    n_cells = x.shape[0]
    with np.errstate(invalid="ignore"):  # infinite values of both signs; shares of no variance, where cells are alike
        _require_finite(np.asarray(x.sum(0)).ravel())
        sparse_or_double = x if sparse.issparse(x) else x.astype(np.float64)
        solver = "arpack" if sparse.issparse(x) else "randomized"
        found = PCA(n_latent, svd_solver=solver, random_state=seed).fit(sparse_or_double)
    # of maximum likelihood, whose covariance is divided by n rather than n - 1
    shrink = (n_cells - 1) / n_cells
    variances = shrink * found.explained_variance_
    # scikit-learn averages over at most as many others as there are cells
    others = shrink * float(found.noise_variance_) * (min(x.shape) - n_latent)
    return found.mean_, float(variances.sum()) + others, variances, found.components_.T


def _in_memory(x: StoredMatrix) -> Rows:
    """The matrix itself, read into memory if it is in a file; sparse stays sparse."""
    if isinstance(x, np.ndarray) or sparse.issparse(x):
        return x
    blocks = [block for _, block in row_blocks(x)]
    return sparse.csr_matrix(sparse.vstack(blocks)) if sparse.issparse(blocks[0]) else np.concatenate(blocks)


def _require_finite(sums: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(sums))
    if len(wrong):
        raise InputDataError(
            f"{len(wrong)} of {len(sums)} genes hold NaN or infinite values (for example those at {examples(wrong)}). "
            "The matrix was changed after it was set up: set it up again, which names the cells."
        )


def _turned(mean: np.ndarray, loadings: np.ndarray, noise: np.ndarray) -> LinearGaussian:
    """The same model with factors that are independent given x, strongest first, and signs that are fixed."""
    _, turn = np.linalg.eigh((loadings / noise[:, None]).T @ loadings)
    loadings = loadings @ turn[:, ::-1]
    signs = np.sign(loadings[np.abs(loadings).argmax(0), np.arange(loadings.shape[1])])
    return LinearGaussian(np.asarray(mean, dtype=np.float64), loadings * np.where(signs == 0, 1, signs), noise)


def _check_size(shape: tuple[int, ...], n_latent: int) -> None:
    n_cells, n_genes = shape
    if min(n_cells - 1, n_genes) < 2:
        raise DeltaviError(
            f"{n_cells} cells of {n_genes} genes are too few: a factor and its noise need at least 3 cells and 2 genes."
        )
    if n_latent >= min(n_cells - 1, n_genes):
        raise DeltaviError(
            f"n_latent={n_latent} leaves no noise to estimate from {n_cells} cells and {n_genes} genes: it must be "
            "smaller than the number of genes, and than the number of cells less one."
        )
