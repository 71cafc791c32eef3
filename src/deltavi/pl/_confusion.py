"""Which labels are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from deltavi import _entries as entries
from deltavi import _keys
from deltavi._errors import DeltaviError, UnknownCategoryError, examples, unknown_category
from deltavi._reading import known_arguments
from deltavi.metrics._per_cell import by_cell
from deltavi.pl._figure import DARK, PlotResult, SaveTarget, axes_for, figure_file, finish

FloatArray = NDArray[np.float64]
Labels = Sequence[Any] | pd.Series | NDArray[Any]

NORMALIZE = ("true", None)
# Side of a cell of the map in a new figure, in inches: smaller where there are many.
CELL_SIZE, SMALL_CELL_SIZE = 0.36, 0.26
MANY = 20
CHARACTER_WIDTH = 0.085  # inches
# Numbers are set so small that this is the width of a digit and the height of a line, in points.
NUMBER_SIZE = "x-small"
DIGIT_WIDTH, LINE_HEIGHT = 4.5, 9.0
# Of the colour scale: where white is easier to read than dark grey.
DARK_ABOVE = 0.63
# Smaller shares are drawn, but not written: most of the map would be zeros.
MIN_SHARE = 0.005


@known_arguments
def confusion(
    truth: Labels,
    predicted: Labels,
    *,
    labels: Sequence[str] | None = None,
    normalize: Literal["true"] | None = "true",
    unassigned: str = _keys.UNASSIGNED,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw how often cells of each true label are given each label, as a heat map.

    A row per true label, a column per predicted one; the diagonal is right. On the right stands the number of cells of
    each true label, on top the number of cells that were given each label. The last column holds the cells that were
    given none. Numbers for which there is no room are left out.

    Parameters
    ----------
    truth, predicted
        True and predicted label of every cell, (n_cells,), as text; missing predictions count as unassigned. Two
        Series are matched by the names of their cells.
    labels
        All labels but `unassigned`, in the order to draw them. None puts labels that are taken for each other side by
        side, by hierarchical clustering (average linkage, distance one less the mean share of cells confused);
        labels that are only true, or only predicted, come last.
    normalize
        ``"true"`` draws percent of the cells of each true label, None draws numbers of cells.
    unassigned
        Name of cells without a predicted label.
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
        If `labels` lacks a label that occurs, or `normalize` is neither of the two.
    DeltaviError
        If there are no cells, lengths differ, or true labels are missing.
    """
    save = figure_file(save)
    if normalize is not None and not (isinstance(normalize, str) and normalize in NORMALIZE):
        raise unknown_category("normalize", normalize, NORMALIZE, among="the choices")
    counts = _arranged(_cross_table(truth, predicted, unassigned), labels, unassigned)
    shares = counts.div(counts.sum(axis=1), axis=0)
    percent = normalize == "true"
    top = 1.0 if percent else float(counts.to_numpy().max())
    texts = _texts(counts, shares if percent else None)
    (panel,) = _axes(counts, texts, ax)
    panel.imshow(shares if percent else counts, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    _name_labels(panel, counts)
    panel.set_title("% of true label" if percent else "number of cells", fontsize="medium", pad=20)
    if unassigned in counts.columns:
        panel.axvline(counts.shape[1] - 1.5, color=DARK, linewidth=0.8)
    _write_numbers(panel, counts, texts, dark=(shares if percent else counts).to_numpy() > DARK_ABOVE * top)
    return finish([panel], made_here=ax is None, show=show, save=save)


def _cross_table(truth: Labels, predicted: Labels, unassigned: str) -> pd.DataFrame:
    """Number of cells of each true label (rows) with each predicted one (columns), sorted by name."""
    cells = by_cell(None, truth=truth, predicted=predicted)
    given, found = (np.asarray(cells[name], dtype=object) for name in ("truth", "predicted"))
    if given.ndim != 1 or given.shape != found.shape or not given.size:
        raise DeltaviError(
            f"truth and predicted must hold one label per cell, but have shapes {given.shape} and {found.shape}."
        )
    missing = np.asarray(pd.isna(given))
    if missing.any():
        raise DeltaviError(
            f"truth is missing for {int(missing.sum())} of {len(missing)} cells "
            f"(for example {examples(np.flatnonzero(missing).tolist())}). Leave those cells out."
        )
    found = np.where(pd.isna(found), unassigned, found)
    return pd.crosstab(given.astype(str), found.astype(str))


def _arranged(counts: pd.DataFrame, labels: Sequence[str] | None, unassigned: str) -> pd.DataFrame:
    """Rows and columns in the order to draw them, those that both have on the diagonal, unassigned cells last."""
    true, found = (pd.Index(names).drop(unassigned, errors="ignore") for names in (counts.index, counts.columns))
    if labels is None:
        shared = _clustered(counts, [name for name in true if name in found])
        rows, columns = [*shared, *true.difference(shared)], [*shared, *found.difference(shared)]
    else:
        columns = [str(label) for label in entries.names("labels", labels) if str(label) != unassigned]
        _require_all(columns, true.union(found))
        rows = [name for name in columns if name in true]
        columns.sort(key=lambda name: name not in rows)  # keeps the order among those with cells, on the diagonal
    last = [[unassigned] if unassigned in names else [] for names in (counts.index, counts.columns)]
    return counts.reindex(index=rows + last[0], columns=columns + last[1], fill_value=0)


def _require_all(order: list[str], occurring: pd.Index[str]) -> None:
    absent = occurring.difference(order)
    if len(absent):
        raise UnknownCategoryError(
            f"labels lacks {len(absent)} labels of the data: {examples(absent)}. Add them, or leave their cells out."
        )
    if len(set(order)) < len(order):
        raise DeltaviError(f"labels holds {len(order) - len(set(order))} repeated names; name each label once.")


def _clustered(counts: pd.DataFrame, names: list[str]) -> list[str]:
    """Names in an order that puts labels taken for each other side by side."""
    if len(names) < 3:
        return names
    shares = counts.div(counts.sum(axis=1), axis=0).loc[names, names].to_numpy(dtype=np.float64)
    distance = 1.0 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance), method="average", optimal_ordering=True)
    return [names[i] for i in leaves_list(tree)]


