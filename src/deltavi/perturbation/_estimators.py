"""What a shift is, and the estimators that turn the group means of two conditions into one.

A new estimator is one function of `Evidence` registered in `ESTIMATORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from deltavi._errors import DeltaviError, examples
from deltavi.metrics._means import pearson

if TYPE_CHECKING:
    from deltavi.metrics._matrix import Vector

ALL_CELLS = "all cells"
METRICS = ("euclidean", "correlation")


@dataclass(frozen=True, eq=False)
class Shift:
    """A displacement from control to target cells, and what it was computed from.

    Attributes
    ----------
    vector
        The displacement, (n_dims,), in the units of the points.
    estimator
        Name of the estimator; "vector" for one that was given.
    weights
        Training label -> its weight, summing to one; empty for `global`, `none` and a given vector. For `scgen` these
        are the weights in the target mean; the control mean weights every label of `n_control` by 1 / len(n_control).
    n_control, n_target
        Training label -> number of control and of target cells used; the only label of `global` is "all cells".
    """

    vector: Vector
    estimator: str
    weights: dict[str, float] = field(default_factory=dict)
    n_control: dict[str, int] = field(default_factory=dict)
    n_target: dict[str, int] = field(default_factory=dict)

    @property
    def length(self) -> float:
        """Euclidean length of the vector, in the units of the points."""
        return float(np.linalg.norm(self.vector))


@dataclass(frozen=True, eq=False)
class GroupMeans:
    """Mean positions of the labels seen in one condition.

    Attributes
    ----------
    labels
        Names in sorted order, n_labels of them.
    means
        (n_labels, n_dims).
    n_cells
        Number of cells behind each mean, n_labels of them.
    """

    labels: tuple[str, ...]
    means: Vector
    n_cells: tuple[int, ...]

    def counts(self) -> dict[str, int]:
        """Label -> number of cells."""
        return dict(zip(self.labels, self.n_cells, strict=True))

    def only(self, labels: tuple[str, ...]) -> GroupMeans:
        """The means of `labels`, in that order."""
        rows = [self.labels.index(label) for label in labels]
        return GroupMeans(labels, self.means[rows], tuple(self.n_cells[row] for row in rows))


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything an estimator may look at.

    Attributes
    ----------
    control, target
        Group means of the training cells of either condition; one group of all cells without labels.
    has_labels
        Whether the groups are labels.
    query
        Mean of the query's control cells, (n_dims,), or None.
    temperature, metric
        Options of `similarity` and `nearest`.
    coordinates
        Where Euclidean distances between labels and the query are measured: a function of positions (n, n_dims), or
        None for the positions themselves.
    """

    control: GroupMeans
    target: GroupMeans
    has_labels: bool
    query: Vector | None
    temperature: float
    metric: str
    coordinates: Callable[[Vector], Vector] | None = None

    def squared_distances(self, control: GroupMeans, estimator: str) -> Vector:
        """Squared distance of each label of `control` to the query, (n_labels,)."""
        query, means = self.required_query(estimator), control.means
        if self.coordinates is not None:
            *rows, query = self.coordinates(np.vstack([means, query]))
            means = np.stack(rows)
        return np.asarray(((means - query) ** 2).sum(axis=1))

    def pairs(self, estimator: str) -> tuple[GroupMeans, GroupMeans]:
        """Control and target means of the labels seen in both conditions, row by row.

        Raises
        ------
        DeltaviError
            There are no labels, or none is seen in both conditions.
        """
        self.require_labels(estimator)
        both = tuple(label for label in self.control.labels if label in self.target.labels)
        if not both:
            seen = [examples(group.labels, 10) or "none" for group in (self.control, self.target)]
            raise DeltaviError(
                f"No label is seen in both conditions, which {estimator!r} needs. In control: {seen[0]}; in target: "
                f"{seen[1]}. Use 'global', which ignores labels, or give the shift as a vector."
            )
        return self.control.only(both), self.target.only(both)

    def require_labels(self, estimator: str) -> None:
        """Raise DeltaviError unless the groups are labels."""
        if not self.has_labels:
            raise DeltaviError(f"The shift estimator {estimator!r} needs labels. Pass them, or use 'global'.")

    def required_query(self, estimator: str) -> Vector:
        """The query's mean; raises DeltaviError where there is none."""
        if self.query is None:
            raise DeltaviError(
                f"The shift estimator {estimator!r} needs query, the control cells whose response is wanted. "
                "Pass it, or use 'paired'."
            )
        return self.query


def _paired(evidence: Evidence) -> Shift:
    control, target = evidence.pairs("paired")
    return _weighted("paired", control, target, _equal_weights(control))


def _similarity(evidence: Evidence) -> Shift:
    control, target = evidence.pairs("similarity")
    distances = evidence.squared_distances(control, "similarity")
    return _weighted("similarity", control, target, similarity_weights(distances, evidence.temperature))


def similarity_weights(distances: Vector, temperature: float) -> Vector:
    """Weights exp(-(d - min d) / (temperature * mean d)), normalised to sum to one, (n_labels,)."""
    width = temperature * distances.mean()
    if width == 0:  # every label coincides with the query: none is preferred
        return np.full(len(distances), 1 / len(distances))
    weights = np.exp(-(distances - distances.min()) / width)
    return np.asarray(weights / weights.sum())


def _nearest(evidence: Evidence) -> Shift:
    control, target = evidence.pairs("nearest")
    if evidence.metric == "correlation":
        query = evidence.required_query("nearest")
        distances = np.array([1 - pearson(mean, query) for mean in control.means])
    else:
        distances = evidence.squared_distances(control, "nearest")
    weights = np.zeros(len(distances))
    weights[np.argmin(distances)] = 1
    return _weighted("nearest", control, target, weights)


def _global(evidence: Evidence) -> Shift:
    vector = evidence.target.means[0] - evidence.control.means[0]
    return Shift(vector, "global", {}, evidence.control.counts(), evidence.target.counts())


def _scgen(evidence: Evidence) -> Shift:
    evidence.require_labels("scgen")
    control, target = evidence.control, evidence.target
    if not (control.labels and target.labels):
        raise DeltaviError("The shift estimator 'scgen' needs a label in each condition. Use 'global'.")
    weights = dict(zip(target.labels, _equal_weights(target).tolist(), strict=True))
    vector = target.means.mean(axis=0) - control.means.mean(axis=0)
    return Shift(vector, "scgen", weights, control.counts(), target.counts())


def _none(evidence: Evidence) -> Shift:
    return Shift(np.zeros(evidence.control.means.shape[1]), "none")


def _equal_weights(group: GroupMeans) -> Vector:
    return np.full(len(group.labels), 1 / len(group.labels))


def _weighted(estimator: str, control: GroupMeans, target: GroupMeans, weights: Vector) -> Shift:
    """Weighted mean over labels of target minus control."""
    named = dict(zip(control.labels, weights.tolist(), strict=True))
    used = tuple(label for label, weight in named.items() if weight > 0)
    vector = weights @ (target.means - control.means)
    return Shift(vector, estimator, named, control.only(used).counts(), target.only(used).counts())


# Later estimators, such as one shift per query cell, are added here.
ESTIMATORS: Mapping[str, Callable[[Evidence], Shift]] = MappingProxyType(
    {
        "paired": _paired,
        "similarity": _similarity,
        "nearest": _nearest,
        "global": _global,
        "scgen": _scgen,
        "none": _none,
    }
)
