"""Parts of all plots: axes that are given or made, colours, and the options to show and save."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from deltavi._entries import shown
from deltavi._errors import DeltaviError, FileWriteError
from deltavi.io import require_file, require_writable, resolved, write_file
from deltavi.io.atomic import not_written

SaveTarget: TypeAlias = str | os.PathLike[str]
PlotResult: TypeAlias = Axes | list[Axes] | None

# Okabe and Ito's palette, distinct in every kind of colour vision: https://jfly.uni-koeln.de/color
GREY = "#8C8C8C"
PALE = "#D0D0D0"
BLUE = "#0072B2"
VERMILION = "#D55E00"
DARK = "#333333"
SAVE_DPI = 200
# Formats of matplotlib whose suffixes are those of data.
NO_FIGURES = {"raw", "rgba"}


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
    given: list[Any] = [ax] if isinstance(ax, Axes) or not isinstance(ax, Iterable) else list(ax)
    given = [panel for row in given for panel in (row if isinstance(row, np.ndarray) else [row])]
    strange = [panel for panel in given if not isinstance(panel, Axes)]
    if strange:
        raise DeltaviError(
            f"ax must be axes of matplotlib, such as those of plt.subplots(), not {shown(strange[0])}; leave it out to "
            "make a new figure."
        )
    if len(given) != n_panels:
        raise DeltaviError(f"This plot has {n_panels} panels, but ax holds {len(given)}; leave ax out to make them.")
    return given


def figure_file(save: SaveTarget | None) -> SaveTarget | None:
    """Path to write a figure to, looked at before anything is drawn.

    Parameters
    ----------
    save
        Path of a file, None, or an open file, which is handed back as it is. A name without suffix gets that of
        matplotlib's ``savefig.format``. A figure that is there is replaced, and nothing else.

    Raises
    ------
    DeltaviError
        If it is a folder, lies in none, or has a suffix that no figure has.
    FileWriteError
        If the folder is read-only.
    """
    if save is None or hasattr(save, "write"):
        return save
    path = resolved(save, "save")
    if not path.suffix:
        require_file(path)
        path = path.with_name(f"{path.name}.{matplotlib.rcParams['savefig.format']}")
    known = sorted(FigureCanvasBase.get_supported_filetypes().keys() - NO_FIGURES)
    if path.suffix[1:].lower() not in known:
        raise DeltaviError(f"save is {str(save)!r}; the name of a figure ends in one of .{', .'.join(known)}.")
    require_file(path)
    try:
        require_writable(path.parent)
    except OSError as error:
        raise not_written(FileWriteError, "The figure", path, error) from error
    return path


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
        write_figure(root, save)
    if show is None:
        show = made_here and matplotlib.is_interactive()
    if show:
        plt.show()
        return None
    return axes[0] if len(axes) == 1 else list(axes)


def write_figure(figure: Figure, save: SaveTarget) -> None:
    """Write a figure at once: where that fails, one that was there before stays."""
    if isinstance(save, Path):
        write_file(save, lambda part: figure.savefig(part, dpi=SAVE_DPI, bbox_inches="tight"), what="The figure")
    else:  # a file that is open, which takes what it is given
        figure.savefig(save, dpi=SAVE_DPI, bbox_inches="tight")


def hide_frame(ax: Axes) -> None:
    """Take away the upper and right edge of the frame."""
    ax.spines[["top", "right"]].set_visible(False)
