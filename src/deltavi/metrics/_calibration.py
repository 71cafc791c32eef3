"""Calibration of predicted labels: the accuracy of labels predicted with 90 % should be nine in ten."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

from deltavi._errors import DeltaviError, UnknownCategoryError, examples
from deltavi._reading import known_arguments
from deltavi.arrays.matrix import check_count, without_names
from deltavi.arrays.per_cell import by_cell
from deltavi.arrays.tables import cell_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deltavi.arrays.matrix import Vector

SUM_TOLERANCE = 1e-3
MAX_LISTED = 10


@known_arguments
@dataclass(frozen=True, eq=False)
class Calibration:
    """Agreement of predicted probabilities with the frequency of correct labels; see :func:`calibration`.

    Attributes
    ----------
    ece
        Expected calibration error of the highest probability, in [0, 1], zero at best.
    brier
        Brier score over all labels, in [0, 2], zero at best.
    log_loss
        Mean negative log probability of the true label, in nats, zero at best.
    accuracy
        Share of cells whose most probable label is the true one, in [0, 1].
    mean_confidence
        Mean of the highest probability; above `accuracy`, the classifier is overconfident.
    table
        One row per bin of the highest probability, with ``lower`` (excluded) and ``upper`` (included) edge,
        ``n_cells``, mean ``confidence`` and ``accuracy`` of its cells, which are NaN in an empty bin.
    n_cells
        Number of cells scored.
    """

    ece: float
    brier: float
    log_loss: float
    accuracy: float
    mean_confidence: float
    table: pd.DataFrame = field(repr=False)
    n_cells: int


@known_arguments
def calibration(
    probabilities: pd.DataFrame | np.ndarray,
    truth: Sequence[object] | pd.Series | np.ndarray,
    *,
    n_bins: int = 15,
) -> Calibration:
    """Compare the probabilities a classifier gives with how often it is right.

    With p_ik the probability of label k in cell i, y_i the true label and c_i = max_k p_ik the confidence:

    * ``ece = sum_b n_b / n |accuracy_b - confidence_b|`` over `n_bins` bins of c of equal width, (lower, upper];
    * ``brier = mean_i sum_k (p_ik - [k = y_i])^2``, with two labels twice the binary score;
    * ``log_loss = -mean_i log p_i,y_i``, infinite where a true label has probability zero.

    A cell in which m labels share the highest probability counts as 1 / m right if its true label is one of them, so
    that the order of the labels does not matter.

    Parameters
    ----------
    probabilities
        Probability of every label in every cell, (n_cells, n_labels), rows summing to one; of a DataFrame the columns
        are the labels and the index names the cells; of an array labels are the positions of its columns.
    truth
        True label of every cell, (n_cells,): text for a DataFrame, codes 0..n_labels-1 for an array. A Series is
        matched to the cells of a DataFrame by name.
    n_bins
        Number of bins of the highest probability.

    Raises
    ------
    UnknownCategoryError
        The true label of some cells is not among the labels.
    DeltaviError
        There are no cells, lengths differ, a Series names other cells, a true label is missing, or a row is no
        distribution: NaN, infinite or negative entries, or a sum that is off by more than 0.001.

    Notes
    -----
    The expected calibration error misleads in four ways. It grows with the number of bins and shrinks with that of
    cells: the noise of each bin counts as error, up to about 0.4 sqrt(n_bins / n_cells) for a perfect classifier, so
    compare only at equal numbers. Over- and underconfident cells of one bin cancel. Only the highest probability
    counts, not those of the other labels. And it rewards no knowledge: giving every cell the frequencies of the labels
    scores zero. The Brier score and the log loss are proper, lowest in expectation for the true probabilities, but mix
    calibration with accuracy: read all three.

    References
    ----------
    Guo et al. (2017), On calibration of modern neural networks, ICML, for the error and its bins; Brier (1950),
    Verification of forecasts expressed in terms of probability, Monthly Weather Review 78.
    """
    n_bins = check_count(n_bins, "n_bins")
    p = _distributions(probabilities)
    given = by_cell(cell_names(probabilities), "probabilities", truth=truth)["truth"]
    codes = _codes(given, probabilities)
    cells, confidence = np.arange(len(p)), p.max(axis=1)
    tied = p == confidence[:, None]
    right = tied[cells, codes] / tied.sum(axis=1)
    table = _reliability_table(confidence, right, n_bins)
    distance = p.copy()
    distance[cells, codes] -= 1.0
    with np.errstate(divide="ignore"):
        log_likelihood = np.log(p[cells, codes]).mean()
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return Calibration(
        ece=float((gaps * table["n_cells"]).sum() / len(p)),  # pandas leaves out the NaN of empty bins
        brier=float(np.square(distance).sum(axis=1).mean()),
        log_loss=float(0.0 - log_likelihood),
        accuracy=float(right.mean()),
        mean_confidence=float(confidence.mean()),
        table=table,
        n_cells=len(p),
    )


def _reliability_table(confidence: Vector, right: Vector, n_bins: int) -> pd.DataFrame:
    """Number, mean confidence and accuracy of the cells of each bin."""
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    n_cells = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, weights=w, minlength=n_bins) / n_cells for w in (confidence, right)]
    return pd.DataFrame(
        {"lower": edges[:-1], "upper": edges[1:], "n_cells": n_cells, "confidence": means[0], "accuracy": means[1]}
    )


def _distributions(probabilities: pd.DataFrame | np.ndarray) -> Vector:
    """The probabilities in double precision, (n_cells, n_labels), each row a distribution."""
    try:
        p = np.asarray(without_names(probabilities, "probabilities"), dtype=np.float64)
    except (TypeError, ValueError):
        raise DeltaviError("probabilities must hold numbers only, in every row and column.") from None
    if p.ndim != 2 or 0 in p.shape:
        raise DeltaviError(f"probabilities must be (n_cells, n_labels) and not empty, got shape {p.shape}.")
    with np.errstate(invalid="ignore"):
        off = np.asarray(np.abs(p.sum(axis=1) - 1.0) > SUM_TOLERANCE)
        _refuse(np.asarray(~np.isfinite(p).all(axis=1)), probabilities, "hold NaN or infinite probabilities")
        _refuse(np.asarray((p < 0).any(axis=1)), probabilities, "hold negative probabilities")
    _refuse(off, probabilities, f"have probabilities whose sum is not 1 (up to {SUM_TOLERANCE:g})")
    return p


def _refuse(wrong: NDArray[np.bool_], probabilities: pd.DataFrame | np.ndarray, what: str) -> None:
    if wrong.any():
        raise DeltaviError(
            f"{int(wrong.sum())} of {len(wrong)} cells {what} (for example {_cells(wrong, probabilities)}). "
            "Leave those cells out, or pass the probabilities of all labels as the classifier gives them."
        )


def _cells(chosen: NDArray[np.bool_], probabilities: pd.DataFrame | np.ndarray) -> str:
    """Names of the first chosen cells, or their rows where cells have no names."""
    names = probabilities.index if isinstance(probabilities, pd.DataFrame) else np.arange(len(chosen))
    return examples(names[chosen].tolist())


def _codes(given: np.ndarray, probabilities: pd.DataFrame | np.ndarray) -> NDArray[np.int64]:
    """Column of the true label of every cell, (n_cells,)."""
    labels: pd.Index
    if given.shape != (len(probabilities),):
        raise DeltaviError(f"truth must hold one label per cell: {len(probabilities)} cells, but shape {given.shape}.")
    _refuse_missing(given, probabilities)
    if isinstance(probabilities, pd.DataFrame):
        labels = _unique_labels(probabilities)
        codes = np.asarray(labels.get_indexer(pd.Index(given.astype(str))), dtype=np.int64)
    else:
        labels = pd.RangeIndex(probabilities.shape[1])
        codes = _checked_integers(given, n_labels=len(labels))
    _refuse_unknown(codes < 0, given, labels, _cells(codes < 0, probabilities))
    return codes


def _refuse_missing(given: np.ndarray, probabilities: pd.DataFrame | np.ndarray) -> None:
    missing = np.asarray(pd.isna(given))
    if missing.any():
        raise DeltaviError(
            f"truth is missing for {int(missing.sum())} of {len(missing)} cells "
            f"(for example {_cells(missing, probabilities)}). Leave those cells out."
        )


def _unique_labels(probabilities: pd.DataFrame) -> pd.Index:
    labels: pd.Index = pd.Index(probabilities.columns.astype(str))
    if not labels.is_unique:
        repeated = labels[labels.duplicated()].unique()
        raise DeltaviError(f"probabilities has {len(repeated)} repeated labels: {examples(repeated)}.")
    return labels


def _checked_integers(given: np.ndarray, *, n_labels: int) -> NDArray[np.int64]:
    """Codes as integers, -1 where one is no column."""
    if infer_dtype(given) != "integer":
        raise DeltaviError(
            f"probabilities is an array without names of labels, so truth must hold whole numbers 0..{n_labels - 1}, "
            f"not {examples(given)}. To use names, pass a DataFrame with the labels as columns."
        )
    codes = given.astype(np.int64)
    return np.where((codes >= 0) & (codes < n_labels), codes, -1)


def _refuse_unknown(unknown: NDArray[np.bool_], given: np.ndarray, labels: pd.Index, cells: str) -> None:
    if not unknown.any():
        return
    counts = pd.Series(given[unknown].astype(str)).value_counts()
    listed = ", ".join(f"{name!r} ({n})" for name, n in counts.head(MAX_LISTED).items())
    rest = f" and {len(counts) - MAX_LISTED} more" if len(counts) > MAX_LISTED else ""
    raise UnknownCategoryError(
        f"The true labels of {int(unknown.sum())} of {len(unknown)} cells (for example {cells}) are not among the "
        f"labels of probabilities: {listed}{rest}. Known: {examples(labels, MAX_LISTED)}. "
        "Leave those cells out: no probability can be right for them."
    )
