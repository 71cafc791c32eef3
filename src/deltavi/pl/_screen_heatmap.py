"""Responses of a screen, contexts by perturbations, in colours; hatched where they are not known well."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from deltavi._entries import flag, number, whole_number
from deltavi._errors import DeltaviError
from deltavi._reading import known_arguments
from deltavi._types import BoolArray
from deltavi.perturbation import ResponseModel
from deltavi.pl._figure import DARK, GREY, PALE, PlotResult, SaveTarget, axes_for, figure_file, finish
from deltavi.pl._heat_map import TILTED, heat_map
from deltavi.pl._tables import like, number_table

# Of a cell of the map and of a character, in inches.
CELL_WIDTH, CELL_HEIGHT, CHARACTER_WIDTH = 0.26, 0.26, 0.085
SCALE_WIDTH, WORDS_HEIGHT, MIN_WIDTH, MIN_HEIGHT = 1.2, 1.1, 3.2, 1.3
HATCHES = ("////", "xxxx")
HATCH_WIDTH = 0.6
LEGEND_HEIGHT = 20  # points
# Of a dark blue cell: where a white dot is seen better than a dark one.
LIGHT_ABOVE = 0.6


@known_arguments
def screen_heatmap(
    responses: pd.DataFrame | ResponseModel,
    uncertainty: pd.DataFrame | None = None,
    *,
    measured: pd.DataFrame | None = None,
    doubtful: tuple[float, float] = (0.5, 1.0),
    n_perturbations: int | None = 40,
    signed: bool = False,
    name: str = "size of the response",
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the responses of a screen as a heat map, a row per context and a column per perturbation.

    Colours show the response, hatching its uncertainty: lines where the uncertainty is more than half of the response,
    crosses where it is more than all of it. Pairs that were measured carry a dot, pairs without a value are grey.

    Parameters
    ----------
    responses
        A fitted model, whose measured and predicted responses are drawn with their expected errors; or a
        table of contexts by perturbations: the size of each response, such as the root of the sum of its squared
        changes, or with `signed` the change of one gene or programme. Missing values are drawn grey.
    uncertainty
        Table with the same names, in the unit of `responses`, such as the expected root of the squared error.
    measured
        Table with the same names, true for pairs whose cells were measured.
    doubtful
        Uncertainty relative to the size of the response from which a cell is hatched with lines, and with crosses.
    n_perturbations
        Number of perturbations to draw, those with the largest responses; all when None. They are ordered from the
        largest to the smallest mean size.
    signed
        True colours rises red and falls blue; False colours sizes, which are not negative.
    name
        What the colours show, and its unit, beside their scale.
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
    UnknownCategoryError
        If `uncertainty` or `measured` lack a context or perturbation of `responses`.
    DeltaviError
        If a table is empty, repeats names or holds no numbers, sizes or uncertainties are negative, or `doubtful` is
        not two increasing numbers.
    """
    save = figure_file(save)
    if isinstance(responses, ResponseModel):
        responses, uncertainty, measured = _of_model(responses, uncertainty, measured, signed=signed)
    values = _checked(responses, signed=flag("signed", signed))
    low, high = _thresholds(doubtful)
    values = values[_order(values, n_perturbations)]
    hatched = _hatched(values, uncertainty, low, high)
    dotted = None if measured is None else like(values, "measured", measured, of="responses").to_numpy() > 0
    (panel,) = axes_for(1, ax, panel_size=_size(values), left=CHARACTER_WIDTH * max(map(len, values.index)))
    panel.set_facecolor(PALE)  # shows where there is no value
    largest = float(values.abs().max().max()) or 1.0
    image = heat_map(panel, values, largest=largest, signed=signed, columns={**TILTED, "fontsize": "small"})
    panel.tick_params(axis="y", labelsize="small")
    for cells, hatch in zip(hatched, HATCHES, strict=True):
        _hatch(panel, cells, hatch)
    if dotted is not None:
        _dot(panel, dotted, values.abs().to_numpy() > LIGHT_ABOVE * largest)
    if title is not None:
        panel.set_title(title, fontsize="medium", pad=LEGEND_HEIGHT)
    _explain(panel, (low, high) if uncertainty is not None else None, dotted is not None)
    bar = panel.figure.colorbar(image, ax=panel, shrink=0.8, aspect=15, pad=0.02)
    bar.set_label(name, color=DARK, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    bar.outline.set_visible(False)
    return finish([panel], made_here=ax is None, show=show, save=save)


def _of_model(
    model: ResponseModel, uncertainty: pd.DataFrame | None, measured: pd.DataFrame | None, *, signed: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables of sizes, expected errors and measured pairs of a model."""
    if uncertainty is not None or measured is not None or signed:
        raise DeltaviError(
            "A ResponseModel brings its own uncertainty and measured pairs, and sizes have no sign: leave these out, "
            "or pass a table."
        )
    summary, order = model.summary(), list(model.table.contexts)

    def grid(name: str) -> pd.DataFrame:
        return summary.pivot(index="context", columns="perturbation", values=name).loc[order]

    return grid("size"), grid("error"), grid("n_cells")


def _checked(responses: object, *, signed: bool) -> pd.DataFrame:
    values = number_table("responses", responses)
    if not np.isfinite(values.to_numpy()).any():
        raise DeltaviError("responses holds no finite number.")
    values = values.where(np.isfinite(values))
    if not signed and (values < 0).any(axis=None):
        raise DeltaviError("responses holds negative numbers, which are no sizes; pass signed=True for changes.")
    return values


def _thresholds(doubtful: object) -> tuple[float, float]:
    if not isinstance(doubtful, tuple | list) or len(doubtful) != 2:
        raise DeltaviError(f"doubtful must be two numbers, not {doubtful!r}.")
    low, high = (number("doubtful", value, least=0) for value in doubtful)
    if low >= high:
        raise DeltaviError(f"doubtful must be two increasing numbers, not {doubtful!r}.")
    return low, high


def _order(values: pd.DataFrame, n_perturbations: int | None) -> list[str]:
    """Perturbations to draw, the largest first."""
    n = values.shape[1] if n_perturbations is None else whole_number("n_perturbations", n_perturbations, least=1)
    size = values.abs().mean(axis=0).fillna(-1.0)
    return list(size.sort_values(ascending=False, kind="stable").index[:n])


def _hatched(values: pd.DataFrame, uncertainty: object, low: float, high: float) -> tuple[BoolArray, BoolArray]:
    """Cells to hatch with lines, and with crosses."""
    if uncertainty is None:
        none = np.zeros(values.shape, dtype=bool)
        return none, none
    doubt = like(values, "uncertainty", uncertainty, of="responses").to_numpy()
    if (doubt < 0).any():
        raise DeltaviError("uncertainty holds negative numbers.")
    size = values.abs().to_numpy()
    # what has no uncertainty stated is not certain; what has no value is not hatched
    crossed = ((doubt > high * size) | np.isnan(doubt)) & np.isfinite(size)
    return (doubt > low * size) & ~crossed & np.isfinite(size), crossed


def _size(values: pd.DataFrame) -> tuple[float, float]:
    """Width and height of a new figure, in inches, without the names of contexts."""
    n_rows, n_columns = values.shape
    height = (
        max(MIN_HEIGHT, CELL_HEIGHT * n_rows) + WORDS_HEIGHT + 0.75 * CHARACTER_WIDTH * max(map(len, values.columns))
    )
    return max(MIN_WIDTH, CELL_WIDTH * n_columns) + SCALE_WIDTH, height


def _hatch(ax: Axes, cells: BoolArray, hatch: str) -> None:
    for i, j in np.argwhere(cells):
        patch = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch=hatch, edgecolor=GREY, linewidth=0)
        patch.set_hatch_linewidth(HATCH_WIDTH)
        ax.add_patch(patch)


def _dot(ax: Axes, cells: BoolArray, dark: BoolArray) -> None:
    for places, color in ((cells & ~dark, DARK), (cells & dark, "white")):
        rows, columns = np.nonzero(places)
        ax.scatter(columns, rows, s=9, color=color, linewidths=0, zorder=3)


def _explain(ax: Axes, doubtful: tuple[float, float] | None, dotted: bool) -> None:
    """Legend of hatches and dots above the map."""
    handles: list[object] = []
    for limit, hatch in zip(doubtful or (), HATCHES, strict=False):
        patch = Patch(facecolor="white", edgecolor=GREY, hatch=hatch, linewidth=0.5)
        patch.set_hatch_linewidth(HATCH_WIDTH)
        patch.set_label(f"uncertainty > {limit:g} × response")
        handles.append(patch)
    if dotted:
        handles += ax.plot([], [], "o", color=DARK, markersize=3, linestyle="", label="measured")
    if handles:
        ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=len(handles),
            frameon=False,
            fontsize="x-small",
            handlelength=1.6,
            columnspacing=1.2,
            labelcolor=DARK,
        )
