"""Interpolate responses between labels: ordinary kriging over the profiles of their control cells.

Labels whose control cells look alike are taken to respond alike. The covariance of two responses falls with the squared
distance of the profiles; a response measured in few cells is noisy, which shortens its weight; far from all labels the
prediction falls back to their common mean. How wide the covariance is, the training labels say themselves. Source:
Cressie (1993), Statistics for Spatial Data, ch. 3; Rasmussen and Williams (2006), Gaussian Processes, ch. 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    from deltavi.metrics._matrix import Vector

# Widths tried, in units of the mean squared distance between training labels.
WIDTHS = tuple(2.0**power for power in range(-2, 5))
# What they are compared with one another on; fewer labels say nothing of a width.
FEWEST_LABELS = 3
DEFAULT_WIDTH = 2.0
# Smallest noise relative to the signal: no covariance is so right that weights far beyond one would be of use.
SMALLEST_NOISE = 1e-3
# Squared distance, relative to squared norms, below which two labels lie at the same place but for rounding.
ROUNDING = 1e-24


@dataclass(frozen=True, eq=False)
class Responses:
    """Measured responses of the training labels.

    Attributes
    ----------
    points
        ``(n_labels, n_dims)`` where the control cells of each label lie.
    changes
        ``(n_labels, n_values)`` mean of the target cells minus mean of the control cells.
    errors
        ``(n_labels, n_values)`` squared standard errors of the changes.
    """

    points: Vector
    changes: Vector
    errors: Vector

    def without(self, label: int) -> Responses:
        """All labels but one."""
        kept = np.arange(len(self.points)) != label
        return Responses(self.points[kept], self.changes[kept], self.errors[kept])

    @property
    def in_few_dimensions(self) -> Responses:
        """The same responses, where control cells lie told by no more numbers than there are labels."""
        return replace(self, points=_coordinates(self.points))


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Weights of the training labels in the response of a query.

    Attributes
    ----------
    weights
        ``(n_labels,)``, summing to one; a label hidden behind another one may get a small negative weight.
    doubt
        Expected squared error of the response relative to how much responses of labels differ: 0 on top of a well
        measured label, about 1 (a little more, as the mean has to be estimated) far away from all.
    residuals
        ``(n_labels, n_values)`` responses less their mean.
    inverse
        ``(n_labels, n_labels)`` inverse of the covariance of the measured responses.
    """

    weights: Vector
    doubt: float
    residuals: Vector
    inverse: Vector

    @cached_property
    def spread(self) -> Vector:
        """``(n_values,)`` variance of the response between labels, noise taken off on average."""
        freedom = max(len(self.residuals) - 1, 1)
        return np.asarray(np.einsum("ug,ug->g", self.residuals, self.inverse @ self.residuals) / freedom)


def interpolate(responses: Responses, query: Vector, width: float | None = None) -> Interpolation:
    """Ordinary kriging of the response at `query` ``(n_dims,)``.

    Parameters
    ----------
    responses
        What was measured; at least one label.
    query
        Where the control cells of the query lie.
    width
        Of the covariance exp(-d2 / (width * mean d2 between labels)); by default `best_width`.
    """
    n_labels = len(responses.points)
    if n_labels == 1:
        return Interpolation(np.ones(1), 1.0, np.zeros_like(responses.changes), np.ones((1, 1)))
    width = best_width(responses) if width is None else width
    between = _squared_distances(responses.points, responses.points)
    scale = width * between[np.triu_indices(n_labels, 1)].mean()
    if scale <= ROUNDING * (responses.points**2).sum(1).max():
        # all labels coincide: none is closer to the query than another
        scale = 1.0
    to_query = np.exp(-_squared_distances(responses.points, query[None])[:, 0] / scale)
    inverse = np.linalg.inv(np.exp(-between / scale) + np.diag(_relative_noise(responses)))
    total = inverse.sum()
    of_mean = inverse.sum(0) / total
    of_residual = inverse @ to_query
    missing = 1 - of_residual.sum()
    return Interpolation(
        weights=of_residual + missing * of_mean,
        doubt=float(max(1 - to_query @ of_residual + missing**2 / total, 0.0)),
        residuals=responses.changes - of_mean @ responses.changes,
        inverse=inverse,
    )


def best_width(responses: Responses) -> float:
    """The one of `WIDTHS` at which labels predict one another best; each is predicted from the others in turn."""
    n_labels = len(responses.points)
    if n_labels < FEWEST_LABELS:
        return DEFAULT_WIDTH
    # distances, squared sums and total noise are all that counts: as many dimensions as labels hold them
    few = Responses(
        _coordinates(responses.points), _coordinates(responses.changes), responses.errors.sum(1, keepdims=True)
    )
    errors = [sum(_squared_error(few, label, width) for label in range(n_labels)) for width in WIDTHS]
    return WIDTHS[int(np.argmin(errors))]


def _squared_error(responses: Responses, label: int, width: float) -> float:
    others = responses.without(label)
    weights = interpolate(others, responses.points[label], width).weights
    return float(((weights @ others.changes - responses.changes[label]) ** 2).sum())


def _relative_noise(responses: Responses) -> Vector:
    """Squared error of each measured response relative to the variance between true ones, ``(n_labels,)``."""
    deviations = responses.changes - responses.changes.mean(0)
    observed = (deviations**2).sum() / (len(deviations) - 1)
    noise = responses.errors.sum(1)
    signal = observed - noise.mean()
    # responses that differ by no more than their noise are averaged: all weights go by precision alone
    signal = max(signal, 1e-3 * observed)
    if signal == 0:
        return np.full(len(deviations), SMALLEST_NOISE)
    return np.asarray(np.maximum(noise / signal, SMALLEST_NOISE))


def _coordinates(rows: Vector) -> Vector:
    """`rows` in an orthonormal basis of the space they span: the same inner products in fewer dimensions."""
    return np.asarray(np.linalg.qr(rows.T, mode="r")).T


def _squared_distances(a: Vector, b: Vector) -> Vector:
    return np.asarray(cdist(a, b, "sqeuclidean"))
