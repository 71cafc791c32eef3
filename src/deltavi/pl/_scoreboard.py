"""A comparison of methods as horizontal bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from deltavi import _entries as entries
from deltavi._entries import shown
from deltavi._errors import DeltaviError, examples, unknown_category
from deltavi._reading import known_arguments
from deltavi._types import FloatArray
from deltavi.perturbation.evaluate import HIGHER_IS_BETTER, METRIC_NAMES, SPLIT_HALF
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

if TYPE_CHECKING:
    from deltavi.tl import PerturbationEvaluation


# Better scores: the higher ones, the lower ones, those next to a number, or (None) neither.
Better: TypeAlias = Literal["higher", "lower"] | float | None
BETTER: Mapping[str, Better] = {
    **{name: "higher" if higher else "lower" for name, higher in HIGHER_IS_BETTER.items()},
    "mse_of_means": "lower",
    "variance_ratio": 1.0,
    "zero_fraction": None,
}
# One or two of each kind: changes, means, distributions, spread. All at once could not be read.
DRAWN = (
    "pearson_delta",
    "pearson_delta_top",
    "r2_of_means_top",
    "e_distance",
    "mmd",
    "variance_ratio",
)
BAR_HEIGHT = 0.28  # inches
CHARACTER_WIDTH = 0.085  # inches
TITLE_WIDTH = 20  # characters


@known_arguments
def scoreboard(
    table: pd.DataFrame | PerturbationEvaluation,
    *,
    metrics: Sequence[str] | None = None,
    highlight: str | None = None,
    split_half: str | Mapping[str, float] | None = None,
    better: Mapping[str, Better] | None = None,
    sort: bool = True,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw a table of methods and metrics as horizontal bars, one panel per metric.

    The best method of each metric is coloured and its value set in bold. Where a method has several rows (held-out
    types, repeats), the bar is their mean and each row a dot.

    Parameters
    ----------
    table
        Methods in the index, or in a column ``method``; one column per metric, as from
        :func:`deltavi.perturbation.evaluate.compare`; or what :func:`deltavi.tl.evaluate_perturbation` returns.
    metrics
        Columns to draw, in order. When None, six with different information: Pearson delta of all
        and of the top genes, R² of the means of the top genes, E-distance, MMD and variance ratio, as far as the table
        holds them; where it holds none of these, all numeric ones.
    highlight
        A method to set apart, by colour and bold name, whether or not it is the best.
    split_half
        Ceiling that no method can be expected to beat, one half of the real cells against the other: the name of a row
        of `table`, or a value per metric. Drawn as a dashed line, not as a bar. None takes the row that
        :func:`deltavi.perturbation.evaluate.compare` adds, where there is one.
    better
        For each metric, whether ``"higher"`` or ``"lower"`` scores are better, the number that they should be next
        to, or None where no score is better than another. Metrics of this package are known; others are ``"higher"``.
    sort
        Order the methods by the first metric, best at the top, rather than as in the table.
    ax
        One axes per metric; a new figure when None.
    show
        True shows the figure and returns nothing, False returns the axes; None shows in interactive use only.
    save
        Path of a file to write.

    Returns
    -------
    The axes (a list for several metrics), unless the figure was shown.

    Raises
    ------
    UnknownCategoryError
        If `highlight`, `split_half` or a metric is not in the table.
    DeltaviError
        If `table` is neither a table nor an evaluation, or holds no method or no numbers.
    """
    save = figure_file(save)
    table = _table_of(table)
    if not table.columns.is_unique:
        raise DeltaviError(f"The table repeats columns: {examples(table.columns[table.columns.duplicated()])}.")
    rows = table.set_index("method") if "method" in table.columns else table
    rows = rows.set_axis(rows.index.astype(str), axis=0)
    names = _metric_names(rows, metrics)
    known = {name: BETTER.get(name, "higher") for name in names} | _better(better, rows)
    rows, limits = _without_split_half(rows, names, split_half)
    methods = _order(rows, known[names[0]], names[0], sort)
    if highlight is not None and highlight not in methods:
        raise unknown_category("method", highlight, methods)
    top = (
        1.4 if limits else 0.6
    )  # rows above the first bar: room for the name of the ceiling, in every panel or in none
    panel_size = (2.9, 0.9 + BAR_HEIGHT * (len(methods) + top))
    axes = axes_for(len(names), ax, panel_size=panel_size, left=CHARACTER_WIDTH * max(map(len, methods)))
    for panel, name in zip(axes, names, strict=True):
        panel.set_ylim(len(methods) - 0.4, -top)
        _draw_metric(panel, rows[name], methods, known[name], highlight)
        if np.isfinite(limits.get(name, np.nan)):
            _draw_split_half(panel, limits[name], known[name])
        panel.set_title(_title(name, known[name]), fontsize="medium")
    _name_methods(axes, methods, highlight)
    return finish(axes, made_here=ax is None, show=show, save=save)


def _table_of(table: pd.DataFrame | PerturbationEvaluation) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        return table
    if not hasattr(table, "board"):
        raise DeltaviError(
            f"table must be a table of methods and metrics, or a PerturbationEvaluation, not a {type(table).__name__}."
        )
    return table.board()


