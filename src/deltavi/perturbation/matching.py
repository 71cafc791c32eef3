"""Offset of the log rates of genes at which predicted cells have a given mean expression."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector

# Passes over the cells; each takes most of what is left of the gap.
STEPS = 3
# Largest change of a log rate: a gene that needs more than a factor of twenty is one the cells hardly express.
LARGEST_OFFSET = 3.0
# Mean expression below which the slope of a gene is taken for that of so much.
SMALLEST_MEAN = 0.01


def match_means(mean_at: Callable[[Vector], Vector], wanted: Vector, *, start: Vector | None = None) -> Vector:
    """Offsets of log rates ``(n_genes,)`` at which mean expression is close to `wanted`, by the secant method.

    Parameters
    ----------
    mean_at
        Mean log1p CP10k ``(n_genes,)`` of cells whose log rates are offset by so much; does not fall with the offset.
    wanted
        ``(n_genes,)``, not negative.
    start
        ``(n_genes,)`` offsets that come close already, where there are any.
    """
    offsets = np.zeros_like(wanted) if start is None else start
    reached = mean_at(offsets)
    best, gap = offsets, np.abs(wanted - reached)
    # where expression is rare its mean is proportional to the rate
    slope = np.maximum(reached, SMALLEST_MEAN)
    for _ in range(STEPS):
        tried = np.clip(offsets + np.clip((wanted - reached) / slope, -1, 1), -LARGEST_OFFSET, LARGEST_OFFSET)
        found = mean_at(tried)
        step, risen = tried - offsets, found - reached
        slope = np.where((step != 0) & (risen * step > 0), risen / np.where(step == 0, 1, step), slope)
        slope = np.maximum(slope, SMALLEST_MEAN / 10)
        offsets, reached = tried, found
        closer = np.abs(wanted - reached) < gap
        best, gap = np.where(closer, offsets, best), np.where(closer, np.abs(wanted - reached), gap)
    return np.asarray(best)
