"""scvi-tools' runner without its line about a NameError, and with one error for options that cannot be used."""

from __future__ import annotations

import io
import warnings
from contextlib import ExitStack, redirect_stdout
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from scvi.train import Trainer, TrainRunner

from deltavi._errors import DeltaviError
from deltavi.train._lean_loop import LeanLoop

# Errors of lightning and scvi-tools about options, for which neither has a class of its own.
REFUSALS = (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError)


class QuietTrainer(Trainer):
    """Trainer after whose failure nothing is printed until :attr:`muted` is closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.muted = ExitStack()
        with warnings.catch_warnings():
            # it is among the callbacks instead
            warnings.filterwarnings("ignore", message="early_stopping was automatically disabled")
            super().__init__(*args, **kwargs)
        loop = self.fit_loop.epoch_loop
        self.fit_loop.epoch_loop = LeanLoop(self, loop.min_steps, loop.max_steps)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Fit without the line ``<class 'NameError'>`` that the runner prints for every error; the error is raised."""
        try:
            super().fit(*args, **kwargs)
        except BaseException:
            self.muted.enter_context(redirect_stdout(io.StringIO()))
            raise


class Runner(TrainRunner):
    """Runs a training.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`scvi.train.TrainRunner`.

    Raises
    ------
    DeltaviError
        If options of the trainer do not go together, or have values that cannot be used here.
    """

    _trainer_cls = QuietTrainer
    trainer: QuietTrainer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
            if self.trainer.world_size > 1:
                # scvi-tools moves the model to the first device of all
                self.device = self.trainer.strategy.root_device
        except DeltaviError:
            raise
        except REFUSALS as error:
            raise DeltaviError(f"train() cannot use these options of the trainer: {error}") from error

    def __call__(self) -> None:
        """Train."""
        try:
            super().__call__()
        finally:
            self.trainer.muted.close()
