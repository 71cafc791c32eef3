"""Table of changes from means of groups of cells that were computed before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deltavi.perturbation.crossed_table import ResponseTable, single_parts
from deltavi.registry.conditions import canonical_name

if TYPE_CHECKING:
    from deltavi._types import IntArray
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.estimators import GroupMeans

# Groups of fewer cells count as if they had so many where variances are averaged.
SMALL_GROUP = 10
# Cells that the variance of a gene over all contexts counts for in that of one context.
PRIOR_CELLS = 10


def table_of_means(groups: Mapping[str, GroupMeans], control: str, genes: Sequence[str]) -> ResponseTable | None:
    """Changes of all conditions, with labels as contexts; None where there are none, or nothing tells their noise.

    Parameters
    ----------
    groups
        Condition -> means of its labels, log1p CP10k.
    control
        Condition of the untreated cells.
    genes
        Names of the columns of means.
    """
    start = groups.get(control)
    names = {condition: canonical_name(condition, control=control) for condition in groups}
    changed = {c: means for c, means in groups.items() if names[c] != control}
    if start is None or start.errors is None or any(means.errors is None for means in changed.values()):
        return None
    pairs = [(c, label) for c, means in changed.items() for label in means.labels if label in start.labels]
    variances = moderated(*_variances(start, changed))
    if not pairs or not variances.any():
        return None
    singles = sorted({part for condition, _ in pairs for part in single_parts(names[condition])})
    rows = [start.labels.index(label) for _, label in pairs]
    ends = [(changed[condition], changed[condition].labels.index(label)) for condition, label in pairs]
    return ResponseTable(
        changes=np.stack([means.means[row] for means, row in ends]) - start.means[rows],
        context_of=np.array(rows),
        parts=np.array([np.isin(singles, single_parts(names[condition])) for condition, _ in pairs], dtype=float),
        n_perturbed=np.array([means.n_cells[row] for means, row in ends]),
        n_control=np.array(start.n_cells),
        control_means=start.means,
        variances=variances,
        contexts=start.labels,
        perturbations=tuple(singles),
        genes=tuple(genes),
        control=control,
    )


def _variances(start: GroupMeans, changed: Mapping[str, GroupMeans]) -> tuple[Vector, Vector]:
    """Variance of one cell of each label of `start`, averaged by its part in the noise of changes; its freedom."""
    shape = start.means.shape
    sums, shares, freedom = np.zeros(shape), np.zeros(shape[0]), np.zeros(shape[0])
    uses = np.zeros(shape[0])
    for means in changed.values():
        rows, of_labels = _shared(start, means)
        uses[rows] += 1
        _add(sums, shares, freedom, rows, of_labels, np.ones(len(rows)))
    _add(sums, shares, freedom, list(range(shape[0])), start, np.maximum(uses, 1))
    return sums / np.maximum(shares, 1e-300)[:, None], freedom


def _shared(start: GroupMeans, means: GroupMeans) -> tuple[list[int], GroupMeans]:
    both = tuple(label for label in means.labels if label in start.labels)
    return [start.labels.index(label) for label in both], means.only(both)


def _add(sums: Vector, shares: Vector, freedom: Vector, rows: list[int], means: GroupMeans, uses: Vector) -> None:
    """Add the squared deviations of groups to what is summed of their labels, in place."""
    n = np.asarray(means.n_cells, dtype=np.float64)
    share = noise_shares(n, uses)
    sums[rows] += (share / np.maximum(n - 1, 1))[:, None] * means.deviations
    shares[rows] += share
    freedom[rows] += n - 1


def noise_shares(n_cells: IntArray | Vector, uses: IntArray | Vector) -> Vector:
    """Shares of groups in the noise of the changes that their means are used for; a single cell tells of none.

    Very small groups weigh as somewhat larger ones.
    """
    return np.asarray(np.where(n_cells > 1, uses / np.maximum(n_cells, SMALL_GROUP), 0.0))


def moderated(variances: Vector, freedom: Vector) -> Vector:
    """Variances of contexts, those of few cells moderated by what is typical of a gene, ``(n_contexts, n_genes)``."""
    typical = freedom @ variances / max(float(freedom.sum()), 1.0)
    weight = (freedom / (freedom + PRIOR_CELLS))[:, None]
    return np.asarray(weight * variances + (1 - weight) * typical)
