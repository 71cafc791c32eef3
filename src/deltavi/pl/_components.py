"""Labels of the cells in each component of a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.stats import entropy

from deltavi._entries import number, whole_number
from deltavi._errors import DeltaviError, examples
from deltavi._reading import known_arguments
from deltavi._types import FloatArray
from deltavi.pl._calibration import COLORS
from deltavi.pl._confusion import Labels
from deltavi.pl._figure import BLUE, DARK, GREY, PALE, PlotResult, SaveTarget, axes_for, figure_file, finish, hide_frame
from deltavi.pl._heat_map import DARK_ABOVE, DIGIT_WIDTH, TILTED, heat_map, percents, write_numbers

UNLABELLED = "unlabelled"
FREE = "component "  # followed by its number, the name of a component without a label of its own
# By how much the sum of a row may differ from one, in single precision; so that of a component, from a whole cell.
SUM_TOLERANCE, A_CELL = 1e-3, 1 - 1e-3
# Labels past the seventh have the colours again, with hatches.
HATCHES = ("", "/////", ".....", "xxxxx")
MAX_LABELS = len(COLORS) * len(HATCHES)
# Distances of bars, of entries of the legend and of cells of the map, width of a character, in inches; share of a bar.
BAR_HEIGHT, LEGEND_HEIGHT, CELL_SIZE, CHARACTER_WIDTH, BAR_SHARE = 0.28, 0.2, 0.32, 0.085, 0.72
MIN_ROWS, MIN_WIDTH = 3, 1.0  # a single bar would fill its axes; a wide legend, in inches, would leave none
# room between columns of numbers, and width of a character, in points
GAP, VALUE_WIDTH = 10.0, 5.4


@known_arguments
def components(
    responsibilities: pd.DataFrame,
    labels: Labels | None = None,
    *,
    min_share: float = 0.0,
    max_labels: int = 14,
    title: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw how many cells each component of a mixture holds, the largest first, and of which labels they are.

    A bar is as long as the sum of the responsibilities of its component: the number of cells expected in it. The title
    gives the effective number of components, exp of the entropy of their shares: K for K components used alike.
    Components that hold less than a cell in all are counted under the bars.

    Parameters
    ----------
    responsibilities
        Share of every component in each cell, (n_cells, n_components), rows summing to one, as
        ``get_responsibilities`` of a mixture returns it.
    labels
        Label of every cell, (n_cells,): a Series by cell name in any order, or an array in the order of the cells.
        Missing ones count as unlabelled. None draws bars without labels.
    min_share
        Components with a smaller share of all cells are counted under the bars, not drawn.
    max_labels
        Number of labels to distinguish, those of most cells, at most 28; the rest is drawn as one.
    title
        Title of the plot, above the effective number of components.
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
        If there are no cells, rows are no distributions, labels are of other cells, or an option cannot be.
    """
    save, shares = figure_file(save), _checked(responsibilities)
    _check_options(min_share, max_labels)
    groups = None if labels is None else _grouped(_labels_of(labels, responsibilities), max_labels)
    usage = shares.sum(axis=0)
    order = _drawn(usage, min_share * len(shares))
    names, notes = [str(responsibilities.columns[k]) for k in order], _notes(usage, order, min_share)
    above = "" if title is None else f"{title}\n"
    heading = f"{above}effective number of components: {np.exp(entropy(usage)):.1f} of {len(usage)}"
    (panel,) = _bar_axes([*names, *notes], groups, heading, ax)
    if groups is None:
        panel.barh(np.arange(len(order)), usage[order], BAR_SHARE, color=BLUE)
    else:
        _draw_stacks(panel, _by_label(shares[:, order], groups.of_cell).to_numpy(), groups)
    panel.set(xlim=(0, 1.03 * usage.max()), xlabel="expected number of cells")
    panel.set_title(heading, fontsize="medium", pad=20)
    _name_bars(panel, names, notes)
    width = _write_columns(panel, usage[order], len(shares))
    if groups is not None:
        _add_legend(panel, groups, right_of=width)
    return finish([panel], made_here=ax is None, show=show, save=save)


