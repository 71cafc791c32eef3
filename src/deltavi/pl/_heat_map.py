"""The map of coloured cells that several plots draw: colours, names of rows and columns, numbers in it and around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from deltavi.pl._figure import DARK

# Numbers are set so small that this is the width of a digit and the height of a line, in points.
NUMBER_SIZE = "x-small"
DIGIT_WIDTH, LINE_HEIGHT = 4.5, 9.0
# Of the scale of blues: where white is easier to read than dark grey.
DARK_ABOVE = 0.63
# Smaller shares are drawn, but not written: most of the map would be zeros.
MIN_SHARE = 0.005
# Keywords of matplotlib's artists.
Style: TypeAlias = dict[str, Any]
TILTED: Style = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}


def heat_map(
    ax: Axes, values: pd.DataFrame, *, largest: float, signed: bool = False, columns: Style = TILTED
) -> AxesImage:
    """Draw a table as colours up to the largest value, from zero or, red and blue, from its opposite; name both sides.

    `columns` is the style of the names below.
    """
    colors, least = ("RdBu_r", -largest) if signed else ("Blues", 0.0)
    image = ax.imshow(values, cmap=colors, vmin=least, vmax=largest, aspect="auto", interpolation="nearest")
    ax.set_yticks(np.arange(values.shape[0]), list(values.index))
    ax.set_xticks(np.arange(values.shape[1]), list(values.columns), **columns)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    return image


def percents(shares: NDArray[np.float64]) -> NDArray[np.str_]:
    """Whole percent of every share, nothing for next to none."""
    return np.array([[f"{100 * share:.0f}" if share >= MIN_SHARE else "" for share in row] for row in shares])


def write_cells(ax: Axes, texts: NDArray[np.str_], dark: NDArray[np.bool_]) -> None:
    """Write a text into every cell of the map, ``(n_rows, n_columns)``, white on dark colours."""
    for (i, j), text in np.ndenumerate(texts):
        if text:
            color = "white" if dark[i, j] else DARK
            ax.text(j, i, str(text), ha="center", va="center", fontsize=NUMBER_SIZE, color=color)


def write_numbers(
    ax: Axes,
    texts: NDArray[np.str_],
    dark: NDArray[np.bool_],
    sides: tuple[Sequence[str], Sequence[str]],
    *,
    widest: float,
    corner: Style,
    style: Style,
) -> float:
    """Write numbers right of the map and above it, and `texts` into it, as far as there is room.

    The longest number is `widest` points wide. `corner` is the style of the word over those on the right, `style` that
    of the numbers. Returns the width of a column in points.
    """
    ax.figure.figure.draw_without_rendering()  # the size of the map is known only after its layout
    box, points = ax.get_window_extent(), 72 / ax.figure.figure.dpi
    width, height = box.width * points / texts.shape[1], box.height * points / texts.shape[0]
    across, down = width >= widest, height >= LINE_HEIGHT
    shared: Style = {"textcoords": "offset points", "fontsize": NUMBER_SIZE, "annotation_clip": False, **style}
    ax.annotate("cells", (1, 1), xycoords="axes fraction", xytext=(5, 4), **{**shared, **corner})
    for i, text in enumerate(sides[0] if down else []):
        ax.annotate(text, (1, i), xycoords=("axes fraction", "data"), xytext=(5, 0), **{**shared, "va": "center"})
    for j, text in enumerate(sides[1] if across else []):
        ax.annotate(text, (j, 1), xycoords=("data", "axes fraction"), xytext=(0, 4), ha="center", **shared)
    if across and down:
        write_cells(ax, texts, dark)
    return float(width)
