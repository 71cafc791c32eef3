"""A statistic of every gene over predicted cells against the same over real cells: what such plots share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text

from deltavi._entries import whole_number
from deltavi._types import FloatArray, IntArray, Rows
from deltavi.metrics import top_differential_genes
from deltavi.pl._expression import AlignedExpression, Expression, align_expression, positions_of
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
from deltavi.pl._labels import place_labels, write_lines

# Beyond this many points a vector file becomes slow to open.
RASTERISE_ABOVE = 5000


@dataclass(frozen=True)
class Statistic:
    """Values drawn for every gene.

    Attributes
    ----------
    name
        Its name on the axes.
    of
        Function from a matrix ``(n_cells, n_genes)`` to its values ``(n_genes,)``.
    r2
        Score of predicted and real cells that is written on the plot.
    """

    name: str
    of: Callable[[Rows], FloatArray]
    r2: Callable[..., float]


@dataclass(frozen=True)
class Choice:
    """Genes to name and colour, and the source of their values; see :func:`deltavi.pl.reg_mean`."""

    genes: Sequence[str] | None
    n_label: int
    n_top: int
    layer: str | None
    gene_names: Sequence[str] | None


def draw_regression(
    statistic: Statistic,
    predicted: Expression,
    real: Expression,
    control: Expression | None,
    choice: Choice,
    *,
    title: str | None,
    ax: Axes | None,
    show: bool | None,
    save: SaveTarget | None,
) -> PlotResult:
    """Draw a statistic of predicted against real cells, a point per gene, with its R²."""
    save = figure_file(save)
    given = {"predicted": predicted, "real": real, "control": control}
    n_top, n_label = whole_number("n_top", choice.n_top, least=1), whole_number("n_label", choice.n_label, least=0)
    choice = replace(choice, n_top=n_top, n_label=n_label)
    cells = align_expression(given, layer=choice.layer, column_names=choice.gene_names)
    values = np.column_stack([statistic.of(cells["real"]), statistic.of(cells["predicted"])])
    changed = _most_changed(cells, choice.n_top)
    named = _genes_to_name(cells, values, changed, choice)
    (axes,) = axes_for(1, ax, panel_size=(4.6, 4.6))
    _scatter(axes, values, changed)
    _frame(axes, values, statistic.name, title)
    scores = _write_scores(axes, statistic, cells, changed)
    if cells.genes is not None and len(named):
        diagonal = np.linspace(*axes.get_xlim(), 60)[:, None].repeat(2, axis=1)
        markers = np.vstack([values, diagonal])
        place_labels(axes, values[named], list(cells.genes[named]), markers=markers, avoid=scores)
    return finish([axes], made_here=ax is None, show=show, save=save)


def _most_changed(cells: AlignedExpression, n_top: int) -> IntArray:
    """Positions of the genes that change most between control and real, most changed first; none without control."""
    if "control" not in cells.matrices:
        return np.array([], dtype=np.intp)
    return top_differential_genes(cells["control"], cells["real"], n=n_top)


def _genes_to_name(cells: AlignedExpression, values: FloatArray, changed: IntArray, choice: Choice) -> IntArray:
    """Positions of the genes to name, the most important first."""
    if choice.genes is not None:
        return positions_of(cells.genes, choice.genes)
    if len(changed):
        return changed[: choice.n_label]
    return np.argsort(-np.abs(values[:, 1] - values[:, 0]), kind="stable")[: choice.n_label]


def _scatter(ax: Axes, values: FloatArray, changed: IntArray) -> None:
    rest = np.setdiff1d(np.arange(len(values)), changed)
    rasterised = len(values) > RASTERISE_ABOVE
    real, predicted = values.T
    ax.scatter(real[rest], predicted[rest], s=9, color=BLUE, alpha=0.35, linewidths=0, rasterized=rasterised)
    ax.scatter(real[changed], predicted[changed], s=14, color=VERMILION, alpha=0.85, linewidths=0, zorder=3)


def _frame(ax: Axes, values: FloatArray, name: str, title: str | None) -> None:
    """Give both axes the same limits and draw the line on which prediction and reality agree."""
    low, high = values.min(), values.max()
    margin = 0.05 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    ax.plot(limits, limits, color=GREY, linewidth=1, linestyle="--", zorder=1)
    ax.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"real {name}", ylabel=f"predicted {name}")
    if title is not None:
        ax.set_title(title)
    hide_frame(ax)


def _write_scores(ax: Axes, statistic: Statistic, cells: AlignedExpression, changed: IntArray) -> list[Text]:
    """Write the R² of all genes and of the changed ones into the upper left corner, far from the diagonal."""
    predicted, real = cells["predicted"], cells["real"]
    lines = [(f"R² = {statistic.r2(predicted, real):.3f}, all {real.shape[1]:,} genes", DARK)]
    if len(changed):
        r2 = statistic.r2(predicted, real, genes=changed)
        lines.append((f"R² = {r2:.3f}, {len(changed):,} most changed", VERMILION))
    return write_lines(ax, lines)
