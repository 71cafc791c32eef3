"""Genes of a predicted response: fold changes against false sign rates, and the surest ones with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from deltavi._entries import number, whole_number
from deltavi._errors import DeltaviError
from deltavi._reading import known_arguments
from deltavi._types import FloatArray
from deltavi.perturbation.gene_table import GeneTable
from deltavi.pl._expression import positions_of
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
from deltavi.pl._labels import place_labels
from deltavi.pl._tables import gene_frame

# Rates below are drawn here: they differ by no more than the tail of a distribution that is an approximation.
SMALLEST_RATE = 1e-12
# Beyond this many points a vector file becomes slow to open.
RASTERISE_ABOVE = 5000
ROW_HEIGHT, CHARACTER_WIDTH, WORDS_HEIGHT = 0.22, 0.085, 1.2  # inches
FOLD, RATE, DISCOVERY = "log2_fold_change", "local_false_sign_rate", "false_discovery_rate"


@known_arguments
def volcano(
    table: GeneTable | pd.DataFrame,
    *,
    max_fdr: float = 0.05,
    genes: str | Sequence[str] | None = None,
    n_label: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the genes of a predicted response: log2 fold change against -log10 of the local false sign rate.

    Coloured are the genes that an experiment is expected to call, red those that rise and blue those that fall. The
    height says how sure the direction is, by the prediction and not by a test of predicted cells.

    Parameters
    ----------
    table
        As :func:`deltavi.perturbation.gene_table` returns it, or its DataFrame: columns ``log2_fold_change``,
        ``local_false_sign_rate`` and ``false_discovery_rate``, genes in the index. Genes without values are left out.
    max_fdr
        Largest false discovery rate of a coloured gene.
    genes
        Names of the genes to name on the plot. When None: the `n_label` coloured ones whose false sign rates are
        smallest, the larger fold change first.
    n_label
        How many genes to name when `genes` is None.
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
    UnknownCategoryError
        If the table lacks a column.
    GeneMatchError
        If a name in `genes` is unknown.
    DeltaviError
        If `table` is no table, a rate lies outside [0, 1], or a number cannot be.
    """
    save = figure_file(save)
    frame = gene_frame(table, (FOLD, RATE, DISCOVERY))
    _require_rates(frame, (RATE, DISCOVERY))
    called = (frame[DISCOVERY] <= number("max_fdr", max_fdr, least=0, most=1)).to_numpy()
    places = np.column_stack([frame[FOLD], -np.log10(np.maximum(frame[RATE], SMALLEST_RATE))])
    n_label = whole_number("n_label", n_label, least=0)
    named = positions_of(frame.index, genes) if genes is not None else _surest(frame, called)[:n_label]
    (panel,) = axes_for(1, ax, panel_size=(4.8, 4.2))
    _scatter(panel, places, called)
    _frame(panel, places)
    heading = [] if title is None else [title]
    up = called & (places[:, 0] > 0)
    heading.append(f"{up.sum():,} up, {(called & ~up).sum():,} down at an expected FDR of {100 * max_fdr:g} %")
    panel.set_title("\n".join(heading), fontsize="medium")
    if len(named):
        place_labels(panel, places[named], list(frame.index[named]), markers=places[called] if called.any() else None)
    return finish([panel], made_here=ax is None, show=show, save=save)


