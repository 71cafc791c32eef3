"""Reader of folders that ``scvi.model.SCVI.save`` writes, with checks of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch

from deltavi._compat import (
    FIELD_REGISTRIES_KEY,
    MODEL_NAME_KEY,
    SAVE_KEYS,
    SETUP_ARGS_KEY,
    SETUP_METHOD_KEY,
    STATE_REGISTRY_KEY,
)
from deltavi._errors import ModelFileError, examples
from deltavi._types import State
from deltavi.io._inert import read_torch_file
from deltavi.io._place import PathLike, resolved
from deltavi.io.atomic import description_of

SCVI_MODEL = "SCVI"
SETUP_ARGUMENTS = ("layer", "batch_key", "labels_key", "size_factor_key")
SETUP_LISTS = ("categorical_covariate_keys", "continuous_covariate_keys")
LEGACY_FILES = (SAVE_KEYS.LEGACY_MODEL_FNAME, SAVE_KEYS.LEGACY_SETUP_DICT_FNAME)
# Fields that SCVI registers; the second row replaces the counts of minified cells.
FIELDS = {
    *("X", "batch", "labels", "size_factor", "extra_categorical_covs", "extra_continuous_covs"),
    *("minify_type", "latent_qzm", "latent_qzv", "observed_lib_size"),
}
# Attribute of an exported model: a digest of its weights, and its cells.
EXPORT_MARK = "deltavi_export_"
# A category that pandas saved.
Category: TypeAlias = str | bool | int | float


@dataclass(frozen=True)
class ScviFile:
    """Content of a saved SCVI.

    Parameters
    ----------
    weights
        Tensors by the names of ``scvi.module.VAE``; finite.
    genes
        Names, in order.
    settings
        Arguments of ``scvi.model.SCVI`` that were given, or are its own defaults.
    setup
        Arguments of ``SCVI.setup_anndata``.
    categories
        Categories of each registered column in the order of their codes, by ``"batch"``, ``"labels"``, and the names
        of categorical covariates in `covariates`.
    n_cells
        Cells that it was set up with.
    attributes
        ``is_trained_``, ``history_`` and the indices of training, validation and test cells, where there are any.
    mark
        Result of :func:`export_mark` if this package wrote it.
    """

    weights: dict[str, torch.Tensor]
    genes: list[str]
    settings: State
    setup: State
    categories: dict[str, list[Category]]
    covariates: dict[str, list[Category]]
    n_cells: int
    attributes: State
    mark: State | None = None

    @property
    def is_export(self) -> bool:
        """True if this package wrote it, and it was not trained since."""
        return self.mark is not None and self.mark.get("weights") == export_mark(self.weights, None)["weights"]


def export_mark(weights: Mapping[str, torch.Tensor], cells: Path | None) -> State:
    """Digest of the weights, with size and checksum of the cells that are written with them.

    Parameters
    ----------
    weights
        Tensors by name.
    cells
        Their file, if any.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {"weights": digest.hexdigest(), "cells": None if cells is None else description_of(cells)}


def read_scvi(folder: PathLike) -> ScviFile:
    """Read a folder that ``scvi.model.SCVI.save`` wrote; nothing that its pickle names is called.

    Raises
    ------
    ModelFileError
        If it is no such folder, of a format from before scvi-tools 0.15, of another model, damaged, or holds NaN.
    """
    path = resolved(folder, "dir_path", error=ModelFileError)
    file = path / SAVE_KEYS.MODEL_FNAME
    if not file.is_file():
        legacy = [name for name in LEGACY_FILES if (path / name).is_file()]
        if legacy:
            raise _legacy(path, legacy[0])
        raise ModelFileError(f"{path} is no model that scvi-tools saved: {SAVE_KEYS.MODEL_FNAME} is missing.")
    content = read_torch_file(file)
    try:
        return _checked(content, path)
    except ModelFileError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ModelFileError(f"{file} is damaged: {type(error).__name__}: {error}") from error


def _legacy(path: Path, what: str) -> ModelFileError:
    return ModelFileError(
        f"{path} has {what!r}, of scvi-tools before 0.15. scvi.model.SCVI.convert_legacy_save turns it into a folder "
        "of today; it unpickles what is there."
    )


