"""Predicted changes of genes with their intervals, and where the measured ones lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray

from deltavi import _keys
from deltavi._errors import DeltaviError, examples
from deltavi._reading import known_arguments
from deltavi._types import FloatArray
from deltavi.pl._figure import (
    BLUE,
    DARK,
    GREY,
    VERMILION,
    PlotResult,
    SaveTarget,
    axes_for,
    figure_file,
    finish,
    hide_frame,
)
from deltavi.pl._response import RankBy, Responses, responses

ROW_HEIGHT, CHARACTER_WIDTH, WORDS_HEIGHT = 0.22, 0.085, 1.2  # inches
# Of means of values in single precision: a gene that no cell expresses has an interval without width.
ROUNDING = 1e-5


@known_arguments
def response_intervals(
    predicted: AnnData,
    real: AnnData | None = None,
    *,
    label: str | None = None,
    labels_key: str | None = None,
    genes: Sequence[str] | None = None,
    n_genes: int = 20,
    rank_by: RankBy = "predicted",
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the predicted change of the mean of genes in one label with its 90 % interval, and the measured change.

    With `real`, the title counts how many measured changes lie within their interval, among the genes drawn and among
    all: about nine in ten of all genes should. The genes drawn are the extreme ones and may do worse.

    Parameters
    ----------
    predicted
        Predicted cells, log1p CP10k in ``X``, whole as ``predict_perturbation`` returns them, with varm
        ``"deltavi_change"``, ``"deltavi_lower"`` and ``"deltavi_upper"``. Intervals need three training labels; with
        fewer, only the changes are drawn.
    real
        Real cells of the perturbed condition, on the same scale. The measured change is their mean less that of the
        control cells that were predicted.
    label
        Label to draw; not needed where only one was predicted.
    labels_key
        obs column with the labels of all cells; needed with `real` where several labels were predicted.
    genes
        Names of the genes to draw, from top to bottom. When None: the `n_genes` whose mean changes most.
    n_genes
        How many genes to draw when `genes` is None.
    rank_by
        Whether ``"predicted"`` or ``"real"`` changes decide which genes are drawn.
    title
        Title of the plot; the label when None.
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
    GeneMatchError
        If no gene is common, or a name in `genes` is unknown.
    InputDataError
        If values or labels are missing, or scales are mixed.
    UnknownCategoryError
        If the label or column does not exist, or real cells hold none of the labels.
    DeltaviError
        If `predicted` holds no changes or intervals, several labels and none is named, or a choice cannot be.
    """
    save = figure_file(save)
    missing = [key for key in (_keys.VARM_CHANGE, _keys.VARM_LOWER, _keys.VARM_UPPER) if not _holds(predicted, key)]
    if missing:
        raise DeltaviError(
            f"predicted holds no varm {examples(missing)}: intervals come with predictions of models with labels."
        )
    every = responses(predicted, real, None, labels_key=labels_key)
    name = _one_label(list(every.predicted.columns), label)
    every = every.of_labels([name])
    drawn = every.of_genes(genes, n_genes, rank_by)
    names = drawn.predicted.index.astype(str)
    size = (4.4, ROW_HEIGHT * max(len(names), 3) + WORDS_HEIGHT)
    (panel,) = axes_for(1, ax, panel_size=size, left=CHARACTER_WIDTH * max(map(len, names)))
    _draw(panel, drawn)
    heading = [name if title is None else title, *_coverage(drawn, every)]
    panel.set_title("\n".join(heading), fontsize="medium")
    return finish([panel], made_here=ax is None, show=show, save=save)


def _holds(predicted: AnnData, key: str) -> bool:
    return not isinstance(predicted, AnnData) or key in predicted.varm


def _one_label(known: list[str], label: str | None) -> str:
    if label is not None:
        return str(label)
    if len(known) > 1:
        raise DeltaviError(f"{len(known)} labels were predicted ({examples(known)}): name the one to draw by label=.")
    return known[0]


def _draw(ax: Axes, drawn: Responses) -> None:
    """Draw a row per gene: its interval as a band, its predicted change as a dot, the measured one as a diamond."""
    change, real, lower, upper = (_only_column(t) for t in (drawn.predicted, drawn.real, drawn.lower, drawn.upper))
    rows = np.arange(len(drawn.predicted))
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    if np.isfinite(lower).any():
        ax.hlines(rows, lower, upper, color=BLUE, alpha=0.3, linewidth=6, label="90 % interval")
    ax.plot(change, rows, "o", color=BLUE, markersize=5, label="predicted")
    if np.isfinite(real).any():
        ax.plot(real, rows, "D", color=VERMILION, markersize=4.5, label="measured")
    ax.set_yticks(rows, list(drawn.predicted.index.astype(str)), fontsize="small")
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlabel="change of mean, log1p CP10k")
    ax.tick_params(axis="y", length=0)
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=DARK)
    hide_frame(ax)


def _only_column(table: pd.DataFrame | None) -> FloatArray:
    """Values of a table of one label, ``(n_genes,)``; none where there is no table."""
    return np.zeros(0) if table is None else table.iloc[:, 0].to_numpy(dtype=np.float64)


def _coverage(drawn: Responses, every: Responses) -> list[str]:
    """Number of measured changes within their interval, as a line of the title; none without either."""
    if not np.isfinite(_only_column(every.lower)).any():
        return ["no intervals: they need three training labels"]
    inside, of_all = _inside(drawn), _inside(every)
    if not len(of_all):
        return []
    shares = f"{inside.sum()} of {len(inside)}", f"{100 * of_all.mean():.0f} % of all {len(of_all):,} genes"
    return ["{} within the interval,\n{}".format(*shares)]


def _inside(found: Responses) -> NDArray[np.bool_]:
    """Mask of measured changes within their interval; empty if nothing was measured."""
    real, lower, upper = (_only_column(table) for table in (found.real, found.lower, found.upper))
    if not np.isfinite(real).any():
        return np.zeros(0, dtype=bool)
    return (real >= lower - ROUNDING) & (real <= upper + ROUNDING)
