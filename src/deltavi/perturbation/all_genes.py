"""Counts of single cells moved to another mean: thinned where it falls, added to where it rises.

A count is taken for a Poisson draw at the cell's own rate, which is gamma distributed around that of its group. Counts
that are kept with probability f are those of a rate f times as high, and counts added at (f - 1) times the rate that is
expected of the cell after its count was seen are those of a rate f times as high, too: the marginal distribution stays
negative binomial with the same dispersion, and a cell that had more than others has more afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse, stats

from deltavi._cp10k import cp10k_factors
from deltavi.arrays.matrix import gene_means
from deltavi.perturbation.matching import match_means
from deltavi.perturbation.noise import cell_generators, uniforms

if TYPE_CHECKING:
    from deltavi._types import FloatArray, IntArray
    from deltavi.arrays.matrix import Vector

# Entries of a block of genes: a few arrays of so many numbers are in memory at a time.
ENTRIES = 1_000_000
# Draws whose mean stands for what is expected of independent draws; of fewer cells each is drawn several times.
EXPECTED_DRAWS = 256
# Of those draws, which must not depend on the seed of a prediction.
EXPECTED_SEED = 0
# Counts up to here are added up term by term, which is faster than the incomplete beta function.
MOST_TERMS = 60
# Quantiles of one lie at infinity.
LARGEST_QUANTILE = 1 - 1e-12
# Counts per ten thousand below which a gene counts as silent, and largest factor of a first guess.
SMALLEST_RATE, LARGEST_FACTOR = 1e-9, 20.0
LARGEST_DISPERSION = 1.0
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
        parts.append(sparse.csr_matrix(found.astype(np.float32)))
        rates.append(rate)
    return _joined(group, parts), np.concatenate([np.zeros(0), *rates])


def drawn(
    group: GroupCounts, change: Vector, *, generators: Sequence[np.random.Generator]
) -> tuple[sparse.csr_matrix, Vector]:
    """As :func:`moved`, but drawn anew from the distribution whose expected mean has changed by so much."""
    n_draws = max(1, EXPECTED_DRAWS // max(len(group.names), 1))
    expected = [
        cell_generators([f"{name} expected {draw}" for name in group.names], seed=EXPECTED_SEED)
        for draw in range(n_draws)
    ]
    wanted, dispersion = np.maximum(group.means + change, 0.0), group.dispersion
    parts, rates = [], []
    for genes in _blocks(group):
        n_genes = genes.stop - genes.start
        block = _Block.of(group, genes, dispersion)
        rate = block.expected_rate(wanted[genes], [uniforms(one, n_genes) for one in expected])
        found = block.drawn_at(rate, uniforms(generators, n_genes))
        parts.append(sparse.csr_matrix(found.astype(np.float32)))
        rates.append(rate)
    return _joined(group, parts), np.concatenate([np.zeros(0), *rates])


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
        ``(n_cells, 1)`` factors to counts per ten thousand.
    rates
        ``(n_genes,)`` counts per ten thousand of all cells together.
    dispersion
        Squared coefficient of variation of rates.
    """

    counts: FloatArray
    factors: FloatArray
    rates: Vector
    dispersion: float

    @classmethod
    def of(cls, group: GroupCounts, genes: slice, dispersion: float) -> _Block:
        counts = np.asarray(group.counts[:, genes].toarray(), dtype=np.float64)
        return cls(counts, group.factors[:, None], group.rates[genes], dispersion)

    def moved(self, wanted: Vector, uniform: FloatArray) -> tuple[FloatArray, Vector]:
        """Counts whose mean log1p CP10k is close to `wanted`, and the rates behind them."""
        rates = self._matched(wanted, [uniform], _Block.moved_to)
        return self.moved_to(rates, uniform), rates

    def expected_rate(self, wanted: Vector, draws: Sequence[FloatArray]) -> Vector:
        """Rates at which the mean of draws at these quantiles is close to `wanted`."""
        return self._matched(wanted, draws, _Block.drawn_at)

    def _matched(
        self, wanted: Vector, draws: Sequence[FloatArray], counts_at: Callable[[_Block, Vector, FloatArray], FloatArray]
    ) -> Vector:
        """Rates at which the mean over `draws` is close to `wanted`."""
        start = self._first_guess(wanted)

        def mean_at(block: _Block, rates: Vector, uniforms_of: Sequence[FloatArray]) -> Vector:
            means = [block._mean_log(counts_at(block, rates, uniform)) for uniform in uniforms_of]
            return np.asarray(np.mean(means, axis=0))

        offsets = match_means(lambda offset: mean_at(self, start * np.exp(offset), draws), wanted)
        rates = start * np.exp(offsets)
        far = np.flatnonzero(np.abs(mean_at(self, rates, draws) - wanted) > CLOSE)
        if len(far):
            some, drawn_for, base = self.only(far), [uniform[:, far] for uniform in draws], rates[far]
            offsets = match_means(lambda offset: mean_at(some, base * np.exp(offset), drawn_for), wanted[far])
            rates[far] = base * np.exp(offsets)
        return np.asarray(rates)

    def only(self, genes: IntArray) -> _Block:
        """Some of the genes."""
        return _Block(self.counts[:, genes], self.factors, self.rates[genes], self.dispersion)

    def moved_to(self, rates: Vector, uniform: FloatArray) -> FloatArray:
        """Counts at other `rates`; each is the same function of `uniform`, and does not fall with the rate."""
        found = self.counts.copy()
        falls, rises = np.flatnonzero(rates < self.rates), np.flatnonzero(rates > self.rates)
        cells, genes = np.nonzero(self.counts[:, falls])
        genes = falls[genes]
        kept = rates[genes] / self.rates[genes]
        found[cells, genes] = binomial_quantile(uniform[cells, genes], self.counts[cells, genes], kept)
        seen, gained = self.counts[:, rises], (rates[rises] - self.rates[rises]) / self.factors
        # rate that is expected of a cell, relative to that of its group, after its count was seen
        own = (1 + self.dispersion * seen) / (1 + self.dispersion * self.rates[rises] / self.factors)
        spread = self.dispersion / (1 + self.dispersion * seen)
        found[:, rises] += negative_binomial_quantile(uniform[:, rises], gained * own, spread)
        return found

    def drawn_at(self, rates: Vector, uniform: FloatArray) -> FloatArray:
        """Counts drawn at these quantiles of the distribution around `rates`."""
        return negative_binomial_quantile(uniform, rates / self.factors, np.asarray(self.dispersion))

    def _first_guess(self, wanted: Vector) -> Vector:
        """Rates at which means are about `wanted`: where expression is rare, both are proportional."""
        means = self._mean_log(self.counts)
        per_rate = np.log1p(self.factors).mean() * (1 / self.factors).mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = self.rates * np.minimum(wanted / means, LARGEST_FACTOR)
        return np.maximum(np.where(self.rates > 0, scaled, wanted / per_rate), SMALLEST_RATE)

    def _mean_log(self, counts: FloatArray) -> Vector:
        return np.asarray(np.log1p(counts * self.factors).mean(0))


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
