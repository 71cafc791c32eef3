"""Training plan and cell split: scvi-tools' training, monitored by the objective that it optimises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass

from deltavi._compat import TrainingPlan
from deltavi._errors import DeltaviError
from deltavi.module.by_hand import Step
from deltavi.train._epoch_means import EpochMeans

Schedule = Literal["constant", "one_cycle", "staircase"]
# Share of the steps over which the one-cycle schedule rises to its maximum.
RISING_SHARE = 0.1
# With fewer steps the rise would be shorter than one step, and torch would divide by zero.
SHORTEST_CYCLE = 20
# The staircase of ACTINN: steps between two falls of the learning rate, and the factor of each.
STAIR_STEPS, STAIR_FACTOR = 1000, 0.95
# Lightning's names of the precisions that do not scale gradients.
FULL_PRECISION = ("32", "32-true", "64", "64-true")
# The optimisers of scvi-tools' plan that torch can run in one pass over the weights.
ADAMS: dict[str, type[torch.optim.Adam]] = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
# Batch normalisation cannot normalise a batch of one cell, and hardly one of two.
SMALLEST_BATCH = 3


class ObjectivePlan(TrainingPlan):
    """Training plan whose ``validation_loss`` is the objective at its final KL weight.

    scvi-tools monitors an evidence lower bound with the KL term unweighted, and its validation loss changes
    meaning while the KL weight is annealed; early stopping needs one objective throughout.

    Parameters
    ----------
    module
        Module to train.
    lr_schedule
        ``"constant"``, ``"one_cycle"`` (a short rise and a long fall of the learning rate, per step), or
        ``"staircase"`` (5 % less every 1000 steps; Ma and Pellegrini 2020).
    **kwargs
        Arguments of :class:`scvi.train.TrainingPlan`.
    """

    def __init__(self, module: BaseModuleClass, *, lr_schedule: Schedule = "constant", **kwargs: Any) -> None:
        if lr_schedule not in get_args(Schedule):
            raise DeltaviError(f"lr_schedule must be one of {get_args(Schedule)}, not {lr_schedule!r}.")
        super().__init__(module, **kwargs)
        self.lr_schedule = lr_schedule
        # the loss of a step that is written out takes no other arguments
        self.by_hand = None if self.loss_kwargs.keys() - {"kl_weight"} else Step.of(module)
        self.n_cells_of_step = 1
        self.train_means, self.validation_means = EpochMeans("train"), EpochMeans("validation")
        # of several processes: weight of the loss of each of their mini-batches, and sum over all
        self.weight_of: Callable[[int], float] | None = None
        self.summed: Callable[[torch.Tensor], torch.Tensor] | None = None

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of a mini-batch; its metrics are logged when the epoch ends, or at every step if that is requested."""
        if self.on_step:
            return self._weighed(super().training_step(batch, batch_idx), batch_idx)
        kl_weight = self.kl_weight
        output = None if self.by_hand is None else self.by_hand.loss(batch, kl_weight)
        if output is None:
            _, _, output = self.forward(batch, loss_kwargs={**self.loss_kwargs, "kl_weight": kl_weight})
        self.train_means.add(output)
        if self.trainer.is_last_batch:
            self._log_training(kl_weight)
        loss: torch.Tensor = output.loss
        return self._weighed(loss, batch_idx)

    def _weighed(self, loss: torch.Tensor, number: int) -> torch.Tensor:
        """Weigh a loss so that the mean of gradients over processes is that over their cells."""
        weight = 1.0 if self.weight_of is None else self.weight_of(number)
        return loss if weight == 1.0 else loss * weight

    def on_train_epoch_end(self) -> None:
        """Log an epoch that ended early."""
        self._log_training(self.kl_weight)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Record the objective at the final KL weight, and scvi-tools' usual metrics."""
        _, _, output = self.forward(batch, loss_kwargs={**self.loss_kwargs, "kl_weight": self.max_kl_weight})
        self.validation_means.add(output)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the epoch."""
        self._log(self.validation_means.take(self.n_obs_validation, summed=self.summed))

    def on_train_batch_start(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Note the number of cells."""
        self.n_cells_of_step = len(batch[REGISTRY_KEYS.X_KEY])

    def on_validation_batch_start(
        self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note the number of cells."""
        self.n_cells_of_step = len(batch[REGISTRY_KEYS.X_KEY])

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log with the number of cells, which lightning cannot infer from tensors that have no row per cell."""
        super().log(name, value, *args, **{"batch_size": self.n_cells_of_step, **kwargs})

    def _log_training(self, kl_weight: torch.Tensor) -> None:
        means = self.train_means.take(self.n_obs_training, summed=self.summed)
        self._log({"kl_weight": kl_weight, **means} if means else {})

    def _log(self, means: dict[str, torch.Tensor]) -> None:
        # those of several processes are summed before, and lightning would round by the cells of each
        how = {"sync_dist": self.use_sync_dist} if self.summed is None else {"batch_size": 1}
        for name, value in means.items():
            self.log(name, value, on_step=False, on_epoch=True, prog_bar=name == "train_loss", **how)

    def get_optimizer_creator(self) -> Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]:
        """Make Adam with one fused pass over the weights, if possible; other optimisers are made by scvi-tools."""
        optimizer_cls = ADAMS.get(self.optimizer_name)
        if optimizer_cls is None:
            return super().get_optimizer_creator()
        fused = self._takes_one_pass()
        return lambda weights: optimizer_cls(
            weights, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=fused
        )

    def _takes_one_pass(self) -> bool:
        """True if the optimiser can be fused: without gradient scaling, on a CPU or CUDA device."""
        try:
            precision = str(self.trainer.precision)
        except RuntimeError:  # no trainer yet
            precision = "32"
        return precision in FULL_PRECISION and self.device.type in ("cpu", "cuda")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Add the schedule to scvi-tools' optimiser."""
        config = super().configure_optimizers()
        if self.lr_schedule == "one_cycle":
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                config["optimizer"],
                max_lr=self.lr,
                total_steps=max(int(self.trainer.estimated_stepping_batches) + 1, SHORTEST_CYCLE),
                pct_start=RISING_SHARE,
                cycle_momentum=False,
            )
            config["lr_scheduler"] = {"scheduler": scheduler, "interval": "step"}
        elif self.lr_schedule == "staircase":
            stairs = torch.optim.lr_scheduler.StepLR(config["optimizer"], STAIR_STEPS, STAIR_FACTOR)
            config["lr_scheduler"] = {"scheduler": stairs, "interval": "step"}
        elif self.reduce_lr_on_plateau:
            # the monitored metric exists only in epochs that end with a validation
            plateau = config["lr_scheduler"]
            assert isinstance(plateau, dict)
            plateau["frequency"] = max(1, self.trainer.check_val_every_n_epoch or 1)
        return config


