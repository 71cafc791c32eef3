"""Skill of predictions of what was left out, by which kernels are chosen and intervals are widened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltavi.perturbation.crossed_process import Moments, Process, Queries, rows_of
from deltavi.perturbation.crossed_weights import Estimate, best_setting, estimate_weights

if TYPE_CHECKING:
    from deltavi._types import BoolArray, FloatArray, IntArray
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_kernel import ContextKernel, Weights
    from deltavi.perturbation.crossed_table import ResponseTable

# Folds that groups are left out in, and evaluations of the likelihood for the weights of each.
MOST_FOLDS, FOLD_EVALUATIONS = 20, 40
# A kernel replaces a simpler one where it explains so much more, and more than one standard error.
CLEARLY = 0.02
# Weights are estimated anew for each fold where there are fewer groups: more of them hardly depend on one.
REFIT_GROUPS = 10
# Groups that what is typical of genes counts for beside those of one gene.
PRIOR_GROUPS = 2.0


@dataclass(frozen=True, eq=False)
class Skill:
    """Skill of predictions of groups that were left out.

    Attributes
    ----------
    errors, energies
        ``(n_groups,)`` squared error of the predicted changes and squared size of the true ones, summed over pairs and
        genes, without the noise that cells leave in both.
    """

    errors: FloatArray
    energies: FloatArray

    @property
    def explained(self) -> float:
        """Share of the squared response that is predicted: 0 is no change, 1 all; NaN where nothing is to explain."""
        total = float(self.energies.sum())
        return 1 - float(self.errors.sum()) / total if len(self.errors) > 1 and total > 0 else float("nan")

    @property
    def n_worse(self) -> int:
        """Number of groups that no change would have been nearer to."""
        return int((self.errors > np.maximum(self.energies, 0)).sum())

    def of_groups(self, chosen: BoolArray) -> Skill:
        """Skill of some of the groups."""
        return Skill(self.errors[chosen], self.energies[chosen])

    def clearly_ahead_of(self, other: Skill) -> bool:
        """True where this skill is greater by more than chance over groups would have it."""
        total = float(self.energies.sum())
        gains = (other.errors - self.errors) / total if total > 0 else np.zeros(len(self.errors))
        chance = float(np.std(gains, ddof=1) * np.sqrt(len(gains))) if len(gains) > 1 else float("inf")
        return bool(gains.sum() > max(CLEARLY, chance))


def skill_of(table: ResponseTable, change: Vector, groups: IntArray, shared_noise: Vector | None = None) -> Skill:
    """Skill of predicted changes of the pairs of a table, by groups of pairs.

    Parameters
    ----------
    table
        What was measured.
    change
        ``(n_pairs, n_genes)`` predicted.
    groups
        ``(n_pairs,)`` number of the group of each pair.
    shared_noise
        ``(n_pairs, n_genes)`` covariance of predictions with the noise of the measurements, if there is some.
    """
    noise = table.noise * table.variances.sum(1)[table.context_of]
    errors = ((change - table.changes) ** 2).sum(1) - noise
    if shared_noise is not None:
        errors = errors + 2 * shared_noise.sum(1)
    energies = (table.changes**2).sum(1, dtype=np.float64) - noise
    rows = rows_of(groups)
    return Skill(np.array([errors[r].sum() for r in rows]), np.array([energies[r].sum() for r in rows]))


def leave_groups_out(
    table: ResponseTable, kernel: ContextKernel, weights: Weights, groups: IntArray, *, refit: bool = True
) -> Moments:
    """Predict the pairs of each group from those of all others; its contexts stay as contexts without pairs.

    Parameters
    ----------
    table
        What was measured.
    kernel, weights
        Parameters of the covariance.
    groups
        ``(n_pairs,)`` number of the group of each pair; several groups are left out together where there are many.
    refit
        Estimate the weights anew from the pairs that are left.
    """
    change, variance = np.zeros((2, table.n_pairs, table.n_genes))
    folds = np.unique(groups, return_inverse=True)[1].ravel() % MOST_FOLDS
    for rows in rows_of(folds):
        kept = table.of_pairs(~np.isin(np.arange(table.n_pairs), rows))
        found = (
            estimate_weights(kept, kernel, start=weights, evaluations=FOLD_EVALUATIONS).weights if refit else weights
        )
        process = Process.of(kept, kernel, found)
        moments = process.predict(Queries.of_pairs(process, table.of_pairs(rows)))
        change[rows], variance[rows] = moments.change, moments.variance
    return Moments(change, variance, np.zeros((table.n_pairs, 0)))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A kernel with its weights, and what it predicts of groups that are left out."""

    kernel: ContextKernel
    estimate: Estimate
    moments: Moments
    skill: Skill


def candidate(table: ResponseTable, settings: Sequence[ContextKernel], groups: IntArray) -> Candidate:
    """Best of some settings of a kernel by evidence, tried on groups that are left out."""
    kernel, estimate = best_setting(table, settings)
    refit = len(np.unique(groups)) < REFIT_GROUPS
    moments = leave_groups_out(table, kernel, estimate.weights, groups, refit=refit)
    return Candidate(kernel, estimate, moments, skill_of(table, moments.change, groups))


def chosen(candidates: Sequence[Candidate]) -> Candidate:
    """First of the candidates that no later one is clearly ahead of; they come in order of complexity."""
    best = candidates[0]
    for other in candidates[1:]:
        if other.skill.clearly_ahead_of(best.skill):
            best = other
    return best


@dataclass(frozen=True, eq=False)
class Calibration:
    """Width of intervals by what was left out.

    Attributes
    ----------
    nugget
        ``(n_genes,)`` variance between groups that the process does not explain.
    freedom
        Degrees of freedom of the intervals.
    length
        Variance of the length of a true change along the predicted one, relative to it: all genes of a group err
        together where it responds more, or less, than was predicted.
    """

    nugget: Vector
    freedom: float
    length: float = 0.0

    def variance(self, moments: Moments) -> Vector:
        """``(n_queries, n_genes)`` variance of true changes."""
        return np.asarray(moments.variance + self.nugget + self.length * moments.change**2)


def calibrated(table: ResponseTable, moments: Moments, groups: IntArray) -> Calibration:
    """Calibrate intervals by the errors of groups left out.

    The nugget of a gene is the part of its squared errors that neither noise nor the variance of the prediction
    explains; with few groups it is moderated by what is typical of genes of that variance.
    """
    n_groups = len(np.unique(groups))
    length = length_variance(table, moments)
    expected = (moments.variance + length * moments.change**2).mean(0)
    excess = ((moments.change - table.changes) ** 2 - table.squared_errors).mean(0) - expected
    typical = max(float(excess.sum()) / max(float(expected.sum()), 1e-300), 0.0) * expected
    nugget = (n_groups * np.maximum(excess, 0) + PRIOR_GROUPS * typical) / (n_groups + PRIOR_GROUPS)
    return Calibration(np.asarray(nugget), n_groups - 1 + PRIOR_GROUPS, length)


def length_variance(table: ResponseTable, moments: Moments) -> float:
    """Variance of lengths relative to those predicted, beyond what noise and the variance of each gene would make it.

    With m a predicted change and e its error, the squares of ``e . m`` are summed over pairs, and their expectation if
    genes erred independently is taken off.
    """
    squared = moments.change**2
    along = ((table.changes - moments.change) * moments.change).sum(1)
    by_chance = ((moments.variance + table.squared_errors) * squared).sum(1)
    total = float((squared.sum(1) ** 2).sum())
    return max(float((along**2 - by_chance).sum()) / total, 0.0) if total > 0 else 0.0
