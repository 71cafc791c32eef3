"""Observed against predicted values, those refused in grey."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from deltavi._entries import whole_number
from deltavi._errors import DeltaviError
from deltavi._reading import known_arguments
from deltavi._types import BoolArray, FloatArray
from deltavi.pl._figure import (
    BLUE,
    DARK,
    GREY,
    PALE,
    PlotResult,
    SaveTarget,
    axes_for,
    figure_file,
    finish,
    hide_frame,
)
from deltavi.pl._labels import place_labels, write_lines
from deltavi.pl._tables import mask, points

# With more points, intervals would hide each other; names are given to the outermost ones only.
MOST_INTERVALS = 400
RASTERISE_ABOVE = 5000


@known_arguments
def observed_predicted(
    observed: ArrayLike | pd.Series,
    predicted: ArrayLike | pd.Series,
    *,
    refused: ArrayLike | pd.Series | None = None,
    lower: ArrayLike | pd.Series | None = None,
    upper: ArrayLike | pd.Series | None = None,
    names: Sequence[str] | None = None,
    n_label: int = 8,
    name: str = "change of mean, log1p CP10k",
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw observed against predicted values, a point per gene or per response; refused predictions are grey.

    Refused are predictions that are worth no more than no change, or responses too small to judge them by. They are
    drawn, so that one sees what is withheld, and are left out of the correlation, which is written on the plot beside
    their number and the share of observed values within the intervals.

    Parameters
    ----------
    observed, predicted
        Values of each point, ``(n_points,)``, in the same order and unit. Points that lack one of them are left out;
        Series, here and below, have to name the same points.
    refused
        ``(n_points,)`` True for predictions that are refused; none when None.
    lower, upper
        ``(n_points,)`` ends of the interval of each prediction, drawn for at most 400 points.
    names
        Names of the points; those farthest from the diagonal are written.
    n_label
        How many names to write at most.
    name
        What the values are, and their unit.
    title
        Title of the plot.
    ax
        Axes to draw on; a new figure when None.
    show
        True shows the figure and returns nothing, False returns the axes; None shows in interactive use only.
    save
        Path of a file to write.

    Returns
    -------
    The axes, unless the figure was shown.

    Raises
    ------
    DeltaviError
        If lengths differ, Series name other points, no point has both values, `refused` holds no truth values, or one
        end of the intervals is given without the other.
    """
    save = figure_file(save)
    n_label = whole_number("n_label", n_label, least=0)
    _require_one_order(observed=observed, predicted=predicted, refused=refused, lower=lower, upper=upper)
    x = points("observed", observed)
    y = points("predicted", predicted, len(x))
    refusals = mask("refused", refused, len(x))
    ends = _ends(lower, upper, len(x))
    labels = _labels(names, len(x))
    kept = np.isfinite(x) & np.isfinite(y)
    if not kept.any():
        raise DeltaviError("No point has both an observed and a predicted value.")
    x, y, refusals, ends, labels = x[kept], y[kept], refusals[kept], ends[:, kept], labels[kept]
    (panel,) = axes_for(1, ax, panel_size=(4.6, 4.6))
    if len(x) <= MOST_INTERVALS:
        _draw_intervals(panel, x, ends, refusals)
    _scatter(panel, x, y, refusals)
    _frame(panel, x, y, ends if len(x) <= MOST_INTERVALS else ends[:, :0], name)
    if title is not None:
        panel.set_title(title)
    written = write_lines(panel, _lines(x, y, refusals, ends), boxed=True)
    if names is not None:
        order = np.argsort(np.where(refusals, 0.0, -np.abs(y - x)), kind="stable")[:n_label]
        places = np.column_stack([x, y])
        place_labels(panel, places[order], list(labels[order]), markers=places, avoid=written)
    return finish([panel], made_here=ax is None, show=show, save=save)


def _ends(lower: object, upper: object, n: int) -> FloatArray:
    """Ends of the intervals, ``(2, n_points)``; NaN without intervals."""
    if (lower is None) != (upper is None):
        raise DeltaviError("lower and upper are the two ends of an interval: pass both, or none.")
    if lower is None:
        return np.full((2, n), np.nan)
    ends = np.stack([points("lower", lower, n), points("upper", upper, n)])
    if (ends[0] > ends[1]).any():
        raise DeltaviError(f"lower is above upper for {int((ends[0] > ends[1]).sum())} of {n} points.")
    return ends


def _labels(names: Sequence[str] | None, n: int) -> np.ndarray:
    if names is None:
        return np.full(n, "", dtype=object)
    found = np.array([str(name) for name in names], dtype=object)
    if len(found) != n:
        raise DeltaviError(f"names must name each of {n} points, but holds {len(found)}.")
    return found


def _require_one_order(**given: object) -> None:
    """Raise where two Series name their points otherwise."""
    series = {name: values for name, values in given.items() if isinstance(values, pd.Series)}
    for name, values in series.items():
        first = next(iter(series))
        if not values.index.equals(series[first].index):
            raise DeltaviError(
                f"{first} and {name} name other points, or the same ones in another order. Bring them to one order, "
                f"such as {name}.loc[{first}.index]."
            )


def _scatter(ax: Axes, x: FloatArray, y: FloatArray, refused: BoolArray) -> None:
    rasterised = len(x) > RASTERISE_ABOVE
    many = len(x) > MOST_INTERVALS
    ax.scatter(x[refused], y[refused], s=9 if many else 20, color=GREY, alpha=0.5, linewidths=0, rasterized=rasterised)
    shown = ~refused
    ax.scatter(
        x[shown],
        y[shown],
        s=9 if many else 24,
        color=BLUE,
        alpha=0.4 if many else 0.85,
        linewidths=0,
        zorder=3,
        rasterized=rasterised,
    )


def _draw_intervals(ax: Axes, x: FloatArray, ends: FloatArray, refused: BoolArray) -> None:
    for members, color in ((refused, GREY), (~refused, BLUE)):
        drawn = members & np.isfinite(ends).all(axis=0)
        ax.vlines(x[drawn], *ends[:, drawn], color=color, alpha=0.3, linewidth=1.5)


def _frame(ax: Axes, x: FloatArray, y: FloatArray, ends: FloatArray, name: str) -> None:
    """Give both axes the same limits, with the lines of agreement and of no change."""
    every = np.concatenate([x, y, ends[np.isfinite(ends)]])
    low, high = min(every.min(), 0.0), max(every.max(), 0.0)
    margin = 0.05 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    ax.plot(limits, limits, color=GREY, linewidth=1, linestyle="--", zorder=1)
    ax.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    ax.axvline(0, color=PALE, linewidth=0.8, zorder=0)
    ax.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"observed {name}", ylabel=f"predicted {name}")
    hide_frame(ax)


def _lines(x: FloatArray, y: FloatArray, refused: BoolArray, ends: FloatArray) -> list[tuple[str, str]]:
    """Lines of text and their colours."""
    shown = ~refused
    lines = []
    if shown.sum() > 2 and x[shown].std() > 0 and y[shown].std() > 0:
        lines.append((f"r = {np.corrcoef(x[shown], y[shown])[0, 1]:.3f}, {shown.sum():,} predicted", DARK))
    else:
        lines.append((f"{shown.sum():,} predicted", DARK))
    known = shown & np.isfinite(ends).all(axis=0)
    if known.any():
        inside = (x[known] >= ends[0, known]) & (x[known] <= ends[1, known])
        lines.append((f"{100 * inside.mean():.0f} % within the interval", DARK))
    if refused.any():
        lines.append((f"{refused.sum():,} refused", GREY))
    return lines
