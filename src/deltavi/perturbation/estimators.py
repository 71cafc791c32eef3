"""Shifts, and the estimators that turn the group means of two conditions into one.

A new estimator is one function of `Evidence` registered in `ESTIMATORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from deltavi._errors import DeltaviError, examples
from deltavi._reading import known_arguments
from deltavi.metrics.means import pearson
from deltavi.perturbation.crossed_flat import interpolate
from deltavi.perturbation.crossed_means import table_of_means

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_table import ResponseTable

ALL_CELLS = "all cells"
METRICS = ("euclidean", "correlation")
# Squared error of means that are known without one, relative to the largest squared change.
UNKNOWN_NOISE = 1e-12


@known_arguments
@dataclass(frozen=True, eq=False)
class Shift:
    """A displacement from control to perturbed cells, and what it was computed from.

    Attributes
    ----------
    vector
        The displacement, (n_dims,), in the units of the points.
    estimator
        Name of the estimator; "vector" for one that was given.
    weights
        Training label -> its weight, summing to one (of `gp` some may be negative); empty for `global`, `none` and
        a given vector. For `scgen` these are the weights in the perturbed mean; the control mean weights every label of
        `n_control` by 1 / len(n_control).
    n_control, n_perturbed
        Training label -> number of control and of perturbed cells used; the only label of `global` is "all cells".
    uncertainty
        For `gp`: expected squared error relative to how much responses of labels differ, 0 on top of a
        well measured label and about 1 far away from all; NaN for the other estimators.
    """

    vector: Vector
    estimator: str
    weights: dict[str, float] = field(default_factory=dict)
    n_control: dict[str, int] = field(default_factory=dict)
    n_perturbed: dict[str, int] = field(default_factory=dict)
    uncertainty: float = float("nan")

    @property
    def length(self) -> float:
        """Euclidean length of the vector, in the units of the points."""
        return float(np.linalg.norm(self.vector))


@known_arguments
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
    errors
        (n_labels, n_dims) squared standard errors of the means, where they are known.
    """

    labels: tuple[str, ...]
    means: Vector
    n_cells: tuple[int, ...]
    errors: Vector | None = None

    @classmethod
    def of(cls, labels: tuple[str, ...], means: Vector, deviations: Vector, n_cells: tuple[int, ...]) -> GroupMeans:
        """Means with their errors, from the sums of squared deviations within the groups, (n_labels, n_dims)."""
        n = np.asarray(n_cells, dtype=np.float64)[:, None]
        # a single cell has no spread of its own: that within the other groups stands in
        pooled = deviations.sum(0) / max(n.sum() - len(n), 1.0)
        variances = np.where(n > 1, deviations / np.maximum(n - 1, 1.0), pooled)
        return cls(labels, means, n_cells, variances / n)

    @property
    def deviations(self) -> Vector:
        """Sums of squared deviations within the groups, as `of` takes them, (n_labels, n_dims); needs errors."""
        assert self.errors is not None
        n = np.asarray(self.n_cells, dtype=np.float64)[:, None]
        return np.asarray(self.errors * n * (n - 1))

    def counts(self) -> dict[str, int]:
        """Label -> number of cells."""
        return dict(zip(self.labels, self.n_cells, strict=True))

    def only(self, labels: tuple[str, ...]) -> GroupMeans:
        """The means of `labels`, in that order."""
        rows = [self.labels.index(label) for label in labels]
        errors = None if self.errors is None else self.errors[rows]
        return GroupMeans(labels, self.means[rows], tuple(self.n_cells[row] for row in rows), errors)


@known_arguments
@dataclass(frozen=True, eq=False)
class Evidence:
    """Input of an estimator.

    Attributes
    ----------
    control, perturbed
        Group means of the training cells of either condition; one group of all cells without labels.
    has_labels
        Whether the groups are labels.
    query
        Mean of the query's control cells, (n_dims,), or None.
    bandwidth, metric
        Options of `similarity` and `nearest`.
    coordinates
        Where Euclidean distances between labels and the query are measured: a function of positions (n, n_dims), or
        None for the positions themselves.
    """

    control: GroupMeans
    perturbed: GroupMeans
    has_labels: bool
    query: Vector | None
    bandwidth: float
    metric: str
    coordinates: Callable[[Vector], Vector] | None = None

    def places(self, control: GroupMeans, estimator: str) -> tuple[Vector, Vector]:
        """Positions of the labels of `control` and of the query for Euclidean distances, (n_labels, n) and (n,)."""
        query, means = self.required_query(estimator), control.means
        if self.coordinates is None:
            return means, query
        *rows, query = self.coordinates(np.vstack([means, query]))
        return np.stack(rows), np.asarray(query)

    def squared_distances(self, control: GroupMeans, estimator: str) -> Vector:
        """Squared distance of each label of `control` to the query, (n_labels,)."""
        means, query = self.places(control, estimator)
        return np.asarray(((means - query) ** 2).sum(axis=1))

    def pairs(self, estimator: str) -> tuple[GroupMeans, GroupMeans]:
        """Control and perturbed means of the labels seen in both conditions, row by row.

        Raises
        ------
        DeltaviError
            There are no labels, or none is seen in both conditions.
        """
        self.require_labels(estimator)
        both = tuple(label for label in self.control.labels if label in self.perturbed.labels)
        if not both:
            seen = [examples(group.labels, 10) or "none" for group in (self.control, self.perturbed)]
            raise DeltaviError(
                f"No label is seen in both conditions, which {estimator!r} needs. Control: {seen[0]}; perturbed: "
                f"{seen[1]}. Use 'global', which ignores labels, or give the shift as a vector."
            )
        return self.control.only(both), self.perturbed.only(both)

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
    control, perturbed = evidence.pairs("paired")
    return _weighted("paired", control, perturbed, _equal_weights(control))


