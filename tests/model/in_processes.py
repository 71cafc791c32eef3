"""Answers in several processes, for ``test_together.py``; scenarios as in ``tests/train/in_processes.py``."""

from __future__ import annotations

import errno
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

import deltavi.io._kept as kept
from deltavi.io import BlockFile
from deltavi.model import _answers, _prediction
from tests.model.test_written import cells
from tests.models import MODELS, PERTURBATION
from tests.train.in_processes import Found, attempt, main, rank, small_vae, together

N = 150
CHOSEN = [140, 3, 99, *range(20, 90)]
MANY = {"control": "control", "batch_size": 16, "controls": True}
# Model, verb, arguments.
Case = tuple[str, str, dict[str, Any]]
# By the name of the file.
CASES: dict[str, Case] = {
    "predicted.h5ad": ("SCGEN", "predict_perturbation", {**PERTURBATION, "n_samples": 2, "batch_size": 16}),
    "mean.zarr": ("PPCA", "predict_perturbation", {**PERTURBATION, "layers": "rate", "batch_size": 16}),
    "few.h5ad": ("SCGEN", "predict_perturbation", {**PERTURBATION, "layers": []}),
    "many.h5ad": ("SCGEN", "predict_perturbations", {**MANY, "n_samples": 2}),
    "latent.zarr": ("SCGEN", "get_latent_representation", {"batch_size": 16}),
    "ppca.h5ad": ("PPCA", "get_latent_representation", {}),
    "imputed.h5ad": ("VAE", "impute", {"indices": CHOSEN, "batch_size": 16}),
    "labels.h5ad": ("LABELVI", "predict", {"batch_size": 16}),
    "novelty.h5ad": ("ACTINN", "get_novelty_scores", {"batch_size": 16, "indices": CHOSEN}),
    "shares.h5ad": ("MIXVI", "get_responsibilities", {"batch_size": 16}),
    "why.h5ad": ("LABELVI", "get_attributions", {"batch_size": 16, "n_steps": 3, "indices": CHOSEN}),
    "corrected.h5ad": ("SCGEN", "batch_removal", {"batch_size": 16, "seed": 3}),
}
SOME = ("predicted.h5ad", "many.h5ad", "latent.zarr")
DRAWN: dict[str, Case] = {
    "drawn.h5ad": ("VAE", "get_normalized_expression", {"batch_size": 16}),
    "draws.h5ad": ("VAE", "get_latent_representation", {"batch_size": 16, "give_mean": False}),
}


@functools.cache
def fitted(name: str) -> Any:
    return MODELS[name].trained()


def answer(case: Case, path: Path | str, **other: Any) -> Path:
    name, verb, asked = case
    query = () if verb == "batch_removal" else (MODELS[name].on_its_scale(cells(N)),)
    found: Path = getattr(fitted(name), verb)(*query, **{**asked, "path": path, **other})
    return found


@contextmanager
def connected() -> Iterator[Path]:
    """Processes that are connected, and their folder."""
    _answers.CELLS_OF_BLOCK = 16
    dist.init_process_group("gloo")
    yield Path(os.environ["SCENARIO_FOLDER"])
    if dist.is_initialized():
        dist.destroy_process_group()


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")


# -- scenarios -----------------------------------------------------------------------------------------------------


def answers() -> Found:
    """Every kind of answer alone, on rank 0, and together."""
    return together_and_alone(CASES)


def some_answers() -> Found:
    return together_and_alone({name: CASES[name] for name in SOME})


def together_and_alone(cases: dict[str, Case]) -> Found:
    alone = Path(os.environ["SCENARIO_FOLDER"]) / "alone"
    _answers.CELLS_OF_BLOCK = 16
    if rank() == 0:
        alone.mkdir()
        for name, case in {**cases, **DRAWN}.items():
            answer(case, alone / name)
    state = np.random.get_state()[1].sum(), torch.get_rng_state().sum()
    with connected() as folder:
        there = []
        for name, case in {**cases, **DRAWN}.items():
            found = answer(case, folder / name)
            there.append(found == folder / name and found.exists())
        for name, case in DRAWN.items():
            answer(case, folder / f"again {name}")
        dist.barrier()
        found_there = listed(folder)
    same = (np.random.get_state()[1].sum(), torch.get_rng_state().sum()) == state
    return {"there": there, "listed": found_there, "state": bool(same)}


def no_cells() -> Found:
    """Fewer blocks than processes, and none at all."""
    with connected() as folder:
        none, model = cells()[:0].copy(), fitted("LABELVI")
        few = cells(5)
        paths = [
            model.predict(none, path=folder / "none.h5ad"),
            fitted("SCGEN").predict_perturbation(none, path=folder / "none predicted.h5ad", **PERTURBATION),
            model.predict(few, path=folder / "few labels.h5ad"),
            model.get_attributions(few, path=folder / "few why.h5ad", n_steps=2),
        ]
        return {"files": [path.name for path in paths]}


