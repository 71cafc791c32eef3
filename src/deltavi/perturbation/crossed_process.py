"""Gaussian process of responses with its parameters, and its predictions of pairs that were not measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltavi.perturbation.crossed_factor import Factor
from deltavi.perturbation.crossed_ratios import Signal, gene_slices, log_likelihoods, ratios_of

if TYPE_CHECKING:
    from deltavi._types import IntArray
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_kernel import ContextKernel, Weights
    from deltavi.perturbation.crossed_table import ResponseTable

# Pairs that are predicted at a time.
QUERIES = 32
# Genes that parameters are estimated from.
MOST_GENES = 400


@dataclass(frozen=True, eq=False)
class Queries:
    """Pairs to predict.

    Attributes
    ----------
    similarity
        ``(n_queries, n_contexts)`` of their contexts to those of the table.
    parts
        ``(n_queries, n_perturbations)`` single perturbations that they are given.
    unknown
        ``(n_queries,)`` number of further ones, which nobody measured.
    same_pair
        ``(n_queries, n_pairs)`` True where it is the measured pair.
    """

    similarity: Vector
    parts: Vector
    unknown: Vector
    same_pair: Vector

    @classmethod
    def of_pairs(cls, process: Process, asked: ResponseTable) -> Queries:
        """The pairs of `asked`, which has the contexts and perturbations of the table of `process`."""
        table = process.table
        same = asked.context_of[:, None] == table.context_of
        same &= (asked.parts[:, None, :] == table.parts[None]).all(2)
        return cls(process.similarity[asked.context_of], asked.parts, np.zeros(asked.n_pairs), same)

    def some(self, rows: slice) -> Queries:
        """A slice of them."""
        return Queries(self.similarity[rows], self.parts[rows], self.unknown[rows], self.same_pair[rows])

    def __len__(self) -> int:
        return len(self.parts)


@dataclass(frozen=True, eq=False)
class Moments:
    """Predictive distribution of true changes.

    Attributes
    ----------
    change, variance
        ``(n_queries, n_genes)`` mean, log1p CP10k, and variance.
    weights
        ``(n_queries, n_pairs)`` of the measured pairs in the mean, averaged over genes.
    """

    change: Vector
    variance: Vector
    weights: Vector

    def of_queries(self, rows: IntArray) -> Moments:
        """Those of some of the queries, by position."""
        return Moments(self.change[rows], self.variance[rows], self.weights[rows])


@dataclass(frozen=True, eq=False)
class Process:
    """Gaussian process over the pairs of a table.

    Attributes
    ----------
    table
        What was measured.
    kernel, weights
        Parameters of its covariance.
    signal
        Signal-to-noise ratios of genes.
    similarity
        ``(n_contexts, n_contexts)``.
    factor
        Of the covariance of the measured changes.
    """

    table: ResponseTable
    kernel: ContextKernel
    weights: Weights
    signal: Signal
    similarity: Vector
    factor: Factor

    @classmethod
    def of(
        cls,
        table: ResponseTable,
        kernel: ContextKernel,
        weights: Weights,
        *,
        ratios: Vector | None = None,
        shares: Vector | None = None,
    ) -> Process:
        """Process of these parameters; shares of the genes at each of `ratios` are learned unless given."""
        similarity = kernel.between(table)
        factor = Factor.of(table, weights, similarity)
        grid = ratios_of(table.noise) if ratios is None else ratios
        density = log_likelihoods(factor, table, grid)
        return cls(table, kernel, weights, Signal.of(density, grid, shares), similarity, factor)

    def on(self, table: ResponseTable) -> Process:
        """The same parameters with other measurements of the same genes."""
        return Process.of(table, self.kernel, self.weights, ratios=self.signal.ratios, shares=self.signal.shares)

    def covariance(self, queries: Queries) -> Vector:
        """Prior covariance of queries with the measured pairs, ``(n_queries, n_pairs)``, in units of the signal."""
        table = self.table
        similarity = queries.similarity[:, table.context_of]
        shared = self.weights.of_perturbations(similarity, queries.parts @ table.parts.T, queries.same_pair)
        n_parts = queries.parts.sum(1) + queries.unknown
        return np.asarray(n_parts[:, None] * table.parts.sum(1) * self.weights.of_contexts(similarity) + shared)

    def predict(self, queries: Queries) -> Moments:
        """Predictive distribution of the true change of each query."""
        parts = [
            self._predict(queries.some(slice(start, start + QUERIES))) for start in range(0, len(queries), QUERIES)
        ]
        return Moments(*(np.concatenate([getattr(part, name) for part in parts]) for name in Moments.__annotations__))

    def _predict(self, queries: Queries) -> Moments:
        prior = self.weights.prior(queries.parts, queries.unknown)
        rotated = self.factor.rotated(self.covariance(queries).T)
        solved, variances = [], []
        for ratio in map(float, self.signal.ratios):
            found = ratio * self.factor.at(ratio).solve(rotated)
            solved.append(found)
            variances.append(ratio * prior - ratio * (rotated * found).sum(0))
        change, variance = self._mixed(np.concatenate(solved, axis=1).T, np.maximum(variances, 0))
        average = np.tensordot(self.signal.posterior.mean(0), np.stack(solved), 1)
        return Moments(change, variance, self.factor.rotated_back(average).T)

    def _mixed(self, solved: Vector, variances: Vector) -> tuple[Vector, Vector]:
        """Means and variances over the mixture of ratios, from weights ``(n_ratios * n_queries, n_pairs)``."""
        table, shape, posterior = self.table, variances.shape, self.signal.posterior
        change, variance = np.empty((2, shape[1], table.n_genes))
        for genes in gene_slices(table.n_pairs, table.n_genes):
            means = (solved @ self.factor.rotated(table.standardised(genes))).reshape(*shape, -1)
            change[:, genes], variance[:, genes] = mixed(means, variances[:, :, None], posterior[genes].T)
        return change * np.sqrt(table.variance), variance * table.variance


def mixed(means: Vector, variances: Vector, shares: Vector) -> tuple[Vector, Vector]:
    """Mean and variance of a mixture.

    Parameters
    ----------
    means, variances
        ``(n_ratios, n_rows, n_genes)``, or of a shape that fits it.
    shares
        ``(n_ratios, n_genes)`` or ``(n_ratios, n_rows, n_genes)``.
    """
    shares = shares if shares.ndim == 3 else shares[:, None, :]
    mean = (shares * means).sum(0)
    spread = (shares * (variances + (means - mean) ** 2)).sum(0)
    return mean, spread


def rows_of(groups: IntArray) -> list[IntArray]:
    """Positions of the pairs of each group that has some."""
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def gene_energies(table: ResponseTable) -> Vector:
    """``(n_genes,)`` squared changes beyond noise, summed over pairs, log1p CP10k squared."""
    noise = np.bincount(table.context_of, table.noise, len(table.contexts)) @ table.variances
    slices = gene_slices(table.n_pairs, table.n_genes)
    found = np.concatenate([(table.changes[:, genes] ** 2).sum(0, dtype=np.float64) for genes in slices])
    return np.asarray(np.maximum(found - noise, 0))


def strongest(table: ResponseTable, most: int = MOST_GENES) -> IntArray:
    """Positions of the genes that change most."""
    return np.argsort(-gene_energies(table), kind="stable")[:most]