def _metric_names(rows: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    numeric = list(rows.select_dtypes("number").columns)
    usual = [name for name in DRAWN if name in numeric] or numeric
    names = usual if metrics is None else entries.names("metrics", metrics)
    for name in names:
        if name not in numeric:
            raise unknown_category("metric", name, numeric)
    if not names or rows.empty:
        raise DeltaviError("The table needs at least one method and one column of numbers.")
    return names


def _better(given: Mapping[str, Better] | None, rows: pd.DataFrame) -> dict[str, Better]:
    """Direction of better scores, as given."""
    if given is not None and not isinstance(given, Mapping):
        raise DeltaviError(f"better must map metrics to 'higher', 'lower', a number or None, not be {shown(given)}.")
    for name, value in (given or {}).items():
        _require_metric(name, rows)
        if value not in ("higher", "lower", None):
            entries.number(f"better[{name!r}], where it is neither 'higher' nor 'lower',", value)
    return dict(given or {})


def _require_metric(name: object, rows: pd.DataFrame) -> None:
    if name not in rows.columns:
        raise unknown_category("metric", name, rows.columns)


def _without_split_half(
    rows: pd.DataFrame, names: list[str], split_half: str | Mapping[str, float] | None
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Take the row of the ceiling out of the table."""
    if split_half is None and SPLIT_HALF not in rows.index:
        return rows, {}
    split_half = SPLIT_HALF if split_half is None else split_half
    if not isinstance(split_half, str):
        if not isinstance(split_half, Mapping):
            raise DeltaviError(f"split_half must name a row, or map metrics to numbers, not be {shown(split_half)}.")
        for name in split_half:
            _require_metric(name, rows)
        return rows, {name: entries.number(f"split_half[{name!r}]", value) for name, value in split_half.items()}
    if split_half not in rows.index:
        raise unknown_category("split_half", split_half, rows.index.unique())
    others = rows.drop(index=split_half)
    if others.empty:
        raise DeltaviError(f"The table holds no method but the ceiling {split_half!r}.")
    return others, {name: float(rows.loc[[split_half], name].mean()) for name in names}


def _loss(values: pd.Series[float], better: Better) -> pd.Series[float]:
    """Turn scores into numbers of which the smallest is the best."""
    if better == "higher":
        return -values
    return values if better == "lower" or better is None else (values - float(better)).abs()


def _order(rows: pd.DataFrame, better: Better, name: str, sort: bool) -> list[str]:
    """Methods from top to bottom."""
    means = rows.groupby(level=0, sort=False)[name].mean()
    if not sort or better is None:
        return list(means.index)
    return list(_loss(means, better).sort_values(kind="stable").index)


def _draw_metric(ax: Axes, values: pd.Series[float], methods: list[str], better: Better, highlight: str | None) -> None:
    """Draw bars from top to bottom, single rows as dots, and the values in a column on the right."""
    means = values.groupby(level=0, sort=False).mean().reindex(methods)
    loss = _loss(means, better)
    is_best = np.zeros(len(means), dtype=bool) if better is None else np.asarray(loss == loss.min())
    colors = [_color(method == highlight, best) for method, best in zip(methods, is_best, strict=True)]
    ax.barh(np.arange(len(methods)), means.fillna(0.0), height=0.68, color=colors)
    ax.axvline(0, color=DARK, linewidth=0.8)
    for i, method in enumerate(methods):
        single = values.loc[[method]].to_numpy(dtype=np.float64)
        if len(single) > 1:
            ax.plot(single, np.full(len(single), i), "o", color=DARK, alpha=0.6, markersize=2.5, markeredgewidth=0)
    _write_values(ax, np.asarray(means, dtype=np.float64), is_best)
    hide_frame(ax)


def _color(is_highlight: bool, is_best: bool) -> str:
    return VERMILION if is_highlight else BLUE if is_best else PALE


def _write_values(ax: Axes, means: FloatArray, is_best: NDArray[np.bool_]) -> None:
    """Write the values in a column, where neither bars nor dots nor the ceiling can run into them."""
    largest = max(np.abs(means[np.isfinite(means)]), default=0.0)
    n_decimals = max(0, 3 - int(np.log10(max(largest, 1.0))))
    for i, mean in enumerate(means):
        ax.annotate(
            f"{mean:.{n_decimals}f}" if np.isfinite(mean) else "no value",
            xy=(1, i),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            fontweight="bold" if is_best[i] else "normal",
        )


def _draw_split_half(ax: Axes, value: float, better: Better) -> None:
    """Draw the dashed line and name it above the bars."""
    low, high = ax.get_xlim()
    room = 0.03 * (high - low)
    ax.set_xlim(min(low, value - room) if value < 0 else low, max(high, value + room))
    ax.axvline(value, color=DARK, linewidth=1, linestyle="--", zorder=3)
    name = {"higher": "ceiling", "lower": "floor"}.get(str(better), "reference")
    on_the_right = value > np.mean(ax.get_xlim())
    ax.annotate(
        f"{name} {value:.3g}",
        xy=(value, -0.95),
        xytext=(-4 if on_the_right else 4, 0),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        va="center",
        fontsize="small",
        color=DARK,
    )


def _title(name: str, better: Better) -> str:
    words = textwrap.fill(METRIC_NAMES.get(name, name.replace("_", " ")), TITLE_WIDTH)
    if better is None or better == "higher":
        return words
    return f"{words}\n({'lower is better' if better == 'lower' else f'best is {better:g}'})"


def _name_methods(axes: Sequence[Axes], methods: list[str], highlight: str | None) -> None:
    """Write the methods on the left of every row of panels."""
    for panel in axes:
        panel.set_yticks(np.arange(len(methods)), methods)
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", labelsize="small", color=GREY)
        place = panel.get_subplotspec()
        if place is not None and not place.is_first_col():
            panel.tick_params(labelleft=False)
        elif highlight is not None:
            panel.get_yticklabels()[methods.index(highlight)].set_fontweight("bold")
