"""Processes that a training is asked to run in: torchrun or lightning starts them, and options are checked here."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only
from scvi.train import SaveCheckpoint

from deltavi._compat import OWN_BUFFERS, AcceleratorConnector
from deltavi._entries import scalar, whole_number
from deltavi._errors import DeltaviError, DeltaviWarning
from deltavi._types import State
from deltavi.train._ranks import ALONE, Ranks
from deltavi.train._shared_training import HistoryOfRank, SharedStop

# Ways of lightning to start processes that return nothing to the one that called them.
COPIES = ("spawn", "fork", "notebook")
SCRIPT = (
    "Write a script that calls train(devices=N, strategy='ddp'), and start it by `torchrun --nproc-per-node N "
    "script.py`, or as it is."
)
# Arguments of early stopping, by those of the trainer.
STOPPING = {"monitor": "validation_loss", "min_delta": 0.0, "patience": 45, "mode": "min", "warmup_epochs": 0}


@dataclass(frozen=True, eq=False)
class Launch:
    """Processes of a training, and how they exchange gradients.

    Parameters
    ----------
    ranks
        This process, and the number of all.
    devices
        Devices of a machine.
    strategy
        Strategy of lightning; ``None`` without other processes.
    """

    ranks: Ranks
    devices: object
    strategy: DDPStrategy | None = None


def launch_of(trainer: State, *, accelerator: str, devices: object, finds_unused: bool) -> Launch:
    """Processes that options of a trainer ask for.

    Parameters
    ----------
    trainer
        Options of the trainer.
    accelerator, devices
        As in lightning.
    finds_unused
        True for a model of which some weights have no gradient at times.

    Raises
    ------
    DeltaviError
        If lightning refuses the options, or starts processes from which no model comes back.
    """
    asked, n_nodes = trainer.get("strategy"), whole_number("num_nodes", trainer.get("num_nodes", 1), least=1)
    asked = None if isinstance(asked, str) and asked == "auto" else asked
    if asked is None and n_nodes == 1 and _is_one(devices):
        _warn_of_processes_apart()
        return Launch(ALONE, devices)
    _require_processes_that_stay(asked)
    if TorchElasticEnvironment.detect() and isinstance(devices, str) and devices == "auto":
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
    strategy = "ddp" if isinstance(asked, DDPStrategy) else asked or "auto"
    chosen = _chosen(strategy, accelerator=accelerator, devices=devices, n_nodes=n_nodes)
    if isinstance(chosen, SingleDeviceStrategy):
        return Launch(ALONE, devices)
    if not isinstance(chosen, DDPStrategy):
        raise DeltaviError(f"strategy={asked!r} is not supported: pass strategy='ddp'.")
    _require_processes_that_stay(chosen)
    own = asked if isinstance(asked, DDPStrategy) else None
    unused = finds_unused or (isinstance(asked, str) and asked.endswith("unused_parameters_true"))
    return Launch(
        Ranks(chosen.global_rank, chosen.world_size),
        devices,
        # statistics are averaged once an epoch, so that none is lost
        own or DDPStrategy(find_unused_parameters=unused, **OWN_BUFFERS),
    )


def _chosen(strategy: Strategy | str, *, accelerator: str, devices: object, n_nodes: int) -> Strategy:
    """Strategy that lightning makes of the options."""
    try:
        connector = AcceleratorConnector(
            accelerator=accelerator,
            devices=devices,  # type: ignore[arg-type]
            strategy=strategy,
            num_nodes=n_nodes,
        )
        chosen: Strategy = connector.strategy
        if isinstance(chosen, DDPStrategy) and chosen.cluster_environment is not None:
            _require_as_many(chosen.num_processes, n_nodes)
            if not chosen.cluster_environment.creates_processes_externally:
                _require_script()
            chosen.cluster_environment.validate_settings(num_devices=chosen.num_processes, num_nodes=n_nodes)
        return chosen
    except DeltaviError:
        raise
    except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise DeltaviError(f"train() cannot use these options of the trainer: {error}") from error


def _require_as_many(n_processes: int, n_nodes: int) -> None:
    """Raise where torchrun started another number of processes than the options ask for."""
    if not TorchElasticEnvironment.detect():
        return
    started, on_machine = int(os.environ["WORLD_SIZE"]), os.environ["LOCAL_WORLD_SIZE"]
    if n_processes * n_nodes != started:
        raise DeltaviError(
            f"torchrun started {started} processes, and devices={n_processes} with num_nodes={n_nodes} are "
            f"{n_processes * n_nodes}: pass devices={on_machine} or devices='auto', or start torchrun with "
            f"--nproc-per-node {n_processes}."
        )


def _require_script() -> None:
    """Raise where no other process can run the script of this one: it is no file, or not where it was."""
    script = sys.argv[0] if sys.argv else ""
    if getattr(sys.modules["__main__"], "__spec__", None) is None and not os.path.isfile(script):
        is_text = script in ("-c", "-", "")
        what = "text of python -c or standard input" if is_text else f"{script!r}, which is not there from here"
        raise DeltaviError(
            f"Lightning starts other processes by the script of this one, and that is {what} (working folder "
            f"{os.getcwd()!r}). {SCRIPT}"
        )


def _is_one(devices: object) -> bool:
    """True if `devices` are one device: that of a CPU, or the first one of others."""
    plain = scalar(devices)
    return plain in ("auto", "1", 1) or (isinstance(plain, list) and len(plain) == 1)


def _require_processes_that_stay(strategy: object) -> None:
    """Raise for a strategy whose processes end with the training."""
    name = str(vars(strategy).get("_start_method", "")) if isinstance(strategy, DDPStrategy) else str(strategy)
    if any(word in name for word in COPIES):
        raise DeltaviError(
            "Processes that are copied from this one, as with strategy='ddp_spawn' or in a notebook, would take the "
            f"trained model with them when they end. {SCRIPT} In a notebook use one device."
        )


def _warn_of_processes_apart() -> None:
    n_processes = int(os.environ.get("WORLD_SIZE", 1)) if TorchElasticEnvironment.detect() else 1
    if n_processes > 1 and os.environ.get("RANK") == "0":
        warnings.warn(
            f"torchrun started {n_processes} processes, and each trains a model of its own on all cells. To train one "
            f"together pass strategy='ddp' and devices={os.environ['LOCAL_WORLD_SIZE']}.",
            DeltaviWarning,
            stacklevel=5,
        )


def share_options(trainer: State, launch: Launch, callbacks: list[Callback]) -> None:
    """Complete options of a trainer for several processes.

    Parameters
    ----------
    trainer
        Options; changed.
    launch
        Processes of the training.
    callbacks
        Callbacks of the user, to which early stopping is added.

    Raises
    ------
    DeltaviError
        If every process would write the same file.
    """
    if launch.strategy is None:
        if vars(rank_zero_only).get("rank", 0) != 0:
            # one of several processes that train apart
            _keep_history(trainer)
        return
    if trainer.get("enable_checkpointing") or any(isinstance(callback, SaveCheckpoint) for callback in callbacks):
        raise DeltaviError(
            "enable_checkpointing and SaveCheckpoint write from every process, one over the other: pass "
            "train(checkpoint=folder), which rank 0 writes."
        )
    _keep_history(trainer)
    trainer["strategy"], trainer["use_distributed_sampler"] = launch.strategy, False
    if not launch.ranks.is_first:
        trainer["enable_progress_bar"] = False
    if trainer.pop("early_stopping", False):
        asked = {name: trainer.get(f"early_stopping_{name}", default) for name, default in STOPPING.items()}
        trainer.setdefault("check_val_every_n_epoch", 1)
        callbacks.append(SharedStop(**asked))


def _keep_history(trainer: State) -> None:
    """Let the first logger be one that keeps the history in this process."""
    folder = trainer.get("log_save_dir")
    history = HistoryOfRank(save_dir=folder, save_log_on_disk=folder is not None)
    trainer["logger"] = [history, *(trainer.get("logger") or [])]
