"""Differential genes by a test, and agreement of those of predicted and of real cells."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from scipy import stats

from deltavi._entries import number
from deltavi._errors import DeltaviError, unknown_category
from deltavi._reading import known_arguments
from deltavi._types import Rows
from deltavi.arrays.matrix import check_count
from deltavi.arrays.tables import align
from deltavi.metrics.means import change
from deltavi.metrics.significance import MIN_CHANGE, check_two_cells, moments, welch_p, welch_t, wilcoxon_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deltavi.arrays.matrix import Matrix, Vector
    from deltavi.metrics.significance import Moments

Test: TypeAlias = Literal["welch", "wilcoxon"]

ALPHA = 0.05


@known_arguments
@dataclass(frozen=True)
class DifferentialOverlap:
    """Agreement of the genes called in predicted and in real cells; see `differential_overlap`.

    Attributes
    ----------
    precision
        Share of the genes called in predicted cells that are called in real cells with the same direction.
    recall
        Share of the genes called in real cells that are called in predicted cells with the same direction.
    f1
        Harmonic mean of the two.
    jaccard
        Common calls relative to all calls, where one gene called up here and down there makes two calls.
    n_predicted, n_real, n_common
        Number of genes called in predicted cells, in real cells, and in both with the same direction.
    """

    precision: float
    recall: float
    f1: float
    jaccard: float
    n_predicted: int
    n_real: int
    n_common: int

    def as_dict(self) -> dict[str, float]:
        """Field names and values, in the order of the fields."""
        return asdict(self)


@known_arguments
def differential_genes(
    control: Matrix,
    perturbed: Matrix,
    *,
    alpha: float = ALPHA,
    min_change: float = MIN_CHANGE,
    test: Test = "welch",
) -> NDArray[np.int8]:
    """Call genes that differ between two groups of cells, with the direction of their change.

    A gene is called where its p value, adjusted over all genes by Benjamini and Hochberg, is at most `alpha` and
    ``|mean(perturbed) - mean(control)| >= min_change``.

    Parameters
    ----------
    control, perturbed
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse.
    alpha
        Largest share of false calls that is expected among all calls, in (0, 1).
    min_change
        Least change of the mean, in log1p CP10k units; 0 leaves the choice to the test.
    test
        ``"welch"``, the t test with unequal variances, from means and variances only, or ``"wilcoxon"``, the rank-sum
        test with correction for ties, which takes some ten times as long. Both are two-sided.

    Returns
    -------
    Direction of every gene, (n_genes,): 1 called up, -1 called down, 0 not called; ``numpy.flatnonzero`` turns it into
    positions.

    Raises
    ------
    InputDataError
        A matrix has fewer than two cells or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.
    DeltaviError
        `alpha` or `min_change` is out of range.
    UnknownCategoryError
        There is no such test.

    Notes
    -----
    It misleads because cells of one donor are no replicates: p values are far too small, and the number of calls grows
    with that of cells. It misleads most about cells that a method made by adding one vector to all control cells. They
    vary as the control does, and where the control has a thousand equal zeros they have a thousand equal other
    numbers, so that every rank of such a gene changes: a shift of one hundredth then has a p value near zero, and
    nearly all genes are called. `min_change` is there for that; a call then rests on the size of the shift.

    References
    ----------
    Welch (1947), Biometrika 34; Mann and Whitney (1947), Ann. Math. Stat. 18; Benjamini and Hochberg (1995), J. R.
    Stat. Soc. B 57.
    """
    _check_thresholds(alpha, min_change, test)
    found = align({"control": control, "perturbed": perturbed})
    found.require_one_order("The result lists genes")
    x, y = found.matrices
    check_two_cells(control=x, perturbed=y)
    return _calls(x, y, alpha, min_change, test)


@known_arguments
def differential_overlap(
    predicted: Matrix,
    real: Matrix,
    *,
    control: Matrix,
    alpha: float = ALPHA,
    min_change: float = MIN_CHANGE,
    test: Test = "welch",
) -> DifferentialOverlap:
    """Compare the genes called in predicted cells with those called in real cells, both against the same control.

    With C the calls that `differential_genes` makes in both with the same direction: ``precision = |C| / |predicted|``,
    ``recall = |C| / |real|``, ``f1 = 2 |C| / (|predicted| + |real|)`` and
    ``jaccard = |C| / (|predicted| + |real| - |C|)``; without unit, in [0, 1], and zero where nothing is called.

    Parameters
    ----------
    predicted, real, control
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    alpha, min_change, test
        Thresholds and test of a call; see `differential_genes`.

    Returns
    -------
    The four scores and the numbers behind them.

    Raises
    ------
    InputDataError
        A matrix has fewer than two cells or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.
    DeltaviError
        `alpha` or `min_change` is out of range.
    UnknownCategoryError
        There is no such test.

    Notes
    -----
    It misleads because a call is yes or no: a gene just above a threshold here and just below it there counts as wrong.
    Predicting more cells than were measured makes more calls, and so does predicting them alike or, as
    `differential_genes` explains, moving all control cells by one vector. Source: the textbook definitions.
    """
    _check_thresholds(alpha, min_change, test)
    x, y, reference = align({"predicted": predicted, "real": real, "control": control}).matrices
    check_two_cells(predicted=x, real=y, control=reference)
    return agreement(*(_calls(reference, cells, alpha, min_change, test) for cells in (x, y)))


@known_arguments
def deg_overlap(predicted: Matrix, real: Matrix, *, control: Matrix, n: int = 100) -> float:
    """Share of the `n` most differential genes of real cells that are so in predicted cells ("common DEGs").

    ``|top(predicted, control) & top(real, control)| / |top(real, control)|``, where top is the at most `n` genes of
    largest Welch ``|t|`` whose mean changes at all, in either direction; without unit, in [0, 1], and zero where no
    gene changes.

    Parameters
    ----------
    predicted, real, control
        Expression, (n_cells, n_genes), log1p CP10k, dense or sparse; the numbers of cells may differ.
    n
        Number of genes; all if there are fewer.

    Raises
    ------
    InputDataError
        A matrix has fewer than two cells or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.

    Notes
    -----
    It misleads by chance: a random choice scores n / n_genes, and variable genes lead both lists for any
    response. Directions and sizes do not count. Of cells made by adding one vector to all control cells, genes that no
    control cell expresses lead the list, since they do not vary: see `differential_genes`. Source: the textbook
    definition of the overlap, and `top_differential_genes` for the order.
    """
    n = check_count(n, "n")
    x, y, reference = align({"predicted": predicted, "real": real, "control": control}).matrices
    check_two_cells(predicted=x, real=y, control=reference)
    return common_top(moments(x), moments(y), moments(reference), n)


def common_top(predicted: Moments, real: Moments, control: Moments, n: int) -> float:
    """`deg_overlap` from moments."""
    chosen, expected = (set(_changed_most(control, cells, n)) for cells in (predicted, real))
    return len(chosen & expected) / len(expected) if expected else 0.0


def calls_by_welch(control: Moments, perturbed: Moments, alpha: float, min_change: float) -> NDArray[np.int8]:
    """Directions of the genes called by Welch's test, from moments."""
    return _directions(change(perturbed.mean, control.mean), welch_p(control, perturbed), alpha, min_change)


