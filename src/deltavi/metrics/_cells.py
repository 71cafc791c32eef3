"""Metrics of the population of cells: whether predicted cells lie and spread where the real ones do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deltavi._reading import known_arguments
from deltavi._types import is_sparse
from deltavi.arrays.matrix import as_matrix, gene_variances
from deltavi.arrays.tables import align
from deltavi.metrics._pairs import pair_distances
from deltavi.metrics._variances import ratio_of_variances

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deltavi.arrays.matrix import Matrix
    from deltavi.metrics._pairs import PairDistances


@known_arguments
def e_distance(
    predicted: Matrix, real: Matrix, *, components: ArrayLike | None = None, max_cells: int = 500, seed: int = 0
) -> float:
    """Twice the squared distance of the mean predicted from the mean real cell, known as the E-distance.

    ``2 E|x - y|^2 - E|x - x'|^2 - E|y - y'|^2`` with x predicted and y real cells, all pairs counted (a cell with
    itself too). With squared distances this is ``2 |mean(x) - mean(y)|^2`` of the cells drawn, exactly; in squared
    units of the space it is taken in, zero at best, never negative. `energy_distance` compares distributions.

    Parameters
    ----------
    predicted, real
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    components
        Projection, (n_genes, n_components), such as `principal_axes` of the real data; None uses the genes themselves.
    max_cells
        At most so many cells of each side are used, drawn without replacement.
    seed
        Seed of that draw; one generator draws the predicted cells, then the real ones.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes or the rows of `components` do not fit.

    Notes
    -----
    It misleads by its name: it says nothing of the distribution of cells, and identical copies of the right average
    cell score zero; read it beside `variance_ratio` and `energy_distance`. Packages that take Euclidean instead of
    squared distances, as pertpy does, report other and much smaller numbers.

    References
    ----------
    Peidli et al. (2024), scPerturb, Nature Methods 21, for the squared form.
    """
    return e_distance_of_pairs(pair_distances(predicted, real, components=components, max_cells=max_cells, seed=seed))


def e_distance_of_pairs(distances: PairDistances) -> float:
    """The distance from squared distances."""
    return float(2.0 * distances.between.mean() - distances.predicted.mean() - distances.real.mean())


@known_arguments
def energy_distance(
    predicted: Matrix, real: Matrix, *, components: ArrayLike | None = None, max_cells: int = 500, seed: int = 0
) -> float:
    """Energy distance between the distributions of predicted and real cells, from Euclidean distances.

    ``2 E|x - y| - E|x - x'| - E|y - y'|`` with x predicted and y real cells, the distances not squared. This is the
    V-statistic: all pairs are counted, a cell with itself too. In units of the space it is taken in, zero for two equal
    sets of cells alone, never negative.

    Parameters
    ----------
    predicted, real
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    components
        Projection, (n_genes, n_components), such as `principal_axes` of the real data; None uses the genes themselves.
    max_cells
        At most so many cells of each side are used, drawn without replacement, as by `e_distance`.
    seed
        Seed of that draw; one generator draws the predicted cells, then the real ones.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes or the rows of `components` do not fit.

    Notes
    -----
    It misleads about small differences: two samples of the same cells do not score zero but about ``E|x - x'|
    (1 / n_predicted + 1 / n_real)``, so compare at equal numbers of cells, or with the split-half ceiling. The noise of
    thousands of genes drowns a response of few, so take it along principal axes. The function of this name of scipy
    returns the square root.

    Examples
    --------
    >>> import numpy as np
    >>> from deltavi.metrics import e_distance, energy_distance
    >>> real = np.array([[0.0], [2.0]])
    >>> copies = np.ones((2, 1))
    >>> e_distance(copies, real), energy_distance(copies, real)
    (0.0, 1.0)

    References
    ----------
    Szekely and Rizzo (2013), Energy statistics, J. Stat. Plan. Inference 143.
    """
    pairs = pair_distances(predicted, real, components=components, max_cells=max_cells, seed=seed)
    return energy_distance_of_pairs(pairs)


def energy_distance_of_pairs(distances: PairDistances) -> float:
    """The energy distance from squared distances; rounding below zero is zero."""
    predicted, real, between = (float(np.sqrt(squared).mean()) for squared in distances)
    return max(2.0 * between - predicted - real, 0.0)


@known_arguments
def variance_ratio(predicted: Matrix, real: Matrix) -> float:
    """Spread of the predicted cells relative to that of the real cells.

    ``mean_g var_i(predicted_ig) / mean_g var_i(real_ig)`` with population variances; without unit, one at best, below
    one where predicted cells are too alike.

    Parameters
    ----------
    predicted, real
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.

    Returns
    -------
    The ratio; NaN where the real cells do not vary.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads because the total is compared, not its place: noise in the wrong genes makes up for spread missing in
    the right ones, and moving control cells rigidly keeps their spread for any response. Source: the textbook
    definition.
    """
    x, y = align({"predicted": predicted, "real": real}).matrices
    return ratio_of_variances(gene_variances(x), gene_variances(y))


@known_arguments
def zero_fraction(x: Matrix) -> float:
    """Fraction of entries that are exactly zero, without unit, in [0, 1].

    Parameters
    ----------
    x
        Expression, (n_cells, n_genes), log1p CP10k (or any scale that keeps zeros), dense or sparse.

    Raises
    ------
    InputDataError
        The matrix is empty or holds NaN or infinite values.

    Notes
    -----
    It misleads where expected rather than sampled expression is predicted: an expectation is never exactly zero, so a
    fraction far below that of real cells is then no evidence of low quality. Source: the textbook definition.
    """
    matrix = as_matrix(x, "x")
    n_nonzero = matrix.count_nonzero() if is_sparse(matrix) else np.count_nonzero(matrix)
    return 1.0 - float(n_nonzero / (matrix.shape[0] * matrix.shape[1]))
