"""Copy of the last finite epoch of a training, so that a later fault costs no more than one epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from deltavi._errors import TrainingDivergedError, examples
from deltavi.train._order import cells_of_batch, note_order
from deltavi.train._ranks import Agreement, same

# Suggested in place of a learning rate that was too high.
LOWER_RATE = 0.1


class ModuleState:
    """Copy of the weights, buffers and switches of a module, in the memory of the computer.

    Parameters
    ----------
    module
        Module to copy.
    n_epochs
        Epochs after which it was in that state.
    """

    def __init__(self, module: torch.nn.Module, n_epochs: int = 0) -> None:
        self._tensors: dict[str, Tensor] = {}
        self.note(module, n_epochs)

    def note(self, module: torch.nn.Module, n_epochs: int = 0) -> None:
        """Copy the state again, into the allocated memory."""
        for name, value in module.state_dict().items():
            if name in self._tensors:
                self._tensors[name].copy_(value)
            else:
                self._tensors[name] = value.detach().to("cpu", copy=True)
        # plain attributes, as of placed components, are part of the state of training as well
        self._switches = {name: value for name, value in vars(module).items() if isinstance(value, bool)}
        self.n_epochs = n_epochs

    def restore(self, module: torch.nn.Module) -> None:
        """Restore the state; the module may have moved to another device, or to evaluation."""
        module.load_state_dict(self._tensors)
        for name in self._switches.keys() - {"training"}:
            setattr(module, name, self._switches[name])


class LastGoodEpoch(Callback):
    """Keeps the state of the module at the end of each epoch, and stops training at the first that is not finite.

    Values are read from the device at the end of an epoch only.

    Parameters
    ----------
    module
        Module that is trained.
    cell_names
        Names of the cells of the data set.
    agree
        Message that all processes raise, of the one that this process found.
    """

    def __init__(self, module: torch.nn.Module, cell_names: pd.Index, *, agree: Agreement = same) -> None:
        self.module, self.cell_names, self.agree = module, cell_names, agree
        self._kept: ModuleState | None = ModuleState(module)
        # one copy is written while the other is kept, since an interrupt may occur in between
        self._spare: ModuleState | None = None
        self._losses: list[Tensor] = []
        self._trainer: Any = None

    @property
    def n_epochs(self) -> int:
        """Number of finished epochs without non-finite values."""
        return 0 if self._kept is None else self._kept.n_epochs

    def restore(self) -> None:
        """Restore the module to the end of the last finite epoch, or to its initial state."""
        if self._kept is not None:
            self._kept.restore(self.module)

    def release(self) -> None:
        """Release the copies: the model keeps its trainer, which keeps its callbacks."""
        self._kept = self._spare = self._trainer = None
        self._losses = []

    def history(self) -> dict[str, pd.DataFrame] | None:
        """History of the finite epochs; none if the logger keeps no history."""
        logged = None if self._trainer is None else getattr(self._trainer.logger, "history", None)
        if not isinstance(logged, dict):
            return None
        return {
            name: values[values.index < self.n_epochs].copy() if values.index.name == "epoch" else values.copy()
            for name, values in logged.items()
        }

    # -- while training runs ---------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to record the order of cells."""
        self._trainer = trainer
        note_order(trainer.train_dataloader)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to record the losses of another epoch."""
        self._losses = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        """Keep the loss on its device: to read it would synchronise."""
        self._losses.append(outputs["loss"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the state of the module if all values are finite.

        Raises
        ------
        TrainingDivergedError
            If a loss, a weight or a buffer is NaN or infinite.
        """
        what_is_wrong = self.agree(self.divergence())
        if what_is_wrong is not None:
            raise TrainingDivergedError(what_is_wrong)
        n_epochs = self.n_epochs + 1
        if self._spare is None:
            self._spare = ModuleState(self.module, n_epochs)
        else:
            self._spare.note(self.module, n_epochs)
        self._kept, self._spare = self._spare, self._kept

    # -- messages --------------------------------------------------------------------------------------------

    def divergence(self) -> str | None:
        """Describe non-finite values of the epoch in progress, with the way out; ``None`` if there are none."""
        losses = torch.stack(self._losses) if self._losses else torch.zeros(0)
        (bad,) = (~losses.isfinite()).nonzero(as_tuple=True)
        if len(bad):
            first = int(bad[0])
            return self._described("The loss", _kind(losses[first]), first)
        names = not_finite(self.module)
        if not names or self._trainer is None:
            return None
        worst = self.module.state_dict()[names[0]]
        return self._described(
            f"Weights ({examples(names)})", _kind(worst[~worst.isfinite()][0]), max(len(losses) - 1, 0)
        )

    def _described(self, what: str, became: str, batch: int) -> str:
        trainer = self._trainer
        cells = list(self.cell_names[cells_of_batch(trainer.train_dataloader, batch)])
        rate = float(trainer.lightning_module.lr)
        return (
            f"{what} became {became} in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, at mini-batch "
            f"{batch + 1} of {trainer.num_training_batches}{f', of cells {examples(cells)}' if cells else ''}. "
            f"Lower the learning rate: plan_kwargs={{'lr': {rate * LOWER_RATE:.3g}}}, not {rate:.3g}. If that does "
            "not help, look at these cells, and for values in the data that are far larger than others."
        )


def not_finite(module: torch.nn.Module) -> list[str]:
    """Names of weights and buffers that hold NaN or infinite values."""
    floating = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    # a sum of non-finite values is not finite, and reads them once; only then each value is tested
    sums = torch.stack([value.sum(dtype=torch.float32) for value in floating.values()])
    suspects = [name for name, good in zip(floating, sums.isfinite().tolist(), strict=True) if not good]
    return [name for name in suspects if not bool(floating[name].isfinite().all())]


def joined_history(
    before: dict[str, pd.DataFrame] | None, new: dict[str, pd.DataFrame] | None
) -> dict[str, pd.DataFrame] | None:
    """History of an earlier training, continued by that of another; epochs are counted on.

    Parameters
    ----------
    before, new
        Frames by the name of their metric.
    """
    if not before or new is None:
        return before if before else new
    joined, n_epochs = dict(before), max(map(len, before.values()))
    for name, values in new.items():
        # metrics that were not logged before, as of validation, begin at the end of the first training
        earlier = before.get(name)
        start = n_epochs if earlier is None else len(earlier)
        later = values.set_axis(np.arange(start, start + len(values)))
        joined[name] = later if earlier is None else pd.concat([earlier, later])
        joined[name].index.name = values.index.name
    return joined


def _kind(value: Tensor) -> str:
    return "NaN" if bool(value.isnan()) else "infinite"
