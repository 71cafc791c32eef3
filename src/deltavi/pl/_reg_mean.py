"""Predicted against real gene means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Text
from numpy.typing import NDArray

from deltavi._errors import DeltaviError, GeneMatchError, examples
from deltavi.metrics import r2_of_means, top_differential_genes
from deltavi.pl._expression import AlignedExpression, Expression, align_expression
from deltavi.pl._figure import BLUE, DARK, GREY, VERMILION, PlotResult, SaveTarget, axes_for, finish, hide_frame
from deltavi.pl._labels import place_labels

IntArray = NDArray[np.intp]
FloatArray = NDArray[np.float64]

# Beyond this many points a vector file becomes slow to open.
RASTERISE_ABOVE = 5000
LINE_HEIGHT = 13  # points


def reg_mean(
    predicted: Expression,
    real: Expression,
    *,
    control: Expression | None = None,
    genes: Sequence[str] | None = None,
    n_label: int = 10,
    n_top: int = 100,
    layer: str | None = None,
    gene_names: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the mean of every gene over the predicted cells against its mean over the real cells.

    Genes on the diagonal are predicted exactly. With `control`, the genes that really change most are coloured and
    named: predicting no change at all leaves exactly these off the diagonal while the R² of all genes stays high.

    Parameters
    ----------
    predicted, real
        Predicted and real cells of the target condition: AnnData or arrays of shape ``(n_cells, n_genes)``, on one
        scale, usually log1p CP10k. AnnData are matched by gene name.
    control
        Real cells of the control condition, used to find the genes that change most (largest Welch ``|t|`` between
        `control` and `real`, see :func:`deltavi.metrics.top_differential_genes`).
    genes
        Names of the genes to write. When None: the `n_label` genes that change most or, without `control`, that are
        predicted worst.
    n_label
        How many genes to name when `genes` is None. A name for which there is no room is left out.
    n_top
        How many of the most changed genes to colour and to give an R² of their own.
    layer
        Layer to take from every AnnData; ``X`` when None.
    gene_names
        Names of the columns, where only arrays are given.
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
    GeneMatchError
        If the genes do not match, or a name in `genes` is unknown.
    InputDataError
        If values are missing or infinite, scales are mixed, or `control` is given and a set has a single cell.
    """
    cells = align_expression(
        {"predicted": predicted, "real": real, "control": control}, layer=layer, gene_names=gene_names
    )
    if n_label < 0 or n_top < 1:
        raise DeltaviError(f"n_label must be at least 0 and n_top at least 1, but they are {n_label} and {n_top}.")
    means = np.column_stack([_means(cells, "real"), _means(cells, "predicted")])
    changed = _most_changed(cells, n_top)
    named = _genes_to_name(cells, means, changed, genes, n_label)
    (axes,) = axes_for(1, ax, panel_size=(4.6, 4.6))
    _scatter(axes, means, changed)
    _frame(axes, means, title)
    scores = _write_scores(axes, cells, changed)
    if cells.genes is not None and len(named):
        diagonal = np.linspace(*axes.get_xlim(), 60)[:, None].repeat(2, axis=1)
        place_labels(axes, means[named], list(cells.genes[named]), markers=np.vstack([means, diagonal]), avoid=scores)
    return finish([axes], made_here=ax is None, show=show, save=save)


def _means(cells: AlignedExpression, name: str) -> FloatArray:
    return np.asarray(cells[name].mean(axis=0, dtype=np.float64)).ravel()


def _most_changed(cells: AlignedExpression, n_top: int) -> IntArray:
    """Positions of the genes that change most between control and real, most changed first; none without control."""
    if "control" not in cells.matrices:
        return np.array([], dtype=np.intp)
    return top_differential_genes(cells["control"], cells["real"], n=n_top)


def _genes_to_name(
    cells: AlignedExpression, means: FloatArray, changed: IntArray, genes: Sequence[str] | None, n_label: int
) -> IntArray:
    """Positions of the genes to name, the most important first."""
    if genes is not None:
        return _positions_of(cells.genes, [genes] if isinstance(genes, str) else list(dict.fromkeys(genes)))
    if len(changed):
        return changed[:n_label]
    return np.argsort(-np.abs(means[:, 1] - means[:, 0]), kind="stable")[:n_label]


def _positions_of(known: pd.Index[str] | None, genes: list[str]) -> IntArray:
    if known is None:
        raise GeneMatchError("genes were named, but arrays have no gene names; pass AnnData or gene_names=...")
    positions = known.get_indexer(pd.Index(genes))
    missing = [gene for gene, position in zip(genes, positions, strict=True) if position < 0]
    if missing:
        raise GeneMatchError(f"{len(missing)} of the genes to name are not among the genes: {examples(missing)}.")
    return np.asarray(positions, dtype=np.intp)


def _scatter(ax: Axes, means: FloatArray, changed: IntArray) -> None:
    rest = np.setdiff1d(np.arange(len(means)), changed)
    rasterised = len(means) > RASTERISE_ABOVE
    real, predicted = means.T
    ax.scatter(real[rest], predicted[rest], s=9, color=BLUE, alpha=0.35, linewidths=0, rasterized=rasterised)
    ax.scatter(real[changed], predicted[changed], s=14, color=VERMILION, alpha=0.85, linewidths=0, zorder=3)


def _frame(ax: Axes, means: FloatArray, title: str | None) -> None:
    """Give both axes the same limits and draw the line on which prediction and reality agree."""
    low, high = means.min(), means.max()
    margin = 0.05 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    ax.plot(limits, limits, color=GREY, linewidth=1, linestyle="--", zorder=1)
    ax.set(xlim=limits, ylim=limits, aspect="equal", xlabel="real mean", ylabel="predicted mean")
    if title is not None:
        ax.set_title(title)
    hide_frame(ax)


def _write_scores(ax: Axes, cells: AlignedExpression, changed: IntArray) -> list[Text]:
    """Write the R² of all genes and of the changed ones into the upper left corner, far from the diagonal."""
    predicted, real = cells["predicted"], cells["real"]
    lines = [(f"R² = {r2_of_means(predicted, real):.3f}, all {real.shape[1]:,} genes", DARK)]
    if len(changed):
        r2 = r2_of_means(predicted, real, genes=changed)
        lines.append((f"R² = {r2:.3f}, {len(changed):,} most changed", VERMILION))
    return [_write_line(ax, i, text, color) for i, (text, color) in enumerate(lines)]


def _write_line(ax: Axes, i: int, text: str, color: str) -> Text:
    return ax.annotate(
        text,
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(6, -6 - LINE_HEIGHT * i),
        textcoords="offset points",
        ha="left",
        va="top",
        fontsize="small",
        color=color,
        zorder=6,
    )
