"""A column of labels that some cells lack: how it is read, split and grouped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._errors import DeltaviError
from deltavi.model._asked_split import labelled_split
from deltavi.model._classification import BATCH_SIZE, ClassificationMixin
from deltavi.model._vae_base import VAEBase
from deltavi.module.labelled_vae import LabelledVAE
from deltavi.registry.columns import category_names, column
from deltavi.registry.labels import LabelField
from deltavi.train import CellSplit, split_labelled


class LabelColumnMixin(ClassificationMixin, VAEBase):
    """Reads labels of some cells; comes before what carries perturbations and training.

    Where a model may do without labels (``has_labels`` is false), everything here leaves the work to the next class.
    """

    module: LabelledVAE

    @property
    def has_labels(self) -> bool:
        """Whether the model was set up with labels."""
        return self._setup_argument("labels_key") is not None

    @classmethod
    def _fields(cls, setup: dict[str, Any]) -> list[Any]:
        fields = super()._fields(setup)
        if setup.get("labels_key") is None:
            return fields
        labels = LabelField(
            REGISTRY_KEYS.LABELS_KEY, setup["labels_key"], unlabeled_category=setup.get("unlabeled_category")
        )
        return [labels if field.registry_key == REGISTRY_KEYS.LABELS_KEY else field for field in fields]

    @staticmethod
    def _require_own_columns(**keys: str | None) -> None:
        """Raise where two arguments name the same column."""
        given = [key for key in keys.values() if key is not None]
        if len(set(given)) < len(given):
            names = f"{', '.join(list(keys)[:-1])} and {list(keys)[-1]}"
            raise DeltaviError(f"{names} are {given}: name a column for each.")

    def _split_cells(self, **options: Any) -> CellSplit:
        if not self.has_labels:
            return super()._split_cells(**options)
        return split_labelled(self._label_codes(), **options)

    def _of_given(self, split: CellSplit) -> CellSplit:
        return labelled_split(split, self._label_codes(), self.label_names) if self.has_labels else split

    def _learn_label_frequencies(self, split: CellSplit) -> None:
        """Tell the module how often each label occurs among labelled training cells."""
        codes = self._label_codes()[split.train]
        counts = np.bincount(codes[codes >= 0], minlength=len(self.label_names))
        self.module.set_label_frequencies(torch.from_numpy(counts))

    def _groups(self, adata: AnnData) -> np.ndarray:
        """Label of each cell, which may be new to the model; the predicted one where none is given."""
        if not self.has_labels:
            # all cells are one group, as in a VAE
            return super()._groups(adata)
        aligned = self._validate_anndata(None if adata is self._adata else adata)
        cells = self._classified(aligned, None, BATCH_SIZE)[1]
        predicted: np.ndarray = self.label_names[cells.logits.argmax(1)]
        key = self._setup_argument("labels_key")
        # as the column has it: -1 may be "-1.0" there
        unlabeled = self._state(REGISTRY_KEYS.LABELS_KEY).get(LabelField.UNLABELED_KEY)
        if key not in adata.obs:
            return predicted
        known = [*self.label_names, *([] if unlabeled is None else [unlabeled])]
        names = category_names(column(adata, key), np.array(known, dtype=object))
        unknown = pd.isna(names) | ((names == unlabeled) & (unlabeled is not None))
        return np.where(unknown, predicted, names)
