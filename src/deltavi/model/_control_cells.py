"""Control cells that many perturbations are predicted of: selected, aligned and checked once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from deltavi._entries import names
from deltavi._errors import DeltaviError, InputDataError, UnknownCategoryError, examples, unknown_category
from deltavi._text import meant, names_of
from deltavi._types import State
from deltavi.model._asked import condition_key, conditions_of, request_of
from deltavi.model.request import Request
from deltavi.perturbation.estimators import ALL_CELLS
from deltavi.registry.tables import require_cells
from deltavi.registry.valid_cells import valid_cells

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

logger = logging.getLogger("deltavi")


@dataclass(frozen=True, eq=False)
class ControlCells:
    """Control cells of a query.

    Parameters
    ----------
    source
        As they were given, with all genes.
    request
        The same cells in the model's form.
    contexts
        Labels to predict, in order.
    """

    source: AnnData
    request: Request
    contexts: tuple[str, ...]

    def rows(self, context: str) -> np.ndarray:
        """Positions in `source` of the cells of a context."""
        return np.asarray(self.request.cells[self.request.groups == context])

    def of(self, model: Responds, context: str) -> Request:
        """The cells of a context by themselves, so that a prediction looks at no others."""
        request, members = self.request, np.flatnonzero(self.request.groups == context)
        if len(members) == request.adata.n_obs:
            return request
        with warnings.catch_warnings():  # what there is to say of the cells was said when all were aligned
            warnings.simplefilter("ignore")
            aligned = model._validate_anndata(request.adata[request.cells[members]].copy())
        return replace(
            request,
            adata=aligned,
            cells=np.arange(len(members)),
            groups=request.groups[members],
            totals=request.totals[members],
            loaded=model._cells(aligned),
        )


def control_cells(
    model: Responds,
    adata: AnnData | None,
    *,
    control: str,
    contexts: str | Sequence[str] | None,
    options: State,
    drop: bool,
) -> ControlCells:
    """Control cells of the contexts asked for, among those given or those of the model.

    Parameters
    ----------
    model
        A trained model.
    adata
        Cells; by default those of the model.
    control
        Condition of the control cells.
    contexts
        Labels; by default all that have control cells.
    options
        Options of the question, which the model may refuse.
    drop
        Leave out cells with unusable values.
    """
    whole = model._validate_anndata() if adata is None else require_cells(adata)
    if not whole.n_obs:
        raise InputDataError("adata has no cells: there is nothing to predict.")
    source = _of_condition(model, whole, control)
    if drop:
        source = source[valid_cells(source, layer=model._setup_argument("layer"), counts=model.module.of_counts)]
    asked = model._query(source, control, options)
    request = request_of(model, source if asked is None else asked, control=control, labels=None, drop=False)
    return ControlCells(source, request, _contexts(model, whole, request, contexts))


def _of_condition(model: Responds, adata: AnnData, control: str) -> AnnData:
    """Control cells, or all where no column says what they are; what is wrong with none is said by `request_of`."""
    if condition_key(model) not in adata.obs:
        return adata
    chosen = conditions_of(model, adata) == control
    return adata[chosen] if chosen.any() and not chosen.all() else adata


def _contexts(
    model: Responds, adata: AnnData, request: Request, contexts: str | Sequence[str] | None
) -> tuple[str, ...]:
    present = sorted({str(group) for group in request.groups})
    everywhere = _labels(model, adata)
    if contexts is None:
        if left := sorted(everywhere - set(present)):
            logger.info("No control cells, and no prediction, for %s.", examples(left))
        return tuple(present)
    given = names("contexts", contexts)
    if not given:
        raise DeltaviError("contexts is empty; name at least one label, or pass None for all.")
    if present == [ALL_CELLS]:
        raise DeltaviError(f"contexts={contexts!r} was asked for, but the cells have no label column.")
    return tuple(_known(name, present, everywhere) for name in given)


def _known(given: object, present: list[str], everywhere: set[str]) -> str:
    found = meant(given, present)
    if found is not None:
        return found
    elsewhere = meant(given, everywhere)
    if elsewhere is None:
        raise unknown_category("context", given, present, among="the control cells")
    raise UnknownCategoryError(
        f"context {elsewhere!r} has no control cells to start from. Contexts that have some: {examples(present, 10)}."
    )


def _labels(model: Responds, adata: AnnData) -> set[str]:
    """Labels of all cells, where a column holds them."""
    key = model._setup_argument("labels_key")
    if key is None or key not in adata.obs:
        return set()
    return {name for name in names_of(adata.obs[key].unique()) if name is not None}