@known_arguments
def responsibilities(
    responsibilities: pd.DataFrame,
    labels: Labels,
    *,
    title: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw how the cells of each label are shared among the components of a mixture, as a heat map.

    A row per label, with the mean responsibility of its cells; labels that share components stand side by side, and
    each component below the label that uses it most. A row dark in several columns is a label that is split, a column
    dark in several rows a component that does not separate them. Beside it and above stand numbers of cells, those of
    components expected. Components with less than a cell and numbers for which there is no room are left out.

    Parameters
    ----------
    responsibilities
        Share of every component in each cell, (n_cells, n_components), rows summing to one, as
        ``get_responsibilities`` of a mixture returns it.
    labels
        Label of every cell, (n_cells,): a Series by cell name in any order, or an array in the order of the cells.
        Cells without a label are the last row.
    title
        Title of the plot, above what is drawn.
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
        If there are no cells, rows are no distributions, or labels are those of other cells.
    """
    save = figure_file(save)
    shares, given = _checked(responsibilities), _labels_of(labels, responsibilities)
    usage, n_cells = shares.sum(axis=0), pd.Series(given).value_counts()
    means = _arranged(_by_label(shares, given).div(n_cells, axis=0)[_drawn(usage)])
    right, above = ([_count(n) for n in sizes] for sizes in (n_cells[means.index], usage[means.columns]))
    names = _without_common_word([str(responsibilities.columns[int(k)]) for k in means.columns])
    n_unused = len(usage) - means.shape[1]
    below = f"component ({n_unused} without cells left out)" if n_unused else "component"
    heading = "mean responsibility, %" if title is None else f"{title}\nmean responsibility, %"
    widest = DIGIT_WIDTH * max(len("100"), *map(len, above))  # of the numbers in and above the map
    size = _map_size(list(means.index), names, widest, [below, heading])
    (panel,) = axes_for(1, ax, panel_size=size, left=_width_of(means.index))
    style = TILTED if max(map(len, names)) > len("100") else {}
    heat_map(panel, means.set_axis(names, axis=1), largest=1, columns=style)
    panel.set_xlabel(below)
    panel.set_title(heading, fontsize="medium", pad=20)
    values, colors = means.to_numpy(), {"corner": {"color": GREY}, "style": {"color": DARK}}
    column = write_numbers(panel, percents(values), values > DARK_ABOVE, (right, above), widest=widest, **colors)
    if column < widest:
        panel.tick_params(axis="x", labelrotation=90, labelsize=min(8.0, 0.8 * column))  # small, but apart
    return finish([panel], made_here=ax is None, show=show, save=save)


@dataclass(frozen=True, eq=False)
class _Groups:
    """Group of every cell, its categories in the order to draw them, and the colour and hatch of each category."""

    of_cell: pd.Categorical[str]
    fills: list[tuple[str, str]]

    @property
    def names(self) -> list[str]:
        """Groups with the number of their cells."""
        n_cells = np.bincount(self.of_cell.codes, minlength=len(self.fills))
        return [f"{name} ({n:,})" for name, n in zip(self.of_cell.categories, n_cells, strict=True)]


def _check_options(min_share: float, max_labels: int) -> None:
    if not 0 <= number("min_share", min_share) < 1:
        raise DeltaviError(f"min_share must be at least 0 and below 1, not {min_share!r}.")
    whole_number("max_labels", max_labels, least=1, most=MAX_LABELS)


def _checked(given: pd.DataFrame) -> FloatArray:
    """The responsibilities in double precision, (n_cells, n_components), each row a distribution."""
    if not isinstance(given, pd.DataFrame) or 0 in given.shape:
        raise DeltaviError(
            "responsibilities must be a frame of cells by components, at least one of each, as get_responsibilities "
            f"returns it, but are {type(given).__name__} of shape {np.shape(given)}."
        )
    try:
        values = given.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise DeltaviError("responsibilities must hold numbers only. Leave columns of text out.") from None
    _refuse(np.isfinite(values).sum(axis=1) < values.shape[1], given, "hold NaN or infinite responsibilities")
    _refuse(np.asarray((values < 0).any(axis=1)), given, "hold negative responsibilities")
    off = np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE
    _refuse(off, given, f"have responsibilities whose sum is not 1 (up to {SUM_TOLERANCE:g})")
    return values


def _refuse(wrong: NDArray[np.bool_], given: pd.DataFrame, what: str) -> None:
    if wrong.any():
        raise DeltaviError(
            f"{int(wrong.sum())} of {len(wrong)} cells {what} (for example {examples(given.index[wrong].tolist())}). "
            "Leave those cells out, or pass all components, as get_responsibilities returns them."
        )


def _labels_of(labels: Labels, responsibilities: pd.DataFrame) -> np.ndarray:
    """Label of every cell as text, in the order of the responsibilities, missing ones as unlabelled."""
    values, n_cells = np.asarray(labels, dtype=object), len(responsibilities)
    if values.shape != (n_cells,):
        shape = f"shape {values.shape}, but there are {n_cells} cells"
        raise DeltaviError(f"labels has {shape}. Pass one per cell, as in labels.loc[responsibilities.index].")
    if isinstance(labels, pd.Series):
        values = values[_positions(labels.index, responsibilities.index)]
    texts = [UNLABELLED if missing else str(label) for label, missing in zip(values, pd.isna(values), strict=True)]
    return np.array(texts, dtype=object)


def _positions(given: pd.Index, cells: pd.Index) -> NDArray[np.int64]:
    """Position of the label of each cell, by its name."""
    if given.equals(cells):  # names need not be unique then
        return np.arange(len(cells))
    absent = cells.difference(given)
    if len(absent) or not given.is_unique:
        what = f"lacks {len(absent)} of {len(cells)} cells: {examples(absent)}" if len(absent) else "repeats cell names"
        raise DeltaviError(f"labels {what}. Pass labels.to_numpy() if they are in the order of the responsibilities.")
    return np.asarray(given.get_indexer(cells), dtype=np.int64)


def _grouped(labels: np.ndarray, max_labels: int) -> _Groups:
    """Labels of most cells first, then all others as one, then cells without a label."""
    n_cells = pd.Series(labels).value_counts().sort_index().sort_values(ascending=False, kind="stable")
    by_size = [str(name) for name in n_cells.index if name != UNLABELLED]
    named, rest = by_size[: int(max_labels)], by_size[int(max_labels) :]
    fills = {name: (COLORS[i % len(COLORS)], HATCHES[i // len(COLORS)]) for i, name in enumerate(named)}
    other = _number_of("other label", len(rest))
    if rest:
        fills[other] = (GREY, "")
    if UNLABELLED in n_cells:
        fills[UNLABELLED] = (PALE, "")
    of_cell = pd.Categorical(np.where(pd.Series(labels).isin(rest), other, labels), categories=list(fills))
    return _Groups(of_cell, list(fills.values()))


def _number_of(thing: str, n: int) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def _by_label(shares: FloatArray, labels: np.ndarray | pd.Categorical[str]) -> pd.DataFrame:
    """Sum of the responsibilities of the cells of each label (rows) for each component (columns)."""
    return pd.DataFrame(shares).groupby(pd.Series(labels), observed=False).sum()


def _drawn(usage: FloatArray, min_cells: float = 0.0) -> list[int]:
    """Positions of components of a cell and `min_cells` at least, the largest first; the largest in any case."""
    least = min(max(A_CELL, min_cells), float(usage.max()))
    return [int(k) for k in np.argsort(-usage, kind="stable") if usage[k] >= least]


def _notes(usage: FloatArray, drawn: list[int], min_share: float) -> list[str]:
    """Text on components that are not drawn: small ones, and those without cells."""
    left = np.delete(usage, drawn)
    small, n_empty = left[left >= A_CELL], int((left < A_CELL).sum())
    what = f"+ {_number_of('component', len(small))} below {100 * min_share:g} %, {_count(small.sum())} cells in all"
    return [what] * (len(small) > 0) + [f"+ {_number_of('component', n_empty)} without cells"] * (n_empty > 0)


def _count(n: float) -> str:
    return f"{n:,.0f}" if n >= 9.95 or n == int(n) else f"{n:.1f}"


def _width_of(texts: Iterable[str]) -> float:
    """Width of the longest line, in inches."""
    return CHARACTER_WIDTH * max(len(line) for text in texts for line in text.split("\n"))


def _legend_width(groups: _Groups) -> float:
    return 0.4 + 0.8 * _width_of(groups.names)  # its print is small


def _bar_axes(rows: list[str], groups: _Groups | None, heading: str, ax: Axes | Sequence[Axes] | None) -> list[Axes]:
    """The axes given, or those of a figure with room for every bar, name and entry of the legend."""
    width, n_entries = (0.0, 0) if groups is None else (_legend_width(groups), len(groups.fills))
    width += max(4.8, _width_of([heading]))
    height = max(BAR_HEIGHT * max(len(rows), MIN_ROWS), LEGEND_HEIGHT * n_entries - 0.4)
    return axes_for(1, ax, panel_size=(width, 1.2 + 0.2 * heading.count("\n") + height), left=_width_of(rows))


def _draw_stacks(ax: Axes, widths: FloatArray, groups: _Groups) -> None:
    """Draw bars of a segment per group, (n_groups, n_bars), each on from where that of the group before ends."""
    starts = np.cumsum(widths, axis=0) - widths
    for name, width, start, (color, hatch) in zip(groups.names, widths, starts, groups.fills, strict=True):
        bars = ax.barh(np.arange(len(width)), width, BAR_SHARE, start, color=color, hatch=hatch, label=name)
        for bar in bars:
            bar.set(edgecolor="white", linewidth=0)  # hatches are white, and empty segments leave no line


def _name_bars(ax: Axes, names: list[str], notes: list[str]) -> None:
    """Name the bars, and write the notes below the last of them."""
    ax.set_ylim(max(len(names) + len(notes), MIN_ROWS) - 0.4, -0.6)
    ax.set_yticks(np.arange(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize="small", color=GREY)
    ax.locator_params(axis="x", nbins=4)  # there is room for no more numbers of seven digits
    ax.xaxis.set_major_formatter("{x:,.10g}")
    hide_frame(ax)
    for i, note in enumerate(notes, start=len(names)):
        _write(ax, note, (0, i), ("axes fraction", "data"), (5, 0), va="center_baseline", style="italic")


def _write_columns(ax: Axes, usage: FloatArray, n_cells: int) -> float:
    """Write number and share of cells in two columns beside the bars, and return their width in points."""
    columns = {"cells": [_count(n) for n in usage], "share": [f"{100 * n / n_cells:.1f} %" for n in usage]}
    right = 0.0
    for name, texts in columns.items():
        right += GAP + VALUE_WIDTH * max(map(len, [name, *texts]))
        _write(ax, name, (1, 1), "axes fraction", (right, 4), ha="right", color=GREY)
        for i, text in enumerate(texts):
            _write(ax, text, (1, i), ("axes fraction", "data"), (right, 0), ha="right", va="center_baseline")
    return right


def _write(
    ax: Axes, text: str, xy: tuple[float, float], xycoords: Any, shift: tuple[float, float], **style: Any
) -> None:
    """Write a text `shift` points away from a place, within the axes or beside them."""
    style = {"color": DARK, "fontsize": "small", "annotation_clip": False, **style}
    ax.annotate(text, xy, xycoords=xycoords, xytext=shift, textcoords="offset points", **style)


def _add_legend(ax: Axes, groups: _Groups, *, right_of: float) -> None:
    """Tell the groups right of the columns of numbers, or on the axes, beside short bars, where there is no room."""
    ax.figure.figure.draw_without_rendering()  # the size of the axes is known only after its layout
    is_narrow = ax.get_window_extent().width / ax.figure.figure.dpi < MIN_WIDTH + _legend_width(groups)
    corner = offset_copy(ax.transAxes, ax.figure.figure, x=right_of + 1.5 * GAP, y=12, units="points")
    beside: dict[str, Any] = {"bbox_to_anchor": (1, 1), "bbox_transform": corner, "borderaxespad": 0, "borderpad": 0}
    place = {"loc": "lower right"} if is_narrow else {"loc": "upper left", "frameon": False, **beside}
    legend = ax.legend(title="label (cells)", fontsize="small", title_fontsize="small", alignment="left", **place)
    legend.get_title().set_color(GREY)


def _arranged(means: pd.DataFrame) -> pd.DataFrame:
    """Labels that share components side by side, unlabelled cells last; each component below its main label."""
    names = [name for name in means.index if name != UNLABELLED]
    if len(names) > 2:
        # half this distance is the share of cells that two labels do not have in the same components
        tree = linkage(means.loc[names].to_numpy(), "average", metric="cityblock", optimal_ordering=True)
        names = [names[i] for i in leaves_list(tree)]
    means = means.loc[names + [UNLABELLED] * (UNLABELLED in means.index)]
    return means.iloc[:, np.lexsort([-means.max().to_numpy(), means.to_numpy().argmax(axis=0)])]


def _without_common_word(names: list[str]) -> list[str]:
    """Numbers alone where every component is known by its number: the axis says what they number."""
    return [name.removeprefix(FREE) for name in names] if all(name.startswith(FREE) for name in names) else names


def _map_size(rows: list[str], columns: list[str], widest: float, texts: list[str]) -> tuple[float, float]:
    """Size of a map with room for every number and name, in inches, without the names on the left."""
    width = len(columns) * max(CELL_SIZE, (widest + 4) / 72)
    return max(1.0 + width, _width_of(texts)), 1.2 + CELL_SIZE * len(rows) + 0.75 * _width_of(columns)