@dataclass(frozen=True)
class CellSplit:
    """Cells for training, validation and testing, as positions."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def as_external_indexing(self) -> list[np.ndarray]:
        """Positions in the form that scvi-tools' data splitter takes."""
        return [self.train, self.validation, self.test]


def split_cells(
    n_cells: int,
    *,
    train_size: float,
    validation_size: float | None,
    batch_size: int,
    generator: np.random.Generator,
    shuffle: bool = True,
) -> CellSplit:
    """Random split whose training part leaves no mini-batch of one or two cells.

    Parameters
    ----------
    n_cells
        Cells to split.
    train_size, validation_size
        Shares of the cells; the rest is for testing. Without `validation_size` the rest is for validation.
    batch_size
        Size of a mini-batch; a tail too small for batch normalisation goes to validation, or out.
    generator
        Source of the permutation.
    shuffle
        Split at random; else the first cells are for validation and those after them for training, as in scvi-tools.
    """
    if not 0 < train_size <= 1:
        raise DeltaviError(f"train_size must lie in (0, 1], not {train_size}.")
    n_train = math.ceil(train_size * n_cells)
    n_validation = n_cells - n_train if validation_size is None else math.floor(validation_size * n_cells)
    if n_validation < 0 or n_train + n_validation > n_cells:
        raise DeltaviError(f"train_size + validation_size must not exceed 1, not {train_size} + {validation_size}.")
    if n_train < SMALLEST_BATCH:
        raise DeltaviError(f"{n_cells} cells are too few to train on; at least {SMALLEST_BATCH} are needed.")
    tail = n_train % batch_size
    if 0 < tail < SMALLEST_BATCH <= n_train - tail:
        n_train -= tail
        n_validation += tail if validation_size is None else 0
    if not shuffle:
        validation, train, test = np.split(np.arange(n_cells), [n_validation, n_validation + n_train])
        return CellSplit(train, validation, test)
    order = generator.permutation(n_cells)
    return CellSplit(
        train=order[:n_train],
        validation=order[n_train : n_train + n_validation],
        test=order[n_train + n_validation :],
    )
