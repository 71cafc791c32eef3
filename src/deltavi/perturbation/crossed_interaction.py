"""Interactions of combined perturbations: the measured change less that which all else says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import t as student

from deltavi._entries import names, number
from deltavi._errors import DeltaviError, InputDataError, unknown_category
from deltavi._reading import known_arguments
from deltavi.perturbation.crossed import ResponseModel
from deltavi.perturbation.crossed_loo import leave_one_out

if TYPE_CHECKING:
    from deltavi._types import BoolArray, IntArray
    from deltavi.perturbation.crossed_table import ResponseTable

# Least variance of a difference, relative to the noise of the measured change.
SMALLEST = 1e-6


@known_arguments
def interactions(
    responses: ResponseModel,
    perturbations: str | Sequence[str] | None = None,
    *,
    contexts: str | Sequence[str] | None = None,
    level: float = 0.9,
) -> pd.DataFrame:
    """Compare measured changes of combined perturbations with the sum that is predicted of their parts.

    Each combination is predicted from everything but itself, in all contexts. A gene interacts where its measured
    change lies outside of the interval of that prediction, which has the noise of the measured cells and what sums
    of perturbations err by on average.

    Parameters
    ----------
    responses
        A fitted model; its table holds the combinations.
    perturbations
        Combinations such as ``"A+B"``, their parts in any order; by default all that were measured.
    contexts
        Contexts to compare them in; by default all.
    level
        Probability of the interval.

    Returns
    -------
    A row for each measured pair and gene with columns ``context``, ``perturbation``, ``gene``; ``measured``,
    ``predicted``, and their difference ``interaction`` with its ``standard_error`` and its interval from ``lower`` to
    ``upper``, log1p CP10k; and ``two_sided``, the probability of as large a difference without an interaction, not
    corrected for the number of genes.

    Raises
    ------
    UnknownCategoryError
        A context is not in the table, or a combination was not measured in any of the contexts.
    InputDataError
        The table has no combination of perturbations.
    DeltaviError
        `responses` is no fitted model, or `level` does not lie between 0 and 1.

    Examples
    --------
    >>> import deltavi
    >>> cells = deltavi.datasets.simulate_screen(
    ...     n_genes=60, n_contexts=3, n_perturbations=4, n_pairs=1, n_cells_per_group=30
    ... )
    >>> table = deltavi.tl.responses(cells, condition_key="condition", control="control", context_keys="context")
    >>> responses = deltavi.perturbation.ResponseModel.fit(table)
    >>> found = deltavi.perturbation.interactions(responses)
    >>> found.groupby("context").size().tolist()
    [60, 60, 60]
    """
    if not isinstance(responses, ResponseModel):
        raise DeltaviError(
            f"responses must be a ResponseModel, as ResponseModel.fit returns it, not a {type(responses).__name__}."
        )
    share = number("level", level, above=0)
    if share >= 1:
        raise DeltaviError(f"level must be below 1, not {share:g}: no finite interval holds everything.")
    table = responses.table
    found = [_compared(responses, *asked, share) for asked in _rounds(table, _asked(table, perturbations, contexts))]
    frame = pd.concat(found, ignore_index=True)
    order = {pair: place for place, pair in enumerate(table.pairs)}
    place = [order[pair] for pair in zip(frame["context"], frame["perturbation"], strict=True)]
    return frame.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def _asked(
    table: ResponseTable, perturbations: str | Sequence[str] | None, contexts: str | Sequence[str] | None
) -> BoolArray:
    """``(n_pairs,)`` True for the measured combinations that are asked for."""
    chosen = table.parts.sum(1) > 1
    if not chosen.any():
        raise InputDataError(
            "The table has no combination of perturbations: conditions named such as 'A+B' are combinations."
        )
    if contexts is not None:
        places = [table.position_of(str(name)) for name in names("contexts", contexts)]
        chosen &= np.isin(table.context_of, places)
    if perturbations is not None:
        known, wanted = dict.fromkeys(np.array(table.names)[chosen]), np.zeros(table.n_pairs, dtype=bool)
        for name in names("perturbations", perturbations):
            row, unknown = table.parts_of(str(name))
            same = (table.parts == row).all(1) & (unknown == 0)
            if not (same & chosen).any():
                raise unknown_category("combination", name, list(known), among="what was measured in these contexts")
            wanted |= same
        chosen &= wanted
    if not chosen.any():
        raise InputDataError("No combination of perturbations was measured in these contexts.")
    return np.asarray(chosen)


def _rounds(table: ResponseTable, chosen: BoolArray) -> Iterator[tuple[IntArray, BoolArray]]:
    """Pairs to predict together, and the pairs they may be predicted from besides each other.

    Of a combination that was measured in several contexts one pair stays in each round: the others would tell of its
    interaction, which is not to be part of the prediction.
    """
    turn, last = np.full(table.n_pairs, -1), np.full(table.n_pairs, -1)
    for name in {table.names[pair] for pair in np.flatnonzero(table.parts.sum(1) > 1)}:
        rows = np.flatnonzero(np.array(table.names) == name)
        turn[rows], last[rows] = np.arange(len(rows)), len(rows) - 1
    for number_of in np.unique(turn[chosen]):
        kept = turn == np.minimum(number_of, last)
        yield np.flatnonzero(chosen & (turn == number_of)), kept


def _compared(responses: ResponseModel, rows: IntArray, kept: BoolArray, level: float) -> pd.DataFrame:
    """Measured and predicted changes of some pairs, each from all other pairs that are kept."""
    table, fitted = responses.table, responses.fitted
    left_out = leave_one_out(fitted.process if kept.all() else fitted.process.on(table.of_pairs(kept)))
    place = np.cumsum(kept)[rows] - 1
    moments = left_out.moments.of_queries(place)
    predicted = moments.change if responses.has_evidence else np.zeros_like(moments.change)
    measured = np.asarray(table.changes[rows], dtype=np.float64)
    # of the measured change as it would be without an interaction: control cells are shared by both
    variance = fitted.calibration.variance(moments) + table.squared_errors[rows] - 2 * left_out.shared_noise[place]
    error = np.sqrt(np.maximum(variance, table.squared_errors[rows] * SMALLEST))
    difference, freedom = measured - predicted, fitted.calibration.freedom
    half = student.ppf((1 + level) / 2, freedom) * error
    scaled = np.divide(np.abs(difference), error, out=np.zeros_like(error), where=error > 0)
    columns = {
        "measured": measured,
        "predicted": predicted,
        "interaction": difference,
        "standard_error": error,
        "lower": difference - half,
        "upper": difference + half,
        "two_sided": 2 * student.sf(scaled, freedom),
    }
    names_of = np.repeat(np.array([table.pairs[row] for row in rows], dtype=object), table.n_genes, axis=0)
    text = {"context": names_of[:, 0], "perturbation": names_of[:, 1], "gene": np.tile(table.genes, len(rows))}
    return pd.DataFrame(text | {name: values.ravel() for name, values in columns.items()})
