"""All scores of one prediction in one immutable record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from deltavi._reading import known_arguments
from deltavi.arrays.matrix import check_count
from deltavi.arrays.tables import align, axes_of
from deltavi.metrics._cells import e_distance_of_pairs, energy_distance_of_pairs, zero_fraction
from deltavi.metrics._differential import ALPHA, agreement, calls_by_welch, common_top
from deltavi.metrics._explained import error_of_moments
from deltavi.metrics._mmd import mmd_of_pairs
from deltavi.metrics._pairs import pair_distances
from deltavi.metrics._variances import ratio_of_variances
from deltavi.metrics.genes import ranked_genes
from deltavi.metrics.means import change, mean_square, pearson, sign_agreement
from deltavi.metrics.significance import MIN_CHANGE, check_two_cells, moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from deltavi.arrays.matrix import Matrix
    from deltavi.metrics.significance import Moments

MAX_CELLS = 500


@known_arguments
@dataclass(frozen=True)
class PredictionScore:
    """Scores of predicted cells against real ones; the function of each name documents its limits.

    The predicted change of `explained` and its parts is measured from the control cells that were predicted from, the
    real one from other control cells, where there are any. The correlations of changes and the direction accuracy are
    legacy scores: the same control cells are on both sides, and their noise is in both changes.

    Attributes
    ----------
    pearson_delta, pearson_delta_top
        Pearson correlation of predicted and real change, over all genes and over the top differential genes. Legacy.
    r2_of_means, r2_of_means_top
        Squared Pearson correlation of the gene means, over all and over the top genes.
    mse_top
        Mean squared difference of the means of the top genes, in squared log1p CP10k units.
    direction_accuracy
        Fraction of the top genes that change in the right direction.
    e_distance
        E-distance to the real cells: twice the squared distance of the means, in squared units of the projection.
    variance_ratio
        Variance of the predicted cells relative to the real ones.
    zero_fraction
        Fraction of zeros in the prediction.
    pearson_delta_top20, pearson_delta_top50
        Pearson correlation of predicted and real change, over the top 20 and 50 genes for any `n_top`.
    mse_top20, mse_top50
        Mean squared difference of the means of the top 20 and 50 genes, in squared log1p CP10k units.
    mse_delta
        Mean squared difference of the changes of all genes, in squared log1p CP10k units.
    r2_of_variances
        Squared Pearson correlation of the gene variances, over all genes.
    mmd
        Squared maximum mean discrepancy to the real cells, in the space and among the cells of the E-distance.
    differential_f1
        F1 of the genes called in predicted cells against those called in real cells, by `differential_overlap`.
    deg_overlap
        Share of the top genes that are top genes of the predicted cells too, by `deg_overlap`.
    energy_distance
        Energy distance to the real cells, in units of the projection, among the cells of the E-distance.
    explained
        Share of the response that is explained, without the noise of its measurement; 0 is no change.
    squared_error, squared_size, noise
        Its parts, by `squared_error`: numerator and denominator, to be summed over hold-outs, and what was subtracted
        from both; in squared log1p CP10k units, summed over genes.
    """

    pearson_delta: float
    pearson_delta_top: float
    r2_of_means: float
    r2_of_means_top: float
    mse_top: float
    direction_accuracy: float
    e_distance: float
    variance_ratio: float
    zero_fraction: float
    pearson_delta_top20: float
    pearson_delta_top50: float
    mse_top20: float
    mse_top50: float
    mse_delta: float
    r2_of_variances: float
    mmd: float
    differential_f1: float
    deg_overlap: float
    energy_distance: float
    explained: float
    squared_error: float
    squared_size: float
    noise: float

    def as_dict(self) -> dict[str, float]:
        """Field names and values, in the order of the fields."""
        return asdict(self)


@known_arguments
def score_prediction(
    predicted: Matrix,
    real: Matrix,
    *,
    control: Matrix,
    reference: Matrix | None = None,
    components: ArrayLike | None = None,
    n_top: int = 100,
) -> PredictionScore:
    """Score predicted cells against the real ones with every metric that needs no other condition.

    Parameters
    ----------
    predicted, real, control
        Predicted and real perturbed cells, and the control cells that both are changes from: (n_cells, n_genes)
        each, log1p CP10k, dense or sparse, the same genes in the same order.
    reference
        Other control cells, which the prediction has not seen, for `explained` and its parts; None takes `control`.
    components
        Projection for the E-distance and the MMD, (n_genes, n_components); None takes them over the genes.
    n_top
        Number of top differential genes (real against control, Welch t), over which the scores named "top", the
        direction accuracy and the differential overlap are taken.

    Returns
    -------
    The scores; `differential_f1` and `deg_overlap` are NaN where a single cell is predicted, of which no test
    can be made.

    Raises
    ------
    InputDataError
        A matrix is empty, holds NaN or infinite values, or `real`, `control` or `reference` has a single
        cell.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    A single score misleads: compare each with that of the baselines and of split-half ceiling, which
    `deltavi.perturbation.compare` puts into one table.
    """
    n_top = check_count(n_top, "n_top")
    tables = {"predicted": predicted, "real": real, "control": control}
    found = align(tables if reference is None else {**tables, "reference": reference})
    x, y, start = found.matrices[:3]
    check_two_cells(control=start, perturbed=y, reference=found[-1])
    axes = None if components is None else axes_of(components, found)
    cells = moments(x), moments(y), moments(start)
    error = error_of_moments(*cells, moments(found[-1]))
    distances = pair_distances(x, y, components=axes, max_cells=MAX_CELLS, seed=0)
    return PredictionScore(
        **_scores_of_means(*cells, n_top),
        **_scores_of_calls(*cells, n_top),
        e_distance=e_distance_of_pairs(distances),
        mmd=mmd_of_pairs(distances),
        variance_ratio=ratio_of_variances(cells[0].variance, cells[1].variance),
        r2_of_variances=pearson(cells[0].spread, cells[1].spread) ** 2,
        zero_fraction=zero_fraction(x),
        energy_distance=energy_distance_of_pairs(distances),
        explained=error.explained,
        **asdict(error),
    )


def _scores_of_means(predicted: Moments, real: Moments, control: Moments, n_top: int) -> dict[str, float]:
    """The scores that depend on gene means and on which genes respond."""
    ranked = ranked_genes(control, real)
    predicted_change, real_change = change(predicted.mean, control.mean), change(real.mean, control.mean)
    top = ranked[:n_top]
    scores = {
        "pearson_delta": pearson(predicted_change, real_change),
        "r2_of_means": pearson(predicted.mean, real.mean) ** 2,
        "r2_of_means_top": pearson(predicted.mean[top], real.mean[top]) ** 2,
        "direction_accuracy": sign_agreement(predicted_change[top], real_change[top]),
        "mse_delta": mean_square(predicted_change, real_change),
    }
    for suffix, n in {"top": n_top, "top20": 20, "top50": 50}.items():
        genes = ranked[:n]
        scores[f"pearson_delta_{suffix}"] = pearson(predicted_change[genes], real_change[genes])
        scores[f"mse_{suffix}"] = mean_square(predicted.mean[genes], real.mean[genes])
    return scores


def _scores_of_calls(predicted: Moments, real: Moments, control: Moments, n_top: int) -> dict[str, float]:
    """The scores that need a test of predicted cells; NaN where there is but one."""
    if predicted.n_cells < 2:
        return {"differential_f1": float("nan"), "deg_overlap": float("nan")}
    calls = [calls_by_welch(control, cells, ALPHA, MIN_CHANGE) for cells in (predicted, real)]
    return {
        "differential_f1": agreement(*calls).f1,
        "deg_overlap": common_top(predicted, real, control, n_top),
    }
