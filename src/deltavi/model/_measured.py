"""Responses of the training cells of a model, fitted once for every control."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from deltavi.model._training_means import TrainingMeans
from deltavi.perturbation import ResponseModel
from deltavi.perturbation.crossed_estimate import MeasuredResponses
from deltavi.perturbation.crossed_means import table_of_means

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

# By the means that they were fitted to: training again makes others, and no file has them.
_FITTED: WeakKeyDictionary[TrainingMeans, dict[str, MeasuredResponses | None]] = WeakKeyDictionary()


def measured_responses(model: Responds, control: str) -> MeasuredResponses | None:
    """Responses from `control` to all other conditions; None where no label, or no change, is known."""
    means = model.training_means
    if means is None or not means.has_labels or means.log_expression is None:
        return None
    known = _FITTED.setdefault(means, {})
    if control not in known:
        table = table_of_means(means.log_expression, control, list(model.gene_names))
        known[control] = None if table is None else MeasuredResponses(ResponseModel.fit(table))
    return known[control]