def after_training() -> Found:
    """The script of the documentation."""
    model = small_vae()
    model.train(max_epochs=1, **together())
    folder = Path(os.environ["SCENARIO_FOLDER"])
    path = model.get_latent_representation(path="trained.h5ad")
    return {"path": str(path), "exists": path.exists(), "listed": "trained.h5ad" in listed(folder)}


def warned() -> Found:
    """Warnings come once, of rank 0."""
    with connected() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = fitted("SCGEN")
        model.predict_perturbation(path=folder / "own.h5ad", labels="type_1", **PERTURBATION)
        model.predict_perturbations(path=folder / "own many.h5ad", control="control", contexts="type_1")
        return {"warned": [type(warning.message).__name__ for warning in caught]}


def refused() -> Found:
    """Processes that are asked otherwise, and one that fails; each leaves the connection as it was."""
    predict = CASES["predicted.h5ad"]
    with connected() as folder:
        (folder / "kept").mkdir(exist_ok=True)
        target = folder / "kept" / "answer.h5ad"
        answer(CASES["imputed.h5ad"], target)
        dist.barrier()
        before = target.read_bytes()
        found = {
            "exists": attempt(lambda: answer(predict, target)),
            "paths": attempt(lambda: answer(predict, folder / "kept" / f"{rank()}.h5ad")),
            "settings": attempt(lambda: answer(predict, target, overwrite=True, seed=rank())),
            "cells": attempt(lambda: answer(predict, target, overwrite=True, labels=f"type_{rank() + 1}")),
            "verbs": attempt(
                lambda: answer(CASES["imputed.h5ad" if rank() else "labels.h5ad"], target, overwrite=True)
            ),
        }
        for name, what in FAULTS.items():
            with what(target.parent):
                found[name] = attempt(lambda: answer(predict, target, overwrite=True))
        # rank 0 takes away what was begun
        dist.barrier()
        found["left"], found["same"] = listed(target.parent), target.read_bytes() == before
        # the connection is there, and in step
        answer(predict, target, overwrite=True)
        dist.barrier()
        return {**found, "replaced": target.read_bytes() != before}


@contextmanager
def failing(owner: Any, name: str, error: Exception, *, who: int, after: int) -> Iterator[None]:
    """A function that raises in one process from a call on."""
    plain, calls = getattr(owner, name), []

    def fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if rank() == who and len(calls) > after:
            raise error
        return plain(*args, **kwargs)

    setattr(owner, name, fails)
    try:
        yield
    finally:
        setattr(owner, name, plain)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FAULTS: dict[str, Callable[[Path], Any]] = {
    "computing": lambda folder: failing(_prediction, "predict_cells", ValueError("no numbers"), who=1, after=1),
    "disk of rank 0": lambda folder: failing(BlockFile, "add_rows", FULL, who=0, after=1),
    "disk at the end": lambda folder: failing(BlockFile, "finish", FULL, who=0, after=0),
    "disk of rank 1": lambda folder: failing(kept.pickle, "dump", FULL, who=1, after=1),
    "folder": lambda folder: failing(Path, "is_dir", FULL, who=9, after=0) if rank() == 0 else unseen(),
}


@contextmanager
def unseen() -> Iterator[None]:
    """A disk of its own, on which a new folder of rank 0 is not there."""
    plain = Path.is_dir
    Path.is_dir = lambda self: plain(self) and not self.name.startswith(".answer")  # type: ignore[method-assign]
    try:
        yield
    finally:
        Path.is_dir = plain  # type: ignore[method-assign]


def on_rank_0_alone() -> Found:
    """A habit of scripts that write on one process: the others have gone on, and end."""
    dist.init_process_group("gloo")
    folder = Path(os.environ["SCENARIO_FOLDER"])
    if rank() != 0:
        dist.destroy_process_group()
        return {}
    return attempt(lambda: answer(CASES["imputed.h5ad"], folder / "alone.h5ad"))


def killed() -> Found:
    """A process that ends in the middle, as one whose memory is taken."""
    dist.init_process_group("gloo")
    folder, plain = Path(os.environ["SCENARIO_FOLDER"]), kept.pickle.dump

    def dump(*args: Any) -> None:
        plain(*args)
        os._exit(0)

    kept.pickle.dump = dump
    return attempt(lambda: answer(CASES["predicted.h5ad"], folder / "killed.h5ad"))


def disconnected() -> Found:
    """Without the connection each answers alone."""
    with connected() as folder:
        dist.destroy_process_group()
        path = answer(CASES["imputed.h5ad"], folder / f"alone {rank()}.h5ad")
        return {"exists": path.exists()}


if __name__ == "__main__":
    main(globals())
