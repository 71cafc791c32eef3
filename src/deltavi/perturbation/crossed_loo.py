"""Each measured pair predicted from all others, in closed form from one factor.

With P the inverse of the covariance of the measured changes y, and z = P y, the true change f_i given all others is

    y_i - D_i z_i - s_c (E_c . z) - a_i z_i / P_ii,        a_i = 1 - D_i P_ii - s_c (P E_c)_i,

with D_i the noise of the perturbed cells and s_c that of the control cells of its context, which the other pairs of
the context share (Dubrule 1983 and Rasmussen and Williams 2006, section 5.4.2, for f in place of y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from deltavi.perturbation.crossed_process import Moments, Process, mixed
from deltavi.perturbation.crossed_ratios import gene_slices

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_factor import Inverse


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Predictions of the measured pairs, each from all others.

    Attributes
    ----------
    moments
        Predictive distribution of their true changes; it has no weights.
    shared_noise
        ``(n_pairs, n_genes)`` covariance of the prediction with the noise of the measured change, which comes from the
        control cells that both share.
    """

    moments: Moments
    shared_noise: Vector


@dataclass(frozen=True, eq=False)
class _Operator:
    """Leave-one-out predictions at one ratio; arrays are ``(n_pairs,)``.

    Attributes
    ----------
    inverse
        P, in rotated coordinates.
    diagonal
        Of P.
    own, within
        D, and the noise of the control cells of the context of each pair.
    toward
        a of the equation above.
    variance
        Of the true change given all others, in variances of one cell.
    shared
        Weight of the noise of the context's control cells in the prediction.
    """

    inverse: Inverse
    diagonal: Vector
    own: Vector
    within: Vector
    toward: Vector
    variance: Vector
    shared: Vector

    @classmethod
    def of(cls, process: Process, ratio: float) -> _Operator:
        factor, table = process.factor, process.table
        inverse, rows, context = factor.at(ratio), np.arange(table.n_pairs), table.context_of
        of_contexts = factor.rotated_back(inverse.solve(factor.of_contexts))
        diagonal = factor.back_squared(inverse.shrunk) - (factor.rotated_back(inverse.shared.T) ** 2).sum(1)
        own, within = 1 / table.n_perturbed, 1 / table.n_control[context]
        beside = of_contexts[rows, context]
        between = np.bincount(context, beside, len(table.contexts))[context]
        toward = 1 - own * diagonal - within * beside
        prior = ratio * process.weights.prior(table.parts)
        left = own + within - own**2 * diagonal - 2 * own * within * beside - within**2 * between
        # the variance with the pair itself is `left`; what it said is taken back
        variance = np.minimum(left + toward**2 / diagonal, prior)
        shared = 1 - own * beside - within * between - toward * beside / diagonal
        return cls(inverse, diagonal, own, within, toward, np.maximum(variance, 0), shared)

    def means(self, process: Process, values: Vector, rotated: Vector) -> tuple[Vector, Vector]:
        """Means of true changes, and log densities of the measured ones, ``(n_pairs, n_genes)`` each."""
        solved = process.factor.rotated_back(self.inverse.solve(rotated))
        context = process.table.context_of
        sums = np.zeros((len(process.table.contexts), values.shape[1]))
        np.add.at(sums, context, solved)
        pulled = (self.own + self.toward / self.diagonal)[:, None] * solved
        density = 0.5 * (np.log(self.diagonal)[:, None] - solved**2 / self.diagonal[:, None])
        return values - pulled - self.within[:, None] * sums[context], density


def leave_one_out(process: Process) -> LeftOut:
    """Predict each measured pair from all others, with their own distribution of signal-to-noise ratios."""
    table, signal = process.table, process.signal
    operators = [_Operator.of(process, float(ratio)) for ratio in signal.ratios]
    variances, shared = np.stack([op.variance for op in operators]), np.stack([op.shared for op in operators])
    change, variance, common = np.empty((3, table.n_pairs, table.n_genes))
    for genes in gene_slices(table.n_pairs * len(operators), table.n_genes):
        values = np.asarray(table.standardised(genes), dtype=np.float64)
        rotated = process.factor.rotated(values)
        found = [operator.means(process, values, rotated) for operator in operators]
        log_share = signal.log_posterior[genes].T[:, None, :] - np.stack([density for _, density in found])
        shares = softmax(log_share, axis=0)
        means = np.stack([mean for mean, _ in found])
        change[:, genes], variance[:, genes] = mixed(means, variances[:, :, None], shares)
        common[:, genes] = (shares * shared[:, :, None]).sum(0)
    common *= table.variance / table.n_control[table.context_of][:, None]
    moments = Moments(change * np.sqrt(table.variance), variance * table.variance, np.zeros((table.n_pairs, 0)))
    return LeftOut(moments, common)
