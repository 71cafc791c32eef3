"""How the objective and its parts went during training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from deltavi._errors import NotTrainedError, unknown_category
from deltavi.pl._figure import BLUE, DARK, VERMILION, PlotResult, SaveTarget, axes_for, finish, hide_frame

FloatArray = NDArray[np.float64]
History: TypeAlias = Mapping[str, Any]

# How the names of logged quantities tell training from validation, whoever logged them.
PART = re.compile(r"^(train|validation|val)_|_(train|validation|val)$")
STEP = re.compile(r"_step$")
EPOCH = re.compile(r"_epoch$")
COLORS = {"train": BLUE, "validation": VERMILION}
# Where the largest value is so many times the smallest, only a logarithmic axis shows both ends.
LOG_ABOVE = 30.0


@dataclass
class _Quantity:
    """One quantity: for ``train`` and ``validation``, the epochs and the values, each of shape ``(n_epochs,)``."""

    name: str
    parts: dict[str, tuple[FloatArray, FloatArray]] = field(default_factory=dict)

    @property
    def values(self) -> FloatArray:
        """All values of all parts."""
        return np.concatenate([values for _, values in self.parts.values()])


def training_history(
    model_or_history: Any,
    *,
    metrics: Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw what was logged in training, epoch by epoch, one panel per quantity.

    Training and validation share a panel; the best validation value is marked. The axis is logarithmic where values
    span more than a factor of thirty.

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
    quantities = _choose(_quantities(_history_of(model_or_history)), metrics)
    axes = axes_for(len(quantities), ax, panel_size=(3.4, 2.7), n_columns=3)
    for panel, quantity in zip(axes, quantities, strict=True):
        _draw(panel, quantity)
    axes[0].legend(frameon=False, fontsize="small")
    return finish(axes, made_here=ax is None, show=show, save=save)


def _history_of(model_or_history: Any) -> History:
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


def _series(logged: Any) -> tuple[FloatArray, FloatArray]:
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
        chosen = varying or list(quantities.values())
        if not chosen:
            raise NotTrainedError("The training history holds no value per epoch.")
        return chosen
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in names:
        if name not in quantities:
            raise unknown_category("metric", name, quantities)
    return [quantities[name] for name in names]


def _draw(ax: Axes, quantity: _Quantity) -> None:
    for part, (epochs, values) in quantity.parts.items():
        marker = "o" if len(values) == 1 else None
        ax.plot(epochs, values, color=COLORS[part], label=part, linewidth=1.5, marker=marker, markersize=4)
    smallest, largest = quantity.values.min(), quantity.values.max()
    if smallest > 0 and largest > LOG_ABOVE * smallest:
        ax.set_yscale("log")
    ax.set_title(quantity.name.replace("_", " "), fontsize="medium")
    ax.set_xlabel("epoch")
    ax.margins(x=0.02)
    hide_frame(ax)
    _mark_best(ax, quantity)


def _mark_best(ax: Axes, quantity: _Quantity) -> None:
    """Mark the lowest validation value of an objective; of other quantities, lower need not be better."""
    if "validation" not in quantity.parts or not re.search(r"loss|elbo", quantity.name):
        return
    epochs, values = quantity.parts["validation"]
    best = int(np.argmin(values))
    ax.plot(epochs[best], values[best], "o", color=VERMILION, markersize=5, markeredgecolor="white", zorder=4)
    ax.annotate(
        f"best: {values[best]:.4g}, epoch {epochs[best]:g}",
        xy=(epochs[best], values[best]),
        xytext=(0, 14),
        textcoords="offset points",
        ha="right" if best > len(values) / 2 else "left",
        fontsize="small",
        color=DARK,
    )
