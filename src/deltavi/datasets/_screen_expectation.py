"""Expectation of log1p CP10k of a negative binomial count, by quadrature on a grid and interpolation."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, stats

from deltavi._cp10k import CP10K, SMALLEST_TOTAL
from deltavi._types import FloatArray

N_SHARES, N_THETAS, N_LIBRARIES, N_RESTS = 56, 9, 7, 3
# Counts up to here are summed one by one, larger ones in bins that widen by this factor.
EXACT_COUNTS, BIN_GROWTH = 48, 1.08
# A count that is larger by far than any mean of the grid.
LARGEST_COUNT = 1e7


class ExpectedLog:
    """Mean over cells of log1p of counts per ten thousand, as a function of share, dispersion and totals.

    A count is negative binomial around ``library * share``, libraries are log-normal, and the counts of all other
    genes, which make up the rest of the total, are taken as log-normal with their own mean and variance.

    Parameters
    ----------
    shares
        Smallest and largest share of a gene.
    thetas
        Smallest and largest inverse dispersion.
    spreads
        Smallest and largest sum over genes of ``share ** 2 / theta``, the squared coefficient of variation of totals.
    library_median, library_sd
        Of the libraries, the latter of their natural logarithm.
    """

    def __init__(
        self,
        shares: tuple[float, float],
        thetas: tuple[float, float],
        spreads: tuple[float, float],
        *,
        library_median: float,
        library_sd: float,
    ) -> None:
        self._log_shares = _grid(*shares, N_SHARES)
        self._log_thetas = _grid(*thetas, N_THETAS)
        self._spreads = spreads
        nodes, weights = np.polynomial.hermite_e.hermegauss(N_LIBRARIES)
        self._libraries = library_median * np.exp(library_sd * nodes)
        self._weights = weights / weights.sum()
        self._tables = [
            ndimage.spline_filter(np.log(self._table(spread)), order=3, mode="nearest") for spread in spreads
        ]

    def __call__(self, shares: FloatArray, thetas: FloatArray, spreads: FloatArray) -> FloatArray:
        """Expectation for shares ``(..., n_genes)``, `thetas` ``(n_genes,)`` and `spreads` of shape ``(...)``."""
        places = np.stack(
            [
                _places(self._log_shares, np.log(shares)),
                np.broadcast_to(_places(self._log_thetas, np.log(thetas)), shares.shape),
            ]
        )
        low, high = (
            np.exp(ndimage.map_coordinates(t, places, order=3, mode="nearest", prefilter=False)) for t in self._tables
        )
        least, most = self._spreads
        part = (spreads - least) / max(most - least, np.finfo(np.float64).tiny)
        return np.asarray(low + part[..., None] * (high - low))

    def _table(self, spread: float) -> FloatArray:
        """Expectation on the grid, ``(n_shares, n_thetas)``."""
        edges, counts = _bins()
        rows = [self._row(share, spread, edges, counts) for share in np.exp(self._log_shares)]
        return np.stack(rows)

    def _row(self, share: float, spread: float, edges: FloatArray, counts: FloatArray) -> FloatArray:
        """Expectation for one share, ``(n_thetas,)``; axes of what is summed: thetas, libraries, rests, counts."""
        theta = np.exp(self._log_thetas)[:, None]
        mean = self._libraries * share
        below = stats.nbinom.cdf(edges, theta[..., None], (theta / (theta + mean))[..., None])
        probability = np.diff(below, axis=-1, prepend=0.0)
        value = np.log1p(
            CP10K * counts / np.maximum(counts + self._rest(share, spread, theta)[..., None], SMALLEST_TOTAL)
        )
        weights = np.polynomial.hermite_e.hermegauss(N_RESTS)[1]
        found = (value * (weights / weights.sum())[:, None]).sum(axis=2)
        return np.asarray(((found * probability).sum(axis=-1) * self._weights).sum(axis=-1))

    def _rest(self, share: float, spread: float, theta: FloatArray) -> FloatArray:
        """Counts of all other genes, ``(n_thetas, n_libraries, n_rests)``."""
        left = max(1.0 - share, 1e-9)
        variance = left / self._libraries + np.maximum(spread - share**2 / theta, 0.0)
        log_variance = np.log1p(variance / left**2)
        nodes = np.polynomial.hermite_e.hermegauss(N_RESTS)[0]
        centre = (np.log(self._libraries * left) - 0.5 * log_variance)[..., None]
        return np.asarray(np.exp(centre + np.sqrt(log_variance)[..., None] * nodes))


def _grid(low: float, high: float, n: int) -> FloatArray:
    """Logarithms that are evenly spaced and reach a little beyond both ends."""
    return np.linspace(np.log(low) - 0.05, np.log(high) + 0.05, n)


def _places(grid: FloatArray, values: FloatArray) -> FloatArray:
    return np.asarray((values - grid[0]) / (grid[1] - grid[0]))


def _bins() -> tuple[FloatArray, FloatArray]:
    """Largest count of every bin, and the count that stands for it."""
    n = int(np.ceil(np.log(LARGEST_COUNT / EXACT_COUNTS) / np.log(BIN_GROWTH)))
    wide = np.unique(np.floor(EXACT_COUNTS * BIN_GROWTH ** np.arange(1, n + 1)))
    edges = np.concatenate([np.arange(EXACT_COUNTS + 1.0), wide])
    return edges, np.concatenate([edges[: EXACT_COUNTS + 1], 0.5 * (edges[EXACT_COUNTS:-1] + 1 + wide)])
