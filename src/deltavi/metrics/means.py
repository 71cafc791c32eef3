"""Metrics of the gene means: how well the average predicted cell resembles the average real cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deltavi._reading import known_arguments
from deltavi.arrays.chosen import chosen_genes
from deltavi.arrays.matrix import gene_means
from deltavi.arrays.tables import align

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deltavi.arrays.matrix import Matrix, Vector

# Means that agree to a millionth are equal: single precision and the order of summation differ by that much,
# and correlating such residues would give "no change" an arbitrary score.
ROUNDING = 1e-6


def pearson(a: Vector, b: Vector) -> float:
    """Pearson correlation of two vectors; 0.0 where either is constant up to rounding."""
    a_centred, b_centred = a - a.mean(), b - b.mean()
    if _is_constant(a, a_centred) or _is_constant(b, b_centred):
        return 0.0
    # scaling first keeps the squares of very small or large values inside the range of doubles
    a_unit, b_unit = a_centred / np.abs(a_centred).max(), b_centred / np.abs(b_centred).max()
    correlation = a_unit @ b_unit / (np.linalg.norm(a_unit) * np.linalg.norm(b_unit))
    return float(np.clip(correlation, -1.0, 1.0))


def _is_constant(values: Vector, centred: Vector) -> bool:
    return bool(np.abs(centred).max() <= ROUNDING * np.abs(values).max())


def change(means: Vector, control: Vector) -> Vector:
    """`means` minus `control`, (n_genes,), with differences no larger than rounding set to zero."""
    difference = means - control
    scale = max(float(np.abs(means).max()), float(np.abs(control).max()))
    return np.where(np.abs(difference) <= ROUNDING * scale, 0.0, difference)


def sign_agreement(predicted_change: Vector, real_change: Vector) -> float:
    """Fraction of genes whose two changes have the same sign."""
    return float(np.mean(np.sign(predicted_change) == np.sign(real_change)))


def mean_square(predicted: Vector, real: Vector) -> float:
    """Mean over genes of the squared difference of two mean vectors."""
    return float(np.mean((predicted - real) ** 2))


def _mean_vectors(genes: ArrayLike | None, **matrices: Matrix) -> list[Vector]:
    """Checked gene means of each matrix, restricted to `genes`."""
    found = align(matrices)
    chosen = chosen_genes(genes, found)
    return [gene_means(matrix)[chosen] for matrix in found.matrices]


@known_arguments
def r2_of_means(predicted: Matrix, real: Matrix, *, genes: ArrayLike | None = None) -> float:
    """Squared Pearson correlation between the gene means of predicted and real cells.

    ``corr_g(mean_i predicted_ig, mean_i real_ig) ** 2``, without unit, in [0, 1].

    Parameters
    ----------
    predicted, real
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    genes
        Positions or boolean mask of the genes to use; all by default.

    Returns
    -------
    The score; 0.0 where either mean vector is constant.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads because genes differ far more from each other than between conditions: predicting no change at all
    scores high, so read it beside `pearson_delta`.

    References
    ----------
    Lotfollahi, Wolf and Theis (2019), scGen predicts single-cell perturbation responses, Nature Methods 16.
    """
    predicted_mean, real_mean = _mean_vectors(genes, predicted=predicted, real=real)
    return pearson(predicted_mean, real_mean) ** 2


@known_arguments
def pearson_delta(predicted: Matrix, real: Matrix, *, control: Matrix, genes: ArrayLike | None = None) -> float:
    """Pearson correlation between the predicted and the real change of the gene means.

    ``corr_g(mean(predicted) - mean(control), mean(real) - mean(control))``, without unit, in [-1, 1].

    Parameters
    ----------
    predicted, real, control
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    genes
        Positions or boolean mask of the genes to use; all by default.

    Returns
    -------
    The score; 0.0 where either change is constant, as for a prediction of no change.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads because a correlation is blind to size: half the response in the right direction scores 1, and the
    control mean is in both terms, so noise in few control cells raises it. Source: Roohani, Huang and Leskovec (2024),
    GEARS, Nature Biotechnology 42, where it is the Pearson correlation of expression changes.
    """
    means = _mean_vectors(genes, predicted=predicted, real=real, control=control)
    predicted_mean, real_mean, control_mean = means
    return pearson(change(predicted_mean, control_mean), change(real_mean, control_mean))


@known_arguments
def mse_of_means(predicted: Matrix, real: Matrix, *, genes: ArrayLike | None = None) -> float:
    """Mean squared difference between the gene means of predicted and real cells.

    ``mean_g (mean_i predicted_ig - mean_i real_ig) ** 2``, in squared log1p CP10k units, zero at best.

    Parameters
    ----------
    predicted, real
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    genes
        Positions or boolean mask of the genes to use; all by default.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads over all genes, where thousands of unexpressed genes pull every method towards zero, and between data
    sets, whose scales differ. Source: the textbook definition.
    """
    predicted_mean, real_mean = _mean_vectors(genes, predicted=predicted, real=real)
    return mean_square(predicted_mean, real_mean)


@known_arguments
def mse_delta(predicted: Matrix, real: Matrix, *, control: Matrix, genes: ArrayLike | None = None) -> float:
    """Mean squared difference between the predicted and the real change of the gene means.

    ``mean_g ((mean(predicted) - mean(control)) - (mean(real) - mean(control))) ** 2``, in squared log1p CP10k units,
    zero at best.

    Parameters
    ----------
    predicted, real, control
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    genes
        Positions or boolean mask of the genes to use; all by default.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads by its name: the control cancels but for rounding, so that it is `mse_of_means` and no evidence of its
    own. It measures the size of the error, which a correlation does not: the error of no change is the mean squared
    real change, by which it may be divided. Over all genes thousands that do not respond pull every method towards
    zero. Source: the textbook definition.
    """
    predicted_mean, real_mean, control_mean = _mean_vectors(genes, predicted=predicted, real=real, control=control)
    return mean_square(change(predicted_mean, control_mean), change(real_mean, control_mean))


@known_arguments
def direction_accuracy(predicted: Matrix, real: Matrix, *, control: Matrix, genes: ArrayLike | None) -> float:
    """Fraction of genes that are predicted to change in the direction in which they really change.

    ``mean_g [sign(mean(predicted) - mean(control)) == sign(mean(real) - mean(control))]``, without unit, in [0, 1].

    Parameters
    ----------
    predicted, real, control
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    genes
        Positions or boolean mask of the genes to score, usually `top_differential_genes` of the real cells; None
        means all.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads over genes that do not really respond, whose sign is noise, and where nearly all responding genes go
    up, since "everything rises" then scores high. Source: the textbook definition.
    """
    means = _mean_vectors(genes, predicted=predicted, real=real, control=control)
    predicted_mean, real_mean, control_mean = means
    return sign_agreement(change(predicted_mean, control_mean), change(real_mean, control_mean))
