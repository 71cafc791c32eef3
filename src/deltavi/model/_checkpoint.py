"""Checkpoints: a model of the latest epoch on disk while training runs, for when the process is killed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from deltavi._errors import CheckpointWarning, DeltaviError, DeltaviWarning, ModelFileError
from deltavi._random import isolated_randomness
from deltavi.io import require_replaceable, resolved
from deltavi.model._faults import finish, mark_trained
from deltavi.train import CellSplit, LastGoodEpoch, ModuleState, joined_history

if TYPE_CHECKING:
    from deltavi.model._base import CountModel


class Checkpoint(Callback):
    """Saves the model every few epochs, as if training had ended there; training itself takes no notice.

    Parameters
    ----------
    model
        Model that is trained.
    folder
        Folder to write, again and again.
    every
        Epochs from one time to the next.
    guard
        Callback that counts good epochs.
    split
        Cells of the training.
    """

    def __init__(
        self,
        model: CountModel,
        folder: str | os.PathLike[str],
        *,
        every: int,
        guard: LastGoodEpoch,
        split: CellSplit,
    ) -> None:
        # a callback may change the working folder
        self.model, self.folder, self.every = model, resolved(folder, "checkpoint").absolute(), every
        self.guard, self.split = guard, split
        self.history = None if model.history_ is None else dict(model.history_)
        self.has_warned = False
        # epochs of the model in the folder
        self.n_epochs = 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Save the model of the epochs before; only now are they logged."""
        if trainer.is_global_zero and trainer.current_epoch and trainer.current_epoch % self.every == 0:
            with self._as_if_trained():
                self.write()

    def caught_up(self, n_epochs: int) -> str:
        """Save the model of the last good epoch, unless it is in the folder; what to add to an error, if anything.

        Parameters
        ----------
        n_epochs
            Epochs that were good.
        """
        if n_epochs > self.n_epochs:
            self.write()
        return f" The checkpoint {str(self.folder)!r} is of that epoch." if 0 < n_epochs == self.n_epochs else ""

    def write(self) -> None:
        """Save the model as it is; where that fails it is worth no more than a warning."""
        try:
            self.model.save(self.folder, overwrite=True)
            self.n_epochs = self.guard.n_epochs
        except ModelFileError as error:
            if not self.has_warned:
                warnings.warn(f"The checkpoint is not of this epoch. {error}", CheckpointWarning, stacklevel=2)
            self.has_warned = True

    @contextmanager
    def _as_if_trained(self) -> Iterator[None]:
        """The model as if training had ended, without a trace afterwards."""
        model = self.model
        module, attributes = model.module, dict(vars(model))
        before, modes = ModuleState(module), [(part, part.training) for part in module.modules()]
        try:
            with isolated_randomness(model.seed), warnings.catch_warnings():
                # said when training ends, if it is true then
                warnings.simplefilter("ignore", DeltaviWarning)
                module.eval()
                mark_trained(model, self.split)
                model.history_ = joined_history(self.history, self.guard.history())
                finish(model)
            yield
        finally:
            for name in vars(model).keys() - attributes.keys():
                delattr(model, name)
            vars(model).update(attributes)
            before.restore(module)
            for part, mode in modes:
                part.training = mode


def checkpoints(
    model: CountModel, folder: str | os.PathLike[str] | None, *, every: int, guard: LastGoodEpoch, split: CellSplit
) -> list[Checkpoint]:
    """The callback that saves to `folder`, or none where there is no folder."""
    return [] if folder is None else [Checkpoint(model, folder, every=every, guard=guard, split=split)]


def check_checkpoint(folder: str | os.PathLike[str] | None, every: int) -> None:
    """Raise before training begins where no checkpoint could be written, or one would replace something else.

    Parameters
    ----------
    folder
        Folder to write, if any.
    every
        Epochs from one checkpoint to the next.

    Raises
    ------
    DeltaviError
        If `every` is no whole number of at least 1.
    ModelFileError
        If the folder is a file, has a ``manifest.json`` of something else, or cannot be written.
    """
    if isinstance(every, bool) or int(every) != every or every < 1:
        raise DeltaviError(f"checkpoint_every must be a whole number of epochs, at least 1, not {every!r}.")
    if folder is not None:
        require_replaceable(resolved(folder, "checkpoint", error=ModelFileError))
