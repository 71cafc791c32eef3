"""Where the components of a mixture begin: on labelled cells, and on clusters of the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from deltavi.annotation import merged_components

# Share of the epochs before components are placed: the plain VAE first finds where the cells lie.
WARMUP = 0.3
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


class AtEpoch(Callback):
    """Calls a function when an epoch begins.

    Parameters
    ----------
    epoch
        The epoch, from 0.
    what
        The function.
    """

    def __init__(self, epoch: int, what: Any) -> None:
        self.epoch, self.what = epoch, what

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Call it, if it is the epoch."""
        if trainer.current_epoch == self.epoch:
            self.what()


@dataclass(frozen=True, eq=False)
class Placement:
    """Where components begin.

    Parameters
    ----------
    means, variances
        ``(n_components, n_latent)``; components without cells lie in the middle.
    has_cells
        ``(n_components,)`` bool.
    """

    means: np.ndarray
    variances: np.ndarray
    has_cells: np.ndarray


def placed(z: np.ndarray, codes: np.ndarray, *, n_labels: int, n_components: int, seed: int) -> Placement:
    """Place components on latent positions.

    A mixture of more components than asked for, with one covariance for all, is fitted, starting at the mean of each
    label and at the centres of k-means that are farthest from those; labelled cells stay with their component. One
    covariance keeps a large population from being cut along what varies within every population. Components that can
    hardly be told apart are then merged, until there are as many as asked for.

    Parameters
    ----------
    z
        ``(n_cells, n_latent)`` positions.
    codes
        ``(n_cells,)`` labels, -1 where unknown.
    n_labels, n_components
        Named, and all components.
    seed
        Seed of k-means, and of the cells that decide where there are very many.
    """
    rng = np.random.default_rng(seed)
    chosen = _some_cells(codes, rng)
    z, codes = z[chosen].astype(np.float64), codes[chosen]
    n_start = n_labels + math.ceil(SURPLUS * (n_components - n_labels))
    # whatever is likeliest of several starts is taken
    starts = [_start(z, codes, n_labels, n_start, rng, whiten=bool(i % 2)) for i in range(STARTS)]
    found = [_tied_mixture(z, codes, start) for start in starts]
    shares = max(found, key=lambda one: one[1])[0]
    groups = merged_components(shares, min(n_components, shares.shape[1]), n_apart=n_labels)
    return _moments(z, shares @ np.eye(n_components)[groups])


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
    named = np.stack([z[codes == k].mean(0) for k in range(n_labels)]) if n_labels else z[:0]
    if n_components == n_labels:
        return named
    seed = int(rng.integers(2**31))
    distances = PCA(whiten=True).fit_transform(z) if whiten else z
    # cells that lie on one another are one cluster, however many are asked for
    n_distinct = len(np.unique(z.round(DECIMALS), axis=0))
    nearest = KMeans(min(n_components, n_distinct), n_init=1, random_state=seed).fit_predict(distances)
    centres = np.stack([z[nearest == k].mean(0) for k in np.unique(nearest)])
    if n_labels:
        distance = ((centres[:, None] - named) ** 2).sum(-1).min(1)
        centres = centres[np.argsort(-distance)]
    return np.concatenate([named, centres[: n_components - n_labels]])


def _tied_mixture(z: np.ndarray, codes: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, float]:
    """Shares of components ``(n_cells, n_components)`` and the log likelihood, by expectation and maximisation."""
    eye, known = np.eye(len(means)), codes >= 0
    shares = eye[((z[:, None] - means) ** 2).sum(-1).argmin(1)]
    likelihood = -np.inf
    for _ in range(ROUNDS):
        shares[known] = eye[codes[known]]
        sizes = np.maximum(shares.sum(0), 1e-9)
        means = shares.T @ z / sizes[:, None]
        covariance = (z.T @ z - (means * sizes[:, None]).T @ means) / len(z)
        covariance += (RIDGE * np.trace(covariance) / len(covariance) + 1e-9) * np.eye(len(covariance))
        root = np.linalg.cholesky(covariance)
        white, centres = (solve_triangular(root, values.T, lower=True).T for values in (z, means))
        distance = (white**2).sum(1)[:, None] - 2 * white @ centres.T + (centres**2).sum(1)
        log_joint = np.log(sizes / sizes.sum()) - 0.5 * distance
        total = logsumexp(log_joint, axis=1, keepdims=True)
        shares = np.exp(log_joint - total)
        likelihood = float(total.sum() - len(z) * np.log(np.diag(root)).sum())
    shares[known] = eye[codes[known]]
    return shares, likelihood


def _moments(z: np.ndarray, shares: np.ndarray) -> Placement:
    sizes = shares.sum(0)
    weights = np.where(sizes > 0, shares / np.maximum(sizes, 1e-9), 1 / len(z))
    means = weights.T @ z
    variances = np.stack([weight @ (z - mean) ** 2 for weight, mean in zip(weights.T, means, strict=True)])
    within = (sizes / sizes.sum()) @ variances
    return Placement(means, np.maximum(variances, LEAST_VARIANCE * within), has_cells=sizes > 0)
