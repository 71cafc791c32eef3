"""Training that does not come to its end: it leaves a model of its last good epoch, and an error that says so."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from scvi.train import Trainer

from deltavi._errors import DeltaviError, OutOfMemoryError, TrainingDivergedError, TrainingTerminated
from deltavi._signals import sigterm_raises
from deltavi.registry.names import names_checksum
from deltavi.train import CellSplit, LastGoodEpoch, joined_history, lost_process

if TYPE_CHECKING:
    from deltavi.model._base import CountModel
    from deltavi.model._checkpoint import Checkpoint

# What torch says, on any device, in errors that have no class of their own.
NO_MEMORY = re.compile("out of memory|not enough memory|can't allocate memory", re.IGNORECASE)
# What a model says of having been trained.
TRAINED = ("is_trained_", "train_indices_", "validation_indices_", "test_indices_")

logger = logging.getLogger("deltavi")


@contextmanager
def sigterm_raised() -> Iterator[None]:
    """Raise :class:`TrainingTerminated` where SIGTERM comes, as of :func:`sigterm_raises`."""
    with sigterm_raises(TrainingTerminated):
        yield


@contextmanager
def recovered(
    model: CountModel,
    guard: LastGoodEpoch,
    *,
    split: CellSplit,
    batch_size: int,
    saved: Sequence[Checkpoint] = (),
    folder: str | os.PathLike[str] | None = None,
) -> Iterator[None]:
    """Take the model back to its last good epoch where the block fails, and say so in the error.

    Parameters
    ----------
    model
        Model that is trained in the block.
    guard
        Callback of that training.
    split
        Cells that it uses.
    batch_size
        Cells of a mini-batch.
    saved
        Checkpoints of that training, which are brought to the last good epoch too.
    folder
        Folder of checkpoints, which another process may write.

    Raises
    ------
    TrainingDivergedError
        If the loss or a weight is not finite.
    OutOfMemoryError
        If memory ran out.
    KeyboardInterrupt
        If training was interrupted, also where lightning ends the program for it.
    TrainingTerminated
        If SIGTERM came.
    DeltaviError
        If lightning refuses to train with the options it was given, or not one step was made; or if another process
        that trains the model was lost.
    """
    history = None if model.history_ is None else dict(model.history_)
    before = {name: getattr(model, name) for name in TRAINED if hasattr(model, name)}
    try:
        yield
        _require_steps(model.trainer)
        # lightning leaves weights in the precision it trained in, which no cell comes in
        model.module.float()
    except BaseException as error:
        # before anything is put back
        lost = lost_process(error)
        diverged = guard.divergence() if isinstance(error, Exception) and lost is None else None
        vars(model).update(before)
        with nullcontext() if lost is None else _sigterm_later(lost):
            state = _recover(model, guard, split, history)
            for checkpoint in saved:
                state += checkpoint.caught_up(guard.n_epochs)
        if folder is not None and not saved:
            state += f" Rank 0 writes the checkpoint {os.fspath(folder)!r}."
        fault = _named(error, diverged, state, batch_size) if lost is None else DeltaviError(f"{lost} {state}")
        if fault is error:
            raise
        unexpected = isinstance(error, Exception) and not isinstance(error, TrainingDivergedError)
        raise fault from (error if unexpected else None)
    finally:
        guard.release()


@contextmanager
def _sigterm_later(lost: str) -> Iterator[None]:
    """Log that a process was lost, and put the model in order although torchrun sends the others SIGTERM then."""
    logger.error(lost)
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _require_steps(trainer: Trainer) -> None:
    """Raise where training ended before it began: the weights are those that were drawn."""
    if trainer.global_step == 0:
        raise DeltaviError(
            "Training ended before the first step: an option such as max_time or limit_train_batches leaves nothing "
            "to train by."
        )


def mark_trained(model: CountModel, split: CellSplit) -> None:
    """Let the model answer, as one that was trained on the cells of `split`."""
    model.is_trained_ = True
    model.trained_on_ = names_checksum(model.adata.obs_names)
    model.train_indices_, model.validation_indices_, model.test_indices_ = split.as_external_indexing()


def finish(model: CountModel) -> None:
    """Compute what the model keeps of its training cells; if that is interrupted it has nothing, not something old."""
    fitted = [part for part in model.keeps if part.fit is not None]
    for part in fitted:
        if getattr(model, part.name) is not None:
            setattr(model, part.name, None)
    for part in fitted:
        assert part.fit is not None
        part.fit(model)


def _recover(model: CountModel, guard: LastGoodEpoch, split: CellSplit, history: Any) -> str:
    """Make the model one of its last good epoch, or what it was; a sentence that says which."""
    model.module.float()
    guard.restore()
    model.module.eval()
    n_epochs = guard.n_epochs
    if n_epochs == 0:
        model.history_ = history
        return f"No epoch was finished: the model is {'as before' if model.is_trained_ else 'still untrained'}."
    mark_trained(model, split)
    model.history_ = joined_history(history, guard.history()) or model.history_
    state = f"The model is that of the end of epoch {n_epochs}, and can be used, saved and trained further"
    try:
        finish(model)
    except Exception as error:
        return f"{state}, but what it keeps of its training cells could not be computed: {error}"
    return f"{state}."


def _named(error: BaseException, diverged: str | None, state: str, batch_size: int) -> BaseException:
    """The error to raise in place of `error`, or `error` itself where its cause is not known here."""
    if isinstance(error, TrainingTerminated | SIGTERMException):
        return TrainingTerminated(f"Training was ended by SIGTERM. {state}")
    if isinstance(error, KeyboardInterrupt | SystemExit):
        # lightning ends the program where it was interrupted
        interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
        if interrupted:
            return KeyboardInterrupt(f"Training was interrupted. {state}")
    if isinstance(error, TrainingDivergedError):
        return TrainingDivergedError(f"{error} {state}")
    if is_memory(error):
        smaller = max(batch_size // 2, 1)
        return OutOfMemoryError(
            f"Memory ran out in training with mini-batches of {batch_size} cells. Try batch_size={smaller}, or "
            f"fewer genes or hidden units. {state}"
        )
    if diverged is not None:
        return TrainingDivergedError(f"{diverged} {state}")
    if isinstance(error, MisconfigurationException):
        return DeltaviError(f"train() cannot use these options of the trainer: {error} {state}")
    error.add_note(state)
    return error


def is_memory(error: BaseException) -> bool:
    """True of an error for lack of memory."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None)
