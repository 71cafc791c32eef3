"""Training: scvi-tools' ``train`` with a KL warm-up that ends, a seeded split, and nothing global changed."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from scvi.model.base import UnsupervisedTrainingMixin

from deltavi._collector import spared_collector
from deltavi._entries import Indices, seed_number, share, whole_number
from deltavi._errors import DeltaviError, DeltaviWarning
from deltavi._random import isolated_randomness
from deltavi._types import State
from deltavi.model._asked_module import asked_of_module
from deltavi.model._asked_split import asked_split
from deltavi.model._bound import require_plausible_bound
from deltavi.model._checkpoint import check_checkpoint, checkpoints
from deltavi.model._faults import finish, recovered, sigterm_raised
from deltavi.model._shared import shared, warned_by_first
from deltavi.model._training_options import (
    callbacks_of,
    check_steps,
    check_watched,
    loading_options,
    plan_options,
    trainer_options,
)
from deltavi.registry.names import names_checksum
from deltavi.train import (
    LastGoodEpoch,
    first_message,
    joined_history,
    launch_of,
    same,
    share_options,
    wait_for_all,
)
from deltavi.train.progress import epoch_bars

if TYPE_CHECKING:
    from deltavi.model._base import CountModel


def train(
    self: CountModel,
    max_epochs: int | None = None,
    *,
    train_size: float | None = None,
    validation_size: float | None = None,
    train_indices: Indices | None = None,
    validation_indices: Indices | None = None,
    batch_size: int | None = None,
    early_stopping: bool = False,
    kl_warmup: float = 0.5,
    plan_kwargs: State | None = None,
    datasplitter_kwargs: State | None = None,
    callbacks: Callback | Sequence[Callback] | None = None,
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    datamodule: LightningDataModule | None = None,
    **trainer_kwargs: Any,
) -> None:
    """Train the model.

    Where training fails or is interrupted, the model goes back to the end of the last epoch that was good, and the
    error says which that is. A name or value that means nothing is refused before the first epoch.

    Parameters
    ----------
    max_epochs
        Passes over the data; the default grows as cells get fewer.
    train_size, validation_size
        Share of cells to train on and to validate on. By default 0.9 and the rest.
    train_indices, validation_indices
        A split of one's own, in place of shares: positions or masks of the cells to train on and to validate on;
        the others are for testing. Without `train_indices` all cells but `validation_indices` are trained on.
    batch_size
        Cells of a mini-batch, of each process where there are several; by default 128, and 256 for SCGEN, whatever
        ``scvi.settings.batch_size`` is. With a split of one's own it may grow by a few cells, so that no mini-batch has
        one or two.
    early_stopping
        Stop when the objective on the validation cells no longer falls; it is watched at its final KL weight.
        ``early_stopping_monitor`` chooses another metric of ``model.history``; ``early_stopping_patience``,
        ``early_stopping_min_delta``, ``early_stopping_mode`` and ``early_stopping_warmup_epochs`` say when.
    kl_warmup
        Share of `max_epochs` over which the weight of the KL term rises from zero.
    plan_kwargs
        Arguments of the training plan: ``lr``, ``weight_decay``, ``eps``, ``max_kl_weight``, ``lr_schedule``,
        ``optimizer``, ``reduce_lr_on_plateau`` and others of :class:`scvi.train.TrainingPlan`.
    datasplitter_kwargs
        Arguments of :class:`scvi.dataloaders.DataSplitter`: ``external_indexing`` (a split as in `train_indices`,
        in a list), and where no model makes mini-batches of its own ``drop_last``, ``pin_memory``,
        ``num_workers`` and others. ``shuffle_set_split=False`` splits in the order of the cells. For a matrix in
        a file ``block_rows`` are read together, ``buffer_rows`` are mixed, and ``read_ahead=False`` uses no thread.
    callbacks
        One callback of lightning, or several.
    seed
        Seed of split, mini-batches, dropout and samples; by default the model's.
    checkpoint
        Folder to save the model to while it trains, for when the process is killed: :meth:`load` reads it, as it
        was after an epoch. A model that is there is replaced; other files in it stay.
    checkpoint_every
        Epochs from one checkpoint to the next. Each takes about as long as to encode all cells.
    accelerator, devices
        As in lightning: ``"cpu"``, ``"gpu"`` and others. With ``strategy="ddp"`` and several devices of a machine, or
        processes of torchrun, each has its own share of the training cells, and all end with the same model.
    datamodule
        A :class:`deltavi.dataloaders.CellsDataModule` that the model was made with, whose split, size of mini-batches
        and options of reading are taken.
    **trainer_kwargs
        Further arguments of :class:`scvi.train.Trainer` and :class:`lightning.pytorch.Trainer`:
        ``check_val_every_n_epoch``, ``gradient_clip_val``, ``precision``, ``max_steps``, ``max_time`` and others.
        ``logger`` takes one logger or several; ``model.history`` is kept beside them. ``enable_progress_bar`` is
        by default true in a terminal or notebook, and false elsewhere.

    Raises
    ------
    UnknownArgumentError
        If a name is none that training, its plan or its splitter takes.
    DeltaviError
        If there is nothing to train or to validate on, or an argument makes no sense or contradicts `datamodule`; or
        one of several processes is lost.
    ModelFileError
        If `checkpoint` is a file, has a ``manifest.json`` of something else, or cannot be written.
    TrainingDivergedError
        If the loss or a weight becomes NaN or infinite, or training ends above a million nats per cell.
    OutOfMemoryError
        If memory runs out.
    TrainingTerminated
        If SIGTERM comes; it is a ``SystemExit`` with the status 143.
    """
    shares = {"train_size": train_size, "validation_size": validation_size}
    parts: State = {"train_indices": train_indices, "validation_indices": validation_indices}
    if datamodule is not None:
        given = {**shares, **parts, "batch_size": batch_size, **trainer_kwargs}
        parts, batch_size, datasplitter_kwargs = asked_of_module(self, datamodule, given, datasplitter_kwargs)
        shares = dict.fromkeys(shares)
    _require_cells(self)
    trainer = trainer_options(self, train, trainer_kwargs)
    asked = plan_options(self, trainer, plan_kwargs)
    loading = loading_options(self, trainer, datasplitter_kwargs)
    users_callbacks = callbacks_of(callbacks)
    self.adata_manager.validate()
    _require_known_weights(self)
    # before a stage, weights that it sets have no gradient
    launch = launch_of(trainer, accelerator=accelerator, devices=devices, finds_unused=bool(self.recipe.stages))
    ranks = launch.ranks
    with warned_by_first(ranks):
        asked_size = loading.pop("batch_size", None)
        batch_size = _batch_size(self, asked_size if batch_size is None else batch_size)
        default = self.recipe.epochs(self, batch_size * ranks.world)
        epochs = default if max_epochs is None else whole_number("max_epochs", max_epochs, least=1)
        kl_warmup = share("kl_warmup", kl_warmup)
        check_checkpoint(checkpoint, checkpoint_every)
        seed = self.seed if seed is None else seed_number("seed", seed)
        sizes = {"batch_size": batch_size, "seed": seed, "world": ranks.world}
        split, batch_size = asked_split(self, loading, shares=shares, parts=parts, **sizes)
        plan = _plan(self, asked, epochs, kl_warmup)
        trainer |= {"early_stopping": early_stopping, "accelerator": accelerator, "devices": launch.devices}
        n_train, of_all = len(split.train), batch_size * ranks.world
        check_watched(self, trainer, plan, users_callbacks, epochs=epochs, n_held_out=len(split.validation))
        check_steps(trainer, n_train=n_train, batch_size=batch_size, ranks=ranks, drop_last=loading.get("drop_last"))
        settled = max(plan["n_epochs_kl_warmup"] or 0, self.recipe.settled_from(self, epochs))
        trainer = {
            # lightning warns of fewer mini-batches than its logging interval, and of modules in evaluation mode
            "log_every_n_steps": min(10, max(1, n_train // of_all)),
            "early_stopping_warmup_epochs": settled,
            **trainer,
        }
        share_options(trainer, launch, users_callbacks)
        self.recipe.begin(self, split)
        guard = LastGoodEpoch(self.module, self.adata.obs_names, agree=first_message if ranks.several else same)
        saved = checkpoints(
            self, checkpoint if ranks.is_first else None, every=checkpoint_every, guard=guard, split=split
        )
        first = shared(self, ranks, split, seed=seed, settings={"epochs": epochs, "cells of a mini-batch": batch_size})
        bars = epoch_bars(trainer, users_callbacks)
        # an epoch counts before anybody else can end training with it
        own = self.recipe.callbacks(self, split, epochs)
        trainer["callbacks"] = [*first, guard, *saved, *users_callbacks, *own, *bars]
        loading |= {"external_indexing": split.as_external_indexing(), **self.recipe.order(self, seed)}
        guarded = recovered(self, guard, split=split, batch_size=batch_size, saved=saved, folder=checkpoint)
        with sigterm_raised():
            with guarded, isolated_randomness(seed):
                _fit(self, guard, epochs, {"batch_size": batch_size, "datasplitter_kwargs": loading}, plan, trainer)
            self.trained_on_ = names_checksum(self.adata.obs_names)
            finish(self)
            for last in saved:
                last.write()
        if ranks.several:
            # the checkpoint is there for all
            wait_for_all()
        require_plausible_bound(self, plan.get("lr"))


def _require_cells(model: CountModel) -> None:
    if model._adata is None:
        raise DeltaviError("The model was loaded without data: there is nothing to train on.")


def _require_known_weights(model: CountModel) -> None:
    if model.is_mapped_ and model.is_loaded_:
        raise DeltaviError(
            "Neither a file nor a copy says which weights of a mapped query were frozen: map the query again with "
            "load_query_data, and train that."
        )


def _fit(
    model: CountModel,
    guard: LastGoodEpoch,
    epochs: int,
    loading: State,
    plan: State,
    trainer: State,
) -> None:
    """Train by scvi-tools with what was checked before."""
    # scvi-tools continues the tables in place
    before = None if model.history_ is None else dict(model.history_)
    model.module.train()
    with spared_collector(), warnings.catch_warnings():
        # lightning walks over batches with a torch helper that torch deprecated
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Sparse (invariant|CSR)", category=UserWarning)
        # lightning asks for sums over processes, which were made before
        warnings.filterwarnings("ignore", message="It is recommended to use `self.log", category=UserWarning)
        # among several processes they join the mini-batch before
        warnings.filterwarnings("ignore", message="Last batch will have a small size", category=UserWarning)
        UnsupervisedTrainingMixin.train(model, max_epochs=epochs, plan_kwargs=plan, **loading, **trainer)
    model.history_ = joined_history(before, guard.history()) or model.history_


def _plan(model: CountModel, asked: State, epochs: int, kl_warmup: float) -> State:
    """Settings of the training plan, those that the user `asked` for before all others."""
    plan = {
        **model.recipe.plan(model),
        # who lowers the rate where training stalls does not want it lowered otherwise
        **({"lr_schedule": "constant"} if asked.get("reduce_lr_on_plateau") else {}),
        # Adam divides a gradient by its size: where decay is all there is, frozen weights walk to zero at full pace
        **({"weight_decay": 0.0} if model.is_mapped_ else {}),
        "n_epochs_kl_warmup": math.ceil(kl_warmup * epochs) or None,
        **asked,
    }
    _warn_of_unfinished_warmup(plan, epochs)
    return plan


def _batch_size(model: CountModel, asked: int | None) -> int:
    """Cells of a mini-batch; to normalise over one takes two."""
    normalises = any(isinstance(part, torch.nn.BatchNorm1d) for part in model.module.modules())
    default = model.default_batch_size if asked is None else asked
    return whole_number("batch_size", default, least=2 if normalises else 1)


def _warn_of_unfinished_warmup(plan: State, max_epochs: int) -> None:
    rising = plan["n_epochs_kl_warmup"] or 0
    if rising > max_epochs:
        warnings.warn(
            f"The weight of the KL term rises over {rising} epochs, but training ends after {max_epochs}: it will have "
            f"come to {max_epochs / rising:.2g} of its final value. Pass max_epochs={rising}, or a shorter rise.",
            DeltaviWarning,
            stacklevel=4,
        )
