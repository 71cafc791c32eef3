"""Trainings in several processes, for ``test_ranks.py``: ``python -m tests.train.in_processes FOLDER WORLD NAME...``.

Every scenario is a function of this module. It runs in as many processes as are asked for, forked from this one, which
has read the libraries; each writes what it found to ``FOLDER/NAME.RANK.json``. Under torchrun, and where lightning
starts the processes, the scenario runs in those that there are.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from deltavi.dataloaders import CellsDataModule
from deltavi.errors import DeltaviError, TrainingDivergedError
from deltavi.model import MIXVI, VAE
from deltavi.model import _mixture_training as mixture_training
from deltavi.testing._cells import SETUP, small_adata
from deltavi.train._order import cells_of_batch
from deltavi.train._ranks import digest
from tests.dataloaders.cells import BLOCKS, COLUMNS, FORMS, NUMBER, numbered
from tests.models import MODELS

SMALL = {"n_hidden": 12, "n_latent": 3}
DETERMINISTIC = {"posterior": "deterministic", "dropout_rate": 0.0, "use_batch_norm": "none"}
Found = dict[str, Any]


def rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def together(**options: Any) -> Found:
    world = int(os.environ.get("WORLD_SIZE", 2))
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    return {"devices": world, "strategy": "ddp", "batch_size": 16, "seed": 0, **quiet, **options}


def small_vae(**options: Any) -> VAE:
    adata = small_adata(n_per_group=30)
    VAE.setup_anndata(adata, **SETUP)
    return VAE(adata, **{**SMALL, **options})


class Seen(Callback):
    """Cells of each mini-batch of each epoch, and the first number that dropout would draw."""

    def __init__(self) -> None:
        self.epochs: list[list[list[int]]] = []
        self.noise: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        state = torch.get_rng_state()
        self.noise.append(float(torch.rand(())))
        torch.set_rng_state(state)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        loader = trainer.train_dataloader
        self.epochs.append([cells_of_batch(loader, i).tolist() for i in range(len(loader))])


class At(Callback):
    """Something that happens in a process, at a step of an epoch."""

    def __init__(self, who: int, what: Callable[[], object], *, epoch: int = 2) -> None:
        self.who, self.what, self.epoch = who, what, epoch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if rank() == self.who and trainer.current_epoch == self.epoch and batch_idx == 1:
            self.what()


def state_of(model: Any) -> Found:
    """What has to be the same in all processes."""
    kept = getattr(model, "training_means", None)
    calibration = getattr(model, "calibration", None)
    return {
        "weights": digest(model.module),
        "history": {name: values.iloc[:, 0].astype(float).tolist() for name, values in model.history.items()},
        "latent": model.get_latent_representation().sum(0).tolist() if hasattr(model.module, "n_latent") else None,
        "means": None if kept is None else hashlib.sha256(repr(kept.as_dict()).encode()).hexdigest(),
        "calibration": None if calibration is None else repr(calibration),
        "active": model.module.is_active.tolist() if isinstance(model, MIXVI) else None,
        "split": [len(model.train_indices), len(model.validation_indices)],
    }


# -- scenarios -----------------------------------------------------------------------------------------------------


def every_model() -> Found:
    """Each model, and the cells that it saw here."""
    found: Found = {}
    for name, entry in MODELS.items():
        torch.manual_seed(1)
        before, seen = torch.get_rng_state(), Seen()
        model = entry.untrained()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = {**entry.training, "max_epochs": 4, "check_val_every_n_epoch": 1, "callbacks": [seen]}
            model.train(**(together(**options) if entry.by_epochs else together()))
        found[name] = {
            **state_of(model),
            "train": np.sort(model.train_indices).tolist(),
            "epochs": seen.epochs,
            "noise": seen.noise,
            "warned": [str(w.message) for w in caught],
            "left alone": bool(torch.equal(torch.get_rng_state(), before)),
        }
    return found


def from_a_file() -> Found:
    """A file that is read in blocks of rows."""
    adata = small_adata(n_per_group=30)
    path = Path(os.environ["SCENARIO_FOLDER"]) / f"cells{rank()}.h5ad"
    adata.write_h5ad(path)
    adata = anndata.read_h5ad(path, backed="r")
    VAE.setup_anndata(adata, **SETUP)
    model, seen = VAE(adata, **SMALL), Seen()
    blocks = {"block_rows": 2, "buffer_rows": 64}
    options = {"max_epochs": 2, "check_val_every_n_epoch": 1, "callbacks": [seen]}
    model.train(**together(datasplitter_kwargs=blocks, **options))
    loader = type(model.trainer.train_dataloader).__name__
    return {**state_of(model), "loader": loader, "epochs": seen.epochs, "train": np.sort(model.train_indices).tolist()}


def of_scvi_tools() -> Found:
    """A model of scvi-tools with the data module, of cells in memory and in a file, and the cells of each step here."""
    found: Found = {}
    for form in ("memory", "h5ad"):
        folder = Path(os.environ["SCENARIO_FOLDER"]) / f"cells{rank()}"
        folder.mkdir(exist_ok=True)
        module = CellsDataModule(FORMS[form](numbered(), folder), **COLUMNS, **BLOCKS, batch_size=16)
        model, epochs = scvi.model.SCVI(registry=module.registry, **SMALL), []

        class Numbers(Callback):
            def on_train_epoch_start(self, trainer: Any, pl_module: Any, epochs: list[Any] = epochs) -> None:
                epochs.append([])

            def on_train_batch_start(
                self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, epochs: list[Any] = epochs
            ) -> None:
                epochs[-1].append(batch[NUMBER].ravel().long().tolist())

        # without its logger, which writes to the working folder
        quiet = {"enable_progress_bar": False, "accelerator": "cpu", "logger": False}
        ddp = {"devices": int(os.environ["WORLD_SIZE"]), "strategy": "ddp_find_unused_parameters_true"}
        model.train(max_epochs=2, datamodule=module, callbacks=[Numbers()], **ddp, **quiet)
        # running statistics are each process's own in scvi-tools
        weights = [float(values.detach().sum()) for values in model.module.parameters()]
        found[form] = {"epochs": epochs, "train": sorted(module.train_idx.tolist()), "weights": weights}
    return found


def exact() -> Found:
    """The model of one process with mini-batches as many times as large, and how far it is from that."""
    world = int(os.environ["WORLD_SIZE"])
    # the last mini-batch is not the same in all processes
    size = {2: 16, 3: 13}[world]
    models = {}
    ways = {"together": together(batch_size=size), "alone": {"batch_size": size * world, "seed": 0}}
    for name, options in ways.items():
        model = small_vae(**DETERMINISTIC)
        # without its logger, which writes to the working folder
        quiet = {"enable_progress_bar": False, "accelerator": "cpu", "logger": False}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.train(max_epochs=3, train_indices=np.arange(341), **{**quiet, **options})
        models[name] = model
    one, other = (model.module.state_dict() for model in models.values())
    far = {key: float((one[key] - other[key]).norm() / other[key].norm().clamp(min=1e-3)) for key in one}
    losses = [model.history["train_loss"].iloc[:, 0].astype(float).tolist() for model in models.values()]
    return {"weights": max(far.values()), "losses": losses, "warned": [str(w.message) for w in caught]}


def stopped_early() -> Found:
    model = small_vae()
    stopping = {"early_stopping": True, "early_stopping_patience": 1, "early_stopping_min_delta": 1e6}
    folder = Path(os.environ["SCENARIO_FOLDER"]) / "stopped"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train(max_epochs=30, kl_warmup=0.0, checkpoint=folder, **together(**stopping))
    loaded = VAE.load(folder)
    warned = [str(w.message) for w in caught]
    return {
        **state_of(model),
        "saved": digest(loaded.module),
        "warned": warned,
        "here": [name for name in os.listdir() if "log" in name],
    }


def continued() -> Found:
    """Training that goes on after training, and default epochs of all processes."""
    model = small_vae()
    model.train(max_epochs=1, **together())
    model.train(max_epochs=2, train_indices=np.arange(0, 340), **together(batch_size=13))
    return state_of(model)


def restarted() -> Found:
    """A mixture that has collapsed by what rank 0 computes alone, and is trained once more in all processes."""
    model = MODELS["MIXVI"].untrained()
    judged = iter([rank() == 0, False])
    mixture_training.has_collapsed = lambda model: next(judged)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train(max_epochs=4, **together())
    return {**state_of(model), "warned": [str(w.message) for w in caught]}


def default_epochs() -> Found:
    model = small_vae(n_hidden=4)
    stop = At(rank(), lambda: None)
    stop.on_train_epoch_end = lambda trainer, plan: setattr(trainer, "should_stop", True)
    model.train(callbacks=[stop], **together(batch_size=8))
    world = int(os.environ["WORLD_SIZE"])
    return {"epochs": model.trainer.max_epochs, "expected": VAE.recipe.epochs(model, 8 * world)}


def diverged() -> Found:
    model = small_vae()
    folder = Path(os.environ["SCENARIO_FOLDER"]) / "diverged"
    failed = attempt(lambda: model.train(max_epochs=8, checkpoint=folder, plan_kwargs={"lr": 1e9}, **together()))
    # the connections are still there
    model = small_vae()
    model.train(max_epochs=1, **together())
    return {**failed, "weights": digest(model.module)}


def one_is_wrong() -> Found:
    """A loss that is not finite in one process alone."""
    model = small_vae()

    class Wrong(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if rank() == 1 and trainer.current_epoch == 1:
                outputs["loss"] = outputs["loss"] * float("nan")
                guard = next(c for c in trainer.callbacks if type(c).__name__ == "LastGoodEpoch")
                guard._losses[-1] = outputs["loss"]

    return attempt(lambda: model.train(max_epochs=4, callbacks=[Wrong()], **together()))


def other_cells() -> Found:
    """Mistakes of users: each process reads a part of the cells, or has a seed of its own."""
    adata = small_adata(n_per_group=30)
    VAE.setup_anndata(adata, **SETUP)
    part = small_adata(n_per_group=30)[rank() :: 2].copy()
    VAE.setup_anndata(part, **SETUP)
    parts = attempt(lambda: VAE(part, **SMALL).train(max_epochs=1, **together()))
    seeds = attempt(lambda: VAE(adata, seed=rank(), **SMALL).train(max_epochs=1, **together(seed=rank())))
    values, labels = small_adata(n_per_group=30), small_adata(n_per_group=30)
    if rank():
        values.X[0, 0] += 1
        batches = labels.obs[SETUP["batch_key"]].to_numpy()
        labels.obs[SETUP["batch_key"]] = batches[::-1]
    VAE.setup_anndata(values, **SETUP)
    VAE.setup_anndata(labels, **SETUP)
    of_values = attempt(lambda: VAE(values, **SMALL).train(max_epochs=1, **together()))
    of_labels = attempt(lambda: VAE(labels, **SMALL).train(max_epochs=1, **together()))
    return {"parts": parts, "seeds": seeds, "values": of_values, "labels": of_labels}


def drifted() -> Found:
    """A callback that changes weights in one process."""
    model = small_vae()

    def change() -> None:
        with torch.no_grad():
            next(model.module.parameters()).add_(1.0)

    return attempt(lambda: model.train(max_epochs=3, callbacks=[At(1, change)], **together()))


def ended(what: Callable[[], object], name: str, *, who: int = 1) -> Found:
    """One process ends in the middle of the third epoch."""
    model = small_vae()
    folder = Path(os.environ["SCENARIO_FOLDER"]) / name
    start = time.monotonic()
    found = attempt(lambda: model.train(max_epochs=2000, checkpoint=folder, callbacks=[At(who, what)], **together()))
    trained = {"epochs": len(model.history["train_loss"]), "weights": digest(model.module)} if model.is_trained_ else {}
    return {**found, **trained, "seconds": time.monotonic() - start}


def killed() -> Found:
    return ended(lambda: os.kill(os.getpid(), signal.SIGKILL), "killed")


def first_killed() -> Found:
    return ended(lambda: os.kill(os.getpid(), signal.SIGKILL), "first_killed", who=0)


def terminated() -> Found:
    return ended(lambda: os.kill(os.getpid(), signal.SIGTERM), "terminated")


def interrupted() -> Found:
    # a shell lets its background jobs ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return ended(lambda: os.kill(os.getpid(), signal.SIGINT), "interrupted")


def failed() -> Found:
    return ended(lambda: [][1], "failed")


# -- processes -----------------------------------------------------------------------------------------------------


def attempt(what: Callable[[], object]) -> Found:
    try:
        what()
    except BaseException as error:
        known = isinstance(error, DeltaviError), isinstance(error, TrainingDivergedError)
        kind = {"error": type(error).__name__, "known": known[0], "diverged": known[1]}
        return {**kind, "message": str(error), "notes": getattr(error, "__notes__", [])}
    return {"error": None}


def run(scenario: Callable[[], Found], folder: Path) -> None:
    name = scenario.__name__
    os.environ["SCENARIO_FOLDER"] = str(folder)
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        found = scenario()
    except BaseException:
        found = {"failed": traceback.format_exc()}
    (folder / f"{name}.{rank()}.json").write_text(json.dumps(found))
    if "failed" in found:
        sys.exit(found["failed"])


def in_forks(scenario: Callable[[], Found], folder: Path, world: int) -> None:
    """Run a scenario in processes that are forked from this one, without anything that watches them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(world):
        pid = os.fork()
        if pid == 0:
            ranks = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            place = {"TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ |= {key: str(value) for key, value in {**ranks, **place}.items()}
            code = 1
            try:
                run(scenario, folder)
                code = 0
            except SystemExit as error:
                print(error.code, file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(code)
        started.append(pid)
    for pid in started:
        os.waitpid(pid, 0)


def main(scenarios: dict[str, Any]) -> None:
    folder, world, *names = sys.argv[1:]
    for name in names:
        if int(world):
            in_forks(scenarios[name], Path(folder), int(world))
        else:
            run(scenarios[name], Path(folder))


if __name__ == "__main__":
    main(globals())
