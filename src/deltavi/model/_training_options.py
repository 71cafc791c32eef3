"""Arguments that ``train`` hands on to scvi-tools and lightning, unknown ones refused before the first epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from scvi.dataloaders import AnnDataLoader
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import SaveCheckpoint, Trainer

from deltavi._entries import choice, flag, init_keywords, keywords_of, known_keywords, number, scalar, whole_number
from deltavi._errors import DeltaviError, nearest
from deltavi._types import State
from deltavi.train import SMALLEST_BATCH, Ranks
from deltavi.train.loggers import bar_is_seen, with_history
from deltavi.train.on_device import DeviceSplitter

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

# Metrics of every plan; modules add their own.
METRICS = ("loss", "reconstruction_loss", "kl_local", "kl_global", "elbo")
# Packages whose callbacks log nothing of their own that could be watched.
KNOWN_CALLBACKS = ("lightning", "pytorch_lightning", "scvi", "deltavi")
OPTIMIZERS = ("Adam", "AdamW", "Custom")
# Arguments of the loss that the plan passes itself.
OF_LOSS = ("tensors", "inference_outputs", "generative_outputs", "kl_weight")
# Options of reading from a file.
OF_FILES = ("block_rows", "buffer_rows", "read_ahead")
SPLIT_KEYS = ("external_indexing", "shuffle_set_split", "train_size", "validation_size", "batch_size")
# Arguments of scvi-tools' loaders that choose cells or their order, which the split does.
NOT_OF_LOADING = (
    *("adata_manager", "dataset", "indices", "shuffle", "sampler", "batch_sampler", "distributed_sampler"),
    *("data_and_attributes", "iter_ndarray", "drop_dataset_tail"),
)
HINTS = {
    "adata": "The cells are those that the model was made with.",
    "callback": "Pass callbacks.",
    "early_stopping_kwargs": "Pass early_stopping_monitor, early_stopping_patience and others by themselves.",
    "early_stopping_metric": "Pass early_stopping_monitor.",
    "epochs": "Pass max_epochs.",
    "frequency": "Pass check_val_every_n_epoch.",
    "gpus": "Pass accelerator='gpu' and devices.",
    "indices": "Pass train_indices and validation_indices.",
    "learning_rate": "Pass plan_kwargs={'lr': ...}.",
    "lr_scheduler": "Pass plan_kwargs={'lr_schedule': ...}.",
    "model": "It is this one.",
    "n_epochs": "Pass max_epochs.",
    "n_epochs_kl_warmup": "Pass kl_warmup, a share of the epochs, or plan_kwargs={'n_epochs_kl_warmup': ...}.",
    "patience": "Pass early_stopping_patience.",
    "random_state": "Pass seed.",
    "save_path": "Pass checkpoint.",
    "test_indices": "Pass train_indices and validation_indices: the other cells are for testing.",
    "test_size": "Pass train_size and validation_size: the other cells are for testing.",
    "train_fun_kwargs": "Pass what it holds by itself.",
    "use_gpu": "Pass accelerator='gpu' or 'cpu'.",
    "validation_split": "Pass validation_size.",
    "verbose": "Pass enable_progress_bar.",
}
PLAN_HINTS = {
    "epochs": "It is no setting of the plan: pass max_epochs to train().",
    "learning_rate": "Pass 'lr'.",
    "kl_warmup": "It is no setting of the plan: pass kl_warmup to train().",
    "kl_weight": "Pass 'max_kl_weight'.",
    "patience": "Pass 'lr_patience', or early_stopping_patience to train().",
}


def trainer_keywords(train: Callable[..., Any]) -> list[str]:
    """Names that `train` takes, those that it hands on among them."""
    passed_on = ["ckpt_path", *keywords_of(UnsupervisedTrainingMixin.train), *init_keywords(Trainer)]
    return list(dict.fromkeys([*keywords_of(train), *passed_on]))


def plan_keywords(model: CountModel) -> list[str]:
    """Names that the training plan of `model` takes, and those of the loss of its module."""
    of_loss = [name for name in keywords_of(model.module.loss) if name not in OF_LOSS]
    of_plan = init_keywords(model._training_plan_cls)
    return [name for name in [*of_plan, *of_loss] if name != "module"]


def loading_keywords(model: CountModel) -> list[str]:
    """Names that the data splitter of `model` takes; one with mini-batches of its own, those of a split and a file."""
    splitter = model._data_splitter_cls
    if not issubclass(splitter, DeviceSplitter):
        return list(SPLIT_KEYS)
    if splitter.makes_batches:
        return [*SPLIT_KEYS, *OF_FILES]
    of_loaders = init_keywords(splitter, AnnDataLoader)
    return [name for name in dict.fromkeys([*SPLIT_KEYS, *of_loaders]) if name not in NOT_OF_LOADING]


def merged(name: str, config: Any, given: Any) -> State:
    """Settings of a configuration of scvi-tools, and over them those that were `given`."""
    return {**_as_dict(f"{name}_config", config), **_as_dict(f"{name}_kwargs", given)}


def _as_dict(name: str, value: Any) -> State:
    if hasattr(value, "to_kwargs"):
        value = value.to_kwargs()
    if value is not None and not isinstance(value, Mapping):
        raise DeltaviError(f"{name} must be a dictionary of settings, not {value!r}.")
    return dict(value or {})


def trainer_options(model: CountModel, train: Callable[..., Any], given: State) -> State:
    """Options of the trainer, with a logger that keeps the history.

    Parameters
    ----------
    model
        Model to train.
    train
        Its method.
    given
        What it collected; a keyword that means nothing is refused, and one of the plan is pointed to it.
    """
    hints = {key: f"It is a setting of the plan: pass plan_kwargs={{{key!r}: ...}}." for key in plan_keywords(model)}
    among = f"{type(model).__name__}.train"
    options = merged("trainer", given.pop("trainer_config", None), given)
    known_keywords(options, trainer_keywords(train), among=among, hints={**hints, **HINTS})
    if scalar(options.get("overfit_batches", 0)) not in (0, 0.0):
        raise DeltaviError(
            "overfit_batches makes lightning take cells one by one, in place of our mini-batches: pass "
            "limit_train_batches, or train on a few cells with train_indices and validation_indices."
        )
    defaults = {"early_stopping_monitor": "validation_loss", "enable_progress_bar": bar_is_seen()}
    logger = with_history(options.get("logger"), on_disk=options.get("log_save_dir"))
    return {**defaults, **options, "logger": logger}


def plan_options(model: CountModel, trainer: State, given: Any) -> State:
    """Settings of the plan that were asked for, in a configuration or one by one."""
    plan = merged("plan", trainer.pop("plan_config", None), given)
    check_plan(model, plan)
    return plan


def loading_options(model: CountModel, trainer: State, given: Any) -> State:
    """Settings of the data splitter that were asked for, some of which scvi-tools takes in ``train``."""
    loading = merged("datasplitter", None, given)
    if "shuffle_set_split" in trainer:
        loading["shuffle_set_split"] = flag("shuffle_set_split", trainer.pop("shuffle_set_split"))
    if trainer.pop("load_sparse_tensor", False):
        loading["load_sparse_tensor"] = True
    check_loading(model, loading)
    if loading.pop("load_sparse_tensor", False):
        trainer["load_sparse_tensor"] = True
    return loading


def check_plan(model: CountModel, plan: State) -> None:
    """Raise where a setting of the plan means nothing, or has a value that makes no sense."""
    known_keywords(plan, plan_keywords(model), among="plan_kwargs", hints=PLAN_HINTS)
    for name in ("lr", "weight_decay", "eps", "max_kl_weight", "min_kl_weight"):
        if name in plan:
            plan[name] = number(f"plan_kwargs[{name!r}]", plan[name], least=0)
    optimizer = choice("plan_kwargs['optimizer']", plan.get("optimizer", "Adam"), OPTIMIZERS)
    if optimizer == "Custom" and not callable(plan.get("optimizer_creator")):
        raise DeltaviError(
            "plan_kwargs['optimizer']='Custom' needs 'optimizer_creator', a function of the weights that returns an "
            "optimiser."
        )


def check_loading(model: CountModel, loading: State) -> None:
    """Raise where a setting of the data splitter means nothing to `model`."""
    known = loading_keywords(model)
    general = init_keywords(DeviceSplitter, AnnDataLoader)
    makes_its_own = f"{type(model).__name__} makes mini-batches of its own, which it does not concern."
    hints = dict.fromkeys(general, makes_its_own)
    hints |= dict.fromkeys(NOT_OF_LOADING, "The split chooses cells: pass train_indices and validation_indices.")
    known_keywords(loading, known, among="datasplitter_kwargs", hints=hints)


def callbacks_of(asked: Any) -> list[Callback]:
    """One callback or several as a list.

    Raises
    ------
    DeltaviError
        If one is no callback of lightning, or writes checkpoints that were not enabled.
    """
    if asked is None:
        return []
    listed = [asked] if isinstance(asked, Callback) or not isinstance(asked, Iterable) else list(asked)
    for callback in listed:
        if not isinstance(callback, Callback):
            made = "; make one: it is a class" if isinstance(callback, type) else ""
            raise DeltaviError(f"callbacks must be callbacks of lightning.pytorch, not {callback!r}{made}.")
    return listed


# -- what is watched -----------------------------------------------------------------------------------------


def check_watched(
    model: CountModel,
    trainer: State,
    plan: State,
    callbacks: list[Callback],
    *,
    epochs: int,
    n_held_out: int,
) -> None:
    """Raise where something is watched that is not there; see to it that it is there where it is.

    Parameters
    ----------
    model
        Model to train.
    trainer
        Options of the trainer; completed.
    plan
        Settings of the plan.
    callbacks
        Callbacks of the user.
    epochs
        Epochs of the training.
    n_held_out
        Cells to validate on.
    """
    every = trainer.get("check_val_every_n_epoch")
    if every is not None:
        every = trainer["check_val_every_n_epoch"] = whole_number("check_val_every_n_epoch", every, least=1)
    watched = _watched(trainer, plan, callbacks)
    # a callback of the user's own may log what another watches
    if all(type(callback).__module__.split(".")[0] in KNOWN_CALLBACKS for callback in callbacks):
        for what, metric in watched.items():
            _require_metric(model, what, metric)
    held_out = [what for what, metric in watched.items() if "validation" in str(metric)]
    if every is not None and not n_held_out:
        held_out.append("check_val_every_n_epoch")
    if held_out and not n_held_out:
        raise DeltaviError(
            f"{held_out[0]} needs cells to validate on, and none are left: pass a train_size below 1, or "
            f"validation_indices, or leave {held_out[0]} out."
        )
    if held_out and trainer.get("limit_val_batches", 1) == 0:
        raise DeltaviError(f"{held_out[0]} needs validation, which limit_val_batches=0 takes away.")
    if held_out and every is not None and every > epochs:
        raise DeltaviError(
            f"{held_out[0]} would never be looked at: check_val_every_n_epoch={every} is more than {epochs} epochs."
        )
    if held_out:
        trainer.setdefault("check_val_every_n_epoch", 1)
    if not n_held_out:
        # lightning asks for a loader of no cells all the same
        trainer["limit_val_batches"] = 0


def _watched(trainer: State, plan: State, callbacks: list[Callback]) -> dict[str, str]:
    """Metric that each option watches."""
    found: dict[str, str] = {}
    if trainer.get("early_stopping"):
        found["early_stopping"] = trainer["early_stopping_monitor"]
    if plan.get("reduce_lr_on_plateau"):
        found["reduce_lr_on_plateau"] = plan.get("lr_scheduler_metric", "elbo_validation")
    saves = any(isinstance(callback, SaveCheckpoint) for callback in callbacks)
    if trainer.get("enable_checkpointing") and not saves:
        found["enable_checkpointing"] = trainer.get("checkpointing_monitor", "validation_loss")
    for callback in callbacks:
        if getattr(callback, "monitor", None) is not None:
            found[f"the callback {type(callback).__name__}"] = callback.monitor  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and not (saves or trainer.get("enable_checkpointing")):
            raise DeltaviError(
                "ModelCheckpoint needs enable_checkpointing=True. train(checkpoint=folder) saves the model, as "
                "load reads it."
            )
    return found


def metrics_of(model: CountModel) -> list[str]:
    """Metrics that the plan of `model` logs."""
    of_module = getattr(model.module, "extra_metrics", ())
    named = [f"{name}_{mode}" for mode in ("validation", "train") for name in (*METRICS, *of_module)]
    # the loss is called as scvi-tools calls it
    renamed = {"loss_validation": "validation_loss", "loss_train": "train_loss"}
    return [*(renamed.get(name, name) for name in named), "kl_weight"]


def _require_metric(model: CountModel, what: str, metric: str) -> None:
    known = metrics_of(model)
    if metric not in known:
        close = nearest(metric, known)
        hint = "" if close is None else f" Did you mean {close!r}?"
        raise DeltaviError(
            f"{what} watches {metric!r}, which {type(model).__name__} does not log.{hint} Known: "
            f"{', '.join(map(repr, known))}."
        )


def check_steps(trainer: State, *, n_train: int, batch_size: int, ranks: Ranks, drop_last: object) -> None:
    """Raise where options leave no step to train by, or a process with too few cells."""
    for name in ("limit_train_batches", "max_steps"):
        if trainer.get(name) == 0 and not isinstance(trainer[name], bool):
            raise DeltaviError(f"{name}=0 leaves nothing to train by.")
    if ranks.several and n_train < SMALLEST_BATCH * ranks.world:
        raise DeltaviError(
            f"{n_train} training cells are too few for {ranks.world} processes, each of which needs at least "
            f"{SMALLEST_BATCH}: train in fewer."
        )
    if drop_last and n_train < batch_size * ranks.world:
        of_each = f" in each of {ranks.world} processes" if ranks.several else ""
        raise DeltaviError(
            f"drop_last leaves no mini-batch: {n_train} training cells are fewer than batch_size={batch_size}{of_each}."
        )
