"""Responses that are asked for and were among the training cells: what they weigh in the answer, and a warning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._errors import NotHeldOutWarning, examples
from deltavi._types import State
from deltavi.model._empirical_response import ResponseEvidence
from deltavi.model._question import Question
from deltavi.model.request import Request
from deltavi.perturbation.estimators import ALL_CELLS
from deltavi.registry.columns import category_names
from deltavi.registry.names import sorted_names

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

logger = logging.getLogger("deltavi")

# Shifts that no training label has a part in.
NOT_OF_LABELS = ("vector", "none")
_held_out_by_caller: ContextVar[bool] = ContextVar("held_out_by_caller", default=False)


@contextmanager
def held_out_by_caller() -> Iterator[None]:
    """Warn of nothing: cells were held out by a split that the model does not know."""
    token = _held_out_by_caller.set(True)
    try:
        yield
    finally:
        _held_out_by_caller.reset(token)


def own_weights(
    model: Responds, request: Request, question: Question, how: State, evidence: ResponseEvidence | None
) -> pd.DataFrame:
    """Weight of each group's own treated cells in its answer, a row per group; NaN where it is not known."""
    groups = [str(group) for group in dict.fromkeys(request.groups)]
    share = 0.0 if evidence is None else evidence.share
    measured = {} if evidence is None else evidence.estimates
    in_shift = {group: _weight_in_shift(model, group, question.perturbation.name, how) for group in groups}
    in_mean = {group: estimate.own_weight for group, estimate in measured.items()}
    own = [(1 - share) * in_shift[group] + share * in_mean.get(group, 0.0) for group in groups]
    table = pd.DataFrame({"query": groups, "own_weight": np.asarray(own, dtype=np.float64)})
    table.index = table.index.astype(str)
    return table


def _measured(model: Responds, perturbation: str) -> dict[str, int]:
    """Treated training cells of each label; of all cells together where there are no labels."""
    means = model.training_means
    if means is None or perturbation not in means.positions:
        return {}
    return {str(label): n for label, n in means.positions[perturbation].counts().items()}


def _weight_in_shift(model: Responds, group: str, perturbation: str, how: State) -> float:
    measured = _measured(model, perturbation)
    if group not in measured or how["shift"] in NOT_OF_LABELS:
        return 0.0
    if "weights" not in how:
        return float("nan")  # the networks have seen those cells, and nothing says how much they took from them
    table = how["weights"]
    rows = table[table["query"] == group]
    if (rows["training_label"] == ALL_CELLS).all():
        return measured[group] / sum(measured.values())
    return float(rows.loc[rows["training_label"] == group, "weight"].sum())


def described_groups(
    model: Responds, request: Request, perturbation: str, own: pd.DataFrame
) -> tuple[list[str], list[str]]:
    """Groups whose own treated cells weigh in their answer, and of those the ones whose cells are training cells.

    Both are empty where they were held out by a split that the model does not know.
    """
    weights = dict(zip(own["query"], own["own_weight"], strict=True))
    measured = [group for group in weights if group in _measured(model, perturbation) and weights[group] != 0]
    if not measured or _held_out_by_caller.get():
        return [], []
    described = _described(model, request, perturbation)
    return measured, [group for group in measured if group in described]


def warn_of_own_cells(model: Responds, request: Request, perturbation: str, own: pd.DataFrame) -> None:
    """Warn where the answer describes the training cells; log it where the cells are others."""
    measured, found = described_groups(model, request, perturbation, own)
    if not measured:
        return
    weights = dict(zip(own["query"], own["own_weight"], strict=True))
    listed = examples([f"{group!r} ({_percent(weights[group])})" for group in found or measured], 10).replace('"', "")
    if not found:
        logger.info(
            "Cells of these labels under %r, of other donors perhaps, were among the training cells, and have this "
            "weight in the answer: %s.",
            perturbation,
            listed,
        )
        return
    warnings.warn(
        f"Measured cells under {perturbation!r} of the labels asked for were among the training cells, and weigh "
        f"in the answer: {listed}. It describes them rather than predicts them. To predict, hold them out: "
        f"{_lines(model, found, perturbation)} deltavi.tl.predict_held_out does all of it.",
        NotHeldOutWarning,
        stacklevel=5,
    )


def _lines(model: Responds, labels: list[str], perturbation: str) -> str:
    condition, key = model._setup_argument("condition_key"), model._setup_argument("labels_key")
    of_labels = "" if key is None else f"adata.obs[{key!r}].isin({labels[:3]!r}) & "
    mask = f"measured = {of_labels}(adata.obs[{condition!r}] == {perturbation!r})"
    manager = model._adata_manager
    if manager is not None and manager.reads_rows:
        # a backed AnnData cannot be copied
        return f"{mask}; then set up a new model and call train(train_indices=np.flatnonzero(~measured))."
    return f"{mask}; then set up and train on adata[~measured].copy()."


def _described(model: Responds, request: Request, perturbation: str) -> set[str]:
    """Groups of the request some of whose cells are training cells with treated ones beside them.

    Beside them means of the same label and, where batches are registered, of the same batch.
    """
    training = model._adata
    if training is None:
        return set()
    cells = request.adata.obs.iloc[request.cells]
    if request.adata is training:
        known = np.ones(len(cells), dtype=bool)
    else:
        known = cells.index.astype(str).isin(sorted_names(training.obs_names))
    labels, batches = ("labels_key", REGISTRY_KEYS.LABELS_KEY), ("batch_key", REGISTRY_KEYS.BATCH_KEY)
    treated = _text(model, training.obs, "condition_key", _keys.CONDITION) == perturbation
    seen = (_text(model, training.obs, *names)[treated] for names in (labels, batches))
    pairs = set(zip(*seen, strict=True))
    asked = set(zip(request.groups[known], _text(model, cells, *batches)[known], strict=True))
    return {str(group) for group, batch in asked if (group, batch) in pairs}


def _text(model: Responds, obs: pd.DataFrame, argument: str, registry_key: str) -> np.ndarray:
    """Registered column of obs as text, or the same word for every cell where there is none."""
    key = model._setup_argument(argument)
    if key is None or key not in obs:
        return np.full(len(obs), ALL_CELLS, dtype=object)
    return category_names(obs[key], model._categories(registry_key))


def _percent(weight: float) -> str:
    return "an unknown weight" if np.isnan(weight) else f"{weight:.0%}"
