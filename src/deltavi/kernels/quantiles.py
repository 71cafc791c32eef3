"""Counts at quantiles of Poisson, negative binomial and zero-inflated distributions, by recurrence in double.

An entry that is NaN in the answer is left to SciPy: its quantile lies so close to a step of the distribution function
that rounding decides, or the recurrence would be long.

The distributions of a matrix of counts are a tuple of rates ``(n_cells, n_genes)``, inverse dispersions ``(n_rows,
n_genes)``, the row of each cell, and dropout logits as the rates. An infinite dispersion is that of Poisson; where
nothing is lost there are no logits, ``(0, 0)``. A place in a distribution is a quantile u, or -s where quantiles are
counted from above.
"""

from __future__ import annotations

import math

import numpy as np

from deltavi.kernels.compiled import jit, part

Distributions = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Counts = tuple[np.ndarray, np.ndarray, np.ndarray]

# Steps of a recurrence, after which SciPy is asked.
MOST_STEPS = 1500.0
# What places and distribution functions may be off by, relative to themselves: far more than rounding.
PLACE_ERROR, STEP_ERROR = 1e-8, 1e-9
# SciPy inverts the distribution function of Poisson by a search that ends early.
POISSON_ERROR = 1e-6
ROUNDING = 1e-15
# -log of the smallest P(X = 0) that a recurrence begins with, and the smallest share that is kept.
FAR, LEAST_KEPT = 600.0, 1e-6
# Errors of the screen for zeros, in single precision, are smaller.
SAFE = np.float32(1.0 - 1e-5)
NOTHING, SIXTH, HALF, UNIT = np.float32(0.0), np.float32(1.0 / 6.0), np.float32(0.5), np.float32(1.0)
TWO, FOUR, SIX = np.float32(2.0), np.float32(4.0), np.float32(6.0)


@part
def _screened(rate: np.ndarray, theta: np.ndarray, uniform: np.ndarray, kept: np.ndarray) -> None:
    """Mark entries of a cell that may come out positive, by a bound of P(X = 0) without logarithm or exponential.

    log(1 + r) <= r (6 + r) / (6 + 4 r), and exp(-x) >= 1 - x + x^2 / 2 - x^3 / 6, taken of x / 2 and squared.
    """
    for i in range(len(rate)):
        ratio = rate[i] / theta[i]
        half = HALF * (rate[i] * (SIX + ratio) / (SIX + FOUR * ratio))
        root = max(UNIT - half * (UNIT - half * (HALF - SIXTH * half)), NOTHING)
        # not a number counts as positive
        kept[i] = not np.float32(uniform[i]) <= SAFE * (root * root)


@part
def _screened_pairs(
    rate: np.ndarray,
    theta: np.ndarray,
    uniform: np.ndarray,
    observed: np.ndarray,
    own_rate: np.ndarray,
    own_theta: np.ndarray,
    kept: np.ndarray,
) -> None:
    """As `_screened`, where a zero is at most at its own P(X = 0), and what was observed counts as positive.

    log(1 + r) >= 2 r / (2 + r), and exp(x) >= 1 + x + x^2 / 2 + x^3 / 6.
    """
    for i in range(len(rate)):
        ratio, own = rate[i] / theta[i], own_rate[i] / own_theta[i]
        half = HALF * (rate[i] * (SIX + ratio) / (SIX + FOUR * ratio))
        root = max(UNIT - half * (UNIT - half * (HALF - SIXTH * half)), NOTHING)
        least = own_rate[i] * (TWO / (TWO + own))
        growth = UNIT + least * (UNIT + least * (HALF + SIXTH * least))
        kept[i] = (observed[i] != NOTHING) | (not np.float32(uniform[i]) <= SAFE * (root * root) * growth)


@part
def _terms(rate: float, theta: float) -> tuple[float, float, float]:
    """-log P(X = 0), and a and b of P(X = k + 1) = P(X = k) (a + b k) / (k + 1)."""
    if theta == np.inf:
        return rate, rate, 0.0
    growth = rate / (theta + rate)
    return theta * math.log1p(rate / theta), growth * theta, growth


@part
def _first_masses(exponent: float) -> tuple[float, float]:
    """P(X = 0) and P(X > 0), both exact where small."""
    if exponent > 0.5:
        mass = math.exp(-exponent)
        return mass, 1.0 - mass
    above = -math.expm1(-exponent)
    return 1.0 - above, above


@part
def _share(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))


@part
def _errors(rate: float, theta: float) -> tuple[float, float]:
    """Relative errors of SciPy's distribution function from below, and from above for each step, by its parameters."""
    if theta == np.inf:
        return STEP_ERROR, 0.0
    return STEP_ERROR + 4.0 * ROUNDING * theta, 4.0 * ROUNDING * theta / rate