def agreement(predicted: NDArray[np.int8], real: NDArray[np.int8]) -> DifferentialOverlap:
    """Scores of two vectors of directions."""
    n_predicted, n_real = int(np.count_nonzero(predicted)), int(np.count_nonzero(real))
    n_common = int(np.sum((predicted == real) & (real != 0)))
    return DifferentialOverlap(
        precision=_share(n_common, n_predicted),
        recall=_share(n_common, n_real),
        f1=_share(2 * n_common, n_predicted + n_real),
        jaccard=_share(n_common, n_predicted + n_real - n_common),
        n_predicted=n_predicted,
        n_real=n_real,
        n_common=n_common,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _calls(control: Rows, perturbed: Rows, alpha: float, min_change: float, test: Test) -> NDArray[np.int8]:
    """Directions of the genes called in two checked matrices."""
    before, after = moments(control), moments(perturbed)
    if test == "welch":
        return calls_by_welch(before, after, alpha, min_change)
    return _directions(change(after.mean, before.mean), wilcoxon_p(control, perturbed), alpha, min_change)


def _directions(difference: Vector, p: Vector, alpha: float, min_change: float) -> NDArray[np.int8]:
    called = (stats.false_discovery_control(p) <= alpha) & (np.abs(difference) >= min_change)
    return np.where(called, np.sign(difference), 0.0).astype(np.int8)


def _changed_most(control: Moments, perturbed: Moments, n: int) -> list[int]:
    """The at most `n` genes of largest ``|t|`` among those whose mean changes by more than rounding."""
    t = np.where(change(perturbed.mean, control.mean) == 0, 0.0, np.abs(welch_t(control, perturbed)))
    order = np.argsort(-t, kind="stable")[:n]
    return [int(gene) for gene in order if t[gene] > 0]


def _check_thresholds(alpha: float, min_change: float, test: str) -> None:
    if not 0 < number("alpha", alpha, least=0, most=1) < 1:
        raise DeltaviError(f"alpha must lie between 0 and 1, got {alpha!r}.")
    number("min_change", min_change, least=0)
    if not isinstance(test, str) or test not in get_args(Test):
        raise unknown_category("test", test, get_args(Test), among="those on offer")
