"""Interpolate responses between labels: ordinary kriging over the profiles of their control cells.

Labels whose control cells look alike are taken to respond alike. The covariance of two responses falls with the squared
distance of the profiles; a response measured in few cells is noisy, which shortens its weight; far from all labels the
prediction falls back to their common mean. The width of the covariance is estimated from the training labels: each is
predicted from the others, all at once from one factorisation (Dubrule 1983, Cross validation of kriging in a unique
neighborhood). Source: Cressie (1993), Statistics for Spatial Data, ch. 3; Rasmussen and Williams (2006), Gaussian
Processes, ch. 2 and section 5.4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector

# Widths tried, in units of the mean squared distance between training labels.
WIDTHS = tuple(2.0**power for power in range(-2, 5))
# Least number of labels for a leave-one-out comparison; fewer cannot determine a width.
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
        ``(n_labels, n_values)`` mean of the perturbed cells minus mean of the control cells.
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
        """The same responses, with positions of control cells in no more dimensions than there are labels."""
        return replace(self, points=_coordinates(self.points))


@dataclass(frozen=True, eq=False)
class Covariance:
    """Covariance of measured responses, relative to the variance of true ones, ready to be solved for.

    Attributes
    ----------
    factor
        ``(n_labels, n_labels)`` its Cholesky factor, and where it lies, as :func:`scipy.linalg.cho_factor` gives it.
    scale
        Squared distance at which it has fallen to 1 / e.
    """

    factor: tuple[Vector, bool]
    scale: float

    @classmethod
    def of(cls, between: Vector, noise: Vector, scale: float) -> Covariance:
        """Covariance of labels at squared distances `between` ``(n_labels, n_labels)``, measured with `noise`."""
        return cls(cho_factor(np.exp(-between / scale) + np.diag(noise), lower=True), scale)

    def solve(self, values: Vector) -> Vector:
        """The inverse times `values` ``(n_labels, ...)``."""
        # no gene at all is no right-hand side to LAPACK
        return np.asarray(cho_solve(self.factor, values)) if values.size else np.zeros_like(values)


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Weights of the training labels in the response of a query.

    Attributes
    ----------
    weights
        ``(n_labels,)``, summing to one; a label hidden behind another one may get a small negative weight.
    uncertainty
        Expected squared error of the response relative to how much responses of labels differ: 0 on top of a well
        measured label, about 1 (a little more, as the mean has to be estimated) far away from all.
    residuals
        ``(n_labels, n_values)`` responses less their mean.
    covariance
        Of the measured responses.
    """

    weights: Vector
    uncertainty: float
    residuals: Vector
    covariance: Covariance

    @cached_property
    def spread(self) -> Vector:
        """``(n_values,)`` variance of the response between labels, noise taken off on average."""
        freedom = max(len(self.residuals) - 1, 1)
        return np.asarray(np.einsum("ug,ug->g", self.residuals, self.covariance.solve(self.residuals)) / freedom)


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
        alone = Covariance.of(np.zeros((1, 1)), np.zeros(1), 1.0)
        return Interpolation(np.ones(1), 1.0, np.zeros_like(responses.changes), alone)
    width = best_width(responses) if width is None else width
    between = _squared_distances(responses.points, responses.points)
    covariance = Covariance.of(between, _relative_noise(responses), _scale(responses.points, between, width))
    to_query = np.exp(-_squared_distances(responses.points, query[None])[:, 0] / covariance.scale)
    of_mean, of_residual = covariance.solve(np.column_stack([np.ones(n_labels), to_query])).T
    total = of_mean.sum()
    of_mean = of_mean / total
    missing = 1 - of_residual.sum()
    return Interpolation(
        weights=of_residual + missing * of_mean,
        uncertainty=float(max(1 - to_query @ of_residual + missing**2 / total, 0.0)),
        residuals=responses.changes - of_mean @ responses.changes,
        covariance=covariance,
    )


def best_width(responses: Responses) -> float:
    """The one of `WIDTHS` at which labels predict one another best; each is predicted from the others in turn.

    The noise, and the distance that a width is a multiple of, are those of all labels.
    """
    n_labels = len(responses.points)
    if n_labels < FEWEST_LABELS:
        return DEFAULT_WIDTH
    between, noise = _squared_distances(responses.points, responses.points), _relative_noise(responses)
    # squared sums are all that counts: as many dimensions as labels hold them
    changes = _coordinates(responses.changes)
    scales = [_scale(responses.points, between, width) for width in WIDTHS]
    errors = [float((left_out_errors(Covariance.of(between, noise, scale), changes) ** 2).sum()) for scale in scales]
    return WIDTHS[int(np.argmin(errors))]


def left_out_errors(covariance: Covariance, changes: Vector) -> Vector:
    """Measured change of every label less its prediction from all others, ``(n_labels, n_values)``.

    A label that is left out takes its row and column out of the covariance. What the others then predict follows from
    the inverse of the whole, with the mean projected out.
    """
    inverse = covariance.solve(np.eye(len(changes)))
    of_mean = inverse.sum(0)
    projected = inverse - np.outer(of_mean, of_mean) / of_mean.sum()
    return np.asarray(projected @ changes / np.diag(projected)[:, None])


def _scale(points: Vector, between: Vector, width: float) -> float:
    """Squared distance at which a covariance of this width has fallen to 1 / e."""
    scale = float(width * between[np.triu_indices(len(points), 1)].mean())
    # where all labels coincide none is closer to the query than another
    return 1.0 if scale <= ROUNDING * float((points**2).sum(1).max()) else scale


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