def _require_rates(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if not frame[column].between(0, 1).all():
            raise DeltaviError(f"table[{column!r}] must lie between 0 and 1.")


def _surest(frame: pd.DataFrame, called: np.ndarray) -> np.ndarray:
    """Positions of the genes that are called, the surest first."""
    chosen = np.flatnonzero(called)
    rate = np.maximum(frame[RATE].to_numpy()[chosen], SMALLEST_RATE)
    return np.asarray(chosen[np.lexsort([-np.abs(frame[FOLD].to_numpy()[chosen]), rate])])


def _scatter(ax: Axes, places: FloatArray, called: np.ndarray) -> None:
    rises = places[:, 0] > 0
    for members, color, size, alpha in (
        (~called, GREY, 7, 0.35),
        (called & ~rises, BLUE, 14, 0.85),
        (called & rises, VERMILION, 14, 0.85),
    ):
        x, y = places[members].T
        rasterised = len(x) > RASTERISE_ABOVE
        ax.scatter(x, y, s=size, color=color, alpha=alpha, linewidths=0, rasterized=rasterised)


def _frame(ax: Axes, places: FloatArray) -> None:
    """Centre the axis of fold changes on none, and begin that of rates at even odds."""
    widest = float(np.abs(places[:, 0]).max()) * 1.1 or 1.0
    top = float(places[:, 1].max())
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set(xlim=(-widest, widest), ylim=(0, top * 1.08 + 0.05))
    ax.set(xlabel="predicted log2 fold change", ylabel="-log10 local false sign rate")
    if top >= -np.log10(SMALLEST_RATE):
        ax.axhline(-np.log10(SMALLEST_RATE), color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    hide_frame(ax)


@known_arguments
def ranked_genes(
    table: GeneTable | pd.DataFrame,
    *,
    genes: str | Sequence[str] | None = None,
    n_genes: int = 20,
    max_fdr: float = 0.05,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the surest genes of a predicted response, a row each: predicted change, interval, probability of a call.

    Parameters
    ----------
    table
        As :func:`deltavi.perturbation.gene_table` returns it, or its DataFrame: columns ``change``, ``lower``,
        ``upper``, ``local_false_sign_rate``, ``probability_called`` and ``false_discovery_rate``, genes in the index.
    genes
        Names of the genes to draw, from top to bottom. When None: the `n_genes` that an experiment would call most
        probably, those of equal probability by their false sign rates and changes.
    n_genes
        How many genes to draw when `genes` is None.
    max_fdr
        Genes with a larger false discovery rate are drawn grey.
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
    UnknownCategoryError
        If the table lacks a column.
    GeneMatchError
        If a name in `genes` is unknown.
    DeltaviError
        If `table` is no table, a probability lies outside [0, 1], or a number cannot be.
    """
    save = figure_file(save)
    frame = gene_frame(table, ("change", "lower", "upper", RATE, "probability_called", DISCOVERY))
    _require_rates(frame, (RATE, "probability_called", DISCOVERY))
    n_genes, max_fdr = whole_number("n_genes", n_genes, least=1), number("max_fdr", max_fdr, least=0, most=1)
    order = np.lexsort([-frame["change"].abs(), frame[RATE], -frame["probability_called"]])[:n_genes]
    drawn = frame.iloc[order if genes is None else positions_of(frame.index, genes)]
    size = (4.0, ROW_HEIGHT * max(len(drawn), 3) + WORDS_HEIGHT)
    (panel,) = axes_for(1, ax, panel_size=size, left=CHARACTER_WIDTH * max(map(len, drawn.index)))
    _draw_rows(panel, drawn, max_fdr)
    if title is not None:
        panel.set_title(title, fontsize="medium")
    return finish([panel], made_here=ax is None, show=show, save=save)


def _draw_rows(ax: Axes, drawn: pd.DataFrame, max_fdr: float) -> None:
    rows = np.arange(len(drawn))
    rises, called = drawn["change"] > 0, drawn[DISCOVERY] <= max_fdr
    colors = np.where(~called, GREY, np.where(rises, VERMILION, BLUE))
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.hlines(rows, drawn["lower"], drawn["upper"], color=list(colors), alpha=0.35, linewidth=6)
    ax.scatter(drawn["change"], rows, s=26, color=list(colors), linewidths=0, zorder=3)
    for row, p in zip(rows, drawn["probability_called"], strict=True):
        ax.annotate(
            f"{100 * p:.0f} %",
            xy=(1, row),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            color=DARK,
        )
    ax.annotate(
        "called",
        xy=(1, 1),
        xycoords="axes fraction",
        xytext=(6, 3),
        textcoords="offset points",
        va="bottom",
        fontsize="small",
        color=DARK,
    )
    ax.set_yticks(rows, list(drawn.index), fontsize="small")
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlabel="predicted change of mean, log1p CP10k")
    ax.tick_params(axis="y", length=0)
    hide_frame(ax)
