"""Groups of cells that respond alike, where some cells have no label."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi.data._labels import as_text
from deltavi.model._classification import BATCH_SIZE


class PredictedGroupsMixin:
    """Lets cells without a label join the group of their predicted one; comes before what carries perturbations."""

    def _groups(self, adata: AnnData) -> np.ndarray:
        """Label of each cell, which may be new to the model; the predicted one where none is given."""
        model = cast("Any", self)
        aligned = model._validate_anndata(None if adata is model._adata else adata)
        cells = model._classified(aligned, None, BATCH_SIZE)[1]
        predicted: np.ndarray = model.label_names[cells.logits.argmax(1)]
        key, unlabeled = model._setup_argument("labels_key"), model._setup_argument("unlabeled_category")
        if key not in adata.obs:
            return predicted
        positions, found = pd.factorize(adata.obs[key])
        names = np.array([*(as_text(value) for value in found), None], dtype=object)[positions]
        unknown = pd.isna(names) | ((names == as_text(unlabeled)) & (unlabeled is not None))
        return np.where(unknown, predicted, names)
