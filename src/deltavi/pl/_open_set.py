"""Histograms of scores of known and of new cell types, with the shares that are rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from deltavi._entries import number
from deltavi._errors import DeltaviError, examples, unknown_category
from deltavi._reading import known_arguments
from deltavi._types import BoolArray, FloatArray
from deltavi.arrays.per_cell import by_cell
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

KINDS = {"p_value": "conformal p-value", "novelty_score": "novelty score"}
# Of p-values so few that the usual thresholds fall between two bins.
N_BINS = {"p_value": 20, "novelty_score": 40}
ROW_HEIGHT = 0.42  # inches
CHARACTER_WIDTH = 0.085  # inches
# Of the distance between rows, how much the fullest bin of a row takes.
FULLEST_BIN = 0.8


@dataclass(frozen=True, eq=False)
class _Row:
    """The cells of one group: ``values`` and whether each is ``rejected``, both of shape ``(n_cells,)``."""

    name: str
    color: str
    values: FloatArray
    rejected: BoolArray


@known_arguments
def open_set(
    scores: Sequence[float] | pd.Series | np.ndarray,
    *,
    is_new: Sequence[bool] | pd.Series | np.ndarray | None = None,
    groups: Sequence[object] | pd.Series | np.ndarray | None = None,
    reject: float = 0.05,
    kind: Literal["p_value", "novelty_score"] = "p_value",
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw how conformal p-values are distributed in known and in new cells, and the share of each that is rejected.

    A row per group, with a histogram that is scaled to its own fullest bin. P-values of known cells are spread evenly
    where the method is valid, so that about `reject` of them are rejected; those of new cells lie left of the line.

    Parameters
    ----------
    scores
        Conformal p-value of every cell, or its novelty score, (n_cells,). Series, here and in `is_new` and `groups`,
        are matched by the names of their cells.
    is_new
        Whether the type of each cell was unseen in training, (n_cells,) bool; None draws all cells alike.
    groups
        Group of each cell, such as its true type, (n_cells,); None makes one of the known and one of the new cells. A
        group that holds both is drawn twice. Known groups come first, then new ones, each by the share rejected.
    reject
        Cells with a p-value of at most `reject` are rejected. Of novelty scores, the share of known cells that may be
        rejected: the line stands at their quantile, and cells beyond it are rejected.
    kind
        ``"p_value"``, small in strange cells, or ``"novelty_score"``, large in strange cells and on any scale.
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
        If `kind` is neither of the two.
    DeltaviError
        If there are no cells, lengths differ, values are missing, p-values or `reject` lie outside [0, 1], or
        novelty scores come without known cells.
    """
    save = figure_file(save)
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown_category("kind", kind, KINDS, among="the choices")
    cells = by_cell(None, scores=scores, is_new=is_new, groups=groups)
    values, is_new, groups = _checked_scores(cells["scores"], kind, reject), cells["is_new"], cells["groups"]
    new = None if is_new is None else _flags(_of_length(is_new, len(values), "is_new"))
    threshold = reject if kind == "p_value" else _quantile(values, new, reject)
    rejected = values <= threshold if kind == "p_value" else values > threshold
    rows = _rows(values, rejected, new, groups)
    size = (4.6, 1.2 + ROW_HEIGHT * len(rows))
    (panel,) = axes_for(1, ax, panel_size=size, left=CHARACTER_WIDTH * max(len(row.name) for row in rows))
    edges = np.linspace(*_range(values, kind), N_BINS[kind] + 1)
    for i, row in enumerate(rows):
        _draw_row(panel, i, row, edges)
    panel.set(xlim=(edges[0], edges[-1]), ylim=(len(rows) - 0.5, -1.1), xlabel=KINDS[kind])
    _draw_threshold(panel, threshold, kind)
    panel.set_yticks(np.arange(len(rows)), [row.name for row in rows])
    panel.tick_params(axis="y", length=0)
    hide_frame(panel)
    panel.spines["left"].set_visible(False)
    return finish([panel], made_here=ax is None, show=show, save=save)


def _checked_scores(scores: object, kind: str, reject: float) -> FloatArray:
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise DeltaviError("scores must hold one number per cell; missing ones cannot be drawn.") from None
    if values.ndim != 1 or not values.size:
        raise DeltaviError(f"scores must hold one number per cell, but have shape {values.shape}.")
    if not 0 < number("reject", reject) < 1:
        raise DeltaviError(f"reject must lie between 0 and 1, not {reject!r}.")
    hint = "Leave those cells out; cells without counts have no score"
    _refuse(~np.isfinite(values), "missing or infinite", hint)
    if kind == "p_value":
        _refuse((values < 0) | (values > 1), "outside [0, 1]", 'Pass kind="novelty_score" if they are no p-values')
    return values


