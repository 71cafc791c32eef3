"""Sizes of a module that follow from the registered data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._types import State

if TYPE_CHECKING:
    from deltavi.model._base import CountModel


def data_dimensions(model: CountModel) -> State:
    """Numbers of genes, batches, labels, conditions and covariates, by the arguments of a module."""
    stats = model.summary_stats
    return {
        "n_input": stats.n_vars,
        "n_batch": stats.n_batch,
        "n_labels": stats.n_labels,
        "n_conditions": max(1, len(model._categories(_keys.CONDITION))),
        "n_continuous_cov": stats.get("n_extra_continuous_covs", 0),
        "n_cats_per_cov": tuple(model._state(REGISTRY_KEYS.CAT_COVS_KEY).get("n_cats_per_key", ())),
    }
