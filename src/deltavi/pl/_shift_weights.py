"""Weights of training labels in a prediction, and its uncertainty."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from deltavi import _keys
from deltavi._entries import require_anndata
from deltavi._errors import DeltaviError, InputDataError, examples, unknown_category
from deltavi._former_names import current_record
from deltavi._reading import known_arguments
from deltavi._types import State
from deltavi.pl._figure import DARK, PALE, VERMILION, PlotResult, SaveTarget, axes_for, figure_file, finish
from deltavi.pl._heat_map import heat_map, write_cells

COLUMNS = ("query", "training_label", "weight")
# Of a cell of the map and of a character, in inches.
CELL_WIDTH, CELL_HEIGHT, CHARACTER_WIDTH = 0.46, 0.34, 0.085
WORDS_HEIGHT, UNCERTAINTY_WIDTH, MIN_WIDTH = 1.0, 1.8, 2.0
# Of the colour scale: where white is easier to read than dark grey.
DARK_ABOVE = 0.55
# Smaller weights are drawn, but not written: most of the map would be zeros.
MIN_WEIGHT = 0.005
# Position of the columns of uncertainties, in points right of the map, and the distance between them.
GAP, COLUMN_WIDTH = 8.0, 60.0


@known_arguments
def shift_weights(
    predicted: AnnData | pd.DataFrame,
    *,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the weight of every training label in the shift of every label that was predicted, as a heat map.

    A row per label of the query, a column per training label. Weights sum to one in each row, once for every
    condition that a perturbation joins; red ones add the response of the label, blue ones, which kriging may give, take
    it away. On the right stand the uncertainty of the prediction and the largest of a training label that the others
    predict. An uncertainty above that is set in bold and colour, for such a prediction is an extrapolation.

    Parameters
    ----------
    predicted
        Predicted cells with uns ``"deltavi"``, or the table of weights alone: columns ``query``, ``training_label``
        and ``weight``.
    title
        Title of the plot; when None, the estimator and the perturbation if they are known.
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
    InputDataError
        If `predicted` is no prediction, or weights are missing, infinite or repeated.
    DeltaviError
        If there are no weights to draw.
    """
    save = figure_file(save)
    found = _weights(predicted)
    table, uncertainty = found.table, found.uncertainty
    (panel,) = axes_for(1, ax, panel_size=_size(found), left=CHARACTER_WIDTH * max(map(len, table.index)))
    _draw(panel, table)
    for boundary in found.boundaries:
        panel.axvline(boundary, color=DARK, linewidth=0.8)
    if uncertainty is not None:
        _write_uncertainty(panel, uncertainty)
    heading = found.heading if title is None else title
    if heading:
        panel.set_title(textwrap.fill(heading, 60), fontsize="medium", pad=18 if uncertainty is not None else None)
    return finish([panel], made_here=ax is None, show=show, save=save)


@dataclass(frozen=True, eq=False)
class _Weights:
    """Weights, queries by training labels, what is known of their uncertainty, and where columns of conditions end."""

    table: pd.DataFrame
    uncertainty: pd.DataFrame | None = None
    boundaries: tuple[float, ...] = ()
    heading: str = ""


def _weights(predicted: AnnData | pd.DataFrame) -> _Weights:
    if isinstance(predicted, pd.DataFrame):
        return _Weights(_wide(predicted))
    if isinstance(predicted, AnnData):
        require_anndata(predicted, name="predicted")
    kept = predicted.uns.get(_keys.UNS_PREDICTION) if isinstance(predicted, AnnData) else None
    held = current_record(kept) if isinstance(kept, Mapping) else {}
    if "weights" not in held:
        raise InputDataError(
            "predicted must be an AnnData with uns['deltavi']['weights'], as predict_perturbation returns it, or such "
            f"a table of weights, not {'one without' if isinstance(predicted, AnnData) else type(predicted).__name__}."
        )
    table, perturbation = _wide(pd.DataFrame(held["weights"])), str(held.get("perturbation", ""))
    parts = [part.strip() for part in perturbation.split("+")]
    heading = f"weights of the {held.get('shift', 'latent')} shift, {perturbation}" if perturbation else ""
    return _Weights(table, _uncertainty(held, table), _boundaries(list(table.columns), parts), heading)