def _checked(content: object, path: Path) -> ScviFile:
    held = _dictionary(content, "the file")
    attributes = _dictionary(held.get(SAVE_KEYS.ATTR_DICT_KEY), "its attributes")
    if "scvi_setup_dict_" in attributes:
        raise _legacy(path, "scvi_setup_dict_")
    registry = _dictionary(attributes.get("registry_"), "its registry")
    if registry.get(MODEL_NAME_KEY) != SCVI_MODEL:
        raise ModelFileError(f"{path} holds a {registry.get(MODEL_NAME_KEY)}; only {SCVI_MODEL} can be imported.")
    if registry.get(SETUP_METHOD_KEY, "setup_anndata") != "setup_anndata":
        raise ModelFileError(
            f"{path} was set up by {registry[SETUP_METHOD_KEY]!r}; only 'setup_anndata' can be imported."
        )
    fields = _dictionary(registry[FIELD_REGISTRIES_KEY], "its fields")
    if fields.keys() - FIELDS:
        raise ModelFileError(
            f"{path} has fields that are unknown here: {examples(sorted(map(str, fields.keys() - FIELDS)))}."
        )
    states = {name: _dictionary(field, name).get(STATE_REGISTRY_KEY, {}) for name, field in fields.items()}
    setup = _setup(_dictionary(registry[SETUP_ARGS_KEY], "its setup"), path)
    covariates = _dictionary(states.get("extra_categorical_covs", {}), "covariates").get("mappings", {})
    if sorted(covariates) != sorted(setup["categorical_covariate_keys"] or ()):
        raise ModelFileError(f"{path} has categories of {sorted(covariates)}, and covariates by other names.")
    genes = _names(held[SAVE_KEYS.VAR_NAMES_KEY])
    return ScviFile(
        weights=_weights(_dictionary(held.get(SAVE_KEYS.MODEL_STATE_DICT_KEY), "its weights"), path),
        genes=genes,
        settings=_settings(_dictionary(attributes["init_params_"], "its settings")),
        setup=setup,
        categories={name: _categories(states[name]["categorical_mapping"]) for name in ("batch", "labels")},
        covariates={key: _categories(covariates[key]) for key in setup["categorical_covariate_keys"] or ()},
        n_cells=int(states["X"].get("n_obs", 0)),
        attributes=_training(attributes),
        mark=mark if isinstance(mark := attributes.get(EXPORT_MARK), dict) else None,
    )


def _dictionary(value: object, what: str) -> State:
    if not isinstance(value, dict):
        raise ModelFileError(f"Of {what} a {type(value).__name__} is there, not a dictionary.")
    return value


def _names(values: object) -> list[str]:
    names = list(values) if isinstance(values, np.ndarray) and values.ndim == 1 else [None]
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelFileError("The genes of the file are no list of names.")
    if len(set(names)) < len(names):
        raise ModelFileError("A gene of the file is there twice.")
    return [str(name) for name in names]


def _categories(values: object) -> list[Category]:
    found = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else []
    if not found or not all(isinstance(value, str | bool | int | float) for value in found):
        raise ModelFileError("Categories of the file are no list of names or numbers.")
    return found


def _setup(given: State, path: Path) -> State:
    unknown = [name for name in given if name not in (*SETUP_ARGUMENTS, *SETUP_LISTS) and given[name] is not None]
    if unknown:
        raise ModelFileError(f"{path} was set up with {examples(unknown)}, which is unknown here.")
    setup: State = {name: given.get(name) for name in SETUP_ARGUMENTS}
    setup |= {name: given.get(name) and list(given[name]) for name in SETUP_LISTS}
    for value in (v for name in setup for v in (setup[name] if name in SETUP_LISTS else [setup[name]]) or ()):
        if not isinstance(value, str | None):
            raise ModelFileError(f"{path} was set up with {value!r} for the name of a column.")
    return setup


def _settings(given: State) -> State:
    groups = given.get("kwargs", {}).values()
    return {**given["non_kwargs"], **{name: value for group in groups for name, value in group.items()}}


def _weights(given: State, path: Path) -> dict[str, torch.Tensor]:
    weights = {name: value for name, value in given.items() if name != "pyro_param_store"}
    for name, tensor in weights.items():
        plain = type(tensor) is torch.Tensor and tensor.device.type == "cpu" and tensor.layout == torch.strided
        # a tensor that is not contiguous can repeat values, so that a small file describes a large tensor
        if not plain or tensor.is_quantized or tensor.is_complex() or not tensor.is_contiguous():
            raise ModelFileError(f"{path}: {name!r} is no plain tensor.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{path}: tensor {name!r} holds NaN or infinite values.")
    return weights


def _training(attributes: State) -> State:
    """State of training as our models keep it."""
    found: State = {"is_trained_": bool(attributes.get("is_trained_", False))}
    for name in ("train_indices_", "validation_indices_", "test_indices_"):
        indices = attributes.get(name)
        if indices is not None:
            array = np.asarray(indices)
            if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.min() < 0)):
                raise ModelFileError(f"{name} of the file are no positions of cells.")
            found[name] = array.astype(np.int64)
    history = attributes.get("history_")
    tables = history if isinstance(history, dict) else {}
    found["history_"] = {str(name): table for name, table in tables.items() if isinstance(table, pd.DataFrame)} or None
    return found
