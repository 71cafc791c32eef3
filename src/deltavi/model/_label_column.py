"""A column of labels that some cells lack: how it is read and split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from deltavi.model._asked_split import labelled_split
from deltavi.model.recipe import split_of_cells
from deltavi.module.labelled_vae import LabelledVAE
from deltavi.train import CellSplit, split_labelled

if TYPE_CHECKING:
    from typing import Any

    from deltavi.model._annotates import Annotates
    from deltavi.model._base import CountModel


def label_codes(model: CountModel) -> np.ndarray:
    """Label of each of the model's cells, -1 where it is unknown, ``(n_cells,)``."""
    model._validate_anndata()
    return np.asarray(model.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(int)


def split_of_labels(model: Annotates, **options: Any) -> CellSplit:
    """Random split, label by label; of all cells where the model has no labels."""
    return split_labelled(label_codes(model), **options) if model.has_labels else split_of_cells(model, **options)


def given_of_labels(model: Annotates, split: CellSplit) -> CellSplit:
    """Split of the user's own, with a warning of labels that no training cell has."""
    return labelled_split(split, label_codes(model), model.label_names) if model.has_labels else split


def learn_label_frequencies(model: Annotates, module: LabelledVAE, split: CellSplit) -> None:
    """Set in `module` the frequency of each label among labelled training cells."""
    codes = label_codes(model)[split.train]
    counts = np.bincount(codes[codes >= 0], minlength=len(model.label_names))
    module.set_label_frequencies(torch.from_numpy(counts))
