"""Maximum mean discrepancy: whether predicted cells are distributed as the real ones, beyond their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deltavi._errors import DeltaviError, InputDataError
from deltavi._reading import known_arguments
from deltavi.metrics._pairs import pair_distances

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deltavi.arrays.matrix import Matrix, Vector
    from deltavi.metrics._pairs import PairDistances

# Half to twice the median distance, in equal steps of the logarithm.
BANDWIDTH_FACTORS = np.exp2([-1.0, -0.5, 0.0, 0.5, 1.0])


@known_arguments
def mmd(
    predicted: Matrix,
    real: Matrix,
    *,
    components: ArrayLike | None = None,
    max_cells: int = 500,
    seed: int = 0,
    bandwidths: ArrayLike | None = None,
) -> float:
    """Squared maximum mean discrepancy between predicted and real cells, with a mixture of Gaussian kernels.

    ``E k(x, x') + E k(y, y') - 2 E k(x, y)`` with x predicted and y real cells and
    ``k(x, y) = mean_b exp(-|x - y|^2 / (2 h_b^2))``. This is the biased estimate: all pairs are counted, a cell with
    itself too. Without unit, in [0, 2], zero at best.

    The bandwidths are h times (1/2, 1/sqrt(2), 1, sqrt(2), 2), where h is the median distance of two different real
    cells. They do not depend on predicted cells, so that all methods are scored by the same kernel.

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
    bandwidths
        The bandwidths h_b themselves, in units of the space; None takes them from the real cells.

    Returns
    -------
    The discrepancy; NaN where no two of the real cells drawn differ and no bandwidths are given.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values, or `real` has a single cell and no bandwidths are given.
    GeneMatchError
        The numbers of genes or the rows of `components` do not fit.
    DeltaviError
        A bandwidth is not a positive number.

    Notes
    -----
    It misleads about size: beyond two or three bandwidths all is equally far, so that a bad and a very bad prediction
    score alike, and the noise of thousands of genes drowns a response of few, so take it along principal axes. Two
    samples of the same cells do not score zero but about (1 / n_predicted + 1 / n_real) (1 - mean k): compare at equal
    numbers of cells, or with the split-half ceiling. Numbers of other packages have other kernels.

    References
    ----------
    Gretton et al. (2012), A kernel two-sample test, J. Mach. Learn. Res. 13, for the estimate and the median heuristic.
    """
    distances = pair_distances(predicted, real, components=components, max_cells=max_cells, seed=seed)
    return mmd_of_pairs(distances, bandwidths)


def mmd_of_pairs(distances: PairDistances, bandwidths: ArrayLike | None = None) -> float:
    """The discrepancy from squared distances."""
    widths = _median_bandwidths(distances.real) if bandwidths is None else _checked_bandwidths(bandwidths)
    similarity = [_mean_kernel(squared, widths) for squared in distances]
    return float(similarity[0] + similarity[1] - 2.0 * similarity[2])


def _mean_kernel(squared: Vector, widths: Vector) -> float:
    """Mean of the kernel over all pairs and bandwidths."""
    return float(np.mean([np.exp(squared / (-2.0 * width**2)).mean() for width in widths]))


def _median_bandwidths(squared: Vector) -> Vector:
    """Multiples of the median distance of two different cells; NaN where there are no two such cells."""
    if len(squared) < 2:
        raise InputDataError(
            "real has 1 cell; the bandwidth is the median distance of real cells, which needs at least 2. "
            "Pass bandwidths."
        )
    pairs = squared[np.triu_indices(len(squared), k=1)]
    different = pairs[pairs > 0]
    return BANDWIDTH_FACTORS * (np.median(np.sqrt(different)) if different.size else np.nan)


def _checked_bandwidths(bandwidths: ArrayLike) -> Vector:
    try:
        widths = np.atleast_1d(np.asarray(bandwidths, dtype=np.float64))
    except (TypeError, ValueError):
        widths = np.empty(0)
    if widths.ndim != 1 or widths.size == 0 or not (np.isfinite(widths) & (widths > 0)).all():
        raise DeltaviError(f"bandwidths must be one or more positive numbers, got {bandwidths!r}.")
    return widths
