"""Predicted changes of genes beside measured ones, label by label, in colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from deltavi._reading import known_arguments
from deltavi._types import FloatArray
from deltavi.pl._expression import each_once
from deltavi.pl._figure import DARK, PALE, PlotResult, SaveTarget, axes_for, figure_file, finish
from deltavi.pl._heat_map import TILTED, heat_map
from deltavi.pl._response import RankBy, Responses, responses

# Of a cell of the map and of a character, in inches.
CELL_WIDTH, CELL_HEIGHT, CHARACTER_WIDTH = 0.34, 0.2, 0.085
# Room for the colour scale, and for the words under and over the map.
SCALE_WIDTH, WORDS_HEIGHT, MIN_HEIGHT = 1.1, 1.1, 1.6
MIN_WIDTH = 1.8


@known_arguments
def response_heatmap(
    predicted: AnnData,
    real: AnnData | None = None,
    *,
    control: AnnData | None = None,
    labels_key: str | None = None,
    labels: Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    n_genes: int = 30,
    rank_by: RankBy = "predicted",
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the predicted change of the mean of genes in every label, beside the measured one, as a heat map.

    A row per gene, from those that rise to those that fall; a column per label or, with `real`, two of them. Red is a
    rise, blue a fall, white no change, on one scale for all columns; grey columns were not measured.

    Parameters
    ----------
    predicted
        Predicted cells, log1p CP10k in ``X``, whole as ``predict_perturbation`` returns them; with `control`, any.
    real
        Real cells of the perturbed condition, on the same scale. Labels that they lack are drawn grey.
    control
        Real cells of the control condition, to take changes from. When None, the predicted change is that in varm
        ``"deltavi_change"`` of `predicted`, and the measured one starts from the same control means.
    labels_key
        obs column with the labels of all cells; needed where several labels were predicted and `real` or `control` is
        given.
    labels
        Labels to draw, in order; all that were predicted when None.
    genes
        Names of the genes to draw, in order. When None: the `n_genes` whose mean changes most in any label drawn.
    n_genes
        How many genes to draw when `genes` is None.
    rank_by
        Whether ``"predicted"`` or ``"real"`` changes decide which genes are drawn. The first shows what the model
        makes up, the second what it misses.
    title
        Title of the plot.
    ax
        Axes to draw on; a new figure when None. The colour scale takes its room from them.
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
        If a label or column does not exist, or sets of cells share no label.
    DeltaviError
        If `predicted` holds no changes and `control` is not given, or a number or choice cannot be.
    """
    save = figure_file(save)
    found = responses(predicted, real, control, labels_key=labels_key)
    if labels is not None:
        found = found.of_labels([str(label) for label in each_once("labels", labels)])
    found = found.of_genes(genes, n_genes, rank_by)
    values, drawn, names = _side_by_side(found), list(found.predicted.columns), list(found.predicted.index.astype(str))
    (panel,) = axes_for(1, ax, panel_size=_size(values, drawn), left=CHARACTER_WIDTH * max(map(len, names)))
    panel.set_facecolor(PALE)  # shows where there is no value
    largest = float(np.nanmax(np.abs(values))) or 1.0
    below = drawn if found.real is None else ["predicted", "real"] * len(drawn)
    # a single pair has wide columns
    style = TILTED if found.real is None else {"rotation": 0 if len(drawn) == 1 else 90, "fontsize": "small"}
    image = heat_map(panel, pd.DataFrame(values, names, below), largest=largest, signed=True, columns=style)
    panel.tick_params(axis="y", labelsize="small")
    if found.real is not None:
        _name_pairs(panel, drawn)
    if title is not None:
        panel.set_title(title, fontsize="medium")
    _draw_scale(panel, image)
    return finish([panel], made_here=ax is None, show=show, save=save)


def _side_by_side(found: Responses) -> FloatArray:
    """Changes of the genes, a column per label or a pair of them, ``(n_genes, n_columns)``."""
    tables = [table.to_numpy(dtype=np.float64) for table in (found.predicted, found.real) if table is not None]
    return np.stack(tables, axis=2).reshape(len(found.predicted), -1)


def _size(values: FloatArray, labels: list[str]) -> tuple[float, float]:
    """Width and height of a new figure, in inches, without the names of genes."""
    n_genes, n_columns = values.shape
    height = max(MIN_HEIGHT, CELL_HEIGHT * n_genes) + WORDS_HEIGHT + 0.75 * CHARACTER_WIDTH * max(map(len, labels))
    return max(MIN_WIDTH, CELL_WIDTH * n_columns) + SCALE_WIDTH, height


def _name_pairs(ax: Axes, labels: list[str]) -> None:
    """Set pairs of columns apart, with a label above each, tilted where the longest is wider than its pair."""
    for i in range(1, len(labels)):
        ax.axvline(2 * i - 0.5, color="white", linewidth=4)
    above = ax.secondary_xaxis("top")
    above.set_xticks([2 * i + 0.5 for i in range(len(labels))], labels)
    above.tick_params(length=0)
    above.spines[:].set_visible(False)
    if len(labels) > 1 and max(map(len, labels)) * CHARACTER_WIDTH > 2 * CELL_WIDTH:
        for text in above.get_xticklabels():
            text.set(rotation=45, ha="left", rotation_mode="anchor")


def _draw_scale(ax: Axes, image: AxesImage) -> None:
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, aspect=15, pad=0.04)
    bar.set_label("change of mean, log1p CP10k", color=DARK, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    bar.outline.set_visible(False)
