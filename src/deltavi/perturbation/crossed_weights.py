"""Weights of the parts of a response, by marginal likelihood on a bounded part of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from deltavi.perturbation.crossed_factor import Factor
from deltavi.perturbation.crossed_kernel import IDENTITY, SIMILARITY, ContextKernel, Weights
from deltavi.perturbation.crossed_process import gene_energies, strongest
from deltavi.perturbation.crossed_ratios import effective_number, log_likelihoods, ratios_of, shares_by_em

if TYPE_CHECKING:
    from deltavi._types import BoolArray
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_table import ResponseTable

# Pairs that weights are estimated from, and evaluations of the likelihood.
MOST_PAIRS = 600
EVALUATIONS = 120
# Rounds of EM of each evaluation: what they leave open is little beside what weights change.
ROUNDS = 60
# Observations of each part that the prior counts for: keeps every weight above zero.
PRIOR = 0.5


@dataclass(frozen=True)
class Estimate:
    """Weights that were estimated, with their log evidence in nats, deflated by the number of programmes."""

    weights: Weights
    log_evidence: float


def active_parts(table: ResponseTable, kernel: ContextKernel) -> BoolArray:
    """Parts of a response that the pairs of a table can tell apart, in the order of :class:`Weights`."""
    n_contexts, n_conditions = len(table.used_contexts), table.n_conditions
    several_both = n_contexts > 1 and n_conditions > 1
    # without a second perturbation what contexts do not share is a pair's own
    own_is_context = n_conditions == 1 and kernel.name == IDENTITY
    # nor can it tell what is a pair's own from how fast similarity falls: contexts left out are predicted worse with it
    own = n_conditions > 1 or n_contexts == 1 or kernel.name != SIMILARITY
    return np.array([True, n_conditions > 1, n_contexts > 1 and not own_is_context, several_both, own])


def estimate_weights(
    table: ResponseTable, kernel: ContextKernel, *, start: Weights | None = None, evaluations: int = EVALUATIONS
) -> Estimate:
    """Weights of greatest posterior density, from the genes that say most and at most `MOST_PAIRS` pairs.

    Parameters
    ----------
    table
        What was measured.
    kernel
        Of the contexts.
    start
        Weights to begin with; equal ones by default.
    evaluations
        Of the likelihood, at most.
    """
    objective = _Objective.of(bounded(table, MOST_PAIRS), kernel)
    active = objective.active
    first = np.zeros(active.sum()) if start is None else np.log(np.maximum(np.array(start.as_list())[active], 1e-4))
    first = first - first.mean()
    if len(first) == 1:
        found = first
    else:
        simplex = np.vstack([first[:-1], first[:-1] + 1.5 * np.eye(len(first) - 1)]) - first[-1]
        options = {"maxfev": evaluations, "initial_simplex": simplex, "xatol": 0.02, "fatol": 0.005}
        searched = minimize(objective.cost, simplex[0], method="Nelder-Mead", options=options)
        found = np.append(searched.x, 0.0)
    return Estimate(objective.weights(found), -objective.cost(found[:-1] if len(found) > 1 else found[:0]))


@dataclass(frozen=True, eq=False)
class _Objective:
    """Negative log posterior density of weights; genes count by their share in the squared response."""

    table: ResponseTable
    active: BoolArray
    similarity: Vector
    ratios: Vector
    importance: Vector
    n_programmes: float

    @classmethod
    def of(cls, table: ResponseTable, kernel: ContextKernel) -> _Objective:
        similarity = kernel.between(table)
        table = table.of_genes(strongest(table))
        energies = gene_energies(table)
        importance = energies / energies.sum() if energies.any() else np.full(len(energies), 1 / len(energies))
        number = effective_number(np.sqrt(importance) * table.standardised())
        active, ratios = active_parts(table, kernel), ratios_of(table.noise)
        return cls(table, active, similarity, ratios, importance, number)

    def weights(self, logits: Vector) -> Weights:
        shares = np.zeros(len(self.active))
        shares[self.active] = softmax(logits)
        return Weights(*map(float, shares))

    def cost(self, logits: Vector) -> float:
        """For the logits of all active parts but the last, whose logit is zero."""
        weights = self.weights(np.append(logits, 0.0))
        density = log_likelihoods(Factor.of(self.table, weights, self.similarity), self.table, self.ratios)
        shares = shares_by_em(density, self.importance * len(density), rounds=ROUNDS)
        evidence = float(self.importance @ logsumexp(density, axis=1, b=shares))
        prior = PRIOR * float(np.log(np.maximum(np.array(weights.as_list())[self.active], 1e-12)).sum())
        return -(self.n_programmes * evidence + prior)


def best_setting(table: ResponseTable, kernels: Sequence[ContextKernel]) -> tuple[ContextKernel, Estimate]:
    """Kernel of greatest evidence, and its weights."""
    if len(kernels) == 1:
        return kernels[0], estimate_weights(table, kernels[0])
    tried = [(kernel, estimate_weights(table, kernel, evaluations=EVALUATIONS // 3)) for kernel in kernels]
    kernel, rough = max(tried, key=lambda pair: pair[1].log_evidence)
    return kernel, estimate_weights(table, kernel, start=rough.weights)


def bounded(table: ResponseTable, most: int) -> ResponseTable:
    """Part of a table that has at most about `most` pairs: whole perturbations, spread evenly over their order."""
    if table.n_pairs <= most:
        return table
    conditions = np.unique(table.parts, axis=0, return_inverse=True)[1].ravel()
    n_conditions = conditions.max() + 1
    n_kept = max(int(n_conditions * most / table.n_pairs), 2)
    kept = np.unique(np.linspace(0, n_conditions - 1, n_kept).astype(int))
    return table.of_pairs(np.isin(conditions, kept))
