"""Ordinary kriging of responses: the crossed process of one perturbation, similarity alone, and a flat mean.

Labels whose control cells look alike are taken to respond alike; far from all labels the answer falls back to their
common mean. With a generic part whose variance is without bound nothing is shrunken, and weights sum to one. The width
of the similarity is the one at which the labels predict one another best.
Source: Cressie (1993), Statistics for Spatial Data, ch. 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from deltavi.perturbation.crossed_factor import Factor
from deltavi.perturbation.crossed_kernel import SIMILARITY, ContextKernel, Weights
from deltavi.perturbation.crossed_loo import leave_one_out
from deltavi.perturbation.crossed_process import Process
from deltavi.perturbation.crossed_ratios import Signal

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_table import ResponseTable

# Widths tried, in units of the mean squared distance between labels, and that of labels too few to tell.
WIDTHS = tuple(2.0**power for power in range(-2, 5))
DEFAULT_WIDTH = 2.0
FEWEST_LABELS = 3
# Variance of the mean relative to that of measured responses: as good as without bound, in double precision.
FLAT = 1e6
# Smallest noise relative to the signal, and smallest signal relative to what was observed.
SMALLEST_NOISE, SMALLEST_SIGNAL = 1e-3, 1e-3
# Squared distance, relative to squared norms, below which two labels lie at the same place but for rounding.
ROUNDING = 1e-24


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Weights of labels in the response of a query.

    Attributes
    ----------
    weights
        ``(n_labels,)``, summing to one; a label hidden behind another one may get a small negative weight.
    uncertainty
        Expected squared error of the response relative to how much responses of labels differ: 0 on top of a well
        measured label, about 1 (a little more, as the mean has to be estimated) far away from all.
    """

    weights: Vector
    uncertainty: float


def interpolate(table: ResponseTable, places: Vector, query: Vector, width: float | None = None) -> Interpolation:
    """Krige the response of a query.

    Parameters
    ----------
    table
        Changes of one perturbation, one for each context.
    places
        ``(n_labels, n_dims)`` where the control cells of the contexts lie.
    query
        ``(n_dims,)`` where those of the query lie.
    width
        Of the similarity exp(-d2 / (width * mean d2 between labels)); by default `best_width`.
    """
    if table.n_pairs == 1:
        return Interpolation(np.ones(1), 1.0)
    places = places[table.context_of]
    width = best_width(table, places) if width is None else width
    process, scale = flat_process(table, places, width, is_flat=False)
    ratio = float(process.signal.ratios[0])
    towards = np.exp(-cdist(places, query[None], "sqeuclidean") / scale)
    # the flat mean is estimated beside the rest: a large variance in its place would cost digits
    sides = process.factor.rotated(np.column_stack([np.ones(len(places)), towards]))
    of_mean, of_rest = process.factor.rotated_back(ratio * process.factor.at(ratio).solve(sides)).T
    weights = of_rest + (1 - of_rest.sum()) * of_mean / of_mean.sum()
    measured = process.similarity[np.ix_(table.context_of, table.context_of)] + np.diag(table.noise / ratio)
    # of weights that sum to one the mean has no part in the error
    error = 1 + weights @ measured @ weights - 2 * weights @ towards[:, 0]
    return Interpolation(weights, max(float(error), 0.0))


def best_width(table: ResponseTable, places: Vector) -> float:
    """The one of `WIDTHS` at which labels predict one another best."""
    if table.n_pairs < FEWEST_LABELS:
        return DEFAULT_WIDTH
    errors = []
    for width in WIDTHS:
        process, _ = flat_process(table, places, width)
        errors.append(float(((leave_one_out(process).moments.change - table.changes) ** 2).sum()))
    return WIDTHS[int(np.argmin(errors))]


def flat_process(table: ResponseTable, places: Vector, width: float, *, is_flat: bool = True) -> tuple[Process, float]:
    """Process of one perturbation with a flat mean, or with none, and the scale of its similarity.

    `places` are those of the pairs.
    """
    between = cdist(places, places, "sqeuclidean")
    scale = float(width * between[np.triu_indices(len(places), 1)].mean())
    # where all labels coincide none is closer to the query than another
    scale = 1.0 if scale <= ROUNDING * float((places**2).sum(1).max()) else scale
    ratio = _ratio(table)
    flat = FLAT * (1 + float(table.noise.mean()) / ratio) if is_flat else 0.0
    kernel, weights = ContextKernel(SIMILARITY, scale), Weights(flat, 0.0, 1.0, 0.0, 0.0)
    similarity = np.eye(len(table.contexts))
    similarity[np.ix_(table.context_of, table.context_of)] = np.exp(-between / scale)
    certain = np.zeros((table.n_genes, 1))
    signal = Signal(np.array([ratio]), np.ones(1), certain, certain[:, 0])
    return Process(table, kernel, weights, signal, similarity, Factor.of(table, weights, similarity)), scale


def _ratio(table: ResponseTable) -> float:
    """Variance between true responses, in variances of one cell, of all genes together."""
    one_cell = float(table.variance.sum())
    observed = float(table.changes.var(0, ddof=1).sum()) / one_cell
    noise = float(table.noise.mean())
    # responses that differ by no more than their noise are averaged: all weights go by precision alone
    signal = max(observed - noise, SMALLEST_SIGNAL * observed)
    return min(signal, noise / SMALLEST_NOISE) if signal > 0 else noise / SMALLEST_NOISE
