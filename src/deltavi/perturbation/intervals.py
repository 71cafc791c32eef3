"""Intervals of the mean response of a gene, from the errors of predictions of the training labels.

Every training label is predicted from the others, and its errors, in units of the standard deviation that kriging
expects of them, give the width of an interval (split conformal prediction, Vovk et al. 2005, over labels). Genes
that are predicted to change much err more than the others and are calibrated apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltavi.perturbation._kriging import FEWEST_LABELS, Responses, best_width, interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deltavi.arrays.matrix import Vector

# Share of the genes, by decreasing predicted change, in each class that is calibrated on its own.
CLASSES = (0.05, 0.15, 0.8)
# Labels that the spread of one gene is shrunk by towards that of its class: few labels estimate it poorly.
PRIOR_LABELS = 2.0


@dataclass(frozen=True, eq=False)
class ResponseEstimate:
    """Prediction of the response of a query from the training labels.

    Attributes
    ----------
    change
        ``(n_genes,)`` kriged change of the mean, log1p CP10k.
    weights
        ``(n_labels,)`` weight of each training label.
    uncertainty
        See :class:`deltavi.perturbation.Shift`.
    max_training_uncertainty
        The largest one that a training label has when the others predict it; NaN with fewer than three labels.
    half_width
        ``(n_genes,)`` half the width of the interval; NaN with fewer than three labels.
    expected_error
        ``(n_genes,)`` squared error of the change of the query, without that of its own measurement.
    """

    change: Vector
    weights: Vector
    uncertainty: float
    max_training_uncertainty: float
    half_width: Vector
    expected_error: Vector


@dataclass(frozen=True, eq=False)
class Calibration:
    """Errors of predicting the training labels from one another, which calibrate those of further predictions.

    Attributes
    ----------
    responses
        Changes of the training labels, log1p CP10k, and where their control cells lie.
    width
        Of the covariance, at which the labels predict one another best.
    max_training_uncertainty
        The largest uncertainty of a label; NaN with fewer than three.
    needed
        Standard deviations that an interval has to span to each side, by class of genes; NaN with fewer than three.
    """

    responses: Responses
    width: float
    max_training_uncertainty: float
    needed: Vector

    @classmethod
    def of(cls, responses: Responses, coverage: float = 0.9) -> Calibration:
        """Calibrate intervals that hold the share `coverage` of genes."""
        n_labels, width = len(responses.points), best_width(responses)
        if n_labels < FEWEST_LABELS:
            return cls(responses, width, float("nan"), np.full(len(CLASSES), np.nan))
        few = responses.in_few_dimensions
        found = [_left_out(few, label, width) for label in range(n_labels)]
        errors, classes, uncertainties = zip(*found, strict=True)
        pooled, members = np.concatenate(errors), np.concatenate(classes)
        needed = [_quantile(pooled[members == c], coverage) for c in range(len(CLASSES))]
        return cls(responses, width, max(uncertainties), np.array(needed))

    def at(self, query: Vector, query_error: Vector | float = 0.0) -> ResponseEstimate:
        """The response of a query, with an interval for each gene.

        Parameters
        ----------
        query
            ``(n_genes,)`` where the control cells of the query lie.
        query_error
            ``(n_genes,)`` squared standard error of the change of the query: both of its means are those of few cells.
        """
        found = interpolate(self.responses, query, self.width)
        change = found.weights @ self.responses.changes
        expected_error = _variance(found.uncertainty, found.spread, change, len(self.responses.points))
        variance = expected_error + query_error
        # a gene that neither the labels nor the query express borrows no spread from others
        is_unexpressed = (found.spread == 0) & (np.asarray(query_error) == 0)
        expected = np.where(is_unexpressed, 0.0, np.sqrt(variance))
        half_width = self.needed[_class_of(change)] * expected
        uncertainties = found.uncertainty, self.max_training_uncertainty
        return ResponseEstimate(change, found.weights, *uncertainties, half_width, expected_error)


def estimate_response(
    responses: Responses, query: Vector, *, query_error: Vector | float = 0.0, coverage: float = 0.9
) -> ResponseEstimate:
    """Krige the response of one query; see :class:`Calibration`, which serves several."""
    return Calibration.of(responses, coverage).at(query, query_error)


def _left_out(responses: Responses, label: int, width: float) -> tuple[Vector, NDArray[np.intp], float]:
    """Errors of a label predicted from the others, as shares of what is expected, and classes of genes; uncertainty."""
    others = responses.without(label)
    found = interpolate(others, responses.points[label], width)
    change = found.weights @ others.changes
    variance = _variance(found.uncertainty, found.spread, change, len(others.points)) + responses.errors[label]
    errors = np.abs(responses.changes[label] - change)
    # genes that no label expresses have no error, and would make the others look surer than they are
    is_expressed = (found.spread > 0) | (responses.errors[label] > 0)
    relative = errors[is_expressed] / np.sqrt(variance[is_expressed])
    return relative, _class_of(change)[is_expressed], found.uncertainty


def _variance(uncertainty: float, spread: Vector, change: Vector, n_labels: int) -> Vector:
    """Expected squared error of each gene, its spread shrunk towards that of genes of its class."""
    classes = _class_of(change)
    typical = np.array([spread[classes == c].mean() if (classes == c).any() else 0.0 for c in range(len(CLASSES))])
    freedom = n_labels - 1
    return np.asarray(uncertainty * (freedom * spread + PRIOR_LABELS * typical[classes]) / (freedom + PRIOR_LABELS))


def _class_of(change: Vector) -> NDArray[np.intp]:
    """Class of every gene by the size of its predicted change, 0 for the largest."""
    rank = np.empty(len(change), dtype=np.intp)
    rank[np.argsort(-np.abs(change), kind="stable")] = np.arange(len(change))
    return np.asarray(np.searchsorted(np.cumsum(CLASSES)[:-1] * len(change), rank, side="right"))


def _quantile(values: Vector, coverage: float) -> float:
    return float(np.quantile(values, coverage, method="higher")) if len(values) else 0.0
