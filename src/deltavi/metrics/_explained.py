"""Squared error of a predicted change without the noise of the measured one, and the share that is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltavi._errors import GeneMatchError, InputDataError
from deltavi._reading import known_arguments
from deltavi.arrays.tables import align
from deltavi.metrics.means import change
from deltavi.metrics.significance import check_two_cells, moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deltavi.arrays.matrix import Matrix, Vector
    from deltavi.metrics.significance import Moments


@known_arguments
@dataclass(frozen=True)
class SquaredError:
    """Squared error of a predicted change and squared size of the response, both without the noise of measurement.

    Sums over genes, in squared log1p CP10k units. Those of several hold-outs are added, ``sum(parts,
    SquaredError.nothing())``, before `explained` is taken, so that a response counts by its size.

    Parameters
    ----------
    squared_error
        ``|predicted change - real change|^2 - noise``; an unbiased estimate of the squared distance from the true
        response, and so below zero at times.
    squared_size
        ``|real change|^2 - noise``; an unbiased estimate of the squared size of the true response.
    noise
        Squared standard error of the real change, summed over genes.

    Examples
    --------
    >>> from deltavi.metrics import SquaredError
    >>> strong = SquaredError.of_changes([2.0, 1.0], [2.0, 2.0], noise=0.5)
    >>> weak = SquaredError.of_changes([0.0, 0.0], [1.0, 0.0], noise=0.5)
    >>> round(strong.explained, 3), weak.explained, round((strong + weak).explained, 3)
    (0.933, 0.0, 0.875)
    """

    squared_error: float
    squared_size: float
    noise: float

    @classmethod
    def nothing(cls) -> SquaredError:
        """The sum of no hold-outs."""
        return cls(0.0, 0.0, 0.0)

    @classmethod
    def of_changes(cls, predicted_change: ArrayLike, real_change: ArrayLike, *, noise: ArrayLike) -> SquaredError:
        """Parts of one response from changes of the mean.

        Parameters
        ----------
        predicted_change, real_change
            (n_genes,), log1p CP10k. They must not share cells: see :func:`explained`.
        noise
            Squared standard error of the real change, that of each gene, (n_genes,), or their sum.

        Raises
        ------
        GeneMatchError
            The numbers of genes differ.
        InputDataError
            A value is missing or infinite, or a noise is negative.
        """
        predicted, real, error = (np.asarray(part, dtype=np.float64) for part in (predicted_change, real_change, noise))
        if predicted.ndim != 1 or predicted.shape != real.shape or error.shape not in ((), real.shape):
            raise GeneMatchError(
                f"The changes have the shapes {predicted.shape} and {real.shape}, and the noise {error.shape}; pass "
                "one number for each gene, of the noise also their sum."
            )
        if not all(np.isfinite(part).all() for part in (predicted, real, error)) or (error < 0).any():
            raise InputDataError("A change is missing or infinite, or a noise is, or is negative.")
        return _error(predicted, real, float(error.sum()))

    def __add__(self, other: SquaredError) -> SquaredError:
        """Parts of both."""
        if not isinstance(other, SquaredError):
            return NotImplemented
        return SquaredError(
            self.squared_error + other.squared_error, self.squared_size + other.squared_size, self.noise + other.noise
        )

    @property
    def explained(self) -> float:
        """Share of the response that is explained; NaN where no response stands out from the noise."""
        return 1.0 - self.squared_error / self.squared_size if self.squared_size > 0 else float("nan")


def _error(predicted: Vector, real: Vector, noise: float) -> SquaredError:
    """Parts of one response from its changes, (n_genes,), and the noise summed over genes."""
    away = predicted - real
    return SquaredError(float(away @ away) - noise, float(real @ real) - noise, noise)


def error_of_moments(predicted: Moments, real: Moments, control: Moments, reference: Moments) -> SquaredError:
    """Squared error from the moments of predicted and real cells, of those predicted from, and of those beside them."""
    noise = float(real.squared_error.sum() + reference.squared_error.sum())
    moved, measured = change(predicted.mean, control.mean), change(real.mean, reference.mean)
    return _error(moved, measured, noise)


@known_arguments
def squared_error(predicted: Matrix, real: Matrix, *, control: Matrix, reference: Matrix | None = None) -> SquaredError:
    """Squared error of the predicted change and squared size of the real change, both without the noise of the latter.

    Parameters
    ----------
    predicted, real, control, reference
        As in :func:`explained`.

    Returns
    -------
    The two, which can be added over hold-outs, and the noise.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values, or `real` or `reference` has a single cell.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads where `reference` is left out, as `explained` does. Both numbers may be below zero: they are estimates
    of squares, and their noise is subtracted.

    Examples
    --------
    >>> import numpy as np
    >>> from deltavi.metrics import squared_error
    >>> cells = np.array([[0.0], [2.0]])
    >>> squared_error(cells + 2, cells + 3, control=cells, reference=cells)
    SquaredError(squared_error=-1.0, squared_size=7.0, noise=2.0)
    """
    tables = {"predicted": predicted, "real": real, "control": control}
    found = align(tables if reference is None else {**tables, "reference": reference})
    check_two_cells(real=found[1], **{"control" if reference is None else "reference": found[-1]})
    moved, measured, start = (moments(matrix) for matrix in found.matrices[:3])
    return error_of_moments(moved, measured, start, start if reference is None else moments(found[3]))


@known_arguments
def explained(predicted: Matrix, real: Matrix, *, control: Matrix, reference: Matrix | None = None) -> float:
    """Share of the response that is explained, with the noise of the measurement subtracted.

    ``1 - (|p - d|^2 - noise) / (|d|^2 - noise)`` with the predicted change ``p = mean(predicted) - mean(control)``, the
    real change ``d = mean(real) - mean(reference)``, and the noise the squared standard errors of the two means of d,
    summed over genes. Without unit: 1 the true response, 0 no change, below 0 worse than no change.

    Parameters
    ----------
    predicted, real
        Predicted and real perturbed cells, (n_cells, n_genes), log1p CP10k, dense or sparse.
    control
        Control cells that were predicted from.
    reference
        Other control cells, which the prediction has not seen; None measures both changes from `control`.

    Returns
    -------
    The share; NaN where the squared size of the real change is below its noise.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values, or `real` or `reference` has a single cell.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads where `reference` is left out: the noise of the control mean is then in both changes, and a method that
    smooths it away without predicting any response scores above 0. It misleads about weak responses, where both
    numbers are estimates near zero: add those of several hold-outs (`squared_error`) and look at `signal_z` first. The
    cells of a group are taken as independent, so that the difference between two donors counts as response. Noise of
    the prediction itself is an error of the prediction and stays.

    Examples
    --------
    >>> import numpy as np
    >>> from deltavi.metrics import explained
    >>> rng = np.random.default_rng(0)
    >>> control, reference, real = rng.normal(2, 0.5, (3, 200, 50))
    >>> real[:, :10] += 1
    >>> half = control + np.where(np.arange(50) < 10, 0.5, 0)
    >>> round(explained(half, real, control=control, reference=reference), 2)
    0.75
    """
    return squared_error(predicted, real, control=control, reference=reference).explained
