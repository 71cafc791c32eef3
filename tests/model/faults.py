"""Models to be stopped in the middle of training, and what stops them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from tests.model.conftest import QUIET, dense
from tests.models import MODELS, PERTURBATION, SmallModel, names_of


@dataclass(frozen=True)
class Case:
    """A model, and what it answers."""

    entry: SmallModel

    @property
    def model_class(self) -> Any:
        return self.entry.model_class

    def untrained(self, **kwargs: Any) -> Any:
        # components are placed before what happens in the third of five epochs
        placed = {"prior_warmup": 0.2} if self.entry.clusters else {}
        return self.entry.untrained(**{**placed, **kwargs})

    def answers(self, model: Any) -> dict[str, np.ndarray]:
        """One array by verb, of cells that are given anew."""
        adata = self.entry.cells()
        found = {"latent": model.get_latent_representation(self.entry.cells())}
        if self.entry.predicts:
            found["prediction"] = dense(model.predict_perturbation(adata, **PERTURBATION).X)
        if self.entry.annotates:
            found["labels"] = model.predict(adata, soft=True).to_numpy()
        return found


CASES = {name: Case(MODELS[name]) for name in names_of(by_epochs=True)}


def train(model: Any, *callbacks: Callback, **kwargs: Any) -> None:
    """Five epochs of four or five mini-batches."""
    model.train(**{"max_epochs": 5, "batch_size": 32, **QUIET, "callbacks": list(callbacks), **kwargs})


class At(Callback):
    """Does something after a mini-batch, and notes the weights after each epoch before."""

    def __init__(self, epoch: int, batch: int, what: Callable[[Any], None]) -> None:
        self.epoch, self.batch, self.what = epoch, batch, what
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            self.what(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.weights.append(weights_of(pl_module.module))


def raises(error: BaseException) -> Callable[[Any], None]:
    def fail(trainer: Any) -> None:
        raise error

    return fail


def interrupts(trainer: Any) -> None:
    """As the keyboard does."""
    os.kill(os.getpid(), signal.SIGINT)


def spoils(value: float) -> Callable[[Any], None]:
    """One weight becomes `value`."""

    def spoil(trainer: Any) -> None:
        with torch.no_grad():
            next(trainer.lightning_module.module.parameters()).view(-1)[0] = value

    return spoil


def weights_of(module: Any) -> dict[str, torch.Tensor]:
    """What the optimiser moves; buffers may be set when training ends."""
    return {name: value.detach().cpu().clone() for name, value in module.named_parameters()}


def same(left: dict[str, Any], right: dict[str, Any], *, atol: float = 0.0) -> bool:
    """Whether two sets of weights, or of answers, are the same."""
    assert left.keys() == right.keys()
    return all(np.allclose(np.asarray(left[name]), np.asarray(right[name]), rtol=0, atol=atol) for name in left)
