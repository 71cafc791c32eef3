"""Classification of cells by a module, and its calibration on cells whose label is known."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import Indices, positions
from deltavi._errors import CalibrationWarning, DeltaviError, InputDataWarning, KeyClashError, examples
from deltavi._random import isolated_randomness
from deltavi._types import State
from deltavi.annotation import Calibration, ClassifiedCells
from deltavi.annotation.conformal import cells_needed
from deltavi.likelihood.base import to_numpy
from deltavi.model._label_column import label_codes
from deltavi.model.recipe import Part
from deltavi.module.classified import ClassifyingModule
from deltavi.registry.columns import category_names, column
from deltavi.registry.labels import LabelField
from deltavi.registry.names import checksum

if TYPE_CHECKING:
    from deltavi.model._annotates import Annotates
    from deltavi.model._base import CountModel

BATCH_SIZE = 512


def calibrate(model: Annotates) -> None:
    """Fit temperature and novelty score to the labelled cells of the training; see ``Annotates.calibrate``."""
    _require_labels(model, "calibrate")
    training, held_out = labelled_parts(model)
    if len(training) == 0:
        raise DeltaviError("No training cell is labelled: there is nothing to calibrate with.")
    model.calibration = Calibration.fit(
        classified(model, None, training, BATCH_SIZE)[1],
        classified(model, None, held_out, BATCH_SIZE)[1],
        judged=model._answers_without(training, held_out),
        prior=model.temperature_prior,
    )
    model.calibrated_batches_ = None
    if model.calibration.n_held_out == 0:
        warnings.warn(
            "No labelled cell was held out from training: the temperature rests on less, and reject=... cannot be "
            "used. Train with a smaller train_size, or label more cells.",
            CalibrationWarning,
            stacklevel=2,
        )


def _require_labels(model: Annotates, what: str) -> None:
    if not model.has_labels:
        raise DeltaviError(f"{what} needs labels: set the model up with labels_key.")
    model._require_trained(what)


def calibrated(model: Annotates, what: str) -> Calibration:
    """Calibration of a trained model, for the method `what`."""
    _require_labels(model, what)
    if model.calibration is None:
        raise DeltaviError("The model keeps no calibration, as if training was stopped; call calibrate().")
    return model.calibration


# -- part of a model -------------------------------------------------------------------------------------------


def _fit(model: Annotates) -> None:
    model.trained_on_ = checksum(model.adata.obs_names.astype(str))
    if model.reference_calibration is not None and not _sees_every_label(model):
        model.calibration = model.reference_calibration
    elif model.has_labels:
        model.calibrate()


def _saved(model: Annotates) -> State:
    state: State = {"trained_on": model.trained_on_}
    if model.calibrated_batches_ is not None:
        state["calibrated_batches"] = list(model.calibrated_batches_)
    return state if model.calibration is None else {**state, "calibration": model.calibration.as_dict()}


def _restore(model: Annotates, extra: State) -> None:
    model.trained_on_ = extra.get("trained_on")
    model.calibrated_batches_ = extra.get("calibrated_batches")
    if "calibration" in extra:
        model.calibration = Calibration.from_dict(extra["calibration"])


def _map(model: Annotates, reference: CountModel) -> None:
    assert isinstance(reference, type(model))
    # kept unless the query has labelled cells of every label
    model.calibration = model.reference_calibration = reference.calibration
    batches = reference._categories(REGISTRY_KEYS.BATCH_KEY)
    model.calibrated_batches_ = reference.calibrated_batches_ or [str(batch) for batch in batches]


CALIBRATION: Part[Annotates] = Part("calibration", fit=_fit, saved=_saved, restore=_restore, mapped=_map)


# -- cells -----------------------------------------------------------------------------------------------------


def check_label_names(model: Annotates) -> None:
    """Raise where a label could be taken for a cell without one."""
    if _keys.UNASSIGNED in set(model.label_names):
        raise KeyClashError(
            f"A label is called {_keys.UNASSIGNED!r}, which is what cells of no known type are called. If it "
            f"stands for unlabelled cells, pass unlabeled_category={_keys.UNASSIGNED!r}; else rename it."
        )


def labelled_parts(model: Annotates) -> tuple[np.ndarray, np.ndarray]:
    """Positions of labelled training and validation cells."""
    codes = label_codes(model)
    parts = [np.asarray(part, dtype=int) for part in (model.train_indices_, model.validation_indices_)]
    if model.trained_on_ not in (None, checksum(model.adata.obs_names.astype(str))):
        raise DeltaviError(
            "The model holds other cells than it was trained on, or the same in another order; calibrate it where "
            "it was trained."
        )
    training, held_out = (part[codes[part] >= 0] for part in parts)
    return training, held_out


def _sees_every_label(model: Annotates) -> bool:
    codes = label_codes(model)
    training, held_out = labelled_parts(model)
    return len(held_out) > 0 and len(np.unique(codes[training])) == len(model.label_names)


def classified(
    model: Annotates,
    adata: AnnData | None,
    indices: Indices | None,
    batch_size: int,
    *,
    folds: np.ndarray | None = None,
) -> tuple[pd.Index, ClassifiedCells]:
    """Names of the chosen cells, and the module's answer for them; `folds` ``(n_chosen,)`` say who must not."""
    aligned = model._validate_anndata(adata)
    chosen = positions(indices, aligned.n_obs)
    parts = [_nothing(model.module, len(model.label_names))]
    model.module.eval()
    loader = model._cells(aligned).batches(chosen, batch_size)
    with torch.inference_mode(), isolated_randomness(model.seed):
        batches = loader if folds is None else with_folds(loader, folds)
        parts = [classify(model.module, tensors) for tensors in batches] or parts
    return aligned.obs_names[chosen], joined(parts)


