"""Cells and conditions of a prediction, found among those that are given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import one_name
from deltavi._errors import DeltaviError, UnknownCategoryError, examples
from deltavi._text import as_text
from deltavi.model._question import Condition
from deltavi.model.request import Request, of_labels
from deltavi.perturbation.combination import parts_of
from deltavi.perturbation.estimators import ALL_CELLS
from deltavi.registry.columns import category_names, column, require_known, used_categories
from deltavi.registry.conditions import same_condition
from deltavi.registry.covariates import SizeFactorField, are_relative
from deltavi.registry.leftovers import require_free_sources
from deltavi.registry.tables import require_cells
from deltavi.registry.valid_cells import valid_cells

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

logger = logging.getLogger("deltavi")

BATCH_SIZE = 512


def condition_key(model: Responds) -> str:
    """Column of obs with the condition."""
    key = model._setup_argument("condition_key")
    if key is None:
        raise DeltaviError("No condition was registered: pass condition_key to setup_anndata.")
    return str(key)


def conditions_asked(model: Responds, control: object, perturbation: object) -> tuple[Condition, Condition]:
    """Control and perturbation, as the model has them."""
    condition_key(model)
    known = model._categories(_keys.CONDITION)
    control, perturbation = (
        one_name(name, value, model.perturbation_names)
        for name, value in (("control", control), ("perturbation", perturbation))
    )
    start = require_known("condition", control, known)
    end = same_condition(perturbation, model.perturbation_names) or as_text(perturbation)
    if start == end:
        raise DeltaviError(f"control and perturbation are both {start!r}: there is nothing to predict.")
    return model._condition(start), _combined(model, start, end)


def _combined(model: Responds, control: str, perturbation: str) -> Condition:
    """Perturbation with the measured conditions that it consists of."""
    parts = parts_of(perturbation, model.perturbation_names, control=control)
    if len(parts) == 1:
        return model._condition(parts[0])
    if model.knows_conditions:
        raise DeltaviError(
            f"{perturbation!r} was not measured, and this model decodes by condition: it cannot join "
            f"{examples(parts, len(parts))}. Use a model without condition_in_decoder or conditional."
        )
    return Condition(perturbation, parts, 0)


def request_of(
    model: Responds, adata: AnnData | None, *, control: str, labels: str | Sequence[str] | None, drop: bool
) -> Request:
    """Cells to predict among those that are given, or those of the model."""
    adata = None if adata is None else require_cells(adata)
    source = model._validate_anndata() if adata is None else adata
    require_free_sources(source.obs, model._categories(_keys.CONDITION), key=condition_key(model))
    if adata is not None and drop:
        source = _without_invalid(model, adata)
    # once, for groups, positions and expression
    aligned = model._validate_anndata(None if adata is None else source)
    key, groups = condition_key(model), model._groups(source, aligned)
    chosen = of_labels(groups, labels)
    if key in source.obs:
        conditions = conditions_of(model, source)
        chosen = chosen & (conditions == control)
        if source.n_obs and not chosen.any():
            present = examples(sorted(set(conditions[of_labels(groups, labels)])), 10)
            among = "" if labels is None else f" among the cells of {labels!r}"
            raise UnknownCategoryError(
                f"No cell{among} has obs[{key!r}] == {control!r}: there is nothing to start from. "
                f"Conditions of those cells: {present}."
            )
    cells = np.flatnonzero(chosen)
    totals = totals_of(model, aligned, cells)
    return Request(adata=aligned, cells=cells, groups=groups[cells], totals=totals, loaded=model._cells(aligned))


def _without_invalid(model: Responds, adata: AnnData) -> AnnData:
    layer, counts = model._setup_argument("layer"), model.module.of_counts
    good = valid_cells(adata, layer=layer, counts=counts)
    if good.all():
        return adata
    logger.info("%d of %d cells hold unusable values and are left out.", int((~good).sum()), adata.n_obs)
    return adata[good]


def groups_of(model: Responds, adata: AnnData) -> np.ndarray:
    """Label of each cell as text, or one group for all where there is no label column."""
    key = model._setup_argument("labels_key")
    if key is None or key not in adata.obs:
        return np.full(adata.n_obs, ALL_CELLS, dtype=object)
    return names_in(model, adata, key, REGISTRY_KEYS.LABELS_KEY)


def conditions_of(model: Responds, adata: AnnData) -> np.ndarray:
    """Condition of each cell as text, ``(n_cells,)``."""
    return names_in(model, adata, condition_key(model), _keys.CONDITION)


def names_in(model: Responds, adata: AnnData, key: str, registry_key: str) -> np.ndarray:
    values = column(adata, key)
    used_categories(values, key)  # raises where values are missing
    return category_names(values, model._categories(registry_key))


def positions_of(model: Responds, adata: AnnData, cells: np.ndarray) -> np.ndarray:
    """Latent posterior means, ``(n_cells, n_latent)``."""
    if len(cells) == 0:
        return np.zeros((0, model.module.n_latent), dtype=np.float32)
    return np.asarray(model.get_latent_representation(adata, indices=cells, batch_size=BATCH_SIZE))


def totals_of(model: Responds, adata: AnnData, cells: np.ndarray | None = None) -> np.ndarray:
    """Total counts of `cells`, in increasing order, or of all: the registered size factor, or the sum over the genes.

    Relative size factors, such as pooled estimates around one, count in the unit of the training cells, so that
    the total of a cell does not depend on which others are asked about.
    """
    key = model._setup_argument("size_factor_key")
    manager = model._manager_of(adata)
    if key is None:
        return manager.cell_totals(cells)
    given = np.asarray(adata.obs[key], dtype=np.float64)
    state = model._state(REGISTRY_KEYS.SIZE_FACTOR_KEY)
    if SizeFactorField.UNIT_KEY in state:
        given = given * float(state[SizeFactorField.UNIT_KEY])
    else:  # a file of a version that did not keep it
        counted = manager.cell_totals()
        given = given * (counted.mean() / given.mean()) if are_relative(given, counted) else given
    return given if cells is None else given[cells]
