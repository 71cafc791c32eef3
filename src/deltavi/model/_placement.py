"""Where the components of a mixture begin: on labelled cells, and on clusters of the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from deltavi.annotation import merged_components

# Free components that a mixture starts with, for each that is asked for.
SURPLUS = 1.7
# Starts of the mixture, and rounds of expectation and maximisation after each.
STARTS, ROUNDS = 5, 30
# Cells that decide where components lie; beyond them some of every label.
MOST_CELLS, CELLS_OF_A_LABEL = 20_000, 50
# Positions that agree to so many decimals are one.
DECIMALS = 6
# Added to the common covariance, relative to its average variance.
RIDGE = 1e-3
# Least variance of a component, relative to the average within components.
LEAST_VARIANCE = 0.1


@dataclass(frozen=True, eq=False)
class Positions:
    """Latent positions of cells, and what is known of them.

    Parameters
    ----------
    z
        ``(n_cells, n_latent)`` posterior means.
    spread
        Variances of the posterior, of the same shape: components have to hold them as well.
    codes
        ``(n_cells,)`` labels, -1 where unknown.
    groups
        ``(n_cells, n_groups)`` one-hot rows of what moves all components alike, such as a condition; one column where
        there is nothing.
    """

    z: np.ndarray
    spread: np.ndarray
    codes: np.ndarray
    groups: np.ndarray

    def chosen(self, cells: np.ndarray) -> Positions:
        """Some of the cells."""
        return Positions(self.z[cells], self.spread[cells], self.codes[cells], self.groups[cells])

    def moved(self, offsets: np.ndarray) -> Positions:
        """Without what `offsets` ``(n_groups, n_latent)`` add."""
        return replace(self, z=self.z - self.groups @ offsets)

    def offsets_from(self, expected: np.ndarray) -> np.ndarray:
        """How far each group lies from where its cells are expected, on average over cells zero."""
        residual = self.z - expected
        offsets = self.groups.T @ residual / np.maximum(self.groups.sum(0), 1)[:, None]
        return np.asarray(offsets - (self.groups @ offsets).mean(0))


@dataclass(frozen=True, eq=False)
class Placement:
    """Where components begin.

    Parameters
    ----------
    means, variances
        ``(n_components, n_latent)``; components without cells lie in the middle.
    has_cells
        ``(n_components,)`` bool.
    offsets
        ``(n_groups, n_latent)`` what moves all components in each group of cells, such as a condition.
    """

    means: np.ndarray
    variances: np.ndarray
    has_cells: np.ndarray
    offsets: np.ndarray


def placed(cells: Positions, *, n_labels: int, n_components: int, seed: int) -> Placement:
    """Place components on latent positions.

    A mixture of more components than asked for, with one covariance for all, is fitted, starting at the mean of each
    label and at the centres of k-means that are farthest from those; labelled cells stay with their component. One
    covariance keeps a large population from being cut along what varies within every population. Components that can
    hardly be told apart are then merged, until there are as many as asked for. Groups of cells, such as conditions,
    may lie apart by an offset that all components share.

    Parameters
    ----------
    cells
        Where they lie.
    n_labels, n_components
        Named, and all components.
    seed
        Seed of k-means, and of the cells that decide where there are very many.
    """
    rng = np.random.default_rng(seed)
    cells = cells.chosen(_some_cells(cells.codes, rng))
    n_start = n_labels + math.ceil(SURPLUS * (n_components - n_labels))
    # whatever is likeliest of several starts is taken
    fits = [_tied_mixture(cells, n_labels, n_start, rng, whiten=bool(i % 2)) for i in range(STARTS)]
    shares, offsets, _ = max(fits, key=lambda fit: fit[2])
    merged = merged_components(shares, min(n_components, shares.shape[1]), n_apart=n_labels)
    return _moments(cells.moved(offsets), shares @ np.eye(n_components)[merged], offsets)


def _some_cells(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions of all cells, or of very many: some at random and some of every label."""
    order = rng.permutation(len(codes))
    if len(codes) <= MOST_CELLS:
        return order
    of_labels = [order[codes[order] == code][:CELLS_OF_A_LABEL] for code in np.unique(codes[codes >= 0])]
    return np.unique(np.concatenate([order[:MOST_CELLS], *of_labels]))