def _wide(weights: pd.DataFrame) -> pd.DataFrame:
    """Queries by training labels, in the order of the table; zero where a label has no weight."""
    for column in COLUMNS:
        if column not in weights:
            raise unknown_category("column", column, weights.columns, among="the table of weights")
    if weights.empty:
        raise DeltaviError("The table of weights is empty: no cell was predicted.")
    wrong = weights[~np.isfinite(weights["weight"].to_numpy(dtype=np.float64))]
    if len(wrong):
        raise InputDataError(f"Weights of {examples(wrong['training_label'])} are missing or infinite.")
    names = weights[["query", "training_label"]].astype(str)
    if names.duplicated().any():
        repeated = names[names.duplicated()].agg(" from ".join, axis=1)
        raise InputDataError(f"The table of weights holds {examples(repeated)} more than once.")
    wide = weights.assign(**names).pivot(index="query", columns="training_label", values="weight").fillna(0.0)
    return wide.loc[names["query"].unique(), names["training_label"].unique()]


def _uncertainty(held: State, table: pd.DataFrame) -> pd.DataFrame | None:
    """Uncertainties of the queries drawn, in their order; None where the prediction has none."""
    if "uncertainty" not in held:
        return None
    uncertainty = pd.DataFrame(held["uncertainty"])
    return uncertainty.set_index(uncertainty["query"].astype(str))[["uncertainty", "max_training_uncertainty"]].reindex(
        table.index
    )


def _boundaries(columns: list[str], parts: list[str]) -> tuple[float, ...]:
    """Positions between the training labels of two conditions, if a perturbation joins several."""
    of = [next((part for part in parts if column.endswith(f" ({part})")), "") for column in columns]
    if len(parts) < 2:
        return ()
    return tuple(i - 0.5 for i in range(1, len(of)) if of[i] != of[i - 1])


def _size(found: _Weights) -> tuple[float, float]:
    """Width and height of a new figure, in inches, without the names of queries."""
    n_rows, n_columns = found.table.shape
    height = CELL_HEIGHT * max(n_rows, 2) + WORDS_HEIGHT + 0.75 * CHARACTER_WIDTH * max(map(len, found.table.columns))
    width = max(MIN_WIDTH, CELL_WIDTH * n_columns) + (0.0 if found.uncertainty is None else UNCERTAINTY_WIDTH)
    return width, height


def _draw(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the map and write the weights into it."""
    weights = table.to_numpy()
    largest = max(1.0, float(np.abs(weights).max()))
    heat_map(ax, table, largest=largest, signed=True)
    ax.set(xlabel="training label", ylabel="predicted label")
    ax.set_xticks(np.arange(1, weights.shape[1]) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, weights.shape[0]) - 0.5, minor=True)
    ax.grid(which="minor", color=PALE, linewidth=0.6)
    texts = np.array([[f"{w:.2f}" if abs(w) >= MIN_WEIGHT else "" for w in row] for row in weights])
    write_cells(ax, texts, np.abs(weights) > DARK_ABOVE * largest)


def _write_uncertainty(ax: Axes, uncertainty: pd.DataFrame) -> None:
    """Write the uncertainty, and the largest of a training label, beside every row."""
    for k, heading in enumerate(("uncertainty", "training")):
        _write(ax, heading, k, (1, 1), ("axes fraction", "axes fraction"), va="bottom")
    for i, (own, largest) in enumerate(uncertainty.to_numpy(dtype=np.float64)):
        far = {"fontweight": "bold", "color": VERMILION} if own > largest else {"color": DARK}
        _write(ax, _number(own), 0, (1, i), ("axes fraction", "data"), va="center", **far)
        _write(ax, _number(largest), 1, (1, i), ("axes fraction", "data"), va="center", color=DARK)


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "unknown"


def _write(ax: Axes, text: str, column: int, xy: tuple[float, float], xycoords: tuple[str, str], **style: Any) -> None:
    """Write into one of the columns right of the map."""
    offset = (GAP + COLUMN_WIDTH * column, 3 if style["va"] == "bottom" else 0)
    ax.annotate(text, xy=xy, xycoords=xycoords, xytext=offset, textcoords="offset points", fontsize="small", **style)
