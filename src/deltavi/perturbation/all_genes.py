"""Counts of single cells moved to another mean: thinned where it falls, added to where it rises.

A count is taken for a Poisson draw at the cell's own rate, which is gamma distributed around that of its group. Counts
that are kept with probability f are those of a rate f times as high, and counts added at (f - 1) times the rate that is
expected of the cell after its count was seen are those of a rate f times as high, too: the marginal distribution stays
negative binomial with the same dispersion, and a cell that had more than others has more afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse, stats

from deltavi._cp10k import cp10k_factors
from deltavi.arrays.matrix import gene_means
from deltavi.perturbation.matching import match_means
from deltavi.perturbation.noise import Generators, cell_generators, uniforms

if TYPE_CHECKING:
    from deltavi._types import BoolArray, FloatArray, IntArray
    from deltavi.arrays.matrix import Vector

# Entries of a block of genes: a few arrays of so many numbers are in memory at a time.
ENTRIES = 1_000_000
# Depths that stand for those of all cells where a mean is expected of them.
DEPTHS = 16
# Means above which the log of a count is about normal, and standard deviations beyond which no count is expected.
LARGE_MEAN, FAR = 300.0, 12.0
# Counts up to here are added up term by term, which is faster than the incomplete beta function.
MOST_TERMS = 60
# Quantiles of one lie at infinity.
LARGEST_QUANTILE = 1 - 1e-12
# Counts per ten thousand below which a gene counts as silent, and largest factor of a first guess.
SMALLEST_RATE, LARGEST_FACTOR = 1e-9, 20.0
LARGEST_DISPERSION = 1.0
# Probability of a count that may be left out.
NO_MASS = 1e-9
# Genes whose mean is farther from the wanted one are matched once more.
CLOSE = 0.02


@dataclass(frozen=True, eq=False)
class GroupCounts:
    """Counts of the control cells of one group.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)`` raw counts.
    totals
        ``(n_cells,)`` total counts of each cell over all genes.
    names
        ``(n_cells,)`` names, which noise is seeded by.
    """

    counts: sparse.csr_matrix
    totals: Vector
    names: tuple[str, ...]

    @property
    def factors(self) -> FloatArray:
        """``(n_cells,)`` factors to counts per ten thousand."""
        return cp10k_factors(self.totals)

    @property
    def means(self) -> Vector:
        """``(n_genes,)`` mean log1p CP10k."""
        scaled = sparse.csr_matrix(sparse.diags(self.factors) @ self.counts.astype(np.float64))
        return gene_means(scaled.log1p())

    @property
    def rates(self) -> Vector:
        """``(n_genes,)`` counts per ten thousand of all cells together."""
        depths = 1 / self.factors
        return np.asarray(gene_means(self.counts) * len(depths) / depths.sum())

    @property
    def dispersion(self) -> float:
        """Squared coefficient of variation of the rates of cells around that of their group, one for all genes.

        Pooled over genes, so that those of many counts decide. A gene that is hardly expressed says nothing of how
        much cells would differ if it were, and dispersions of single genes make too many zeros of those that rise.
        """
        counts, depths, rates = self.counts.astype(np.float64), 1 / self.factors, self.rates
        crossed = float(depths @ (counts @ rates))
        expected = float(np.square(depths).sum() * np.square(rates).sum())
        excess = float(counts.power(2).sum()) - 2 * crossed + expected - float(depths.sum() * rates.sum())
        return float(np.clip(excess / expected, 0.0, LARGEST_DISPERSION)) if expected > 0 else 0.0


def moved(group: GroupCounts, change: Vector, *, seed: int) -> tuple[sparse.csr_matrix, Vector]:
    """Counts of the cells after the mean log1p CP10k of each gene has changed by so much.

    Parameters
    ----------
    group
        The control cells.
    change
        ``(n_genes,)`` change of the mean over these cells, log1p CP10k.
    seed
        Seed of the noise; that of each cell depends on it and on its name.

    Returns
    -------
    Counts ``(n_cells, n_genes)``, and the rates ``(n_genes,)`` behind them, counts per ten thousand.
    """
    generators, dispersion = cell_generators([f"{name} all genes" for name in group.names], seed=seed), group.dispersion
    wanted = np.maximum(group.means + change, 0.0)
    parts, rates = [], []
    for genes in _blocks(group):
        uniform = uniforms(generators, genes.stop - genes.start)
        found, rate = _Block.of(group, genes, dispersion).moved(wanted[genes], uniform)
        parts.append(_rows(found))
        rates.append(rate)
    return _joined(group, parts), np.concatenate([np.zeros(0), *rates])


def drawn(group: GroupCounts, change: Vector, *, generators: Generators) -> tuple[sparse.csr_matrix, Vector]:
    """As :func:`moved`, but drawn anew from the distribution whose expected mean has changed by so much."""
    wanted, dispersion = np.maximum(group.means + change, 0.0), group.dispersion
    parts, rates = [], []
    for genes in _blocks(group):
        block = _Block.of(group, genes, dispersion)
        rate = block.matched(wanted[genes], _Block.expected_log)
        found = block.drawn_at(rate, uniforms(generators, genes.stop - genes.start))
        parts.append(_rows(found))
        rates.append(rate)
    return _joined(group, parts), np.concatenate([np.zeros(0), *rates])


def _rows(found: sparse.coo_matrix) -> sparse.csr_matrix:
    rows = sparse.csr_matrix(found.astype(np.float32))
    rows.eliminate_zeros()
    return rows


def _blocks(group: GroupCounts) -> Iterator[slice]:
    n_cells, n_genes = group.counts.shape
    size = max(1, ENTRIES // max(n_cells, 1))
    for start in range(0, n_genes, size):
        yield slice(start, min(start + size, n_genes))


def _joined(group: GroupCounts, parts: list[sparse.csr_matrix]) -> sparse.csr_matrix:
    if not parts:
        return sparse.csr_matrix(group.counts.shape, dtype=np.float32)
    return sparse.csr_matrix(sparse.hstack(parts, format="csr"))


@dataclass(frozen=True, eq=False)
class _Block:
    """Some genes of a group.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)`` raw counts.
    factors
        ``(n_cells,)`` factors to counts per ten thousand.
    rates
        ``(n_genes,)`` counts per ten thousand of all cells together.
    dispersion
        Squared coefficient of variation of rates.
    """

    counts: sparse.coo_matrix
    factors: FloatArray
    rates: Vector
    dispersion: float

    @classmethod
    def of(cls, group: GroupCounts, genes: slice, dispersion: float) -> _Block:
        counts = sparse.coo_matrix(group.counts[:, genes].astype(np.float64))
        return cls(counts, group.factors, group.rates[genes], dispersion)

    def only(self, genes: IntArray) -> _Block:
        """Some of the genes."""
        counts = sparse.coo_matrix(self.counts.tocsc()[:, genes])
        return _Block(counts, self.factors, self.rates[genes], self.dispersion)

    @cached_property
    def is_zero(self) -> BoolArray:
        """``(n_cells, n_genes)`` entries without a count."""
        return np.asarray(self.counts.toarray() == 0)

    def moved(self, wanted: Vector, uniform: FloatArray) -> tuple[sparse.coo_matrix, Vector]:
        """Counts whose mean log1p CP10k is close to `wanted`, and the rates behind them."""

        def mean_at(block: _Block, rates: Vector, genes: slice | IntArray = slice(None)) -> Vector:
            return block.mean_log(block.moved_to(rates, uniform[:, genes]))

        rates = self.matched(wanted, mean_at)
        return self.moved_to(rates, uniform), rates

    def matched(self, wanted: Vector, mean_at: Callable[..., Vector]) -> Vector:
        """Rates at which `mean_at`, of a block, rates and which of its genes these are, is close to `wanted`."""
        start = self._first_guess(wanted)
        rates = start * np.exp(match_means(lambda offset: mean_at(self, start * np.exp(offset)), wanted))
        far = np.flatnonzero(np.abs(mean_at(self, rates) - wanted) > CLOSE)
        if len(far):
            some, base = self.only(far), rates[far]
            offsets = match_means(lambda offset: mean_at(some, base * np.exp(offset), far), wanted[far])
            rates[far] = base * np.exp(offsets)
        return np.asarray(rates)

    def expected_log(self, rates: Vector, genes: slice | IntArray = slice(None)) -> Vector:
        """Mean log1p CP10k that is expected of cells drawn at these rates, cells of similar depth taken together."""
        if not len(rates):
            return np.zeros(0)
        bins = np.array_split(np.sort(1 / self.factors), min(DEPTHS, len(self.factors)))
        depths, weights = np.array([part.mean() for part in bins]), np.array([len(part) for part in bins])
        means = depths[:, None] * rates
        found = expected_log1p(means.ravel(), np.repeat(1 / depths, len(rates)), self.dispersion)
        return np.asarray(weights @ found.reshape(means.shape) / weights.sum())

    def moved_to(self, rates: Vector, uniform: FloatArray) -> sparse.coo_matrix:
        """Counts at other `rates`; each is the same function of `uniform`, and does not fall with the rate."""
        gain, found = np.maximum(rates - self.rates, 0.0), self.counts
        cells, genes, values = found.row, found.col, found.data.copy()
        falls = np.flatnonzero(rates[genes] < self.rates[genes])
        kept = rates[genes[falls]] / self.rates[genes[falls]]
        values[falls] = binomial_quantile(uniform[cells[falls], genes[falls]], values[falls], kept)
        rises = np.flatnonzero(gain[genes] > 0)
        values[rises] += self._added(uniform, cells[rises], genes[rises], values[rises], gain)
        # a cell without counts is given some with a probability of at most the expected number
        rows, columns = np.nonzero((uniform > 1 - gain / self.factors[:, None]) & self.is_zero)
        first = self._added(uniform, rows, columns, np.zeros(len(rows)), gain)
        places = np.concatenate([cells, rows]), np.concatenate([genes, columns])
        return sparse.coo_matrix((np.concatenate([values, first]), places), shape=found.shape)

    def _added(self, uniform: FloatArray, cells: IntArray, genes: IntArray, seen: FloatArray, gain: Vector) -> Vector:
        """Counts added to those `seen` in some entries, where rates rise by `gain`."""
        # rate that is expected of a cell, relative to that of its group, after its count was seen
        own = (1 + self.dispersion * seen) / (1 + self.dispersion * self.rates[genes] / self.factors[cells])
        spread = self.dispersion / (1 + self.dispersion * seen)
        return negative_binomial_quantile(uniform[cells, genes], gain[genes] / self.factors[cells] * own, spread)

    def drawn_at(self, rates: Vector, uniform: FloatArray) -> sparse.coo_matrix:
        """Counts drawn at these quantiles of the distribution around `rates`."""
        cells, genes = places = np.nonzero(uniform > 1 - rates / self.factors[:, None])
        means = rates[genes] / self.factors[cells]
        found = negative_binomial_quantile(uniform[places], means, np.full(len(means), self.dispersion))
        return sparse.coo_matrix((found, places), shape=uniform.shape)

    def _first_guess(self, wanted: Vector) -> Vector:
        """Rates at which means are about `wanted`: where expression is rare, both are proportional."""
        means = self.mean_log(self.counts)
        per_rate = np.log1p(self.factors).mean() * (1 / self.factors).mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = self.rates * np.minimum(wanted / means, LARGEST_FACTOR)
        return np.maximum(np.where(self.rates > 0, scaled, wanted / per_rate), SMALLEST_RATE)

    def mean_log(self, counts: sparse.coo_matrix) -> Vector:
        """Mean log1p CP10k of counts."""
        n_cells, n_genes = counts.shape
        logs = np.log1p(counts.data * self.factors[counts.row])
        return np.asarray(np.bincount(counts.col, weights=logs, minlength=n_genes) / n_cells)


def binomial_quantile(uniform: FloatArray, n: FloatArray, share: FloatArray) -> FloatArray:
    """Smallest k with P(X <= k) >= u of Binomial(n, share) for every entry, ``(n_entries,)``."""
    found = np.zeros(len(n))
    # of many trials P(X = 0) is too small a number to begin with
    is_large = (n > MOST_TERMS) | (share > 1 - 1e-9)
    found[is_large] = stats.binom.ppf(np.minimum(uniform[is_large], LARGEST_QUANTILE), n[is_large], share[is_large])
    left = np.flatnonzero(~is_large)
    odds, trials = share[left] / (1 - share[left]), n[left]
    mass = (1 - share[left]) ** trials
    above = uniform[left] - mass
    k = 0.0
    while (go := above > 0).any() and k < MOST_TERMS:
        left, odds, trials, mass, above = left[go], odds[go], trials[go], mass[go], above[go]
        mass = mass * odds * (trials - k) / (k + 1)
        k += 1
        above = np.where(trials > k, above - mass, 0.0)
        found[left] = k
    return found


def negative_binomial_quantile(uniform: FloatArray, mean: FloatArray, dispersion: FloatArray) -> FloatArray:
    """Smallest k with P(X <= k) >= u of counts with variance ``mean + dispersion * mean**2`` for every entry."""
    spread = np.broadcast_to(dispersion, mean.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        none = np.where(spread > 0, np.exp(-np.log1p(spread * mean) / spread), np.exp(-mean))
    found = np.zeros(mean.shape)
    places = np.nonzero(uniform > none)
    if len(places[0]):
        found[places] = _positive_quantile(uniform[places], mean[places], spread[places], none[places])
    return found


def _positive_quantile(uniform: FloatArray, mean: FloatArray, spread: FloatArray, none: FloatArray) -> FloatArray:
    """Quantiles above zero; `none` is P(X = 0), ``(n_entries,)`` each."""
    found = np.zeros(len(mean))
    is_large = mean > MOST_TERMS / 3
    found[is_large] = _by_scipy(uniform[is_large], mean[is_large], spread[is_large])
    left = np.flatnonzero(~is_large)
    mean, spread, mass = mean[left], spread[left], none[left]
    above = uniform[left] - mass
    growth = mean / (1 + spread * mean)
    k = 0.0
    while len(left):
        mass = mass * growth * (1 + spread * k) / (k + 1)
        above, k = above - mass, k + 1
        found[left] = k
        go = above > 0
        left, growth, spread, mass, above = left[go], growth[go], spread[go], mass[go], above[go]
        if k >= MOST_TERMS and len(left):
            found[left] = _by_scipy(uniform[left], growth / (1 - spread * growth), spread)
            break
    return found


def _by_scipy(uniform: FloatArray, mean: FloatArray, spread: FloatArray) -> FloatArray:
    u = np.minimum(uniform, LARGEST_QUANTILE)
    with np.errstate(divide="ignore"):
        size = 1 / spread
    few = stats.poisson.ppf(u, mean)
    return np.asarray(
        np.where(spread > 0, stats.nbinom.ppf(u, np.where(spread > 0, size, 1.0), 1 / (1 + spread * mean)), few)
    )


def expected_log1p(mean: FloatArray, factor: FloatArray, dispersion: float) -> FloatArray:
    """Expectation of ``log1p(factor * X)`` for counts of variance ``mean + dispersion * mean**2``, ``(n_entries,)``."""
    variance = mean + dispersion * mean**2
    # of large counts by the second derivative of the logarithm
    found = np.log1p(factor * mean) - variance / 2 * (factor / (1 + factor * mean)) ** 2
    left = np.flatnonzero(mean <= LARGE_MEAN)
    found[left] = 0.0
    growth, scale = (mean / (1 + dispersion * mean))[left], factor[left]
    last = (mean + FAR * np.sqrt(variance) + FAR)[left]
    mass = np.exp(-np.log1p(dispersion * mean[left]) / dispersion) if dispersion > 0 else np.exp(-mean[left])
    k = 0
    while len(left):
        mass = mass * growth * (1 + dispersion * k) / (k + 1)
        k += 1
        found[left] += mass * np.log1p(scale * k)
        # the rest weighs nothing
        go = (k < last) & ((k < mean[left]) | (mass > NO_MASS))
        left, growth, scale, last, mass = left[go], growth[go], scale[go], last[go], mass[go]
    return found
