"""Response of one group of cells by what was measured: the crossed process, and how it fared on contexts left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from deltavi.perturbation.crossed import ResponseModel
from deltavi.perturbation.crossed_fit import FEWEST_CONTEXTS
from deltavi.perturbation.crossed_skill import leave_groups_out
from deltavi.perturbation.crossed_weights import bounded

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_prediction import ResponsePrediction
    from deltavi.perturbation.crossed_process import Moments
    from deltavi.perturbation.crossed_table import ResponseTable
    from deltavi.perturbation.estimators import GroupMeans

# Pairs that are left out, context by context, to see what that does.
LEFT_OUT_PAIRS = 300
# Relative uncertainty of a length where there are too few contexts to estimate it, and its bounds.
USUAL_SPREAD = 0.3
SPREADS = (0.1, 1.0)
COVERAGE = 0.9


@dataclass(frozen=True, eq=False)
class ResponseEstimate:
    """Response of a group of cells by what was measured of others, and of itself.

    Attributes
    ----------
    change
        ``(n_genes,)`` change of the mean, log1p CP10k.
    half_width
        ``(n_genes,)`` half the width of the interval of a measured change; NaN with fewer than three contexts.
    expected_error
        ``(n_genes,)`` squared error of the change, without that of a measurement.
    uncertainty
        Expected squared error relative to the expected squared response.
    max_training_uncertainty
        The largest one that a context has when the others predict it; NaN with fewer than three.
    own_weight
        Weight of the measured response of the group itself.
    expected_skill, n_worse, n_groups, flags
        See :class:`deltavi.perturbation.ResponsePrediction`.
    """

    change: Vector
    half_width: Vector
    expected_error: Vector
    uncertainty: float
    max_training_uncertainty: float
    own_weight: float = 0.0
    expected_skill: float = float("nan")
    n_worse: int = 0
    n_groups: int = 0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class MeasuredResponses:
    """Responses of training cells, from which those of other cells are estimated.

    Attributes
    ----------
    model
        Fitted to what was measured.
    """

    model: ResponseModel

    @property
    def table(self) -> ResponseTable:
        """Measured changes."""
        return self.model.table

    def has_measured(self, perturbation: str) -> bool:
        """True if all parts of a perturbation were."""
        return self.table.parts_of(perturbation)[1] == 0

    def at(self, perturbation: str, group: str, control: GroupMeans, effect_scale: float = 1.0) -> ResponseEstimate:
        """Response of a group of cells.

        Parameters
        ----------
        perturbation
            Single or combined as in "A+B".
        group
            Name of the group; one of the contexts that were measured knows its own responses.
        control
            Means of control cells, log1p CP10k, that of the group among them.
        effect_scale
            Factor of the response.
        """
        row = control.labels.index(group)
        profile, n_cells = np.maximum(control.means[row], 0.0), control.n_cells[row]
        found = self._predicted(perturbation, group, profile)
        # the perturbed cells that it will be compared with are taken to be as many as the control cells
        lower, upper = found.interval(COVERAGE, n_perturbed=n_cells, n_control=n_cells)
        few = len(self.table.used_contexts) < FEWEST_CONTEXTS
        asked = self.table.parts_of(perturbation)[0]
        own = self._is(asked) & (np.array([context for context, _ in found.pairs]) == found.context)
        return ResponseEstimate(
            change=effect_scale * found.change[0],
            half_width=np.full(self.table.n_genes, np.nan) if few else abs(effect_scale) * (upper - lower)[0] / 2,
            expected_error=effect_scale**2 * found.variance[0],
            uncertainty=float(found.uncertainty[0]),
            max_training_uncertainty=self._largest_uncertainty(asked),
            own_weight=float(found.weights[0, own].sum()),
            expected_skill=found.expected_skill,
            n_worse=found.n_worse,
            n_groups=found.n_groups,
            flags=found.flags[0],
        )

    def length_spread(self, perturbation: str) -> float:
        """Standard deviation of lengths of a response relative to those that the other contexts predict."""
        rows = np.flatnonzero(self._left_out_of(self.table.parts_of(perturbation)[0]))
        if len(rows) < FEWEST_CONTEXTS:
            return USUAL_SPREAD
        table, moments = self._left_out
        change = moments.change
        sizes = (change[rows] ** 2).sum(1)
        along = (change[rows] * table.changes[rows]).sum(1)
        ratios = along[sizes > 0] / sizes[sizes > 0]
        return float(np.clip(np.sqrt(np.mean((ratios - 1) ** 2)), *SPREADS)) if len(ratios) else USUAL_SPREAD

    def _predicted(self, perturbation: str, group: str, profile: Vector) -> ResponsePrediction:
        if self._is_near(group, profile):
            return self.model.predict(perturbation, context=group)
        name = group if group not in self.table.contexts else f"other {group}"
        return self.model.predict(perturbation, context=name, profile=profile)

    def _is_near(self, group: str, profile: Vector) -> bool:
        """True of a context whose control cells are no farther from its own than any context is from the next."""
        if group not in self.table.contexts:
            return False
        own = np.linalg.norm(self.table.control_means[self.table.position_of(group)] - profile)
        return float(own) <= self._farthest_neighbour

    @cached_property
    def _farthest_neighbour(self) -> float:
        """Largest distance of a context from the one next to it."""
        means = self.table.control_means
        between = cdist(means, means) + np.diag(np.full(len(means), np.inf))
        return float(between.min(1).max())

    @cached_property
    def _left_out(self) -> tuple[ResponseTable, Moments]:
        """Some of the pairs, and their prediction where all pairs of their context are left out."""
        process = self.model.fitted.process
        table = bounded(process.table, LEFT_OUT_PAIRS)
        return table, leave_groups_out(table, process.kernel, process.weights, table.context_of, refit=False)

    def _left_out_of(self, asked: Vector) -> np.ndarray:
        """Mask of those pairs that are of a perturbation; empty where there are too few contexts."""
        if len(self.table.used_contexts) < FEWEST_CONTEXTS:
            return np.zeros(0, dtype=bool)
        return np.asarray((self._left_out[0].parts == asked).all(1))

    def _largest_uncertainty(self, asked: Vector) -> float:
        rows = self._left_out_of(asked)
        if not len(rows):
            return float("nan")
        _, moments = self._left_out
        error = self.model.fitted.calibration.variance(moments).sum(1)
        doubt = error / np.maximum((moments.variance + moments.change**2).sum(1), 1e-300)
        return float(doubt[rows].max() if rows.any() else doubt.max())

    def _is(self, asked: Vector) -> np.ndarray:
        return np.asarray((self.table.parts == asked).all(1))
