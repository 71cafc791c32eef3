"""Reliability diagram: accuracy of a classifier by its confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from deltavi._errors import DeltaviError
from deltavi._reading import known_arguments
from deltavi.metrics import Calibration
from deltavi.pl._figure import (
    BLUE,
    DARK,
    GREY,
    PALE,
    VERMILION,
    PlotResult,
    SaveTarget,
    axes_for,
    figure_file,
    finish,
    hide_frame,
)

# The rest of Okabe and Ito's palette; markers distinguish classes beyond the number of colours.
COLORS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", DARK)
MARKERS = "os^Dv"
CHARACTER_WIDTH = 0.065  # inches
# The band under the diagram that holds the numbers of cells, in units of its height.
BAND_BOTTOM, BAND_TOP = -0.44, -0.12


@known_arguments
def calibration(
    calibrations: Calibration | Mapping[str, Calibration],
    *,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the accuracy of cells against the confidence they were labelled with: a reliability diagram.

    Points on the diagonal are calibrated; below it the classifier is overconfident. Under the diagram stand the
    numbers of cells in each bin of confidence, on a logarithmic scale: where they are few, points scatter.

    Parameters
    ----------
    calibrations
        What :func:`deltavi.metrics.calibration` returns, or several of them by the name of the classifier.
    ax
        Axes to draw on; a new figure when None.
    show
        True shows the figure and returns nothing, False returns the axes; None shows in interactive use only.
    save
        Path of a file to write.

    Returns
    -------
    The axes, unless the figure was shown. The numbers of cells are drawn in an inset of it.

    Raises
    ------
    DeltaviError
        If there is nothing to draw, or it is no `Calibration`.
    """
    save = figure_file(save)
    named = _named(calibrations)
    several = len(named) > 1
    room = CHARACTER_WIDTH * (8 + max(map(len, named))) if several else 0.0
    (panel,) = axes_for(1, ax, panel_size=(4.2, 5.2), left=room)
    counts = _frame(panel)
    for i, (name, one) in enumerate(named.items()):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        filled = one.table[one.table["n_cells"] > 0]
        label = f"{name}\nECE {one.ece:.3f}"
        line = panel.plot(
            filled["confidence"], filled["accuracy"], color=color, marker=marker, markersize=5, label=label
        )
        line[0].set(clip_on=False, zorder=3)  # markers on the edge are drawn whole
        _draw_counts(counts, one.table, color, fill=not several)
    counts.set_ylim(0.5, 2.5 * max(one.table["n_cells"].max() for one in named.values()))
    if several:
        panel.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        (one,) = named.values()
        panel.set_title(_summary(one), fontsize="medium")
    return finish([panel], made_here=ax is None, show=show, save=save)


def _named(calibrations: Calibration | Mapping[str, Calibration]) -> dict[str, Calibration]:
    if isinstance(calibrations, Calibration):
        return {"": calibrations}
    if not isinstance(calibrations, Mapping) or not calibrations:
        raise DeltaviError("calibrations must be a Calibration, or at least one of them by name in a dictionary.")
    wrong = [name for name, one in calibrations.items() if not isinstance(one, Calibration)]
    if wrong:
        raise DeltaviError(
            f"{wrong[0]!r} is a {type(calibrations[wrong[0]]).__name__}, no Calibration: "
            "pass what deltavi.metrics.calibration returns."
        )
    return {str(name): one for name, one in calibrations.items()}


def _frame(ax: Axes) -> Axes:
    """Draw the diagonal, and return an inset under the diagram for the numbers of cells."""
    ax.set(xlim=(0, 1), ylim=(BAND_BOTTOM, 1.03), xlabel="confidence", yticks=np.linspace(0, 1, 6))
    ax.set_ylabel("accuracy", y=(0.5 - BAND_BOTTOM) / (1.03 - BAND_BOTTOM))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", zorder=1)
    ax.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    hide_frame(ax)
    ax.spines["left"].set_bounds(0, 1)
    ax.spines["bottom"].set_visible(False)  # that of the inset lies there
    counts = ax.inset_axes((0, BAND_BOTTOM, 1, BAND_TOP - BAND_BOTTOM), transform=ax.transData)
    counts.set(xlim=(0, 1), xticks=[], yscale="log", ylabel="cells")
    counts.yaxis.set_major_locator(LogLocator(numticks=4))
    counts.yaxis.set_minor_locator(NullLocator())
    counts.yaxis.set_major_formatter("{x:,.0f}")
    hide_frame(counts)
    return counts


def _draw_counts(ax: Axes, table: pd.DataFrame, color: str, *, fill: bool) -> None:
    edges = np.append(table["lower"], table["upper"].iloc[-1])
    n_cells = np.where(table["n_cells"] > 0, table["n_cells"], np.nan)
    if fill:
        ax.stairs(n_cells, edges, baseline=0.1, fill=True, color=color)
    else:
        ax.stairs(n_cells, edges, baseline=0.1, color=color, linewidth=1.5)


def _summary(one: Calibration) -> str:
    return f"ECE {one.ece:.3f} (confidence {one.mean_confidence:.3f}, accuracy {one.accuracy:.3f})"