def _start(
    z: np.ndarray, codes: np.ndarray, n_labels: int, n_components: int, rng: np.random.Generator, *, whiten: bool
) -> np.ndarray:
    """Means to start from, at most `n_components`; whitened, k-means does not cut long populations across."""
    named = np.stack([_mean_of(z[codes == k]) for k in range(n_labels)]) if n_labels else z[:0]
    if n_components == n_labels:
        return named
    seed = int(rng.integers(2**31))
    # cells that lie on one another are one cluster, however many are asked for
    n_distinct = len(np.unique(z.round(DECIMALS), axis=0))
    distances = PCA(whiten=True).fit_transform(z) if whiten and n_distinct > 1 else z
    nearest = KMeans(min(n_components, n_distinct), n_init=1, random_state=seed).fit_predict(distances)
    centres = np.stack([z[nearest == k].mean(0) for k in np.unique(nearest)])
    if n_labels:
        distance = ((centres[:, None] - named) ** 2).sum(-1).min(1)
        centres = centres[np.argsort(-distance)]
    return np.concatenate([named, centres[: n_components - n_labels]])


def _mean_of(z: np.ndarray) -> np.ndarray:
    """Mean of the cells of a label; infinitely far from every cell where training cells lack that label."""
    return z.mean(0) if len(z) else np.full(z.shape[1], np.inf)


def _tied_mixture(
    cells: Positions, n_labels: int, n_components: int, rng: np.random.Generator, *, whiten: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Shares ``(n_cells, n_components)``, offsets of groups, log likelihood, by expectation and maximisation."""
    offsets = cells.offsets_from(cells.z.mean(0))
    z = cells.moved(offsets).z
    means = _start(z, cells.codes, n_labels, n_components, rng, whiten=whiten)
    eye, known = np.eye(len(means)), cells.codes >= 0
    shares = eye[((z[:, None] - means) ** 2).sum(-1).argmin(1)]
    likelihood = -np.inf
    for _ in range(ROUNDS):
        shares[known] = eye[cells.codes[known]]
        sizes = np.maximum(shares.sum(0), 1e-9)
        means = shares.T @ z / sizes[:, None]
        # cells of a group differ from what their components say by the offset, whatever types it holds
        offsets = cells.offsets_from(shares @ means)
        z = cells.moved(offsets).z
        shares, likelihood = _expectation(z, means, sizes, shares)
    shares[known] = eye[cells.codes[known]]
    return shares, offsets, likelihood


def _expectation(z: np.ndarray, means: np.ndarray, sizes: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, float]:
    """Shares of components with one covariance, that of `z` around `means` weighed by `shares`; log likelihood."""
    # as for means that may not be those of these positions: an offset has just moved them
    crossed = z.T @ (shares @ means)
    covariance = (z.T @ z - crossed - crossed.T + (means * sizes[:, None]).T @ means) / len(z)
    covariance += (RIDGE * np.trace(covariance) / len(covariance) + 1e-9) * np.eye(len(covariance))
    root = np.linalg.cholesky(covariance)
    white, centres = (solve_triangular(root, values.T, lower=True).T for values in (z, means))
    distance = (white**2).sum(1)[:, None] - 2 * white @ centres.T + (centres**2).sum(1)
    log_joint = np.log(sizes / sizes.sum()) - 0.5 * distance
    total = logsumexp(log_joint, axis=1, keepdims=True)
    return np.exp(log_joint - total), float(total.sum() - len(z) * np.log(np.diag(root)).sum())


def _moments(cells: Positions, shares: np.ndarray, offsets: np.ndarray) -> Placement:
    """Mean and variance of every component, that of its cells' posteriors; one without cells lies in the middle."""
    sizes = shares.sum(0)
    weights = np.where(sizes > 0, shares / np.maximum(sizes, 1e-9), 1 / len(cells.z))
    means = weights.T @ cells.z
    between = np.stack([weight @ (cells.z - mean) ** 2 for weight, mean in zip(weights.T, means, strict=True)])
    variances = between + weights.T @ cells.spread
    within = (sizes / sizes.sum()) @ variances
    return Placement(means, np.maximum(variances, LEAST_VARIANCE * within), sizes > 0, offsets)
