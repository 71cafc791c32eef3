"""Recipes of training, and parts kept of the training cells, as data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np
from lightning.pytorch.callbacks import Callback

from deltavi._types import State
from deltavi.train import CellSplit, send_state, split_cells

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

M = TypeVar("M", bound="CountModel")

# Optimiser steps that train a model of a few thousand cells well; more cells mean fewer epochs.
DEFAULT_STEPS = 1400
EPOCHS_RANGE = (20, 400)
# Steps below which a model has hardly begun to learn, however few its cells.
FEWEST_STEPS = 500


def default_epochs(n_cells: int, batch_size: int, most_epochs: int = EPOCHS_RANGE[1]) -> int:
    """Epochs that give about `DEFAULT_STEPS` optimiser steps, within `EPOCHS_RANGE`.

    No more than `most_epochs`, unless these would be fewer than `FEWEST_STEPS` steps.
    """
    steps_per_epoch = max(1, math.ceil(n_cells / batch_size))
    most = min(max(most_epochs, math.ceil(FEWEST_STEPS / steps_per_epoch)), EPOCHS_RANGE[1])
    return int(np.clip(round(DEFAULT_STEPS / steps_per_epoch), EPOCHS_RANGE[0], most))


def epochs_of_cells(model: CountModel, batch_size: int) -> int:
    """Epochs by the number of cells."""
    return default_epochs(model.adata.n_obs, batch_size, model.most_epochs)


def plan_of_class(model: CountModel) -> State:
    """Arguments of the training plan that the class names."""
    return dict(model.default_plan)


def split_of_cells(model: CountModel, **options: Any) -> CellSplit:
    """Random split of all cells."""
    return split_cells(model.adata.n_obs, **options)


def as_given(model: CountModel, split: CellSplit) -> CellSplit:
    """Split of the user's own, as it is."""
    return split


def no_options(model: CountModel, seed: int) -> State:
    """Nothing beside what every splitter takes."""
    return {}


def nothing(model: CountModel, split: CellSplit) -> None:
    """Leave the model as it is."""


def always(model: CountModel) -> bool:
    """True of every model."""
    return True


@dataclass(frozen=True)
class Stage(Generic[M]):
    """A part of training that begins with an epoch.

    Parameters
    ----------
    starts
        Epoch at which it begins, of a model and the number of all epochs; None leaves the stage out.
    enter
        Change of the model when it begins; it is given the split.
    is_due
        Whether the stage is still to come, asked when training begins.
    """

    starts: Callable[[M, int], int | None]
    enter: Callable[[M, CellSplit], None]
    is_due: Callable[[M], bool] = always


@dataclass(frozen=True)
class Recipe(Generic[M]):
    """Training of a model, as data.

    Every function is given the model.

    Parameters
    ----------
    plan
        Arguments of the training plan that the caller does not give.
    epochs
        Passes over the data where the caller names no number, for a size of mini-batches.
    split
        Cells to train and to validate on, with the options of :func:`deltavi.train.split_cells`.
    given
        A split of the user's own, as the model can use it.
    order
        Further arguments of the data splitter, for a seed.
    begin
        What is learned of the training cells before the first step.
    stages
        Changes of the model on the way, in their order.
    """

    plan: Callable[[M], State] = plan_of_class
    epochs: Callable[[M, int], int] = epochs_of_cells
    split: Callable[..., CellSplit] = split_of_cells
    given: Callable[[M, CellSplit], CellSplit] = as_given
    order: Callable[[M, int], State] = no_options
    begin: Callable[[M, CellSplit], None] = nothing
    stages: tuple[Stage[M], ...] = ()

    def settled_from(self, model: M, max_epochs: int) -> int:
        """Epoch from which the objective is the final one, but for the warm-up of the KL term."""
        starts = (stage.starts(model, max_epochs) for stage in self.stages)
        return max((start for start in starts if start is not None), default=0)

    def callbacks(self, model: M, split: CellSplit, max_epochs: int) -> list[Callback]:
        """Callbacks that enter the stages."""
        planned = [(stage, stage.starts(model, max_epochs)) for stage in self.stages if stage.is_due(model)]
        return [Entry(model, split, stage, start) for stage, start in planned if start is not None]


class Entry(Callback, Generic[M]):
    """Callback that enters a stage of training.

    Parameters
    ----------
    model
        Model that is trained.
    split
        Its cells.
    stage
        The stage.
    epoch
        Epoch with which it begins, from 0.
    """

    def __init__(self, model: M, split: CellSplit, stage: Stage[M], epoch: int) -> None:
        self.model, self.split, self.stage, self.epoch = model, split, stage, epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Enter the stage, if it begins with this epoch."""
        if trainer.current_epoch == self.epoch:
            self.stage.enter(self.model, self.split)
            if trainer.world_size > 1:
                # computed by each process, which may round in its own way
                send_state(self.model.module)


def no_entries(model: CountModel) -> State:
    """Nothing for the file: the weights hold it."""
    return {}


def no_change(model: CountModel, entries: State) -> None:
    """Leave the model as the weights of a file made it."""


@dataclass(frozen=True)
class Part(Generic[M]):
    """Something that a model keeps of its training cells, for its answers and in its file.

    Parameters
    ----------
    name
        Attribute of the model; None while there is nothing.
    fit
        Compute it, once the weights are trained; None for what is learned before the first step, and kept.
    saved
        Entries of a file, JSON-able or arrays.
    restore
        Inverse of `saved`, of all entries of a file.
    mapped
        Take over what the reference of a mapped query knows.
    """

    name: str
    fit: Callable[[M], None] | None
    saved: Callable[[M], State] = no_entries
    restore: Callable[[M, State], None] = no_change
    mapped: Callable[[M, CountModel], None] | None = None


# of the class they stand on, which a class variable cannot name
AnyRecipe: TypeAlias = Recipe[Any]
Parts: TypeAlias = tuple[Part[Any], ...]
