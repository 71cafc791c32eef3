"""Signal-to-noise ratios of genes: a grid, its distribution over genes by EM, and the evidence of a response.

As in adaptive shrinkage (Stephens 2017), genes are drawn from a mixture over a grid of ratios, no signal among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_factor import Factor
    from deltavi.perturbation.crossed_table import ResponseTable

# Signal variances tried, in units of the typical noise of a change, besides none.
STEPS = 10.0 ** np.arange(-1.5, 4.5, 0.5)
# Entries of pairs by genes that are worked on at a time.
ENTRIES = 2_000_000
# Rounds of EM, and the change of a share at which it has settled.
MOST_ROUNDS, SETTLED = 500, 1e-8


def ratios_of(noise: Vector) -> Vector:
    """Grid of signal-to-noise ratios for changes with this `noise`, in variances of one cell."""
    return np.concatenate([[0.0], STEPS * np.mean(noise)])


def gene_slices(n_pairs: int, n_genes: int) -> list[slice]:
    """Slices of genes that are worked on one after the other."""
    size = max(ENTRIES // max(n_pairs, 1), 16)
    return [slice(start, min(start + size, n_genes)) for start in range(0, n_genes, size)]


def log_likelihoods(factor: Factor, table: ResponseTable, ratios: Vector) -> Vector:
    """Log density of each gene at each ratio, but for a constant, ``(n_genes, n_ratios)``.

    Parameters
    ----------
    factor
        Of the pairs.
    table
        The changes of these pairs.
    ratios
        ``(n_ratios,)``.
    """
    inverses = [factor.at(float(ratio)) for ratio in ratios]
    found = np.empty((table.n_genes, len(ratios)))
    for genes in gene_slices(table.n_pairs, table.n_genes):
        rotated = factor.rotated(table.standardised(genes))
        squared = rotated**2
        for column, inverse in enumerate(inverses):
            found[genes, column] = -0.5 * (inverse.quadratic(rotated, squared) + inverse.log_determinant)
    return found


def shares_by_em(log_likelihood: Vector, weights: Vector | None = None, *, rounds: int = MOST_ROUNDS) -> Vector:
    """Share of the genes at each ratio, of greatest likelihood with one gene's worth of prior at each.

    Parameters
    ----------
    log_likelihood
        ``(n_genes, n_ratios)``.
    weights
        ``(n_genes,)`` number of genes that each counts for; 1 by default.
    rounds
        Of EM, at most.
    """
    n_genes, n_ratios = log_likelihood.shape
    weights = np.ones(n_genes) if weights is None else weights
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    shares = np.full(n_ratios, 1 / n_ratios)
    for _ in range(rounds):
        expected = shares * ((weights / (likelihood @ shares)) @ likelihood)
        new = (expected + 1) / (weights.sum() + n_ratios)
        moved = np.abs(new - shares).max()
        shares = new
        if moved < SETTLED:
            break
    return shares


@dataclass(frozen=True, eq=False)
class Signal:
    """Distribution of signal-to-noise ratios, over all genes and for each of them.

    Attributes
    ----------
    ratios, shares
        ``(n_ratios,)`` the grid, and the share of the genes at each.
    log_posterior
        ``(n_genes, n_ratios)``; kept as logarithms since what one pair makes impossible may be likely without it.
    log_evidence
        ``(n_genes,)`` log ratio of the evidence of a response to that of none, nats.
    """

    ratios: Vector
    shares: Vector
    log_posterior: Vector
    log_evidence: Vector

    @property
    def posterior(self) -> Vector:
        """``(n_genes, n_ratios)`` probability of each ratio."""
        return np.asarray(np.exp(self.log_posterior))

    @classmethod
    def of(cls, log_likelihood: Vector, ratios: Vector, shares: Vector | None = None) -> Signal:
        """Signal by the densities of :func:`log_likelihoods`; the first ratio is no signal."""
        shares = shares_by_em(log_likelihood) if shares is None else shares
        joint = log_likelihood + np.log(np.maximum(shares, 1e-300))
        evidence = logsumexp(joint, axis=1)
        return cls(ratios, shares, joint - evidence[:, None], evidence - log_likelihood[:, 0])


def effective_number(rows: Vector) -> float:
    """Number of programmes that genes behave as: (sum of eigenvalues)^2 / sum of their squares.

    Genes respond together, so that a sum of their log densities as if they were independent is overconfident.

    Parameters
    ----------
    rows
        ``(n_pairs, n_genes)`` standardised changes.
    """
    inner = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    total = float((inner**2).sum())
    return float(np.trace(inner) ** 2 / total) if total > 0 else 1.0
