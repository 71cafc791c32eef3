"""Saved form of a fitted process: tensors and plain values, in the safe format of models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np

from deltavi._errors import DeltaviError, ModelFileError
from deltavi._types import State
from deltavi.io import read_model, require_replaceable, resolved, write_model
from deltavi.perturbation.crossed_fit import Fitted
from deltavi.perturbation.crossed_kernel import ContextKernel, Weights
from deltavi.perturbation.crossed_process import Process
from deltavi.perturbation.crossed_skill import Calibration, Skill
from deltavi.perturbation.crossed_table import ResponseTable

PathLike: TypeAlias = str | os.PathLike[str]

CLASS = "ResponseModel"
# Changes of this version's form of a file.
VERSION = 1
ARRAYS = ("changes", "context_of", "parts", "n_perturbed", "n_control", "control_means", "variances")
NAMES = ("contexts", "perturbations", "genes", "keys")
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError, DeltaviError)


def save_fitted(dir_path: PathLike, fitted: Fitted, *, overwrite: bool) -> None:
    """Write a fitted process to a folder.

    Raises
    ------
    ModelFileError
        If the folder exists and `overwrite` is not set, it is a file, or has a ``manifest.json`` of something else.
    ModelWriteError
        If the disk is full or the folder read-only.
    """
    target: Path = resolved(dir_path, "dir_path", error=ModelFileError)
    if not overwrite and (target.exists() or target.is_symlink()):
        raise ModelFileError(f"{target} exists; pass overwrite=True to replace the model that is there.")
    require_replaceable(target)
    write_model(target, {}, {"class": CLASS, "version": VERSION, **_described(fitted)})


def load_fitted(dir_path: PathLike) -> Fitted:
    """Read what :func:`save_fitted` wrote.

    Raises
    ------
    ModelFileError
        If there is no such model, or it is damaged.
    """
    target = resolved(dir_path, "dir_path", error=ModelFileError)
    _, saved = read_model(target)
    if saved.get("class") != CLASS:
        raise ModelFileError(f"{target} holds a {saved.get('class')}; load it with that class.")
    try:
        if saved["version"] > VERSION:
            raise ModelFileError(f"{target} was written by a newer deltavi: upgrade it.")
        return _restored(saved)
    except ModelFileError:
        raise
    except UNREADABLE as error:
        raise ModelFileError(f"{target} is damaged: {error}") from error


def _described(fitted: Fitted) -> State:
    process, table = fitted.process, fitted.process.table
    return {
        "table": {
            **{name: getattr(table, name) for name in ARRAYS},
            **{name: list(getattr(table, name)) for name in NAMES},
            "levels": [list(level) for level in table.levels],
            "control": table.control,
        },
        "kernel": process.kernel.as_dict(),
        "weights": process.weights.as_list(),
        "ratios": process.signal.ratios,
        "shares": process.signal.shares,
        "skills": {name: [skill.errors, skill.energies] for name, skill in fitted.skills.items()},
        "tried": dict(fitted.tried),
        "nugget": fitted.calibration.nugget,
        "freedom": fitted.calibration.freedom,
        "length": fitted.calibration.length,
        "evidence": fitted.evidence,
        "is_fallback": fitted.is_fallback,
    }


def _restored(saved: State) -> Fitted:
    given = saved["table"]
    levels = tuple(tuple(level) for level in given["levels"])
    held: State = {name: np.asarray(given[name]) for name in ARRAYS} | {name: tuple(given[name]) for name in NAMES}
    table = ResponseTable(**held, levels=levels, control=str(given["control"]))
    kernel, weights = ContextKernel.from_dict(saved["kernel"]), Weights(*map(float, saved["weights"]))
    ratios, shares = np.asarray(saved["ratios"]), np.asarray(saved["shares"])
    nugget = np.asarray(saved["nugget"])
    if nugget.shape != (table.n_genes,) or ratios.shape != shares.shape:
        raise ValueError("its arrays do not fit together")
    process = Process.of(table, kernel, weights, ratios=ratios, shares=shares)
    return Fitted(
        process,
        {name: Skill(np.asarray(errors), np.asarray(energies)) for name, (errors, energies) in saved["skills"].items()},
        {str(name): float(value) for name, value in saved["tried"].items()},
        Calibration(nugget, float(saved["freedom"]), float(saved["length"])),
        float(saved["evidence"]),
        bool(saved["is_fallback"]),
    )
