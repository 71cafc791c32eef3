"""What every plot here shares: axes that are given or made, colours, and the manners of showing and saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from deltavi._errors import DeltaviError

SaveTarget: TypeAlias = str | os.PathLike[str]
PlotResult: TypeAlias = Axes | list[Axes] | None

# Okabe and Ito's palette, told apart with every kind of colour vision: https://jfly.uni-koeln.de/color
GREY = "#8C8C8C"
PALE = "#D0D0D0"
BLUE = "#0072B2"
VERMILION = "#D55E00"
DARK = "#333333"
SAVE_DPI = 200


def axes_for(
    n_panels: int,
    ax: Axes | Sequence[Axes] | None,
    *,
    panel_size: tuple[float, float],
    n_columns: int = 4,
    left: float = 0.0,
) -> list[Axes]:
    """Return `n_panels` axes: those given, or those of a new figure.

    Parameters
    ----------
    n_panels
        How many axes are needed.
    ax
        One axes, a sequence of them, or None for a new figure.
    panel_size
        Width and height of a panel of a new figure, in inches.
    n_columns
        How many panels of a new figure stand side by side at most.
    left
        Room to add on the left of a new figure, for long names, in inches.

    Raises
    ------
    DeltaviError
        If another number of axes was given.
    """
    if ax is None:
        n_rows = -(-n_panels // n_columns)
        n_columns = -(-n_panels // n_rows)  # as even as can be: five panels in rows of three and two
        size = (left + panel_size[0] * n_columns, panel_size[1] * n_rows)
        _, grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
        for unused in grid.flat[n_panels:]:
            unused.remove()
        return list(grid.flat[:n_panels])
    given = [ax] if isinstance(ax, Axes) else list(ax)
    if len(given) != n_panels:
        raise DeltaviError(f"This plot has {n_panels} panels, but ax holds {len(given)}; leave ax out to make them.")
    return given


def finish(axes: Sequence[Axes], *, made_here: bool, show: bool | None, save: SaveTarget | None) -> PlotResult:
    """Save, show or hand back a finished plot.

    Parameters
    ----------
    axes
        The axes of the plot.
    made_here
        Whether the figure was made by the plot, not given by the user.
    show
        Show the figure and return nothing, or return the axes. None shows a figure made here in interactive use
        (a notebook, or after ``plt.ion()``): axes of the user's are still being composed.
    save
        Path of a file to write first, or None.

    Returns
    -------
    One axes, a list of several, or None where the figure was shown.
    """
    if save is not None:
        root = axes[0].figure.figure  # the figure itself, even where the axes belong to one of its parts
        root.savefig(save, dpi=SAVE_DPI, bbox_inches="tight")
    if show is None:
        show = made_here and matplotlib.is_interactive()
    if show:
        plt.show()
        return None
    return axes[0] if len(axes) == 1 else list(axes)


def hide_frame(ax: Axes) -> None:
    """Take away the upper and right edge of the frame."""
    ax.spines[["top", "right"]].set_visible(False)
