"""Work of processes that train together beside the steps: statistics, early stopping, history, and comparisons."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from deltavi._compat import LoudEarlyStopping, SimpleExperiment, SimpleLogger
from deltavi._errors import DeltaviError
from deltavi.train._block_order import Turns
from deltavi.train._plan import ObjectivePlan
from deltavi.train._ranks import Ranks, average_buffers, differences, digest, disconnect_at_exit, gathered, summed


class SharedTraining(Callback):
    """Keeps the models of all processes the same; the first of the callbacks.

    Parameters
    ----------
    module
        Module that is trained.
    ranks
        Processes that train it.
    seed
        Seed of the training; dropout and samples of each process have their own, made from it.
    described
        What all processes must agree on, by its name in messages.
    """

    def __init__(self, module: nn.Module, ranks: Ranks, *, seed: int, described: Mapping[str, object]) -> None:
        self.module, self.ranks, self.seed, self.described = module, ranks, seed, described
        self._on_sigterm = signal.getsignal(signal.SIGTERM)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare model, cells and settings.

        Raises
        ------
        DeltaviError
            If processes have other cells, weights or settings.
        """
        disconnect_at_exit()
        self._on_sigterm = signal.getsignal(signal.SIGTERM)
        found = differences(gathered({**self.described, "initial weights": digest(self.module)[:12]}))
        if found:
            raise DeltaviError(
                f"The processes do not train the same model on the same cells: {found}. Read all cells in each, with "
                "the same settings and seeds: they are dealt out here."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each process its own noise, and the weight of its mini-batches."""
        if threading.current_thread() is threading.main_thread() and self._on_sigterm is not None:
            # lightning's handler waits for the other processes, which may be gone
            signal.signal(signal.SIGTERM, self._on_sigterm)
        mixed = np.random.SeedSequence([self.seed % 2**64, self.ranks.rank]).generate_state(1)
        torch.manual_seed(int(mixed[0]))
        turns = getattr(getattr(trainer.train_dataloader, "sampler", None), "turns", None)
        if isinstance(pl_module, ObjectivePlan):
            pl_module.summed = summed
            pl_module.weight_of = turns.weight if isinstance(turns, Turns) else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate with the statistics of all processes."""
        average_buffers(self.module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average the statistics, before the state of the epoch is kept."""
        average_buffers(self.module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the weights.

        Raises
        ------
        DeltaviError
            If the weights or buffers are not the same in all processes.
        """
        found = gathered(digest(self.module))
        other = [rank for rank, value in enumerate(found) if value != found[0]]
        if other:
            raise DeltaviError(
                f"After training, weights on rank {other[0]} differ from those on rank 0 ({len(other)} of "
                f"{len(found)} processes). A callback that changes weights must do the same in every process; please "
                "report this if there is none."
            )


class SharedStop(LoudEarlyStopping):
    """Early stopping of scvi-tools by a metric of all processes, which rank 0 prints."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str | None = None) -> None:
        """Print the reason, if there is one."""
        if trainer.is_global_zero:
            super().teardown(trainer, pl_module, stage)


class HistoryOfRank(SimpleLogger):
    """Logger of the history that keeps it in every process; scvi-tools' has it on rank 0 only."""

    def __init__(self, *, save_dir: str | None = None, save_log_on_disk: bool = False) -> None:
        super().__init__(save_dir=save_dir, save_log_on_disk=save_log_on_disk)
        self._kept = SimpleExperiment()

    @property
    def experiment(self) -> SimpleExperiment:
        """Metrics that were logged."""
        return self._kept

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep metrics of a step or epoch."""
        self._kept.log_metrics(metrics, step)
