from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as _Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from scvi.dataloaders import DataSplitter
from scvi.model.base import BaseModelClass
from scvi.module.base import BaseModuleClass

class Trainer(_Trainer):
    def __init__(
        self,
        accelerator: str | Accelerator | None = None,
        devices: list[int] | str | int | None = None,
        benchmark: bool = True,
        check_val_every_n_epoch: int | None = None,
        max_epochs: int = 400,
        default_root_dir: str | None = None,
        enable_checkpointing: bool = False,
        checkpointing_monitor: str = "validation_loss",
        num_sanity_val_steps: int = 0,
        enable_model_summary: bool = False,
        early_stopping: bool = False,
        early_stopping_monitor: str = "elbo_validation",
        early_stopping_min_delta: float = 0.0,
        early_stopping_patience: int = 45,
        early_stopping_warmup_epochs: int = 0,
        early_stopping_mode: Literal["min", "max"] = "min",
        enable_progress_bar: bool = True,
        progress_bar_refresh_rate: int = 1,
        simple_progress_bar: bool = True,
        logger: Logger | bool | None = None,
        log_every_n_steps: int = 10,
        learning_rate_monitor: bool = False,
        log_save_dir: str | None = None,
        **kwargs: Any,
    ) -> None: ...
    def fit(self, *args: Any, **kwargs: Any) -> None: ...

class TrainRunner:
    _trainer_cls: type[Trainer]
    trainer: Trainer

    def __init__(
        self,
        model: BaseModelClass,
        training_plan: LightningModule,
        data_splitter: DataSplitter,
        max_epochs: int,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        trainer_config: Any = None,
        **trainer_kwargs: Any,
    ) -> None: ...
    def __call__(self) -> None: ...

class SaveCheckpoint(ModelCheckpoint):
    def __init__(
        self,
        dirpath: str | None = None,
        filename: str | None = None,
        monitor: str = "validation_loss",
        load_best_on_end: bool = False,
        check_nan_gradients: bool = False,
        **kwargs: Any,
    ) -> None: ...

class LoudEarlyStopping(EarlyStopping):
    def __init__(self, **kwargs: Any) -> None: ...
    def teardown(self, _trainer: _Trainer, _pl_module: LightningModule, stage: str | None = None) -> None: ...

class TrainingPlan(LightningModule):
    module: BaseModuleClass
    lr: float
    eps: float
    weight_decay: float
    max_kl_weight: float
    optimizer_name: str
    reduce_lr_on_plateau: bool
    on_step: bool | None
    loss_kwargs: dict[str, Any]

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        optimizer: Literal["Adam", "AdamW", "Custom"] = "Adam",
        optimizer_creator: Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer] | None = None,
        lr: float = 1e-3,
        update_only_decoder: bool = False,
        weight_decay: float = 1e-6,
        eps: float = 0.01,
        n_steps_kl_warmup: int | None = None,
        n_epochs_kl_warmup: int = 400,
        reduce_lr_on_plateau: bool = False,
        lr_factor: float = 0.6,
        lr_patience: int = 30,
        lr_threshold: float = 0.0,
        lr_scheduler_metric: str = "elbo_validation",
        lr_min: float = 0,
        max_kl_weight: float = 1.0,
        min_kl_weight: float = 0.0,
        compile: bool = False,
        compile_kwargs: dict[str, Any] | None = None,
        on_step: bool | None = False,
        on_epoch: bool | None = True,
        **loss_kwargs: Any,
    ) -> None: ...
    @property
    def use_sync_dist(self) -> bool: ...
    @property
    def n_obs_training(self) -> int | None: ...
    @property
    def n_obs_validation(self) -> int | None: ...
    @property
    def kl_weight(self) -> Any: ...
    def forward(self, *args: Any, **kwargs: Any) -> Any: ...
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor: ...
    def validation_step(self, batch: Any, batch_idx: int) -> None: ...
    def get_optimizer_creator(self) -> Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]: ...
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig: ...
