"""Table of differential genes of a response that was predicted, not measured.

A test on predicted cells says nothing: they are paired with control cells, and as many as one likes. What can be said
of a gene follows from the distribution of its change, a t around the prediction: an interval, the probability that the
sign is wrong, and the probability that an experiment of a stated size would call the gene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import isotonic_regression

from deltavi._entries import number
from deltavi._errors import DeltaviError, GeneMatchError, InputDataError, examples
from deltavi._reading import known_arguments
from deltavi._types import BoolArray, FloatArray
from deltavi.perturbation.called import Experiment, MeasuredChange, per_gene

# Of the calls of a block of genes: a block that was always or never called is not certain.
PRIOR_CALLS, PRIOR_GENES = 0.5, 1.0


@known_arguments
@dataclass(frozen=True, eq=False)
class GeneTable:
    """Predictions of every gene, ``(n_genes,)`` each.

    Attributes
    ----------
    genes
        Names of the genes; their numbers where none were given.
    change
        Predicted change of the mean, log1p CP10k.
    lower, upper
        Interval of the change.
    log2_fold_change, log2_lower, log2_upper
        ``log2((expm1(control + change) + pseudocount) / (expm1(control) + pseudocount))``, and the same of the ends of
        the interval; with a pseudocount of 1 it is ``change / log(2)``.
    local_false_sign_rate
        Probability that the change has the other sign than was predicted, at most 0.5.
    probability_called
        Probability that the experiment would call the gene, in either direction.
    false_discovery_rate
        Share of genes that the experiment would not call, expected among this gene and all that are more probable.
    level
        Probability of the interval.
    p_threshold
        P value at which the experiment is expected to cut.
    experiment
        The experiment meant.
    is_calibrated
        True once the probabilities were recalibrated.
    """

    genes: pd.Index
    change: FloatArray
    lower: FloatArray
    upper: FloatArray
    log2_fold_change: FloatArray
    log2_lower: FloatArray
    log2_upper: FloatArray
    local_false_sign_rate: FloatArray
    probability_called: FloatArray
    false_discovery_rate: FloatArray
    level: float
    p_threshold: float
    experiment: Experiment
    is_calibrated: bool = False

    def __repr__(self) -> str:
        called = int((self.false_discovery_rate <= self.experiment.alpha).sum())
        return f"GeneTable: {len(self.genes)} genes, {called} at a false discovery rate of {self.experiment.alpha:g}"

    def to_frame(self) -> pd.DataFrame:
        """Table with a row per gene, in the order given, and a column per attribute that has a value for each gene."""
        columns = (
            *("change", "lower", "upper", "log2_fold_change", "log2_lower", "log2_upper"),
            *("local_false_sign_rate", "probability_called", "false_discovery_rate"),
        )
        return pd.DataFrame({name: getattr(self, name) for name in columns}, index=self.genes)


@known_arguments
def gene_table(
    change: ArrayLike,
    variance: ArrayLike,
    degrees_of_freedom: ArrayLike,
    *,
    cell_variance: ArrayLike,
    control_mean: ArrayLike,
    experiment: Experiment,
    genes: Sequence[str] | pd.Index | None = None,
    level: float = 0.9,
    pseudocount: float = 1.0,
) -> GeneTable:
    """Tabulate what a prediction says of every gene: change, interval, sign, and the chance that it would be called.

    The true change of a gene is ``change + sqrt(variance) * T`` with T of Student's t distribution, and an experiment
    of n1 perturbed and n0 control cells measures it with a normal error of variance
    ``cell_variance * (1 / n1 + 1 / n0)``. A gene is called where the measured change exceeds the cut of the test at the
    p value at which Benjamini and Hochberg would cut, were their number of calls its expectation over the prediction.

    Parameters
    ----------
    change
        ``(n_genes,)`` predicted changes of the mean, log1p CP10k.
    variance
        Squared scale of the t distribution of the true change, without the noise of the experiment; one number, or
        ``(n_genes,)``.
    degrees_of_freedom
        Of the t distribution, above 0; infinity for a normal. One number, or ``(n_genes,)``.
    cell_variance
        Variance of one cell around the mean of its group; one number, or ``(n_genes,)``.
    control_mean
        ``(n_genes,)`` mean of the control cells, log1p CP10k.
    experiment
        Numbers of cells and thresholds of the experiment meant, such as one with as many cells as the controls at hand.
    genes
        Names of the genes.
    level
        Probability of the intervals, in (0, 1).
    pseudocount
        Counts per ten thousand added to both means of a fold change, above 0. With 1, genes that are hardly expressed
        have small fold changes; scanpy adds 1e-9.

    Returns
    -------
    The table. Its probabilities rest on the prediction alone; `calibrated` corrects them.

    Raises
    ------
    InputDataError
        If lengths differ, or a value is missing, infinite, or a negative variance or mean.
    GeneMatchError
        If there is not one name per gene, or a name occurs twice.
    DeltaviError
        If a number lies outside its range.

    References
    ----------
    Stephens (2017), Biostatistics 18 (local false sign rates); Newton et al. (2004), Biostatistics 5 (false discovery
    rates from posterior probabilities); Benjamini and Hochberg (1995), J. R. Stat. Soc. B 57.

    Examples
    --------
    >>> table = gene_table(
    ...     [0.0, 0.8], 0.04, 5, cell_variance=0.5, control_mean=[0.2, 1.0], experiment=Experiment(100, 100)
    ... )
    >>> table.to_frame()["local_false_sign_rate"].round(3).tolist()
    [0.5, 0.005]
    """
    centre = per_gene("change", change)
    n = len(centre)
    squared = per_gene("variance", variance, n, least=0)
    freedom = per_gene("degrees_of_freedom", degrees_of_freedom, n, infinite=True)
    if (freedom <= 0).any():
        raise InputDataError(f"degrees_of_freedom must lie above 0, but hold {examples(freedom[freedom <= 0])}.")
    error = experiment.standard_error(per_gene("cell_variance", cell_variance, n, least=0))
    start = per_gene("control_mean", control_mean, n, least=0)
    if not 0 < number("level", level, least=0, most=1) < 1:
        raise DeltaviError(f"level must lie between 0 and 1, not {level!r}.")
    pseudocount = number("pseudocount", pseudocount, above=0)
    half = stats.t.isf((1 - level) / 2, freedom) * np.sqrt(squared)
    lower, upper = centre - half, centre + half
    fold, fold_lower, fold_upper = (_log2_fold_change(c, start, pseudocount) for c in (centre, lower, upper))
    measured = MeasuredChange.of(centre, squared, freedom, error)
    p = measured.threshold(experiment)
    probability = measured.beyond(np.maximum(experiment.cut(p) * error, experiment.min_change))
    return GeneTable(
        genes=_names(genes, n),
        change=centre,
        lower=lower,
        upper=upper,
        log2_fold_change=fold,
        log2_lower=fold_lower,
        log2_upper=fold_upper,
        local_false_sign_rate=_false_sign_rate(centre, np.sqrt(squared), freedom),
        probability_called=probability,
        false_discovery_rate=expected_false_discoveries(probability),
        level=level,
        p_threshold=p,
        experiment=experiment,
    )


def _names(genes: Sequence[str] | pd.Index | None, n_genes: int) -> pd.Index:
    if genes is None:
        return pd.RangeIndex(n_genes)
    names = pd.Index([str(gene) for gene in genes], dtype=object, name=getattr(genes, "name", None))
    if len(names) != n_genes:
        raise GeneMatchError(f"genes must name each of {n_genes} genes, but holds {len(names)} names.")
    if not names.is_unique:
        raise GeneMatchError(f"genes names {examples(names[names.duplicated()].unique())} more than once.")
    return names


def _log2_fold_change(change: FloatArray, start: FloatArray, pseudocount: float) -> FloatArray:
    if pseudocount == 1:
        return np.asarray(change / np.log(2))
    # a predicted mean may fall below that of no counts
    before, after = (np.expm1(np.maximum(mean, 0.0)) + pseudocount for mean in (start, start + change))
    return np.log2(after / before)


def _false_sign_rate(change: FloatArray, scale: FloatArray, freedom: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(change == 0, 0.0, np.abs(change) / scale)
    return np.asarray(stats.t.sf(distance, freedom))


@known_arguments
def expected_false_discoveries(probability: ArrayLike) -> FloatArray:
    """False discovery rate of each gene from probabilities: the mean of one minus them, from the most probable down.

    Parameters
    ----------
    probability
        ``(n_genes,)`` probability that a gene is a discovery.

    Returns
    -------
    ``(n_genes,)`` expected share of false ones among the gene and all that are as probable or more.

    Raises
    ------
    InputDataError
        If a value is no probability.

    Examples
    --------
    >>> expected_false_discoveries([0.5, 1.0]).tolist()
    [0.25, 0.0]
    """
    p = _probabilities("probability", probability)
    order = np.argsort(-p, kind="stable")
    means = np.cumsum(1 - p[order]) / np.arange(1, len(p) + 1)
    last = np.searchsorted(-p[order], -p, side="right") - 1
    return np.asarray(means[last])


def _probabilities(name: str, values: ArrayLike) -> FloatArray:
    found = per_gene(name, values)
    outside = (found < 0) | (found > 1)
    if outside.any():
        raise InputDataError(f"{name} must lie between 0 and 1, but holds {examples(found[outside].tolist())}.")
    return found


@known_arguments
@dataclass(frozen=True, eq=False)
class Recalibration:
    """Map from a stated probability to the share of genes that were called, not falling; see `recalibration`.

    Attributes
    ----------
    stated, found
        ``(n_knots,)`` stated probabilities in increasing order, and the shares found; linear in between, constant
        beyond.
    n_genes
        Number of pairs of a gene and a label behind it.
    """

    stated: FloatArray
    found: FloatArray
    n_genes: int

    def __call__(self, probability: ArrayLike) -> FloatArray:
        """Recalibrate probabilities, ``(n_genes,)``."""
        return np.interp(_probabilities("probability", probability), self.stated, self.found)


@known_arguments
def recalibration(probability: ArrayLike, called: ArrayLike) -> Recalibration:
    """Learn from training labels, each predicted from the others, what stated probabilities are worth.

    Isotonic regression of the calls on the stated probabilities (pool adjacent violators). What is promised of a new
    label is the average over labels, so that each counts alike: its genes by one over the number of calls that is
    stated of it, and one more. Every block counts half a call among one more gene, so that none is certain.

    Parameters
    ----------
    probability
        ``(n_labels, n_genes)`` or flat: `probability_called` of the tables of training labels.
    called
        The same shape: True where the measured cells of the label call the gene; see `called_genes`.

    Returns
    -------
    The map; `calibrated` applies it.

    Raises
    ------
    InputDataError
        If shapes differ, or a value is no probability or no truth value.

    References
    ----------
    Zadrozny and Elkan (2002), KDD.

    Examples
    --------
    >>> learned = recalibration([0.1, 0.1, 0.9, 0.9], [False, False, True, False])
    >>> learned([0.0, 0.9]).round(2).tolist()
    [0.17, 0.5]
    """
    stated, calls = np.asarray(probability, dtype=np.float64), np.asarray(called)
    if stated.shape != calls.shape:
        raise InputDataError(
            f"called must hold a truth value for each probability: {stated.shape}, but shape {calls.shape}."
        )
    if calls.dtype.kind != "b" and not np.isin(calls, (0, 1)).all():
        raise InputDataError("called must hold truth values.")
    flat = _probabilities("probability", stated.ravel())
    return _fitted(flat, calls.ravel().astype(bool), _weights(np.atleast_2d(stated)).ravel())


def _weights(stated: FloatArray) -> FloatArray:
    """``(n_labels, n_genes)`` weights of genes, by the number of calls that is stated of their label."""
    return np.repeat(1 / (stated.sum(axis=1, keepdims=True) + 1), stated.shape[1], axis=1)


def _fitted(stated: FloatArray, called: BoolArray, weights: FloatArray) -> Recalibration:
    """Blocks of the isotonic regression; genes of the same probability are in one block."""
    values, place = np.unique(stated, return_inverse=True)
    n_genes, weight = np.bincount(place), np.bincount(place, weights=weights)
    hits = np.bincount(place, weights=weights * called)
    blocks = isotonic_regression(hits / weight, weights=weight).blocks[:-1]
    total, share = np.add.reduceat(n_genes, blocks), np.add.reduceat(weight, blocks)
    centre = np.add.reduceat(values * weight, blocks) / share
    n_called = total * np.add.reduceat(hits, blocks) / share
    found = (n_called + PRIOR_CALLS) / (total + PRIOR_GENES)
    # small blocks at the ends move more than their neighbours
    found = isotonic_regression(found, weights=total).x
    return Recalibration(centre, np.asarray(found), int(total.sum()))


@known_arguments
def calibrated(table: GeneTable, learned: Recalibration) -> GeneTable:
    """Correct the probabilities of a table, and with them its false discovery rates.

    Parameters
    ----------
    table
        Table of the query.
    learned
        From training labels; see `recalibration`.

    Returns
    -------
    A new table, in which `is_calibrated` is True.

    Raises
    ------
    DeltaviError
        If it was recalibrated before.

    Examples
    --------
    >>> table = gene_table([0.8], 0.04, 5, cell_variance=0.5, control_mean=[1.0], experiment=Experiment(9, 9))
    >>> calibrated(table, recalibration([0.0, 1.0], [False, True])).is_calibrated
    True
    """
    if table.is_calibrated:
        raise DeltaviError("This table was recalibrated before; recalibrate the one that gene_table returned.")
    probability = learned(table.probability_called)
    rates = expected_false_discoveries(probability)
    return replace(table, probability_called=probability, false_discovery_rate=rates, is_calibrated=True)
