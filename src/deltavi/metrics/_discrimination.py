"""Rank of the true condition among all measured ones, by distance to a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from deltavi._errors import DeltaviError, unknown_category
from deltavi._reading import known_arguments
from deltavi.arrays.matrix import gene_means
from deltavi.arrays.tables import align
from deltavi.metrics.means import change

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Matrix, Vector

RankMetric: TypeAlias = Literal["cosine", "euclidean"]


@known_arguments
def perturbation_discrimination(
    predicted: Matrix,
    real_by_condition: Mapping[str, Matrix],
    *,
    perturbation: str,
    control: Matrix,
    metric: RankMetric = "cosine",
) -> float:
    """Rank of the true condition among all measured ones, by the distance of its change to the predicted change.

    ``(#{c: d_c < d_perturbation} + #{c: d_c = d_perturbation} / 2) / (n_conditions - 1)`` over conditions c other than
    the perturbation, with d_c the distance between ``mean(predicted) - mean(control)`` and ``mean(real_c) -
    mean(control)``. Without unit, in [0, 1]: 0 where the perturbation is closest, 1 where it is farthest, 0.5 on
    average for a random prediction.

    Parameters
    ----------
    predicted
        Cells predicted for the perturbed condition, (n_cells, n_genes), log1p CP10k, dense or sparse.
    real_by_condition
        Name of every measured condition, the perturbation among them but not the control, -> its cells, (n_cells,
        n_genes).
    perturbation
        Name of the true condition.
    control
        Control cells, (n_cells, n_genes), from which all changes are taken.
    metric
        ``"cosine"``, one minus the cosine of the changes, blind to size; no change at all has distance 1 to every
        condition and rank 0.5. ``"euclidean"``, the length of the difference of the changes.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.
    UnknownCategoryError
        The perturbation is not among the conditions, or there is no such metric.
    DeltaviError
        There is no condition but the perturbation.

    Notes
    -----
    It misleads because being the closest is not being close: with few or very different conditions a poor prediction
    ranks first, and among conditions with the same response a perfect one ranks anywhere. With ``"euclidean"``, weak
    predictions are closest to weak conditions. Average it over many perturbations.

    References
    ----------
    Wu et al. (2024), PerturBench, arXiv 2408.10609, for the idea and the scale. They rank predictions by their
    distance to one measured condition, this ranks measured conditions by their distance to one prediction, so that a
    single prediction can be scored. They break ties at random and divide by the number of conditions.
    """
    if not isinstance(real_by_condition, Mapping):
        raise DeltaviError(
            f"real_by_condition must map the name of every condition to its cells, not be a "
            f"{type(real_by_condition).__name__}."
        )
    if perturbation not in real_by_condition:
        raise unknown_category("perturbation", perturbation, real_by_condition)
    if len(real_by_condition) < 2:
        raise DeltaviError("real_by_condition holds no condition but the perturbation; a rank needs at least two.")
    if not isinstance(metric, str) or metric not in get_args(RankMetric):
        raise unknown_category("metric", metric, get_args(RankMetric), among="those on offer")
    measured = {f"real_by_condition[{name!r}]": matrix for name, matrix in real_by_condition.items()}
    x, reference, *cells = align({"predicted": predicted, "control": control, **measured}).matrices
    start = gene_means(reference)
    guess = change(gene_means(x), start)
    changes = (change(gene_means(y), start) for y in cells)
    distances = {name: _distance(guess, moved, metric) for name, moved in zip(real_by_condition, changes, strict=True)}
    reached = distances.pop(perturbation)
    return float(np.mean([_comes_before(other, reached) for other in distances.values()]))


def _comes_before(other: float, reached: float) -> float:
    """1 where another condition is closer than the perturbation, a half where it is as close, 0 where it is not."""
    return 0.5 if other == reached else float(other < reached)


def _distance(a: Vector, b: Vector, metric: RankMetric) -> float:
    if metric == "euclidean":
        return float(np.linalg.norm(a - b))
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return 1.0 - float(a @ b) / lengths if lengths > 0 else 1.0
