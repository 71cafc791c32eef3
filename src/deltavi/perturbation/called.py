"""Calls of genes by an experiment: the test behind them, and the probability that a gene is called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from deltavi._entries import number, whole_number
from deltavi._errors import DeltaviError, InputDataError, examples
from deltavi._reading import known_arguments
from deltavi._types import BoolArray, FloatArray

# Nodes over the chi-squared variable that makes a t of a normal, and p values tried before the largest is refined.
N_NODES, N_THRESHOLDS, N_HALVINGS = 48, 24, 8


@known_arguments
@dataclass(frozen=True)
class Experiment:
    """An experiment that measures the change of every gene, and the test by which it calls genes.

    The change of a gene is the difference of the means of `n_perturbed` and `n_control` cells; its p value is that of
    a two-sided t test with a pooled variance, ``n_perturbed + n_control - 2`` degrees of freedom, adjusted over genes
    by Benjamini and Hochberg.

    Attributes
    ----------
    n_perturbed, n_control
        Numbers of cells, at least two each.
    alpha
        False discovery rate of the calls, in (0, 1).
    min_change
        Least measured change of a gene that is called, log1p CP10k.

    Raises
    ------
    DeltaviError
        If a value lies outside its range.

    Examples
    --------
    >>> Experiment(n_perturbed=100, n_control=100).standard_error(0.5).round(3).item()
    0.1
    """

    n_perturbed: int
    n_control: int
    alpha: float = 0.05
    min_change: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n_perturbed", "n_control"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=2))
        if not 0 < number("alpha", self.alpha, least=0, most=1) < 1:
            raise DeltaviError(f"alpha must lie between 0 and 1, not {self.alpha!r}.")
        object.__setattr__(self, "min_change", number("min_change", self.min_change, least=0))

    def standard_error(self, cell_variance: ArrayLike) -> FloatArray:
        """Standard error of a measured change, ``(n_genes,)``, from the variance of one cell."""
        return np.sqrt(np.asarray(cell_variance, dtype=np.float64) * (1 / self.n_perturbed + 1 / self.n_control))

    def cut(self, p: float) -> float:
        """Least measured change, in standard errors, of a gene whose p value is at most `p`."""
        return float(stats.t.isf(p / 2, self.n_perturbed + self.n_control - 2))


@known_arguments
def called_genes(change: ArrayLike, cell_variance: ArrayLike, *, experiment: Experiment) -> BoolArray:
    """Call the genes of an experiment whose changes were measured.

    Parameters
    ----------
    change
        ``(n_genes,)`` measured changes of the mean, log1p CP10k.
    cell_variance
        Variance of one cell within its group, ``(n_genes,)`` or one number.
    experiment
        Numbers of cells and thresholds.

    Returns
    -------
    ``(n_genes,)`` True where the gene is called.

    Raises
    ------
    InputDataError
        If lengths differ, or a value is missing, infinite, or a negative variance.

    Examples
    --------
    >>> called_genes([0.0, 1.0], 0.5, experiment=Experiment(50, 50)).tolist()
    [False, True]
    """
    measured = per_gene("change", change)
    error = experiment.standard_error(per_gene("cell_variance", cell_variance, len(measured), least=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(measured == 0, 0.0, np.abs(measured) / error)
    p = 2 * stats.t.sf(t, experiment.n_perturbed + experiment.n_control - 2)
    called = stats.false_discovery_control(p) <= experiment.alpha
    return np.asarray(called & (np.abs(measured) >= experiment.min_change))


@dataclass(frozen=True, eq=False)
class MeasuredChange:
    """Distribution of the change that an experiment would measure: a t, the true change, plus normal noise.

    A t is a normal whose variance is divided by an independent chi-squared variable over its degrees of freedom. Given
    this variable the measured change is normal; it is integrated over by quadrature.

    Attributes
    ----------
    change
        ``(n_genes,)`` centre.
    error
        ``(n_genes,)`` standard error of the experiment.
    sd
        ``(n_nodes, n_genes)`` standard deviation of the measured change at each node.
    weight
        ``(n_nodes,)`` weights of the nodes, which sum to one.
    """

    change: FloatArray
    error: FloatArray
    sd: FloatArray
    weight: FloatArray

    @classmethod
    def of(cls, change: FloatArray, variance: FloatArray, freedom: FloatArray, error: FloatArray) -> MeasuredChange:
        """Build it from the centre, the squared scale and the degrees of freedom of the t, and the standard error."""
        nodes, weight = np.polynomial.legendre.leggauss(N_NODES)
        distinct, place = np.unique(freedom, return_inverse=True)
        finite = np.where(np.isfinite(distinct), distinct, 1.0)
        ratio = stats.chi2.ppf((0.5 * (nodes + 1))[:, None], finite) / finite
        ratio[:, ~np.isfinite(distinct)] = 1.0
        return cls(change, error, np.sqrt(variance / ratio[:, place] + error**2), 0.5 * weight)

    def beyond(self, cut: FloatArray) -> FloatArray:
        """Probability that a measured change is at least `cut` in either direction, ``(n_genes,)``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            above, below = (special.ndtr((sign * self.change - cut) / self.sd) for sign in (1, -1))
        certain = (np.abs(self.change) >= cut) & (self.change != 0)
        return np.asarray(self.weight @ np.where(self.sd > 0, above + below, certain))

    def threshold(self, experiment: Experiment) -> float:
        """P value at which Benjamini and Hochberg cut, were the number of calls its expectation.

        The largest p that is at most ``alpha * E(number of genes with a p value of at most p) / n_genes``; a p value of
        ``alpha / n_genes`` is always called.
        """
        n_genes, alpha = len(self.change), experiment.alpha

        def allowed(p: float) -> bool:
            found = float(self.beyond(experiment.cut(p) * self.error).sum())
            return p <= alpha * found / n_genes

        tried = np.geomspace(alpha, alpha / n_genes, N_THRESHOLDS)
        first = next((i for i, p in enumerate(tried) if allowed(float(p))), None)
        if first is None:
            return alpha / n_genes
        low, high = float(tried[first]), float(tried[max(first - 1, 0)])
        for _ in range(N_HALVINGS if first else 0):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if allowed(middle) else (low, middle)
        return low


def per_gene(
    name: str, values: object, n_genes: int | None = None, *, least: float | None = None, infinite: bool = False
) -> FloatArray:
    """`values` as numbers ``(n_genes,)``; a single number stands for all genes where their number is known."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputDataError(f"{name} has masked entries: give a value for each gene.")
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputDataError(f"{name} must hold one number per gene.") from None
    if n_genes is not None and found.ndim == 0:
        found = np.full(n_genes, found)
    if found.ndim != 1 or not found.size or (n_genes is not None and len(found) != n_genes):
        there = "" if n_genes is None else f": {n_genes} changes"
        raise InputDataError(f"{name} must hold one number per gene{there}, but has shape {found.shape}.")
    bad = np.isnan(found) if infinite else ~np.isfinite(found)
    _refuse(name, bad, "missing" if infinite else "missing or infinite")
    if least is not None:
        _refuse(name, found < least, f"below {least:g}")
    return found


def _refuse(name: str, bad: BoolArray, what: str) -> None:
    if bad.any():
        genes = examples(np.flatnonzero(bad).tolist())
        raise InputDataError(f"{name} is {what} for {int(bad.sum())} of {len(bad)} genes (for example genes {genes}).")