def predicted_groups(model: Annotates, adata: AnnData, aligned: AnnData) -> np.ndarray:
    """Label of each cell, which may be new to the model; the predicted one where none is given."""
    cells = classified(model, aligned, None, BATCH_SIZE)[1]
    predicted: np.ndarray = model.label_names[cells.logits.argmax(1)]
    key = model._setup_argument("labels_key")
    # as the column has it: -1 may be "-1.0" there
    unlabeled = model._state(REGISTRY_KEYS.LABELS_KEY).get(LabelField.UNLABELED_KEY)
    if key not in adata.obs:
        return predicted
    known = [*model.label_names, *([] if unlabeled is None else [unlabeled])]
    names = category_names(column(adata, key), np.array(known, dtype=object))
    unknown = pd.isna(names) | ((names == unlabeled) & (unlabeled is not None))
    return np.where(unknown, predicted, names)


def classify(module: ClassifyingModule, tensors: dict[str, torch.Tensor]) -> ClassifiedCells:
    """Answer of `module` for a mini-batch, as arrays."""
    answer = module.classify(tensors)
    return ClassifiedCells(
        logits=to_numpy(answer.logits),
        features=to_numpy(answer.features),
        reconstruction_error=None if answer.reconstruction_error is None else to_numpy(answer.reconstruction_error),
        codes=to_numpy(tensors[REGISTRY_KEYS.LABELS_KEY]).ravel().astype(int),
        empty=to_numpy(tensors[REGISTRY_KEYS.X_KEY].abs().sum(1)) == 0,
    )


def with_folds(loader: Iterable[dict[str, torch.Tensor]], folds: np.ndarray) -> Iterator[dict[str, torch.Tensor]]:
    """Mini-batches with the fold of each of their cells; `folds` are in the order of the loader."""
    start = 0
    for tensors in loader:
        stop = start + len(tensors[REGISTRY_KEYS.X_KEY])
        yield {**tensors, _keys.FOLD: torch.from_numpy(folds[start:stop]).view(-1, 1)}
        start = stop


def joined(parts: Sequence[ClassifiedCells]) -> ClassifiedCells:
    """One after the other."""
    errors = [part.reconstruction_error for part in parts if part.reconstruction_error is not None]
    return ClassifiedCells(
        logits=np.concatenate([part.logits for part in parts]),
        features=np.concatenate([part.features for part in parts]),
        reconstruction_error=np.concatenate(errors) if errors else None,
        codes=np.concatenate([part.codes for part in parts]),
        empty=np.concatenate([part.empty for part in parts]),
    )


def _nothing(module: ClassifyingModule, n_labels: int) -> ClassifiedCells:
    return ClassifiedCells(
        logits=np.zeros((0, n_labels)),
        features=np.zeros((0, module.n_latent)),
        reconstruction_error=None,
        codes=np.zeros(0, dtype=int),
        empty=np.zeros(0, dtype=bool),
    )


def check_reject(reject: float, soft: bool, n_held_out: int) -> None:
    if not 0 < reject < 1:
        raise DeltaviError(f"reject is a share of cells between 0 and 1, not {reject!r}; None rejects no cell.")
    if soft:
        raise DeltaviError(
            "reject says which cells get no label, and probabilities have no place for that: ask for soft=True alone, "
            "and for the p-value of each cell with get_novelty_scores()."
        )
    if n_held_out < cells_needed(reject):
        raise DeltaviError(
            f"reject={reject:g} needs at least {cells_needed(reject)} labelled cells that training did not see, and "
            f"there are {n_held_out}. Reject a larger share, or train with a smaller train_size or more labels."
        )


def warn_empty(names: pd.Index) -> None:
    """Warn of cells without counts, by their names."""
    warnings.warn(
        f"{len(names)} cells have no counts at all (for example {examples(names)}) and are {_keys.UNASSIGNED!r}.",
        InputDataWarning,
        stacklevel=6,
    )
