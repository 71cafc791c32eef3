"""Checks of what a mixture is set up with and asked about."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import keywords_of, known_keywords
from deltavi._errors import DeltaviError, InputDataWarning, KeyClashError, UnseenCategoryWarning, examples
from deltavi._types import State
from deltavi.model._classification import check_label_names
from deltavi.model._vae import settings_of
from deltavi.registry.manager import DataManager

if TYPE_CHECKING:
    from deltavi.model._mixvi import MIXVI


def check_condition(model: MIXVI) -> None:
    """Raise where there is no condition to decode by; warn where there is one only."""
    if model._setup_argument("condition_key") is None:
        raise DeltaviError(
            "conditional=True and w_prior='learned' need a condition: pass condition_key to setup_anndata."
        )
    conditions = model._categories(_keys.CONDITION)
    if len(conditions) == 1:
        warnings.warn(
            f"obs[{model._setup_argument('condition_key')!r}] holds one condition only, {conditions[0]!r}: nothing "
            "moves with it.",
            InputDataWarning,
            stacklevel=4,
        )


def warn_of_unknown_conditions(model: MIXVI, manager: DataManager) -> None:
    """Warn of cells of a query whose condition the model does not know."""
    n_unknown = int((np.asarray(manager.get_from_registry(_keys.CONDITION)) < 0).sum())
    if n_unknown:
        warnings.warn(
            f"{n_unknown} cells have no condition that training saw; to the model they are of the average one. "
            f"Known are {examples(model._categories(_keys.CONDITION), 10)}.",
            UnseenCategoryWarning,
            stacklevel=4,
        )


def check_labels(model: MIXVI) -> None:
    """Raise where labels are to be dropped and there are none, or one has a name that means something else."""
    if model.has_labels:
        check_label_names(model)
        _check_component_names(model)
    elif model.drop_labels_after is not None:
        raise DeltaviError("drop_labels_after drops labels, and the model was set up without: pass labels_key.")


def _check_component_names(model: MIXVI) -> None:
    """Raise where a label could be taken for a free component."""
    free = {f"component {k}" for k in range(model.module.n_components)}
    taken = sorted(free & set(model._categories(REGISTRY_KEYS.LABELS_KEY)) if model.has_labels else ())
    if taken:
        raise KeyClashError(f"{examples(taken)} are names of components without a label: rename these labels.")


def setup_of_clusters(cls: type[MIXVI], adata: AnnData, key: str, kwargs: State) -> State:
    """Arguments of ``setup_anndata`` taken out of `kwargs`, for clusters named in a column of obs."""
    if taken := {"labels_key", "unlabeled_category"} & set(kwargs):
        raise DeltaviError(f"{examples(sorted(taken))} cannot be given: obs[{key!r}] names the clusters of all cells.")
    of_setup = [name for name in keywords_of(cls.setup_anndata) if name != "adata"]
    known_keywords(kwargs, [*of_setup, *settings_of(cls)], among=f"{cls.__name__}.from_clusters")
    if key in adata.obs and (missing := adata.obs[key].isna().to_numpy()).any():
        raise DeltaviError(
            f"{int(missing.sum())} cells have no value in obs[{key!r}] (for example "
            f"{examples(adata.obs_names[missing])}): cluster all cells, or leave these out."
        )
    return {name: kwargs.pop(name) for name in set(of_setup) & set(kwargs)}
