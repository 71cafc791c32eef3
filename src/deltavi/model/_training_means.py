"""Means of the training cells that a model keeps: position and expression of every label in every condition."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deltavi._cp10k import cp10k_factors
from deltavi._entries import shown
from deltavi._errors import DeltaviError, examples
from deltavi._types import State
from deltavi.model._group_sums import Groups, GroupSums, group_sums
from deltavi.model._question import ShiftStrategy
from deltavi.perturbation.estimators import ALL_CELLS, ESTIMATORS, Evidence, GroupMeans, Shift
from deltavi.perturbation.shift import check_options, given_vector
from deltavi.registry.checks import wanted_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

logger = logging.getLogger("deltavi")

# Estimators whose vector is to be used as it stands: the paper's, and a user's.
UNSCALED = ("scgen", "none", "vector")
# A label of fewer cells in either condition has a mean that says little.
FEW_CELLS = 10
# Lengths that a shift may be stretched to, relative to its own, and how finely.
STRETCHES = np.linspace(0.5, 2.0, 16)


class ExpressionSums(GroupSums):
    """Sums of expression over groups of cells, and of its log1p, whose rows come block by block.

    Parameters
    ----------
    groups
        Groups of the cells.
    n_genes
        Genes of the rows.
    totals
        Total counts of each cell ``(n_cells,)``, or none of log-normalised expression.
    """

    def __init__(self, groups: Groups, n_genes: int, *, totals: np.ndarray | None) -> None:
        self.groups, self.is_log = groups, totals is None
        weights = None if totals is None else cp10k_factors(totals)
        super().__init__(groups.codes, n_genes, weights=weights, logs=(False,) if totals is None else (False, True))


@dataclass(frozen=True, eq=False)
class TrainingMeans:
    """Group means of the training cells, by condition and label.

    Kept in the model and in its file, so that a loaded model predicts without its training data.

    Parameters
    ----------
    positions
        Condition -> mean latent position of each label; one group of all cells where no labels were registered.
    expression
        Condition -> mean expression of the same groups: counts per ten thousand, or a Gaussian's input.
    overall_positions, overall_expression
        The same for all cells of a condition together.
    has_labels
        Whether the groups are labels.
    is_log
        Whether the expression is log-normalised already.
    log_expression
        As `expression`, of log1p CP10k: what responses between labels are interpolated on. Not in older files.
    """

    positions: dict[str, GroupMeans]
    expression: dict[str, GroupMeans]
    overall_positions: dict[str, GroupMeans]
    overall_expression: dict[str, GroupMeans]
    has_labels: bool
    is_log: bool
    log_expression: dict[str, GroupMeans] | None = None

    @classmethod
    def from_cells(
        cls,
        positions: np.ndarray,
        expression: Any,
        *,
        totals: np.ndarray | None,
        conditions: np.ndarray,
        labels: np.ndarray | None,
    ) -> TrainingMeans:
        """Means of `positions` ``(n_cells, n_latent)`` and `expression` ``(n_cells, n_genes)``.

        Parameters
        ----------
        positions
            Latent means.
        expression
            Counts with `totals` ``(n_cells,)``, or log-normalised expression without.
        totals
            Total counts of each cell.
        conditions, labels
            ``(n_cells,)`` names.
        """
        sums = ExpressionSums(Groups(conditions, labels), expression.shape[1], totals=totals)
        for rows, block in wanted_blocks(expression, sums.wanted):
            sums.add(rows, block)
        return cls.from_sums(positions, sums, has_labels=labels is not None)

    @classmethod
    def from_sums(cls, positions: np.ndarray, sums: ExpressionSums, *, has_labels: bool) -> TrainingMeans:
        """Means of `positions` ``(n_cells, n_latent)``, and of the expression of the same cells in `sums`."""
        groups = sums.groups
        of_positions, overall_positions = groups.split(*group_sums(positions, groups.codes)[0])
        of_expression, overall_expression = groups.split(*sums.found[0])
        return cls(
            positions=of_positions,
            expression=of_expression,
            overall_positions=overall_positions,
            overall_expression=overall_expression,
            has_labels=has_labels,
            is_log=sums.is_log,
            log_expression=of_expression if sums.is_log else groups.split(*sums.found[1])[0],
        )

    def shift(
        self,
        control: str,
        perturbation: str,
        *,
        query: np.ndarray,
        estimator: str | np.ndarray | ShiftStrategy,
        bandwidth: float,
        coordinates: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Shift:
        """Shift between two conditions for cells whose mean latent position is `query`.

        Parameters
        ----------
        control, perturbation
            Conditions.
        query
            ``(n_latent,)`` mean latent position of the cells to move.
        estimator, bandwidth
            As in :func:`deltavi.perturbation.estimate_shift`.
        coordinates
            Where labels and query are compared: a function of latent positions, by default the positions themselves.
        """
        if callable(estimator):
            evidence = self._evidence(control, perturbation, self.positions, query, bandwidth, coordinates)
            return _checked(estimator(evidence), len(query))
        if not isinstance(estimator, str):
            return Shift(given_vector(estimator, len(query)), "vector")
        if estimator == "similarity" and not self.has_labels:
            estimator = "global"
        check_options(estimator, "euclidean", bandwidth)
        groups = self.overall_positions if estimator == "global" else self.positions
        return ESTIMATORS[estimator](self._evidence(control, perturbation, groups, query, bandwidth, coordinates))

    def _evidence(
        self,
        control: str,
        perturbation: str,
        groups: dict[str, GroupMeans],
        query: np.ndarray,
        bandwidth: float,
        coordinates: Callable[[np.ndarray], np.ndarray] | None,
    ) -> Evidence:
        """Means of `groups` in both conditions, as an estimator takes them."""
        missing = [condition for condition in (control, perturbation) if condition not in groups]
        if missing:
            raise DeltaviError(f"No training cell has condition {missing[0]!r}: a shift cannot be estimated.")
        return Evidence(
            control=groups[control],
            perturbed=groups[perturbation],
            has_labels=self.has_labels and groups is not self.overall_positions,
            query=np.asarray(query, dtype=np.float64),
            bandwidth=bandwidth,
            metric="euclidean",
            coordinates=coordinates,
        )

    def observed_change(self, control: str, perturbation: str, shift: Shift) -> NDArray[np.float64]:
        """Change of log1p expression in the training labels behind `shift`, weighted as it is, ``(n_genes,)``."""
        groups = self.expression if shift.weights else self.overall_expression
        before, after = groups[control], groups[perturbation]
        weights = shift.weights or {ALL_CELLS: 1.0}
        change = np.zeros(before.means.shape[1])
        for label, weight in weights.items():
            if weight != 0:  # of kriging some are negative
                change += weight * (self._log(_row(after, label)) - self._log(_row(before, label)))
        return change

    def _log(self, expression: NDArray[np.float64]) -> NDArray[np.float64]:
        return expression if self.is_log else np.log1p(expression)

    def joined(self, other: TrainingMeans) -> TrainingMeans:
        """Means over the cells of both; for a query that was mapped into the latent space of a reference."""
        names = ("positions", "expression", "overall_positions", "overall_expression")
        fields: State = {name: _joined(getattr(self, name), getattr(other, name)) for name in names}
        if self.log_expression is None or other.log_expression is None:
            fields["log_expression"] = None
        else:
            fields["log_expression"] = _joined(self.log_expression, other.log_expression)
        return replace(self, **fields)

    def as_dict(self) -> State:
        """Plain form for a model file."""
        return {
            name: value if isinstance(value, bool) else {c: _plain(group) for c, group in value.items()}
            for name, value in self.__dict__.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, saved: State) -> TrainingMeans:
        """Inverse of :meth:`as_dict`."""
        fields: State = {
            name: value
            if isinstance(value, bool)
            else {condition: GroupMeans(**group) for condition, group in value.items()}
            for name, value in saved.items()
        }
        return cls(**fields)

    def renamed(self, names: dict[str, str]) -> TrainingMeans:
        """The same means, of conditions and labels that `names` gives other names."""
        fields: State = {
            name: _renamed(value, names) if isinstance(value, dict) else value for name, value in self.__dict__.items()
        }
        return replace(self, **fields)


def _renamed(groups: dict[str, GroupMeans], names: dict[str, str]) -> dict[str, GroupMeans]:
    return {
        names.get(condition, condition): replace(means, labels=tuple(names.get(label, label) for label in means.labels))
        for condition, means in groups.items()
    }


def _plain(group: GroupMeans) -> State:
    plain = {"labels": group.labels, "means": np.asarray(group.means), "n_cells": group.n_cells}
    return plain if group.errors is None else {**plain, "errors": np.asarray(group.errors)}


def _joined(first: dict[str, GroupMeans], second: dict[str, GroupMeans]) -> dict[str, GroupMeans]:
    """Means by condition and label over the cells behind both."""
    result = {}
    for condition in dict.fromkeys([*first, *second]):
        parts = [means[condition] for means in (first, second) if condition in means]
        labels = tuple(sorted({label for part in parts for label in part.labels}))
        merged = [_merged([part.only((label,)) for part in parts if label in part.labels]) for label in labels]
        sizes = tuple(size for size, _, _ in merged)
        means, deviations = (np.stack([row[i] for row in merged]) for i in (1, 2))
        known = all(part.errors is not None for part in parts)
        result[condition] = (
            GroupMeans.of(labels, means, deviations, sizes) if known else GroupMeans(labels, means, sizes)
        )
    return result


def _merged(parts: list[GroupMeans]) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Cells, mean, and sum of squared deviations of one label seen in several parts; zero where errors are unknown."""
    sizes = np.array([part.n_cells[0] for part in parts])
    rows = np.stack([part.means[0] for part in parts])
    mean = sizes @ rows / sizes.sum()
    inside = sum(part.deviations[0] for part in parts) if all(p.errors is not None for p in parts) else 0.0
    return int(sizes.sum()), mean, np.asarray(inside + sizes @ (rows - mean) ** 2)