def _texts(counts: pd.DataFrame, shares: pd.DataFrame | None) -> NDArray[np.str_]:
    """What to write into each cell of the map: whole percent of `shares`, or the counts; nothing for next to none."""
    if shares is None:
        return np.array([[f"{n:,}" if n else "" for n in row] for row in counts.to_numpy()])
    return np.array([[f"{100 * s:.0f}" if s >= MIN_SHARE else "" for s in row] for row in shares.to_numpy()])


def _axes(counts: pd.DataFrame, texts: NDArray[np.str_], ax: Axes | Sequence[Axes] | None) -> list[Axes]:
    """The axes given, or those of a figure with room for every number and name."""
    side = CELL_SIZE if max(counts.shape) <= MANY else SMALL_CELL_SIZE
    width = max(side, (_widest(counts, texts) + 4) / 72)
    names = CHARACTER_WIDTH * max(map(len, [*counts.index, *counts.columns]))
    size = (1.0 + width * counts.shape[1], 1.0 + side * counts.shape[0] + 0.75 * names)
    return axes_for(1, ax, panel_size=size, left=names)


def _widest(counts: pd.DataFrame, texts: NDArray[np.str_]) -> float:
    """Width of the longest number that stands in or above a cell of the map, in points."""
    above = max(len(f"{n:,}") for n in counts.sum(axis=0))
    return DIGIT_WIDTH * max(above, max(map(len, texts.flat)))


def _name_labels(ax: Axes, counts: pd.DataFrame) -> None:
    ax.set_yticks(np.arange(counts.shape[0]), list(counts.index))
    ax.set_xticks(np.arange(counts.shape[1]), list(counts.columns), rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.set(xlabel="predicted label", ylabel="true label")
    ax.spines[:].set_visible(False)


def _write_numbers(ax: Axes, counts: pd.DataFrame, texts: NDArray[np.str_], *, dark: NDArray[np.bool_]) -> None:
    """Write numbers of cells beside and above the map, and `texts` into it, as far as there is room."""
    width, height = _cell_size(ax, counts.shape)
    fits_across, fits_down = width >= _widest(counts, texts), height >= LINE_HEIGHT
    _write_margin(ax, "cells", (1, 1), across=None)
    if fits_down:
        for i, n_cells in enumerate(counts.sum(axis=1)):
            _write_margin(ax, f"{n_cells:,}", (1, i), across=False)
    if fits_across:
        for j, n_cells in enumerate(counts.sum(axis=0)):
            _write_margin(ax, f"{n_cells:,}", (j, 1), across=True)
    if fits_across and fits_down:
        for (i, j), text in np.ndenumerate(texts):
            if text:
                color = "white" if dark[i, j] else DARK
                ax.text(j, i, str(text), ha="center", va="center", fontsize=NUMBER_SIZE, color=color)


def _cell_size(ax: Axes, shape: tuple[int, int]) -> tuple[float, float]:
    """Width and height of a cell of the map in points, known only once the layout has been worked out."""
    ax.figure.figure.draw_without_rendering()
    box, points = ax.get_window_extent(), 72 / ax.figure.figure.dpi
    return box.width * points / shape[1], box.height * points / shape[0]


def _write_margin(ax: Axes, text: str, position: tuple[float, float], *, across: bool | None) -> None:
    """Write a number above a column (`across`) or on the right of a row; None is the corner between them."""
    ax.annotate(
        text,
        xy=position,
        xycoords=("data" if across else "axes fraction", "data" if across is False else "axes fraction"),
        xytext=(0 if across else 5, 0 if across is False else 4),
        textcoords="offset points",
        ha="center" if across else "left",
        va="center" if across is False else "bottom",
        fontsize=NUMBER_SIZE,
    )
