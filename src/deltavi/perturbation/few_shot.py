"""Correct the predicted response of a group by a few cells of it that were treated.

Control cells do not tell how strongly a group responds, and a handful of treated cells does. They are one more
measurement of the response, whose prior is the prediction: its length is uncertain by as much as lengths of training
labels differ from what the other labels predict of them, and every gene by the error that is expected of it. With few
cells the length moves and single genes do not; with many the measured mean takes over.
Source: Rasmussen and Williams (2006), Gaussian Processes, ch. 2; Henderson (1975), Biometrics 31 (shrunken effects).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector


@dataclass(frozen=True, eq=False)
class Update:
    """Response of a group after a few treated cells were seen.

    Attributes
    ----------
    change
        ``(n_genes,)`` change of the mean, log1p CP10k.
    length
        Factor of the predicted change that the cells show, before genes are corrected one by one.
    narrowing
        ``(n_genes,)`` factor of the standard error that is left of the expected one.
    n_cells
        Treated cells that were seen.
    """

    change: Vector
    length: float
    narrowing: Vector
    n_cells: int


def update(
    predicted: Vector,
    expected_error: Vector,
    cells: Vector,
    control: Vector,
    *,
    variance: Vector,
    spread: float,
) -> Update:
    """Combine a predicted change with cells that were measured.

    Parameters
    ----------
    predicted
        ``(n_genes,)`` change of the mean, log1p CP10k.
    expected_error
        ``(n_genes,)`` squared error that is expected of it.
    cells
        ``(n_cells, n_genes)`` treated cells, log1p CP10k; at least one.
    control
        ``(n_genes,)`` mean of the control cells of the group.
    variance
        ``(n_genes,)`` variance of single treated cells.
    spread
        Standard deviation of the length of a response relative to the predicted one.
    """
    measured, noise = cells.mean(0) - control, variance / len(cells)
    weight = _weights(predicted, expected_error + noise)
    along, projected = float(weight @ predicted), (cells - control) @ weight
    length = 1.0
    if along > 0:
        # cells differ along the response by more than independent genes would
        error = max(float(weight**2 @ variance), _variance(projected)) / len(cells) / along**2
        share = spread**2 / (spread**2 + error)
        length += share * (float(projected.mean()) / along - 1)
    total = expected_error + noise
    trust = np.divide(expected_error, total, out=np.zeros_like(total), where=total > 0)
    change = length * predicted + trust * (measured - length * predicted)
    return Update(change, length, np.sqrt(1 - trust), len(cells))


def _weights(predicted: Vector, error: Vector) -> Vector:
    return np.divide(predicted, error, out=np.zeros_like(predicted), where=error > 0)


def _variance(projected: Vector) -> float:
    return float(projected.var(ddof=1)) if len(projected) > 1 else 0.0