def _row(group: GroupMeans, label: str) -> NDArray[np.float64]:
    return np.asarray(group.means[group.labels.index(label)], dtype=np.float64)


def _checked(found: object, n_latent: int) -> Shift:
    """Shift that an estimator of the user's own gave; raises DeltaviError if it is none."""
    if not isinstance(found, Shift):
        raise DeltaviError(
            f"The function passed as shift= returned {shown(found)}: an estimator takes deltavi.perturbation.Evidence "
            "and returns deltavi.perturbation.Shift."
        )
    return replace(found, vector=given_vector(found.vector, n_latent))


def stretched(
    shift: Shift, observed: NDArray[np.float64], decoded_change: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> tuple[Shift, float]:
    """Scale a shift until the decoded change is as large as the one observed in the labels it comes from.

    Posterior means are drawn towards the prior, so a shift between them decodes to less than the change that was
    seen. The factor is the one at which the decoded change, projected on the observed one, has its length.

    Parameters
    ----------
    shift
        Shift between latent means.
    observed
        ``(n_genes,)`` change of log expression in the training labels, weighted as in `shift`.
    decoded_change
        Change of log expression ``(n_genes,)`` that a latent displacement decodes to in the query cells.

    Returns
    -------
    The scaled shift, and the factor.
    """
    length = float(observed @ observed)
    if length == 0.0 or shift.length == 0.0:
        return shift, 1.0
    projections: list[float] = []
    for stretch in STRETCHES:
        projections.append(float(decoded_change(stretch * shift.vector) @ observed / length))
        if projections[-1] > 1.0:
            # larger ones do not lie between
            break
    factor = float(np.interp(1.0, np.maximum.accumulate(projections), STRETCHES[: len(projections)]))
    return replace(shift, vector=factor * shift.vector), factor


def vectors_table(shifts: dict[str, Shift]) -> pd.DataFrame:
    """Latent displacement of every query group, one row each; a row can be passed as ``shift=``."""
    return pd.DataFrame(
        np.stack([s.vector for s in shifts.values()]) if shifts else np.zeros((0, 0)),
        index=pd.Index([str(group) for group in shifts], name="query"),
    ).rename(columns=str)


def weights_table(shifts: dict[str, Shift], factors: dict[str, float]) -> pd.DataFrame:
    """Weight and cells of every training label in the shift of every query group, one row each."""
    rows = [
        (group, label, weight, shift.n_control.get(label, 0), shift.n_perturbed.get(label, 0), factors[group])
        for group, shift in shifts.items()
        for label, weight in (shift.weights or {ALL_CELLS: 1.0}).items()
    ]
    columns = ["query", "training_label", "weight", "n_control", "n_perturbed", "shift_scale"]
    table = pd.DataFrame(rows, columns=columns)
    table.index = table.index.astype(str)
    return table


def log_weak_evidence(shifts: dict[str, Shift], factors: dict[str, float]) -> None:
    """Say where a shift rests on few cells, or could not be stretched as far as it should be."""
    for group, shift in shifts.items():
        few = {k for k, n in shift.n_control.items() if min(n, shift.n_perturbed.get(k, 0)) < FEW_CELLS}
        share = sum(weight for label, weight in shift.weights.items() if label in few)
        if share > 0.5:
            message = "%.0f %% of the shift for %r rests on labels of fewer than %d cells (%s)."
            logger.warning(message, 100 * share, group, FEW_CELLS, examples(sorted(few)))
        if shift.estimator not in UNSCALED and factors[group] >= STRETCHES[-1]:
            logger.warning("The scale of the shift for %r reached its limit of %g; train longer.", group, STRETCHES[-1])