def _refuse(wrong: BoolArray, what: str, hint: str) -> None:
    if wrong.any():
        cells = examples(np.flatnonzero(wrong).tolist())
        raise DeltaviError(
            f"{int(wrong.sum())} of {len(wrong)} scores are {what} (for example those of cells {cells}). {hint}."
        )


def _of_length(given: object, n_cells: int, name: str) -> np.ndarray:
    """`given` as an array with one entry per cell, none of them missing."""
    values = np.asarray(given, dtype=object)
    if values.shape != (n_cells,):
        raise DeltaviError(f"{name} must hold one entry per cell: {n_cells} scores, but shape {values.shape}.")
    missing = np.asarray(pd.isna(values))
    if missing.any():
        raise DeltaviError(
            f"{name} is missing for {int(missing.sum())} of {n_cells} cells "
            f"(for example {examples(np.flatnonzero(missing).tolist())})."
        )
    return values


def _flags(given: np.ndarray) -> BoolArray:
    wrong = ~pd.Series(given).isin([True, False]).to_numpy(dtype=bool)
    if wrong.any():
        raise DeltaviError(f"is_new must hold true or false only, not {examples(given[wrong])}.")
    return given.astype(bool)


def _quantile(values: FloatArray, new: BoolArray | None, reject: float) -> float:
    """Novelty score that at most the share `reject` of the known cells exceeds."""
    if new is None or new.all():
        raise DeltaviError("Where the line stands depends on known cells: pass is_new, false for at least one cell.")
    return float(np.quantile(values[~new], 1 - reject, method="inverted_cdf"))


def _rows(values: FloatArray, rejected: BoolArray, new: BoolArray | None, groups: object) -> list[_Row]:
    """Groups from top to bottom."""
    is_new = np.zeros(len(values), dtype=bool) if new is None else new
    if groups is None:
        names = np.where(is_new, "new cells", "known cells" if new is not None else "all cells").astype(object)
    else:
        names = _of_length(groups, len(values), "groups").astype(str).astype(object)
        names = names + np.where(is_new, " (new)", "").astype(object)
    keys = pd.DataFrame({"is_new": is_new, "name": names, "rejected": rejected})
    shares = keys.groupby(["is_new", "name"])["rejected"].mean().reset_index()
    order = shares.sort_values(["is_new", "rejected", "name"])[["is_new", "name"]].itertuples(index=False)
    return [
        _Row(name, VERMILION if of_new else BLUE, values[members], rejected[members])
        for of_new, name in order
        for members in [(names == name) & (is_new == of_new)]
    ]


def _range(values: FloatArray, kind: str) -> tuple[float, float]:
    if kind == "p_value":
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _draw_row(ax: Axes, i: int, row: _Row, edges: FloatArray) -> None:
    """Draw the histogram of a group that stands on the lower edge of its row, with the share that is rejected."""
    n_cells, floor = np.histogram(row.values, edges)[0], i + 0.4
    ax.stairs(floor - FULLEST_BIN * n_cells / n_cells.max(), edges, baseline=floor, fill=True, color=row.color)
    ax.axhline(floor, color=GREY, linewidth=0.6)
    _write_right(ax, i, f"{100 * row.rejected.mean():.1f} % of {len(row.values):,}")


def _draw_threshold(ax: Axes, threshold: float, kind: str) -> None:
    """Draw the line, shade the rejected side, and label it above the first row."""
    low, high = ax.get_xlim()
    ax.axvspan(*((low, threshold) if kind == "p_value" else (threshold, high)), color=PALE, alpha=0.5, zorder=0, lw=0)
    ax.axvline(threshold, color=DARK, linewidth=1, linestyle="--", zorder=3)
    on_the_right = threshold > (low + high) / 2
    ax.annotate(
        f"reject p ≤ {threshold:g}" if kind == "p_value" else f"reject > {threshold:.3g}",
        xy=(threshold, -0.8),
        xytext=(-4 if on_the_right else 4, 0),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        va="center",
        fontsize="small",
        color=DARK,
    )
    _write_right(ax, -0.8, "rejected")


def _write_right(ax: Axes, position: float, text: str) -> None:
    """Write in the column on the right."""
    ax.annotate(
        text,
        xy=(1, position),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
    )