@part
def _place(observed: float, uniform: float, rate: float, theta: float, dropout: float) -> float:
    """Place of an observed count in its distribution; NaN where SciPy has to find it."""
    exponent, a, b = _terms(rate, theta)
    kept = 1.0 - dropout
    if not (exponent < FAR and 0.0 <= observed < MOST_STEPS and observed == math.floor(observed)):
        return np.nan
    mass, first = _first_masses(exponent)
    if observed == 0.0:
        return uniform * (dropout + kept * mass)
    if not kept > LEAST_KEPT:
        return np.nan
    from_below, per_step = _errors(rate, theta)
    below, above, k = mass, first, 0.0
    while k < observed - 1.0:
        mass *= (a + b * k) / (k + 1.0)
        k += 1.0
        below += mass
        above -= mass
    mass *= (a + b * k) / (k + 1.0)
    lower = dropout + kept * below
    if abs(lower - 0.5) < PLACE_ERROR:
        return np.nan
    if lower < 0.5:
        return lower + uniform * (kept * mass) if from_below < PLACE_ERROR else np.nan
    above -= mass
    # of the difference of larger numbers
    error = ROUNDING * (4.0 + exponent + k) * first + (STEP_ERROR + per_step * (k + 2.0)) * above
    return -kept * (above + (1.0 - uniform) * mass) if error < PLACE_ERROR * above else np.nan


@part
def _count_below(u: float, rate: float, theta: float, dropout: float) -> float:
    """Smallest count whose distribution function is at least u; NaN where SciPy has to find it."""
    if u < dropout - PLACE_ERROR:
        return 0.0
    exponent, a, b = _terms(rate, theta)
    kept = 1.0 - dropout
    excess, error = (u - dropout) / kept, (PLACE_ERROR * u + ROUNDING) / kept
    if not exponent < FAR:
        return np.nan
    from_below, _ = _errors(rate, theta)
    if theta == np.inf:
        from_below = POISSON_ERROR
    mass = math.exp(-exponent)
    before, below, k = -np.inf, mass, 0.0
    while below < excess and k < MOST_STEPS:
        mass *= (a + b * k) / (k + 1.0)
        k += 1.0
        before = below
        below += mass
    error += from_below * below
    return k if excess - before > error and below - excess > error else np.nan


@part
def _count_above(s: float, rate: float, theta: float, dropout: float) -> float:
    """Smallest count that is exceeded with a probability of at most s; NaN where SciPy has to find it."""
    exponent, a, b = _terms(rate, theta)
    kept = 1.0 - dropout
    if not (exponent < FAR and kept > LEAST_KEPT):
        return np.nan
    share = s / kept
    _, per_step = _errors(rate, theta)
    mass, first = _first_masses(exponent)
    before, above, k = np.inf, first, 0.0
    while above > share and k < MOST_STEPS:
        mass *= (a + b * k) / (k + 1.0)
        k += 1.0
        before = above
        above -= mass
    relative = PLACE_ERROR + STEP_ERROR + ROUNDING / kept + per_step * (k + 1.0)
    # of the difference of larger numbers
    error = ROUNDING * (4.0 + exponent + k) * first + relative * share
    return k if before - share > error and share - above > error else np.nan


@part
def _count_at(place: float, rate: float, theta: float, dropout: float) -> float:
    """Count at a place; NaN where SciPy has to find it."""
    if not place < np.inf:
        return np.nan
    if math.copysign(1.0, place) < 0.0:
        return float(_count_above(-place, rate, theta, dropout))
    return float(_count_below(place, rate, theta, dropout))


@jit
def screen(uniform: np.ndarray, target: Distributions, counts: Counts) -> None:
    """Write starts and columns of the entries that may come out positive: few of them, and all that do.

    It is no part of :func:`draw`, whose calls of logarithms are slow beside vector instructions.

    Parameters
    ----------
    uniform
        ``(n_cells, n_genes)`` quantiles.
    target
        Distributions.
    counts
        Starts of the rows ``(n_cells + 1,)``, with columns and values of room for one more than all entries.
    """
    rates, thetas, rows, _ = target
    starts, columns, _ = counts
    n, kept = 0, np.empty(uniform.shape[1], np.bool_)
    starts[0] = 0
    for cell in range(len(uniform)):
        _screened(rates[cell], thetas[rows[cell]], uniform[cell], kept)
        for gene in range(len(kept)):
            columns[n] = gene
            n += kept[gene]
        starts[cell + 1] = n


