"""Part of a model: means of its training cells by condition and label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._text import as_text
from deltavi._types import State
from deltavi.model._asked import conditions_of, totals_of
from deltavi.model._group_sums import Groups
from deltavi.model._one_pass import encoded
from deltavi.model._training_means import ExpressionSums, TrainingMeans
from deltavi.model.recipe import Part

if TYPE_CHECKING:
    from deltavi.model._base import CountModel
    from deltavi.model._responds import Responds

CATEGORY_KEYS = (_keys.CONDITION, REGISTRY_KEYS.LABELS_KEY)


def _fit(model: Responds) -> None:
    if model._setup_argument("condition_key") is None:
        return
    adata, labels_key = model._validate_anndata(), model._setup_argument("labels_key")
    groups = Groups(conditions_of(model, adata), None if labels_key is None else model._groups(adata, adata))
    totals = totals_of(model, adata) if model.module.of_counts else None
    sums = ExpressionSums(groups, len(model.gene_names), totals=totals)
    positions = encoded(model, adata, np.arange(adata.n_obs), sums.add)
    own = TrainingMeans.from_sums(positions, sums, has_labels=labels_key is not None)
    model.training_means = own if model.reference_means is None else model.reference_means.joined(own)


def _saved(model: Responds) -> State:
    return {} if model.training_means is None else {"training_means": model.training_means.as_dict()}


def _restore(model: Responds, extra: State) -> None:
    if "training_means" in extra:
        # older files have whole numbers with the decimals that pandas gave them
        renamed = {str(c): as_text(c) for key in CATEGORY_KEYS for c in model._categories(key)}
        model.training_means = TrainingMeans.from_dict(extra["training_means"]).renamed(renamed)


def _map(model: Responds, reference: CountModel) -> None:
    # cells of the reference still show how labels respond
    model.reference_means = getattr(reference, "training_means", None)


MEANS: Part[Responds] = Part("training_means", fit=_fit, saved=_saved, restore=_restore, mapped=_map)
