"""Tests of every gene between two groups of cells: Welch's from moments, Wilcoxon's from ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from deltavi._errors import InputDataError
from deltavi._types import Rows, is_sparse
from deltavi.arrays.matrix import gene_means, gene_variances
from deltavi.metrics.means import ROUNDING

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector

GENES_AT_ONCE = 256
# Least change of the mean of a gene that is called, log1p CP10k.
MIN_CHANGE = 0.1


@dataclass(frozen=True)
class Moments:
    """Means and population variances of all genes, (n_genes,), and the number of cells behind them."""

    n_cells: int
    mean: Vector
    variance: Vector

    @property
    def spread(self) -> Vector:
        """The variances, zero where they are but the rounding of a mean, as of copies of one cell."""
        return np.where(self.variance <= (ROUNDING * self.mean) ** 2, 0.0, self.variance)

    @property
    def squared_error(self) -> Vector:
        """Squared standard error of the mean, from the sample variance."""
        return self.variance / (self.n_cells - 1)


def moments(matrix: Rows) -> Moments:
    """Moments of a checked matrix, (n_cells, n_genes)."""
    return Moments(matrix.shape[0], gene_means(matrix), gene_variances(matrix))


def check_two_cells(**matrices: Rows) -> None:
    """Raise InputDataError unless every matrix has two cells."""
    for name, matrix in matrices.items():
        if matrix.shape[0] < 2:
            raise InputDataError(f"{name} has 1 cell; a variance, and so a ranking of genes, needs at least 2.")


def welch_t(control: Moments, perturbed: Moments) -> Vector:
    """Welch's t statistic of every gene, (n_genes,); 0 for 0/0 and infinite where only the spread is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (perturbed.mean - control.mean) / np.sqrt(perturbed.squared_error + control.squared_error)
    return np.where(np.isnan(t), 0.0, t)


def welch_p(control: Moments, perturbed: Moments) -> Vector:
    """Two-sided p values of `welch_t`, (n_genes,); 1 where neither group varies and the means agree, else 0."""
    t, a, b = welch_t(control, perturbed), control.squared_error, perturbed.squared_error
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = (a + b) ** 2 / (a**2 / (control.n_cells - 1) + b**2 / (perturbed.n_cells - 1))
    p = 2.0 * stats.t.sf(np.abs(t), np.where(np.isnan(freedom), 1.0, freedom))
    return np.asarray(p, dtype=np.float64)


def wilcoxon_p(control: Rows, perturbed: Rows) -> Vector:
    """Two-sided p values of the rank-sum test with correction for ties, (n_genes,), a block of genes at a time."""
    control, perturbed = (m.tocsc() if is_sparse(m) else m for m in (control, perturbed))
    starts = range(0, control.shape[1], GENES_AT_ONCE)
    return np.concatenate([_rank_sum(*(_block(m, start) for m in (control, perturbed))) for start in starts])


def _block(matrix: Rows, start: int) -> Vector:
    columns = matrix[:, start : start + GENES_AT_ONCE]
    return np.asarray(columns.toarray() if is_sparse(columns) else columns)


def _rank_sum(control: Vector, perturbed: Vector) -> Vector:
    with np.errstate(divide="ignore", invalid="ignore"):  # a gene with the same value in all cells has no statistic
        p = stats.mannwhitneyu(perturbed, control, axis=0, method="asymptotic").pvalue
    return np.where(np.isnan(p), 1.0, p)
