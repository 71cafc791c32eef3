"""Steps of training without the hooks and connectors of Lightning in between, where nothing is attached to them.

On a model of usual size they take a tenth of the time of a step.
"""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy

from deltavi._compat import DataFetcher, TrainingEpochLoop
from deltavi.train._last_good import LastGoodEpoch
from deltavi.train._plan import ObjectivePlan
from deltavi.train.on_device import DeviceSplitter

# What Lightning calls at each mini-batch: of callbacks, of the loaders, and of the plan.
OF_CALLBACKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
OF_LOADERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
OF_PLANS = (
    *OF_CALLBACKS,
    *OF_LOADERS,
    "training_step",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
)


class LeanLoop(TrainingEpochLoop):
    """Loop over the mini-batches of an epoch that makes all steps but the last in one turn.

    Steps, draws, schedules and counters are those of Lightning's own loop, to the last digit. Lightning makes the
    last step of an epoch, after which it logs and validates, and all steps if :func:`needs_single_steps`.
    """

    def advance(self, data_fetcher: DataFetcher) -> None:
        """Make the steps that are left in the epoch, or a single one."""
        trainer = self.trainer
        if not self.restarting and not needs_single_steps(trainer):
            while self.batch_progress.current.ready + 1 < trainer.num_training_batches:
                self._step(data_fetcher)
                if trainer.should_stop or trainer.received_sigterm:
                    # Lightning ends its turn in the same way after any step
                    return
                self.update_lr_schedulers("step", update_plateau_schedulers=True)
                self._batches_that_stepped += 1
        super().advance(data_fetcher)

    def _broadcast_sigterm_tensor(self) -> None:
        """Do nothing: a process that ends closes its connections, and no message at each step is needed."""

    def _step(self, data_fetcher: DataFetcher) -> None:
        """Fetch a mini-batch, and make one step of the optimiser."""
        trainer, progress = self.trainer, self.batch_progress
        plan = trainer.lightning_module
        batch, _, _ = next(data_fetcher)
        progress.increment_ready()
        progress.increment_started()
        loss = self._optimised(batch)
        progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        for callback in vars(trainer)["callbacks"]:
            if isinstance(callback, LastGoodEpoch):
                callback.on_train_batch_end(trainer, plan, {"loss": loss}, batch, self.batch_idx)
        progress.increment_completed()

    def _optimised(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss of a mini-batch, by whose gradient the weights were changed."""
        plan, optimizer = self.trainer.lightning_module, self.trainer.optimizers[0]
        assert isinstance(plan, ObjectivePlan)
        plan.on_train_batch_start(batch, self.batch_idx)
        losses: list[torch.Tensor] = []
        done = self.automatic_optimization.optim_progress.optimizer

        def closure() -> torch.Tensor:
            loss = plan.training_step(batch, self.batch_idx)
            losses.append(loss.detach())
            _forget_gradients(optimizer)
            done.zero_grad.increment_by(1)
            torch.autograd.backward(loss)
            return loss

        optimizer.step(closure)
        done.step.increment_by(1)
        return losses[-1]


def _forget_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Do as :meth:`torch.optim.Optimizer.zero_grad`, without its wrappers, unless the optimiser has another."""
    if not _inherits(optimizer, torch.optim.Optimizer, ("zero_grad",)):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = None


def needs_single_steps(trainer: Trainer) -> bool:
    """True if an option, a callback, the plan or the loaders depend on what Lightning does at each mini-batch."""
    # attributes that Lightning declares nowhere
    callbacks, loaders, profiler = (vars(trainer)[name] for name in ("callbacks", "datamodule", "profiler"))
    plan = trainer.lightning_module
    return not (
        _usual(trainer)
        and type(profiler) is PassThroughProfiler
        and not any(map(_watches, callbacks))
        and _inherits(plan, ObjectivePlan, OF_PLANS)
        and not plan.on_step
        and _inherits(loaders, DeviceSplitter, OF_LOADERS)
        and not loaders.load_sparse_tensor
    )


def _usual(trainer: Trainer) -> bool:
    """True if steps are made on a single CPU in single precision, one of each mini-batch, all of an epoch in a row."""
    n_batches = trainer.num_training_batches
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and trainer.strategy.root_device.type == "cpu"
        and type(trainer.precision_plugin) is Precision
        and len(trainer.optimizers) == 1
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and trainer.max_steps == -1
        and n_batches < float("inf")
        and trainer.val_check_batch in (n_batches, float("inf"))
    )


def _watches(callback: Callback) -> bool:
    """True if a callback is called at each mini-batch, and it is not one that :class:`LeanLoop` calls itself."""
    return not isinstance(callback, LastGoodEpoch) and not _inherits(callback, Callback, OF_CALLBACKS)


def _inherits(thing: object, base: type, names: tuple[str, ...]) -> bool:
    """True if the methods `names` of `thing` are those of `base`."""
    return all(getattr(getattr(thing, name, None), "__func__", None) is getattr(base, name) for name in names)
