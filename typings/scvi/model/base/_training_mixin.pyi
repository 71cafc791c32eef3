from typing import Any, ClassVar

from lightning.pytorch import LightningDataModule, LightningModule
from scvi.train import TrainRunner

class UnsupervisedTrainingMixin:
    _data_splitter_cls: ClassVar[type[LightningDataModule]]
    _training_plan_cls: ClassVar[type[LightningModule]]
    _train_runner_cls: ClassVar[type[TrainRunner]]

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int = 128,
        early_stopping: bool = False,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_config: Any = None,
        plan_kwargs: Any = None,
        datamodule: LightningDataModule | None = None,
        trainer_config: Any = None,
        **trainer_kwargs: Any,
    ) -> None: ...
