"""All scores of one prediction in one immutable record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from deltavi.metrics._cells import e_distance, variance_ratio, zero_fraction
from deltavi.metrics._genes import top_differential_genes
from deltavi.metrics._matrix import as_matrix, check_same_genes, gene_means
from deltavi.metrics._means import change, mean_square, pearson, sign_agreement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from deltavi.metrics._matrix import Matrix, Vector


@dataclass(frozen=True)
class PredictionScore:
    """How well predicted cells resemble real ones; see the function of each name for what it can hide.

    Attributes
    ----------
    correlation_of_changes, correlation_of_changes_top
        Pearson correlation of predicted and real change, over all genes and over the top differential genes.
    r2_of_means, r2_of_means_top
        Squared Pearson correlation of the gene means, over all and over the top genes.
    mse_top
        Mean squared difference of the means of the top genes, in squared log1p CP10k units.
    direction_accuracy
        Fraction of the top genes that change in the right direction.
    e_distance
        E-distance to the real cells, in squared units of the projection.
    variance_ratio
        Variance of the predicted cells relative to the real ones.
    zero_fraction
        Fraction of zeros in the prediction.
    """

    correlation_of_changes: float
    correlation_of_changes_top: float
    r2_of_means: float
    r2_of_means_top: float
    mse_top: float
    direction_accuracy: float
    e_distance: float
    variance_ratio: float
    zero_fraction: float

    def as_dict(self) -> dict[str, float]:
        """Field names and values, in the order of the fields."""
        return asdict(self)


def score_prediction(
    predicted: Matrix, real: Matrix, *, control: Matrix, components: ArrayLike | None = None, n_top: int = 100
) -> PredictionScore:
    """Score predicted cells against the real ones with every metric of this package.

    Parameters
    ----------
    predicted, real, control
        Predicted target cells, real target cells and the control cells that both are changes from: (n_cells, n_genes)
        each, log1p CP10k, dense or sparse, the same genes in the same order.
    components
        Projection for the E-distance, (n_genes, n_components); None takes it over the genes.
    n_top
        Number of top differential genes (real target against control, Welch t), over which the scores named "top" and
        the direction accuracy are taken.

    Raises
    ------
    InputDataError
        A matrix is empty, holds NaN or infinite values, or `real` or `control` has a single cell.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    A single score misleads: compare each with that of the baselines and of two halves of the real cells, which
    `deltavi.perturbation.compare` puts into one table.
    """
    x, y, reference = as_matrix(predicted, "predicted"), as_matrix(real, "real"), as_matrix(control, "control")
    check_same_genes(predicted=x, real=y, control=reference)
    top = top_differential_genes(reference, y, n=n_top)
    means = gene_means(x), gene_means(y), gene_means(reference)
    return PredictionScore(
        **_scores_of_means(*means, top),
        e_distance=e_distance(x, y, components=components),
        variance_ratio=variance_ratio(x, y),
        zero_fraction=zero_fraction(x),
    )


def _scores_of_means(predicted: Vector, real: Vector, control: Vector, top: NDArray[np.intp]) -> dict[str, float]:
    """The scores that depend on gene means only."""
    predicted_change, real_change = change(predicted, control), change(real, control)
    return {
        "correlation_of_changes": pearson(predicted_change, real_change),
        "correlation_of_changes_top": pearson(predicted_change[top], real_change[top]),
        "r2_of_means": pearson(predicted, real) ** 2,
        "r2_of_means_top": pearson(predicted[top], real[top]) ** 2,
        "mse_top": mean_square(predicted[top], real[top]),
        "direction_accuracy": sign_agreement(predicted_change[top], real_change[top]),
    }
