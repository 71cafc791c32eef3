"""Ordinary kriging written plainly: the oracle of the estimator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltavi.perturbation._kriging import DEFAULT_WIDTH, SMALLEST_NOISE, WIDTHS, Responses


@dataclass(frozen=True, eq=False)
class Expected:
    """What kriging has to find."""

    weights: np.ndarray
    uncertainty: float
    spread: np.ndarray


def squared(a: np.ndarray, b: np.ndarray) -> float:
    """Squared distance of two points."""
    return float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def noise(responses: Responses) -> list[float]:
    """Squared error over the genes of each label, relative to what of the differences between labels is no noise."""
    total = float(sum(np.var(gene, ddof=1) for gene in responses.changes.T))
    errors = [float(row.sum()) for row in responses.errors]
    signal = max(total - sum(errors) / len(errors), 1e-3 * total)
    return [max(error / signal, SMALLEST_NOISE) for error in errors]


def scale(points: np.ndarray, width: float) -> float:
    """Squared distance at which the covariance has fallen to 1 / e."""
    pairs = [squared(a, b) for i, a in enumerate(points) for b in points[:i]]
    return width * sum(pairs) / len(pairs)


def covariance(responses: Responses, width: float) -> np.ndarray:
    """Covariance of measured responses, relative to the variance of true ones."""
    points, at = responses.points, scale(responses.points, width)
    return np.array([[np.exp(-squared(a, b) / at) for b in points] for a in points]) + np.diag(noise(responses))


def bordered_weights(between: np.ndarray, to_query: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights that sum to one, and the Lagrange multiplier that sees to it (Cressie 1993, section 3.2)."""
    n = len(between)
    bordered = np.ones((n + 1, n + 1))
    bordered[:n, :n], bordered[n, n] = between, 0.0
    *weights, multiplier = np.linalg.solve(bordered, [*to_query, 1.0])
    return np.array(weights), float(multiplier)


def kriging(responses: Responses, query: np.ndarray, width: float) -> Expected:
    """Weights, what is expected of their error, and the spread of the responses."""
    n, between = len(responses.points), covariance(responses, width)
    at = scale(responses.points, width)
    to_query = np.array([np.exp(-squared(point, query) / at) for point in responses.points])
    weights, multiplier = bordered_weights(between, to_query)
    # generalised least squares by whitening, for the mean and what is left of it
    lower = np.linalg.cholesky(between)
    ones, changes = np.linalg.solve(lower, np.ones((n, 1))), np.linalg.solve(lower, responses.changes)
    residuals = changes - ones @ np.linalg.lstsq(ones, changes, rcond=None)[0]
    return Expected(
        weights=weights,
        uncertainty=1 - float(np.dot(weights, to_query)) - multiplier,
        spread=(residuals**2).sum(0) / (n - 1),
    )


def mean_weights(responses: Responses, width: float) -> np.ndarray:
    """Weights of the labels in the generalised least squares mean."""
    solved = np.linalg.solve(covariance(responses, width), np.ones(len(responses.points)))
    return solved / solved.sum()


def left_out_error(responses: Responses, label: int, width: float) -> np.ndarray:
    """Error of one label predicted from the others, fitted again without it."""
    between = covariance(responses, width)
    others = np.arange(len(between)) != label
    weights, _ = bordered_weights(between[np.ix_(others, others)], between[others, label])
    return np.asarray(responses.changes[label] - weights @ responses.changes[others])


def preferred_width(responses: Responses) -> float:
    """That at which each label is predicted best from the others, by trying all."""
    labels = range(len(responses.points))
    if len(labels) < 3:
        return DEFAULT_WIDTH
    errors = [sum((left_out_error(responses, i, width) ** 2).sum() for i in labels) for width in WIDTHS]
    return WIDTHS[int(np.argmin(errors))]


def weights_from_cells(control: list[np.ndarray], perturbed: list[np.ndarray], query: np.ndarray) -> np.ndarray:
    """Weights of labels, given the cells of each in both conditions ``(n_cells, n_dims)`` and the query's mean."""

    def error(cells: np.ndarray) -> np.ndarray:
        return np.var(cells, axis=0, ddof=1) / len(cells)

    means = np.array([cells.mean(0) for cells in control])
    changes = np.array([cells.mean(0) for cells in perturbed]) - means
    errors = np.array([error(a) + error(b) for a, b in zip(control, perturbed, strict=True)])
    responses = Responses(means, changes, errors)
    return kriging(responses, query, preferred_width(responses)).weights
