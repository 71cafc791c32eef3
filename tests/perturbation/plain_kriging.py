"""Ordinary kriging written plainly: the oracle of the estimator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltavi.perturbation import ResponseTable
from deltavi.perturbation.crossed_flat import DEFAULT_WIDTH, SMALLEST_NOISE, WIDTHS


@dataclass(frozen=True, eq=False)
class Expected:
    """What kriging has to find."""

    weights: np.ndarray
    uncertainty: float


def table_of(changes: np.ndarray, sizes: np.ndarray, variances: np.ndarray) -> ResponseTable:
    """Table of one perturbation in as many contexts as there are rows of `changes`.

    `sizes` are numbers of perturbed and of control cells ``(2, n_labels)``, `variances` those of one cell.
    """
    n, n_genes = changes.shape
    return ResponseTable(
        changes=changes,
        context_of=np.arange(n),
        parts=np.ones((n, 1)),
        n_perturbed=sizes[0],
        n_control=sizes[1],
        control_means=np.zeros((n, n_genes)),
        variances=np.broadcast_to(variances, (n, n_genes)),
        contexts=tuple(f"type {u}" for u in range(n)),
        perturbations=("drug",),
        genes=tuple(f"gene {g}" for g in range(n_genes)),
    )


def squared(a: np.ndarray, b: np.ndarray) -> float:
    """Squared distance of two points."""
    return float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def noise(table: ResponseTable) -> list[float]:
    """Squared error of each label, relative to what of the differences between labels is no noise."""
    errors = [1 / n + 1 / m for n, m in zip(table.n_perturbed, table.n_control, strict=True)]
    of_genes = [
        sum(e * v for e, v in zip(errors, column, strict=True)) / sum(errors) for column in table.variances.T.tolist()
    ]
    total = float(sum(np.var(gene, ddof=1) for gene in table.changes.T)) / sum(of_genes)
    signal = max(total - sum(errors) / len(errors), 1e-3 * total)
    most = sum(errors) / len(errors) / SMALLEST_NOISE
    signal = min(signal, most) if signal > 0 else most
    return [error / signal for error in errors]


def scale(points: np.ndarray, width: float) -> float:
    """Squared distance at which the covariance has fallen to 1 / e."""
    pairs = [squared(a, b) for i, a in enumerate(points) for b in points[:i]]
    return width * sum(pairs) / len(pairs)


def covariance(table: ResponseTable, points: np.ndarray, width: float) -> np.ndarray:
    """Covariance of measured responses, relative to the variance of true ones."""
    at = scale(points, width)
    return np.array([[np.exp(-squared(a, b) / at) for b in points] for a in points]) + np.diag(noise(table))


def bordered_weights(between: np.ndarray, to_query: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights that sum to one, and the Lagrange multiplier that sees to it (Cressie 1993, section 3.2)."""
    n = len(between)
    bordered = np.ones((n + 1, n + 1))
    bordered[:n, :n], bordered[n, n] = between, 0.0
    *weights, multiplier = np.linalg.solve(bordered, [*to_query, 1.0])
    return np.array(weights), float(multiplier)


def kriging(table: ResponseTable, points: np.ndarray, query: np.ndarray, width: float) -> Expected:
    """Weights, and what is expected of their error."""
    at = scale(points, width)
    to_query = np.array([np.exp(-squared(point, query) / at) for point in points])
    weights, multiplier = bordered_weights(covariance(table, points, width), to_query)
    return Expected(weights, 1 - float(np.dot(weights, to_query)) - multiplier)


def mean_weights(table: ResponseTable, points: np.ndarray, width: float) -> np.ndarray:
    """Weights of the labels in the generalised least squares mean."""
    solved = np.linalg.solve(covariance(table, points, width), np.ones(len(points)))
    return solved / solved.sum()


def left_out_error(table: ResponseTable, points: np.ndarray, label: int, width: float) -> np.ndarray:
    """Error of one label predicted from the others, fitted again without it."""
    between = covariance(table, points, width)
    others = np.arange(len(between)) != label
    weights, _ = bordered_weights(between[np.ix_(others, others)], between[others, label])
    return np.asarray(table.changes[label] - weights @ table.changes[others])


def preferred_width(table: ResponseTable, points: np.ndarray) -> float:
    """That at which each label is predicted best from the others, by trying all."""
    labels = range(len(points))
    if len(labels) < 3:
        return DEFAULT_WIDTH
    errors = [sum((left_out_error(table, points, i, width) ** 2).sum() for i in labels) for width in WIDTHS]
    return WIDTHS[int(np.argmin(errors))]


def table_of_cells(control: list[np.ndarray], perturbed: list[np.ndarray]) -> ResponseTable:
    """Table of the cells of each label in both conditions, ``(n_cells, n_dims)`` each.

    Variances of the two groups of a label are averaged by their part in the noise, and moderated by those of all.
    """
    means = np.array([cells.mean(0) for cells in control])
    changes = np.array([cells.mean(0) for cells in perturbed]) - means
    own, freedom = [], []
    for pair in zip(control, perturbed, strict=True):
        shares = np.array([1 / max(len(cells), 10) for cells in pair])
        own.append(shares / shares.sum() @ [np.var(cells, axis=0, ddof=1) for cells in pair])
        freedom.append(sum(len(cells) - 1 for cells in pair))
    typical = np.average(own, axis=0, weights=freedom)
    variances = [(f * v + 10 * typical) / (f + 10) for f, v in zip(freedom, own, strict=True)]
    sizes = np.array([[len(cells) for cells in cells_of] for cells_of in (perturbed, control)])
    return table_of(changes, sizes, np.array(variances))


def weights_from_cells(control: list[np.ndarray], perturbed: list[np.ndarray], query: np.ndarray) -> np.ndarray:
    """Weights of labels, given the cells of each in both conditions ``(n_cells, n_dims)`` and the query's mean."""
    table, points = table_of_cells(control, perturbed), np.array([cells.mean(0) for cells in control])
    if len(points) == 1:
        return np.ones(1)
    return kriging(table, points, query, preferred_width(table, points)).weights
