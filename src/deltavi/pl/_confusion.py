"""Confusion matrix of predicted and true labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from deltavi import _entries as entries
from deltavi import _keys
from deltavi._errors import DeltaviError, UnknownCategoryError, examples, unknown_category
from deltavi._reading import known_arguments
from deltavi.arrays.per_cell import by_cell
from deltavi.pl._figure import DARK, PlotResult, SaveTarget, axes_for, figure_file, finish
from deltavi.pl._heat_map import DARK_ABOVE, DIGIT_WIDTH, heat_map, percents, write_numbers

Labels = Sequence[object] | pd.Series | np.ndarray

NORMALIZE = ("true", None)
# Side of a cell of the map in a new figure, in inches: smaller where there are many.
CELL_SIZE, SMALL_CELL_SIZE = 0.36, 0.26
MANY = 20
CHARACTER_WIDTH = 0.085  # inches


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
    drawn = shares if percent else counts
    texts = percents(shares.to_numpy()) if percent else counts.map(lambda n: f"{n:,}" if n else "").to_numpy()
    right, above = ([f"{n:,}" for n in counts.sum(axis=axis)] for axis in (1, 0))
    widest = DIGIT_WIDTH * max(map(len, [*above, *texts.flat]))
    (panel,) = _axes(counts, widest, ax)
    heat_map(panel, drawn, largest=top)
    panel.set(xlabel="predicted label", ylabel="true label")
    panel.set_title("% of true label" if percent else "number of cells", fontsize="medium", pad=20)
    if unassigned in counts.columns:
        panel.axvline(counts.shape[1] - 1.5, color=DARK, linewidth=0.8)
    dark = drawn.to_numpy() > DARK_ABOVE * top
    write_numbers(panel, texts, dark, (right, above), widest=widest, corner={}, style={"va": "bottom"})
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


def _axes(counts: pd.DataFrame, widest: float, ax: Axes | Sequence[Axes] | None) -> list[Axes]:
    """The axes given, or those of a figure with room for every number, the longest in points, and every name."""
    side = CELL_SIZE if max(counts.shape) <= MANY else SMALL_CELL_SIZE
    width = max(side, (widest + 4) / 72)
    names = CHARACTER_WIDTH * max(map(len, [*counts.index, *counts.columns]))
    size = (1.0 + width * counts.shape[1], 1.0 + side * counts.shape[0] + 0.75 * names)
    return axes_for(1, ax, panel_size=size, left=names)