def _similarity(evidence: Evidence) -> Shift:
    control, perturbed = evidence.pairs("similarity")
    distances = evidence.squared_distances(control, "similarity")
    return _weighted("similarity", control, perturbed, similarity_weights(distances, evidence.bandwidth))


def _gp(evidence: Evidence) -> Shift:
    control, perturbed = evidence.pairs("gp")
    places, query = evidence.places(control, "gp")
    found = interpolate(changes_of(control, perturbed), places, query)
    return replace(_weighted("gp", control, perturbed, found.weights), uncertainty=found.uncertainty)


def changes_of(control: GroupMeans, perturbed: GroupMeans) -> ResponseTable:
    """Changes of labels, the rows of both groups; where nothing tells their noise it is small, and the same for all."""
    dims = tuple(map(str, range(control.means.shape[1])))
    found = table_of_means({"control": control, "perturbed": perturbed}, "control", dims)
    if found is not None:
        return found
    error = UNKNOWN_NOISE * max(float(((perturbed.means - control.means) ** 2).max(initial=0)), 1.0)
    alike = [
        replace(group, n_cells=(2,) * len(group.labels), errors=np.full_like(group.means, error))
        for group in (control, perturbed)
    ]
    found = table_of_means(dict(zip(("control", "perturbed"), alike, strict=True)), "control", dims)
    assert found is not None
    return found


def similarity_weights(distances: Vector, bandwidth: float) -> Vector:
    """Weights exp(-(d - min d) / (bandwidth * mean d)), normalised to sum to one, (n_labels,)."""
    width = bandwidth * distances.mean()
    if width == 0:  # every label coincides with the query: none is preferred
        return np.full(len(distances), 1 / len(distances))
    weights = np.exp(-(distances - distances.min()) / width)
    return np.asarray(weights / weights.sum())


def _nearest(evidence: Evidence) -> Shift:
    control, perturbed = evidence.pairs("nearest")
    if evidence.metric == "correlation":
        query = evidence.required_query("nearest")
        distances = np.array([1 - pearson(mean, query) for mean in control.means])
    else:
        distances = evidence.squared_distances(control, "nearest")
    weights = np.zeros(len(distances))
    weights[np.argmin(distances)] = 1
    return _weighted("nearest", control, perturbed, weights)


def _global(evidence: Evidence) -> Shift:
    vector = evidence.perturbed.means[0] - evidence.control.means[0]
    return Shift(vector, "global", {}, evidence.control.counts(), evidence.perturbed.counts())


def _scgen(evidence: Evidence) -> Shift:
    evidence.require_labels("scgen")
    control, perturbed = evidence.control, evidence.perturbed
    if not (control.labels and perturbed.labels):
        raise DeltaviError("The shift estimator 'scgen' needs a label in each condition. Use 'global'.")
    weights = dict(zip(perturbed.labels, _equal_weights(perturbed).tolist(), strict=True))
    vector = perturbed.means.mean(axis=0) - control.means.mean(axis=0)
    return Shift(vector, "scgen", weights, control.counts(), perturbed.counts())


def _none(evidence: Evidence) -> Shift:
    return Shift(np.zeros(evidence.control.means.shape[1]), "none")


def _equal_weights(group: GroupMeans) -> Vector:
    return np.full(len(group.labels), 1 / len(group.labels))


def _weighted(estimator: str, control: GroupMeans, perturbed: GroupMeans, weights: Vector) -> Shift:
    """Weighted mean over labels of perturbed minus control."""
    named = dict(zip(control.labels, weights.tolist(), strict=True))
    used = tuple(label for label, weight in named.items() if weight != 0)
    vector = weights @ (perturbed.means - control.means)
    return Shift(vector, estimator, named, control.only(used).counts(), perturbed.only(used).counts())


# Later estimators, such as one shift per query cell, are added here.
ESTIMATORS: Mapping[str, Callable[[Evidence], Shift]] = MappingProxyType(
    {
        "paired": _paired,
        "similarity": _similarity,
        "nearest": _nearest,
        "gp": _gp,
        "global": _global,
        "scgen": _scgen,
        "none": _none,
    }
)


def storable(key: str) -> str:
    """A key that h5ad files can hold: they take "/" for a level of their hierarchy and no empty name or dot."""
    return {"": "%00", ".": "%2E"}.get(key, key.replace("/", "%2F"))


def label_of(column: object) -> str:
    """The label that a column of a prediction is about; h5ad files take neither "/" nor some other names."""
    return {"%00": "", "%2E": "."}.get(str(column), str(column).replace("%2F", "/"))
