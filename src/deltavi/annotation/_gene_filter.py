"""Genes that a classifier reads: without the extremes of mean expression and of its variation."""

from __future__ import annotations

import numpy as np

PERCENTILES = (1.0, 99.0)
# Every gene that is expressed in one cell only has the same coefficient of variation, but for rounding.
TIES = 1e-6


def informative_genes(
    mean: np.ndarray, sd: np.ndarray, *, percentiles: tuple[float, float] = PERCENTILES
) -> np.ndarray:
    """Genes within two percentiles of mean expression and then of its coefficient of variation.

    The filter of ACTINN (Ma and Pellegrini 2020), both ends included, except that genes without any expression are
    left out first: they have no coefficient of variation, and their number does not affect the choice of the others.

    Parameters
    ----------
    mean, sd
        ``(n_genes,)`` of log expression over cells; the standard deviation divides by the number of cells.
    percentiles
        Lower and upper percentile of both steps.

    Returns
    -------
    Boolean mask ``(n_genes,)``; all False where the percentiles of a few genes leave none.
    """
    expressed = np.flatnonzero(mean > 0)
    kept = expressed[_within(mean[expressed], percentiles)]
    kept = kept[_within(sd[kept] / mean[kept], percentiles)]
    mask = np.zeros(len(mean), dtype=bool)
    mask[kept] = True
    return mask


def _within(values: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    if len(values) == 0:
        return np.zeros(0, dtype=bool)
    lower, upper = np.percentile(values, percentiles)
    within: np.ndarray = (values >= lower * (1 - TIES)) & (values <= upper * (1 + TIES))
    return within
