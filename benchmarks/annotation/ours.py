"""The methods of this package that are compared with others: every setting is the default.

But for two that say so: the regression has no hidden layer, and the published network has its authors' settings.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from anndata import AnnData

from benchmarks.annotation.tasks import Result, Task
from benchmarks.harness.command import QUIET
from benchmarks.harness.data import UNKNOWN
from deltavi.model import ACTINN, LABELVI, MIXVI

KEYS = {"labels_key": "label_known", "unlabeled_category": UNKNOWN, "size_factor_key": "total_counts"}


def cells_of(task: Task) -> AnnData:
    """A copy of the cells, without the truth."""
    obs = task.adata.obs[["batch", "label_known", "total_counts"]].copy()
    return AnnData(task.adata.X.copy(), obs=obs, var=task.adata.var[[]])


def answers(model: Any, started: float) -> Result:
    """Probabilities, novelty score and p-values of all cells of a trained model."""
    probabilities, scores = model.predict(soft=True), model.get_novelty_scores()
    seconds = time.process_time() - started
    return Result(probabilities, scores["novelty_score"].to_numpy(), scores["p_value"].to_numpy(), seconds)


def generative(model_class: Any, task: Task, seed: int, **settings: Any) -> Result:
    """A model of counts, on labelled and unlabelled cells together, the study as batch."""
    started, adata = time.process_time(), cells_of(task)
    model_class.setup_anndata(adata, **KEYS, batch_key="batch")
    model = model_class(adata, seed=seed, **settings)
    model.train(**QUIET)
    return answers(model, started)


labelvi, mixvi = partial(generative, LABELVI), partial(generative, MIXVI)


def actinn(task: Task, seed: int, plan: dict[str, Any] | None = None, **settings: Any) -> Result:
    """ACTINN on the labelled cells."""
    started, adata = time.process_time(), cells_of(task)
    ACTINN.setup_anndata(adata, **KEYS)
    model = ACTINN(adata, seed=seed, **settings)
    model.train(plan_kwargs=plan, **QUIET)
    return answers(model, started)


def logistic(task: Task, seed: int) -> Result:
    """ACTINN without hidden layers: multinomial logistic regression."""
    return actinn(task, seed, n_hidden=())


def actinn_published(task: Task, seed: int) -> Result:
    """The one network of Ma and Pellegrini, with their learning rate."""
    return actinn(task, seed, plan=ACTINN.published_plan, **ACTINN.published)


# One setting of LABELVI changed at a time.
SETTINGS: dict[str, dict[str, Any]] = {
    "dropout of 0.1": {"dropout_rate": 0.1},
    "hidden layer in the classifier": {"classifier_layers": 1},
    "labels count alike": {"class_balance": 1.0},
    "classification weight 10": {"classification_weight": 10.0},
    "encoder of log1p counts": {"encoder_input": "log1p"},
    "uniform prior of labels": {"y_prior": "uniform"},
    "zero-inflated": {"gene_likelihood": "zinb"},
}
METHODS: dict[str, Callable[[Task, int], Result]] = {
    "labelvi": labelvi,
    "mixvi": mixvi,
    "actinn": actinn,
    "logistic_deltavi": logistic,
    "actinn_published": actinn_published,
    **{name: partial(labelvi, **settings) for name, settings in SETTINGS.items()},
}
