"""Course of the objective and its parts during training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from deltavi import _entries as entries
from deltavi._errors import NotTrainedError, unknown_category
from deltavi._reading import known_arguments
from deltavi._types import FloatArray
from deltavi.pl._figure import BLUE, VERMILION, PlotResult, SaveTarget, axes_for, figure_file, finish, hide_frame

History: TypeAlias = Mapping[str, object]

# Parts of the names of logged quantities by which training and validation are distinguished.
PART = re.compile(r"^(train|validation|val)_|_(train|validation|val)$")
STEP = re.compile(r"_step$")
EPOCH = re.compile(r"_epoch$")
COLORS = {"train": BLUE, "validation": VERMILION}
# Ratio of the largest value to the last one from which only a logarithmic axis shows both.
LOG_ABOVE = 5.0


@dataclass
class _Quantity:
    """One quantity: for ``train`` and ``validation``, the epochs and the values, each of shape ``(n_epochs,)``."""

    name: str
    parts: dict[str, tuple[FloatArray, FloatArray]] = field(default_factory=dict)

    @property
    def values(self) -> FloatArray:
        """All values of all parts."""
        return np.concatenate([values for _, values in self.parts.values()])

    @property
    def is_objective(self) -> bool:
        """True if training minimises the quantity; of others, lower need not be better."""
        return re.search(r"loss|elbo", self.name) is not None

    def falls_far(self) -> bool:
        """True if a linear axis would show only the fall of the first epochs."""
        lowest = min(values[-1] for _, values in self.parts.values())
        return bool(self.values.min() > 0 and self.values.max() > LOG_ABOVE * lowest)


@known_arguments
def training_history(
    model_or_history: object,
    *,
    metrics: Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw what was logged in training, epoch by epoch, one panel per quantity.

    Training and validation share a panel; the best validation value of an objective is marked. The axis is
    logarithmic where values fall to less than a fifth.

    Parameters
    ----------
    model_or_history
        A trained model with a ``history``, or such a history: names of logged quantities to tables with one column
        and one row per epoch, series or sequences. Names begin or end with ``train`` or ``validation``, as in
        ``elbo_train`` and ``validation_loss``.
    metrics
        Which quantities to draw, without ``train`` and ``validation``, such as ``["loss", "elbo"]``. When None, all
        that were logged per epoch and vary.
    ax
        One axes per quantity; a new figure when None.
    show
        True shows the figure and returns nothing, False returns the axes; None shows in interactive use only.
    save
        Path of a file to write.

    Returns
    -------
    The axes (a list for several quantities), unless the figure was shown.

    Raises
    ------
    NotTrainedError
        If nothing was logged.
    UnknownCategoryError
        If a metric was not logged.
    """
    save = figure_file(save)
    quantities = _choose(_quantities(_history_of(model_or_history)), metrics)
    axes = axes_for(len(quantities), ax, panel_size=(3.4, 2.7), n_columns=3)
    for panel, quantity in zip(axes, quantities, strict=True):
        _draw(panel, quantity)
    return finish(axes, made_here=ax is None, show=show, save=save)


def _history_of(model_or_history: object) -> History:
    history = model_or_history if isinstance(model_or_history, Mapping) else getattr(model_or_history, "history", None)
    if not history:
        raise NotTrainedError("There is no training history: train the model first, or pass its history.")
    return dict(history)


def _quantities(history: History) -> dict[str, _Quantity]:
    """Join the training and validation series of each quantity; values per step are left out."""
    found: dict[str, _Quantity] = {}
    for key, logged in history.items():
        epochs, values = _series(logged)
        if STEP.search(key) or not len(values):
            continue
        match = PART.search(EPOCH.sub("", key))
        part = "validation" if match is not None and "val" in match.group() else "train"
        name = PART.sub("", EPOCH.sub("", key))
        found.setdefault(name, _Quantity(name)).parts[part] = (epochs, values)
    return found


def _series(logged: object) -> tuple[FloatArray, FloatArray]:
    """Epochs and values of one logged quantity, without those missing because nothing was computed then."""
    if isinstance(logged, pd.DataFrame):
        logged = logged.iloc[:, 0]
    series = logged if isinstance(logged, pd.Series) else pd.Series(np.asarray(logged).ravel())
    values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64)
    epochs = series.index.to_numpy(dtype=np.float64)
    finite = np.isfinite(values)
    return epochs[finite], values[finite]


def _choose(quantities: dict[str, _Quantity], metrics: Sequence[str] | None) -> list[_Quantity]:
    if metrics is None:
        varying = [q for q in quantities.values() if np.ptp(q.values) > 0]
        # objectives first, then what they are made of
        chosen = sorted(varying or quantities.values(), key=lambda q: not q.is_objective)
        if not chosen:
            raise NotTrainedError("The training history holds no value per epoch.")
        return chosen
    names = entries.names("metrics", metrics)
    for name in names:
        if name not in quantities:
            raise unknown_category("metric", name, quantities)
    return [quantities[name] for name in names]


def _draw(ax: Axes, quantity: _Quantity) -> None:
    for part in sorted(quantity.parts):  # training first, in any order of the log
        epochs, values = quantity.parts[part]
        marker = "o" if len(values) == 1 else None
        ax.plot(epochs, values, color=COLORS[part], label=part, linewidth=1.5, marker=marker, markersize=4)
    if quantity.falls_far():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set_title(quantity.name.replace("_", " "), fontsize="medium")
    ax.set_xlabel("epoch")
    hide_frame(ax)
    if "validation" in quantity.parts:
        if quantity.is_objective:
            _mark_best(ax, *quantity.parts["validation"])
        ax.legend(frameon=False, fontsize="small")


def _mark_best(ax: Axes, epochs: FloatArray, values: FloatArray) -> None:
    """Mark the lowest value and write it in the legend, away from the lines."""
    best = int(np.argmin(values))
    ax.plot(
        epochs[best],
        values[best],
        "o",
        color=COLORS["validation"],
        markersize=6,
        markeredgecolor="white",
        zorder=4,
        label=f"best: {values[best]:.4g}, epoch {epochs[best]:g}",
    )
