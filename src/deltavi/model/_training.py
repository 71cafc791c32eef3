"""Training: scvi-tools' ``train`` with a KL warm-up that ends, a seeded split, and nothing global changed."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any, ClassVar

import numpy as np
from scvi.model.base import UnsupervisedTrainingMixin

from deltavi._collector import spared_collector
from deltavi._errors import DeltaviError, DeltaviWarning
from deltavi._random import isolated_randomness
from deltavi.model._checkpoint import check_checkpoint, checkpoints
from deltavi.model._faults import finish, recovered
from deltavi.train import CellSplit, LastGoodEpoch, ObjectivePlan, split_cells
from deltavi.train._on_device import DeviceSplitter

# Optimiser steps that train a model of a few thousand cells well; more cells mean fewer epochs.
DEFAULT_STEPS = 1400
EPOCHS_RANGE = (20, 400)
# Steps below which a model has hardly begun to learn, however few its cells.
FEWEST_STEPS = 500
DEFAULT_TRAIN_SIZE = 0.9


class TrainingMixin(UnsupervisedTrainingMixin):  # type: ignore[misc]
    """Carries ``train``."""

    _training_plan_cls = ObjectivePlan
    _data_splitter_cls = DeviceSplitter
    default_plan: ClassVar[dict[str, Any]] = {}
    # whether the weights are those of a reference that a query is mapped onto, most of them frozen
    is_mapped_ = False
    # whether the model comes from a file, which does not say which weights were frozen
    is_loaded_ = False
    default_batch_size: ClassVar[int] = 128
    # passes over the data beyond which the model learns its cells by heart, where there are enough of them
    most_epochs: ClassVar[int] = EPOCHS_RANGE[1]

    def train(
        self,
        max_epochs: int | None = None,
        *,
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int | None = None,
        early_stopping: bool = False,
        kl_warmup: float = 0.5,
        plan_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Where training fails or is interrupted, the model goes back to the end of the last epoch that was good, and the
        error says which that is.

        Parameters
        ----------
        max_epochs
            Passes over the data; the default grows as cells get fewer.
        train_size, validation_size
            Share of cells to train on and to validate on. By default 0.9 and the rest.
        batch_size
            Cells of a mini-batch; by default 128, and 256 for SCGEN.
        early_stopping
            Stop when the objective on the validation cells no longer falls; it is watched at its final KL weight.
        kl_warmup
            Share of `max_epochs` over which the weight of the KL term rises from zero.
        plan_kwargs
            Arguments of the training plan: ``lr``, ``weight_decay``, ``max_kl_weight``, ``lr_schedule`` and others.
        seed
            Seed of split, mini-batches, dropout and samples; by default the model's.
        checkpoint
            Folder to save the model to while it trains, for when the process is killed: :meth:`load` reads it, as it
            was after an epoch. A model that is there is replaced.
        checkpoint_every
            Epochs from one checkpoint to the next. Each takes about as long as to encode all cells.
        accelerator, devices, **trainer_kwargs
            As in scvi-tools: ``enable_progress_bar``, ``callbacks``, ``early_stopping_patience`` and others.

        Raises
        ------
        DeltaviError
            If there is nothing to train on, or `max_epochs` or `kl_warmup` makes no sense.
        ModelFileError
            If `checkpoint` holds something else than a model, or cannot be written.
        TrainingDivergedError
            If the loss or a weight becomes NaN or infinite.
        OutOfMemoryError
            If memory runs out.
        """
        if self._adata is None:
            raise DeltaviError("The model was loaded without data: there is nothing to train on.")
        self.adata_manager.validate()
        if self.is_mapped_ and self.is_loaded_:
            raise DeltaviError(
                "A file does not say which weights of a mapped query were frozen: map the query again with "
                "load_query_data, and train that."
            )
        batch_size = batch_size or self.default_batch_size
        epochs = self._default_epochs(batch_size) if max_epochs is None else max_epochs
        _check_schedule(epochs, kl_warmup)
        check_checkpoint(checkpoint, checkpoint_every)
        seed = self.seed if seed is None else seed
        split = self._split_cells(
            train_size=DEFAULT_TRAIN_SIZE if train_size is None else train_size,
            validation_size=validation_size,
            batch_size=batch_size,
            generator=np.random.default_rng(seed),
        )
        self._before_training(split)
        asked = plan_kwargs or {}
        plan = {
            **self._plan_defaults(),
            # who lowers the rate where training stalls does not want it lowered otherwise
            **({"lr_schedule": "constant"} if asked.get("reduce_lr_on_plateau") else {}),
            # Adam divides a gradient by its size: where decay is all there is, frozen weights walk to zero at full pace
            **({"weight_decay": 0.0} if self.is_mapped_ else {}),
            "n_epochs_kl_warmup": math.ceil(kl_warmup * epochs) or None,
            **asked,
        }
        _warn_of_unfinished_warmup(plan, epochs)
        if early_stopping:
            trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
            settled = max(plan["n_epochs_kl_warmup"] or 0, self._settled_from(epochs))
            trainer_kwargs.setdefault("early_stopping_warmup_epochs", settled)
        guard = LastGoodEpoch(self.module, self.adata.obs_names)
        saved = checkpoints(self, checkpoint, every=checkpoint_every, guard=guard, split=split)
        asked_callbacks = trainer_kwargs.get("callbacks") or []
        # an epoch counts before anybody else can end training with it
        trainer_kwargs["callbacks"] = [guard, *saved, *asked_callbacks, *self._own_callbacks(split, epochs)]
        # lightning warns of fewer mini-batches than its logging interval, and of modules left in evaluation mode
        trainer_kwargs.setdefault("log_every_n_steps", min(10, max(1, len(split.train) // batch_size)))
        self.module.train()
        with (
            recovered(self, guard, split=split, batch_size=batch_size),
            isolated_randomness(seed),
            spared_collector(),
            warnings.catch_warnings(),
        ):
            # lightning walks over batches with a torch helper that torch deprecated
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            super().train(
                max_epochs=epochs,
                accelerator=accelerator,
                devices=devices,
                batch_size=batch_size,
                early_stopping=early_stopping,
                datasplitter_kwargs={"external_indexing": split.as_external_indexing(), **self._loading_options(seed)},
                plan_kwargs=plan,
                **trainer_kwargs,
            )
        finish(self)
        for last in saved:
            last.write()

    def _default_epochs(self, batch_size: int) -> int:
        """Passes over the data where the caller names no number."""
        return default_epochs(self.adata.n_obs, batch_size, self.most_epochs)

    def _plan_defaults(self) -> dict[str, Any]:
        """Arguments of the training plan that the caller does not give."""
        return dict(self.default_plan)

    def _split_cells(self, **options: Any) -> CellSplit:
        """Cells to train and validate on; classifiers split every label alike."""
        return split_cells(self.adata.n_obs, **options)

    def _loading_options(self, seed: int) -> dict[str, Any]:
        """Further arguments of the data splitter, for a model that has one of its own."""
        return {}

    def _settled_from(self, max_epochs: int) -> int:
        """Epoch from which the objective is the one training is about, beside the warm-up of the KL term."""
        return 0

    def _own_callbacks(self, split: CellSplit, max_epochs: int) -> list[Any]:
        """Callbacks of the model itself, after those of the user."""
        return []

    def _before_training(self, split: CellSplit) -> None:
        """Hook for what a model learns of its training cells before the first step."""

    def _after_training(self) -> None:
        """Hook for what a model keeps of its training cells."""


def default_epochs(n_cells: int, batch_size: int, most_epochs: int = EPOCHS_RANGE[1]) -> int:
    """Epochs that give about `DEFAULT_STEPS` optimiser steps, within `EPOCHS_RANGE`.

    No more than `most_epochs`, unless these would be fewer than `FEWEST_STEPS` steps.
    """
    steps_per_epoch = max(1, math.ceil(n_cells / batch_size))
    most = min(max(most_epochs, math.ceil(FEWEST_STEPS / steps_per_epoch)), EPOCHS_RANGE[1])
    return int(np.clip(round(DEFAULT_STEPS / steps_per_epoch), EPOCHS_RANGE[0], most))


def _warn_of_unfinished_warmup(plan: dict[str, Any], max_epochs: int) -> None:
    rising = plan["n_epochs_kl_warmup"] or 0
    if rising > max_epochs:
        warnings.warn(
            f"The weight of the KL term rises over {rising} epochs, but training ends after {max_epochs}: it will have "
            f"come to {max_epochs / rising:.2g} of its final value. Pass max_epochs={rising}, or a shorter rise.",
            DeltaviWarning,
            stacklevel=3,
        )


def _check_schedule(max_epochs: int, kl_warmup: float) -> None:
    if isinstance(max_epochs, bool) or int(max_epochs) != max_epochs or max_epochs < 1:
        raise DeltaviError(f"max_epochs must be a whole number of at least 1, not {max_epochs!r}.")
    if not 0 <= kl_warmup <= 1:
        raise DeltaviError(f"kl_warmup is a share of max_epochs and must lie in [0, 1], not {kl_warmup!r}.")
