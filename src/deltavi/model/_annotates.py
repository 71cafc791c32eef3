"""Annotation: labels with calibrated probabilities, and scores of cells of no known type."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, overload

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import Indices
from deltavi._reading import known_arguments
from deltavi.annotation import Calibration, ClassifiedCells, TemperaturePrior
from deltavi.io import PathLike
from deltavi.model._answers import Answered, AskedCells
from deltavi.model._attribution import get_attributions
from deltavi.model._base import CountModel
from deltavi.model._classification import BATCH_SIZE, CALIBRATION, calibrate, calibrated, check_reject
from deltavi.model._classified_answers import PREDICTED, PROBABILITIES, ClassifiedAnswers
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

    @overload
    def predict(
        self,
        adata: AnnData | None = ...,
        *,
        indices: Indices | None = ...,
        soft: bool = ...,
        keep_observed: bool = ...,
        reject: float | None = ...,
        path: None = ...,
        overwrite: bool = ...,
        progress: bool = ...,
        batch_size: int = ...,
    ) -> pd.Series | pd.DataFrame: ...

    @overload
    def predict(
        self,
        adata: AnnData | None = ...,
        *,
        indices: Indices | None = ...,
        soft: bool = ...,
        keep_observed: bool = ...,
        reject: float | None = ...,
        path: PathLike,
        overwrite: bool = ...,
        progress: bool = ...,
        batch_size: int = ...,
    ) -> Path: ...

    def predict(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices | None = None,
        soft: bool = False,
        keep_observed: bool = False,
        reject: float | None = None,
        path: PathLike | None = None,
        overwrite: bool = False,
        progress: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> pd.Series | pd.DataFrame | Path:
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
        path
            File to write, .h5ad or .zarr, with obs of the cells: labels in obs ``"predicted"``, and with any `soft`
            probabilities in obsm ``"probabilities"``, whose columns uns ``"deltavi"["labels"]`` names. Blocks of cells
            are written as they are classified. It takes its place once it is complete.
        overwrite
            Write to `path` though it exists.
        progress
            Show a progress bar, if standard error is a terminal or in a notebook.
        batch_size
            Cells classified at a time.

        Returns
        -------
        Labels as text, a series by cell name that can be assigned to a column of obs: rows are matched by name, and
        by position where names repeat. With `soft` probabilities, a frame of cells by labels; with `path` that.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If `reject` is no share, is asked for together with `soft`, or is finer than the held-out cells allow; if
            `path` exists or names no such file.
        InputDataError, GeneMatchError
            If `adata` holds values or genes the model cannot read.
        FileWriteError
            If the disk is full or the folder read-only; what was there before is unchanged.

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

        def answer(cells: ClassifiedCells) -> Answered:
            probabilities = calibration.probabilities(cells)
            observed = (cells.codes >= 0) & keep_observed
            probabilities[observed] = np.eye(probabilities.shape[1])[cells.codes[observed]]
            rejected = cells.empty if reject is None else cells.empty | calibration.rejected(cells, reject)
            labels = np.where(rejected & ~observed, _keys.UNASSIGNED, self.label_names[probabilities.argmax(1)])
            return Answered(obsm={PROBABILITIES: probabilities}, obs={PREDICTED: labels})

        asked = ClassifiedAnswers(self, AskedCells.of(self, adata, indices), answer, batch_size)

        def in_memory(found: Answered) -> pd.Series | pd.DataFrame:
            if soft:
                return pd.DataFrame(found.obsm[PROBABILITIES], index=asked.names, columns=self.label_names)
            return pd.Series(found.obs[PREDICTED], index=asked.names, dtype=object, name=PREDICTED)

        record = {"verb": "predict", "labels": self.label_names, "reject": reject, "keep_observed": keep_observed}
        return asked.delivered(path, in_memory, progress=progress, record=record)

    @overload
    def get_novelty_scores(
        self,
        adata: AnnData | None = ...,
        *,
        indices: Indices | None = ...,
        path: None = ...,
        overwrite: bool = ...,
        progress: bool = ...,
        batch_size: int = ...,
    ) -> pd.DataFrame: ...

    @overload
    def get_novelty_scores(
        self,
        adata: AnnData | None = ...,
        *,
        indices: Indices | None = ...,
        path: PathLike,
        overwrite: bool = ...,
        progress: bool = ...,
        batch_size: int = ...,
    ) -> Path: ...

    def get_novelty_scores(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices | None = None,
        path: PathLike | None = None,
        overwrite: bool = False,
        progress: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> pd.DataFrame | Path:
        """Novelty of each cell, with the label it would be given.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use, or a mask.
        path
            File to write, .h5ad or .zarr, instead of a frame: obs of the cells, and the columns in obs.
        overwrite
            Write to `path` though it exists.
        progress
            Show a progress bar, if standard error is a terminal or in a notebook.
        batch_size
            Cells classified at a time.

        Returns
        -------
        Frame by cell name. ``"novelty_score"``: a score, higher for stranger cells; ``"p_value"``: the share of
        held-out cells predicted alike that are at least as strange; ``"predicted"``: the most probable label;
        ``"confidence"``: its calibrated probability. Cells without counts are ``"unassigned"``, without score and
        p-value; without held-out cells no p-value exists. With `path` that.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If `path` exists or names no such file.
        InputDataError, GeneMatchError
            If `adata` holds values or genes the model cannot read.
        FileWriteError
            If the disk is full or the folder read-only; what was there before is unchanged.
        """
        calibration = calibrated(self, "get_novelty_scores")

        def answer(cells: ClassifiedCells) -> Answered:
            probabilities, novelty_score = calibration.probabilities(cells), calibration.novelty_score(cells)
            columns = {
                "novelty_score": novelty_score,
                "p_value": calibration.p_values(cells, novelty_score),
                PREDICTED: np.where(cells.empty, _keys.UNASSIGNED, self.label_names[probabilities.argmax(1)]),
                "confidence": probabilities.max(1, initial=0.0),
            }
            return Answered(obs=columns)

        asked = ClassifiedAnswers(self, AskedCells.of(self, adata, indices), answer, batch_size)

        def in_memory(found: Answered) -> pd.DataFrame:
            return pd.DataFrame(found.obs, index=asked.names).astype({PREDICTED: object})

        return asked.delivered(path, in_memory, progress=progress, record={"verb": "get_novelty_scores"})

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