@jit
def screen_pairs(
    observed: np.ndarray, uniform: np.ndarray, source: Distributions, target: Distributions, counts: Counts
) -> None:
    """As :func:`screen`, for :func:`couple`, whose parameters it takes."""
    rates, thetas, rows, logits = target
    own_rates, own_thetas, own_rows, _ = source
    starts, columns, _ = counts
    n, kept, nowhere = 0, np.empty(uniform.shape[1], np.bool_), np.zeros(uniform.shape[1], np.float32)
    starts[0] = 0
    for cell in range(len(uniform)):
        # dropout adds to zeros of the source, and is not looked at here
        own = nowhere if len(logits) else own_rates[cell]
        theta, own_theta = thetas[rows[cell]], own_thetas[own_rows[cell]]
        _screened_pairs(rates[cell], theta, uniform[cell], observed[cell], own, own_theta, kept)
        for gene in range(len(kept)):
            columns[n] = gene
            n += kept[gene]
        starts[cell + 1] = n


@jit
def draw(uniform: np.ndarray, target: Distributions, counts: Counts) -> int:
    """Write the counts at quantiles `uniform` where :func:`screen` found that some may be; those left to SciPy.

    Parameters
    ----------
    uniform
        ``(n_cells, n_genes)``.
    target
        Distributions.
    counts
        As of :func:`screen`; those that are zero are left out.
    """
    rates, thetas, rows, logits = target
    starts, columns, values = counts
    n, n_left, start, lossy = 0, 0, 0, len(logits) > 0
    for cell in range(len(uniform)):
        row, end = rows[cell], starts[cell + 1]
        for place in range(start, end):
            gene = columns[place]
            dropout = _share(np.float64(logits[cell, gene])) if lossy else 0.0
            rate, theta = np.float64(rates[cell, gene]), np.float64(thetas[row, gene])
            found = _count_below(uniform[cell, gene], rate, theta, dropout)
            columns[n], values[n] = gene, found
            n_left += found != found
            n += found != 0.0
        start, starts[cell + 1] = end, n
    return n_left


@jit
def couple(
    observed: np.ndarray,
    uniform: np.ndarray,
    places: np.ndarray,
    source: Distributions,
    target: Distributions,
    counts: Counts,
) -> int:
    """Write the counts that `observed` ones are carried to, as :func:`draw` does.

    Parameters
    ----------
    observed
        ``(n_cells, n_genes)`` counts.
    uniform
        Positions within the quantiles of a count, as `observed`.
    places
        Places of observed counts, which are kept for other targets: NaN before they are found, and infinite where
        they are left to SciPy. ``(0, 0)`` where there is no other target.
    source, target
        Distributions.
    counts
        As of :func:`draw`.
    """
    rates, thetas, rows, logits = target
    own_rates, own_thetas, own_rows, own_logits = source
    starts, columns, values = counts
    n, n_left, start, lossy, several = 0, 0, 0, len(logits) > 0, len(places) > 0
    for cell in range(len(observed)):
        row, own_row, end = rows[cell], own_rows[cell], starts[cell + 1]
        for entry in range(start, end):
            gene = columns[entry]
            place = places[cell, gene] if several else np.nan
            if place != place:
                dropout = _share(np.float64(own_logits[cell, gene])) if lossy else 0.0
                rate, theta = np.float64(own_rates[cell, gene]), np.float64(own_thetas[own_row, gene])
                place = _place(np.float64(observed[cell, gene]), uniform[cell, gene], rate, theta, dropout)
                if several:
                    places[cell, gene] = place if place == place else np.inf
            dropout = _share(np.float64(logits[cell, gene])) if lossy else 0.0
            rate, theta = np.float64(rates[cell, gene]), np.float64(thetas[row, gene])
            found = _count_at(place, rate, theta, dropout)
            columns[n], values[n] = gene, found
            n_left += found != found
            n += found != 0.0
        start, starts[cell + 1] = end, n
    return n_left


_DISTRIBUTIONS = "Tuple((float32[:, ::1], float32[:, ::1], int64[::1], float32[:, ::1]))"
_COUNTS = "Tuple((int32[::1], int32[::1], float64[::1]))"
SIGNATURES = {
    screen: [f"void(float64[:, ::1], {_DISTRIBUTIONS}, {_COUNTS})"],
    screen_pairs: [f"void(float32[:, ::1], float64[:, ::1], {_DISTRIBUTIONS}, {_DISTRIBUTIONS}, {_COUNTS})"],
    draw: [f"int64(float64[:, ::1], {_DISTRIBUTIONS}, {_COUNTS})"],
    couple: [
        f"int64(float32[:, ::1], float64[:, ::1], float64[:, ::1], {_DISTRIBUTIONS}, {_DISTRIBUTIONS}, {_COUNTS})"
    ],
}
