"""Annotation: labels with calibrated probabilities, and scores of cells of no known type."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import Indices
from deltavi._reading import known_arguments
from deltavi.annotation import Calibration, ClassifiedCells, TemperaturePrior
from deltavi.model._attribution import get_attributions
from deltavi.model._base import CountModel
from deltavi.model._classification import BATCH_SIZE, CALIBRATION, calibrate, calibrated, check_reject, judged
from deltavi.model._label_column import given_of_labels, split_of_labels
from deltavi.model._new_batches import warn_of_new_batches
from deltavi.model.recipe import AnyRecipe, Parts, Recipe
from deltavi.module.classified import ClassifyingModule


class Annotates(CountModel):
    """Base of the models that label cells; the module gives ``classify``."""

    module: ClassifyingModule
    partly_labelled: ClassVar[bool] = True
    recipe: ClassVar[AnyRecipe] = Recipe(split=split_of_labels, given=given_of_labels)
    keeps: ClassVar[Parts] = (CALIBRATION,)
    # confidence of such a model before any cell is held out
    temperature_prior: ClassVar[TemperaturePrior] = TemperaturePrior()
    calibration: Calibration | None = None
    # of the model that query data were mapped onto
    reference_calibration: Calibration | None = None
    # batches that the calibration is of, where it is that of a reference; else those of training
    calibrated_batches_: list[str] | None = None

    get_attributions = get_attributions

    @property
    def label_names(self) -> np.ndarray:
        """Labels the model can predict, in the order of its probabilities, ``(n_labels,)``."""
        return self._categories(REGISTRY_KEYS.LABELS_KEY)

    @property
    def has_labels(self) -> bool:
        """True of a model that was set up with labels; some models do without."""
        return self._setup_argument("labels_key") is not None

    def predict(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices | None = None,
        soft: bool = False,
        keep_observed: bool = False,
        reject: float | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> pd.Series | pd.DataFrame:
        """Label of each cell, or its calibrated probabilities.

        The same for any batch size, order or storage of the cells. Cells the model was trained on are named by a
        model that knows their label: to judge it, hold cells out. A cell without counts is ``"unassigned"``, and
        each label is as probable as any other.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model. It needs no label column.
        indices
            Positions of the cells to use, or a mask.
        soft
            Return probabilities.
        keep_observed
            Give cells whose label is known that label, with probability one.
        reject
            Label cells ``"unassigned"`` whose conformal p-value is at most this: of the cells of known types, about
            this share at most is rejected. ``None`` gives every cell a label. The share is that of cells which are
            like the ones held out from training: in a batch that training did not see it may be any.
        batch_size
            Cells classified at a time.

        Returns
        -------
        Labels as text, a series by cell name that can be assigned to a column of obs: rows are matched by name, and
        by position where names repeat. With `soft` probabilities, a frame of cells by labels.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If `reject` is no share, is asked for together with `soft`, or is finer than the held-out cells allow.
        InputDataError, GeneMatchError
            If `adata` holds values or genes the model cannot read.

        Warns
        -----
        UnknownBatchWarning
            If `reject` is asked for in batches that the calibration did not see. Where no batches are registered it is
            logged of cells that are not the model's.

        Examples
        --------
        >>> adata.obs["predicted"] = model.predict(reject=0.05)  # doctest: +SKIP
        """
        calibration = calibrated(self, "predict")
        if reject is not None:
            check_reject(reject, soft, calibration.n_held_out)
            # aligned once, and handed on as it is
            adata = self._validate_anndata(adata)
            warn_of_new_batches(self, adata, indices, reject)
        names, cells = judged(self, adata, indices, batch_size)
        probabilities = calibration.probabilities(cells)
        observed = (cells.codes >= 0) & keep_observed
        probabilities[observed] = np.eye(probabilities.shape[1])[cells.codes[observed]]
        if soft:
            return pd.DataFrame(probabilities, index=names, columns=self.label_names)
        rejected = cells.empty if reject is None else cells.empty | calibration.rejected(cells, reject)
        labels = np.where(rejected & ~observed, _keys.UNASSIGNED, self.label_names[probabilities.argmax(1)])
        return pd.Series(labels, index=names, dtype=object, name="predicted")

    def get_novelty_scores(
        self, adata: AnnData | None = None, *, indices: Indices | None = None, batch_size: int = BATCH_SIZE
    ) -> pd.DataFrame:
        """Novelty of each cell, with the label it would be given.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use, or a mask.
        batch_size
            Cells classified at a time.

        Returns
        -------
        Frame by cell name. ``"novelty_score"``: a score, higher for stranger cells; ``"p_value"``: the share of
        held-out cells predicted alike that are at least as strange; ``"predicted"``: the most probable label;
        ``"confidence"``: its calibrated probability. Cells without counts are ``"unassigned"``, without score and
        p-value; without held-out cells no p-value exists.

        Raises
        ------
        NotTrainedError
            Before training.
        InputDataError, GeneMatchError
            If `adata` holds values or genes the model cannot read.
        """
        calibration = calibrated(self, "get_novelty_scores")
        names, cells = judged(self, adata, indices, batch_size)
        probabilities, novelty_score = calibration.probabilities(cells), calibration.novelty_score(cells)
        columns = {
            "novelty_score": novelty_score,
            "p_value": calibration.p_values(cells, novelty_score),
            "predicted": np.where(cells.empty, _keys.UNASSIGNED, self.label_names[probabilities.argmax(1)]),
            "confidence": probabilities.max(1, initial=0.0),
        }
        return pd.DataFrame(columns, index=names).astype({"predicted": object})

    @known_arguments
    def calibrate(self) -> None:
        """Fit temperature and novelty score anew, on the cells the model was trained on; training ends with it.

        The temperature comes from labelled validation cells, from training cells where part of the model did not see
        them, and from the prior of the model; the position of classes comes from labelled training cells, and what is
        normal from validation cells. Training on a query that lacks some of the labels keeps the
        calibration of the reference.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If the model holds other cells than it was trained on, or no labelled ones.
        """
        calibrate(self)

    def _answers_without(self, training: np.ndarray, held_out: np.ndarray) -> ClassifiedCells | None:
        """Answers for labelled cells by parts of the model that never saw their labels, where there are such parts."""
        return None
