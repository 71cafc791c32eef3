"""Metrics of the gene variances: whether predicted cells differ from each other in the genes in which real ones do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltavi._reading import known_arguments
from deltavi.arrays.chosen import chosen_genes
from deltavi.arrays.tables import align
from deltavi.metrics.means import pearson
from deltavi.metrics.significance import moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deltavi.arrays.matrix import Matrix, Vector


@known_arguments
def r2_of_variances(predicted: Matrix, real: Matrix, *, genes: ArrayLike | None = None) -> float:
    """Squared Pearson correlation between the gene variances of predicted and real cells.

    ``corr_g(var_i predicted_ig, var_i real_ig) ** 2`` with population variances, without unit, in [0, 1].

    Parameters
    ----------
    predicted, real
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    genes
        Positions or boolean mask of the genes to use; all by default.

    Returns
    -------
    The score; 0.0 where either vector of variances is constant, as for copies of one cell.

    Raises
    ------
    InputDataError
        A matrix is empty or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads because a correlation is blind to size: cells a tenth as spread out as the real ones score 1, so read it
    beside `variance_ratio`. Variances follow means, of which genes differ more than conditions do, so that doing
    nothing, or moving control cells rigidly, scores high.

    References
    ----------
    Lotfollahi, Wolf and Theis (2019), scGen predicts single-cell perturbation responses, Nature Methods 16, whose
    package draws it as ``reg_var_plot``.
    """
    found = align({"predicted": predicted, "real": real})
    chosen = chosen_genes(genes, found)
    return pearson(moments(found[0]).spread[chosen], moments(found[1]).spread[chosen]) ** 2


def ratio_of_variances(predicted: Vector, real: Vector) -> float:
    """Mean variance of predicted cells relative to real ones; NaN where real cells do not vary."""
    spread, real_spread = float(predicted.mean()), float(real.mean())
    return spread / real_spread if real_spread > 0 else float("nan")
