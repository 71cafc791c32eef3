"""Pairs of a prediction of many perturbations: their record, and the answer for one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi import _keys
from deltavi._entries import names
from deltavi._errors import InputDataError
from deltavi._reading import known_arguments
from deltavi.get._record import PAIRS, held_by, is_of_many
from deltavi.perturbation.estimators import storable
from deltavi.registry.columns import require_known

COLUMNS = (_keys.VARM_CHANGE, _keys.VARM_LOWER, _keys.VARM_UPPER)
# Tables of a record with a row for each pair, and what of them is known of a pair.
OF_PAIRS = {"own_weights": ("own_weight",), "uncertainty": ("uncertainty", "max_training_uncertainty")}


@known_arguments
def predictions(predicted: AnnData) -> pd.DataFrame:
    """Record of every pair of a perturbation and a context that was predicted.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbations`` or ``predict_perturbation`` returns them.

    Returns
    -------
    A row for each pair, with columns ``perturbation``, ``context`` and ``n_cells``; ``own_weight``, the weight of the
    pair's own treated cells in the answer; with labels ``uncertainty`` and ``max_training_uncertainty``, see
    :func:`uncertainty`; and, where genes were predicted by measured responses, ``response_uncertainty``,
    ``expected_skill`` and ``flags``, see :class:`deltavi.perturbation.ResponsePrediction`.

    Raises
    ------
    InputDataError
        If the cells are no prediction.

    Examples
    --------
    >>> deltavi.get.predictions(predicted).nlargest(3, "uncertainty")  # doctest: +SKIP
    """
    held = held_by(predicted)
    pairs = _pairs(held, predicted)
    keys = list(zip(pairs["perturbation"], pairs["context"], strict=True))
    for name, columns in OF_PAIRS.items():
        if name in held:
            table = pd.DataFrame(held[name])
            given = table.get("perturbation", pd.Series(held.get("perturbation"), index=table.index)).astype(str)
            places = pd.MultiIndex.from_arrays([given, table["query"].astype(str)])
            for column in columns:
                pairs[column] = pd.Series(table[column].to_numpy(dtype=float), index=places).reindex(keys).to_numpy()
    own = [name for name in pairs if name not in ("response_uncertainty", "expected_skill", "flags")]
    return pairs[[*own, *(name for name in pairs if name not in own)]]


@known_arguments
def prediction(
    predicted: AnnData, perturbation: str, *, contexts: str | Sequence[str] | None = None, controls: bool = False
) -> AnnData:
    """Answer for one perturbation among many, as ``predict_perturbation`` returns it.

    Parameters
    ----------
    predicted
        Predicted cells, as ``predict_perturbations`` returns them, in memory or backed by a file.
    perturbation
        One of the perturbations.
    contexts
        Contexts to keep; by default all.
    controls
        Also keep the control cells.

    Returns
    -------
    AnnData in memory, whose varm and uns are those of one prediction, so that plots of the responses of its labels and
    the tables of this module are of it alone.

    Raises
    ------
    InputDataError
        If the cells are no prediction of many perturbations.
    UnknownCategoryError
        If the perturbation or a context was not predicted.

    Examples
    --------
    >>> one = deltavi.get.prediction(predicted, "A", contexts="B")  # doctest: +SKIP
    >>> deltavi.pl.response_intervals(one)  # doctest: +SKIP
    """
    held = held_by(predicted)
    if not is_of_many(held):
        raise InputDataError("The cells are a prediction of one perturbation: predict_perturbations answers for many.")
    pairs = _pairs(held, predicted)
    name = require_known("perturbation", perturbation, list(dict.fromkeys(pairs["perturbation"])))
    known = list(dict.fromkeys(pairs["context"]))
    kept = known if contexts is None else [require_known("context", one, known) for one in names("contexts", contexts)]
    chosen = np.flatnonzero((pairs["perturbation"] == name) & pairs["context"].isin(kept))
    cells = _cells(predicted, pairs, chosen, controls)
    found = predicted[cells].to_memory()
    found = found.copy() if found.is_view else found
    labels = pairs["context"].iloc[chosen]
    for key in COLUMNS:
        if key in found.varm:
            columns = pd.Index([storable(label) for label in labels])
            found.varm[key] = pd.DataFrame(np.asarray(found.varm[key])[:, chosen], found.var_names, columns)
    found.uns[_keys.UNS_PREDICTION] = _record_of(held, name, set(labels))
    return found


def _pairs(held: Mapping[str, Any], predicted: AnnData) -> pd.DataFrame:
    """Perturbation, context and number of cells of each pair."""
    if is_of_many(held):
        table = pd.DataFrame(held[PAIRS]).reset_index(drop=True)
        texts = [name for name in ("perturbation", "context", "flags") if name in table]
        return table.assign(**{name: table[name].astype(str) for name in texts})
    own = held.get("own_weights")
    labels = ["all"] if own is None else pd.DataFrame(own)["query"].astype(str).tolist()
    sizes = _sizes(predicted, labels)
    return pd.DataFrame({"perturbation": str(held["perturbation"]), "context": labels, "n_cells": sizes})


def _sizes(predicted: AnnData, labels: list[str]) -> list[int]:
    """Cells of each label, where a column of obs has just these."""
    if len(labels) == 1:
        return [predicted.n_obs]
    for name in predicted.obs:
        values = predicted.obs[name].astype(str)
        if set(values.unique()) == set(labels):
            return [int((values == label).sum()) for label in labels]
    return [-1] * len(labels)


def _cells(predicted: AnnData, pairs: pd.DataFrame, chosen: np.ndarray, controls: bool) -> np.ndarray:
    """Positions of the cells of some pairs, which stand in the order of the pairs, after the controls of a context."""
    is_control = ~predicted.obs[_keys.OBS_PREDICTED].to_numpy(dtype=bool)
    sizes, contexts = pairs["n_cells"].to_numpy(dtype=int), pairs["context"].to_numpy()
    if sizes.sum() != (~is_control).sum():
        raise InputDataError(
            f"The record is of {sizes.sum()} predicted cells, and there are {(~is_control).sum()}: read the answer for "
            "one perturbation before cells are left out or joined."
        )
    pair_of = np.full(predicted.n_obs, -1)
    pair_of[~is_control] = np.repeat(np.arange(len(pairs)), sizes)
    kept = np.isin(pair_of, chosen)
    if controls:
        # control cells come before the first pair of their context
        following = pd.Series(np.where(is_control, np.nan, pair_of)).bfill().to_numpy()
        kept |= is_control & np.isin(contexts[following.astype(int)], contexts[chosen])
    return np.flatnonzero(kept)


def _record_of(held: Mapping[str, Any], perturbation: str, contexts: set[str]) -> dict[str, Any]:
    """Record of one perturbation among those of many."""
    found: dict[str, Any] = {"perturbation": perturbation}
    for name, entry in held.items():
        if name in ("perturbations", PAIRS):
            continue
        if not isinstance(entry, pd.DataFrame):
            found[name] = entry
            continue
        rows = entry[(entry["perturbation"].astype(str) == perturbation) & entry["query"].astype(str).isin(contexts)]
        rows = rows.drop(columns="perturbation").reset_index(drop=True)
        rows.index = rows.index.astype(str)
        found[name] = rows.set_index("query") if name == "vectors" else rows
    return found
