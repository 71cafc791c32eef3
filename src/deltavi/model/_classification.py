"""What a cell is: labels with calibrated probabilities, and the rejection of cells of no known type."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import Indices, positions
from deltavi._errors import CalibrationWarning, DeltaviError, InputDataWarning, KeyClashError, examples
from deltavi._random import isolated_randomness
from deltavi._reading import known_arguments
from deltavi.annotation import Calibration, ClassifiedCells, TemperaturePrior
from deltavi.annotation.conformal import cells_needed
from deltavi.likelihood.base import to_numpy
from deltavi.model._new_batches import warn_of_new_batches
from deltavi.model._training import TrainingMixin
from deltavi.module.classified import ClassifyingModule
from deltavi.registry.names import checksum

BATCH_SIZE = 512


class ClassificationMixin(TrainingMixin):
    """Carries ``predict``, ``get_novelty_scores`` and ``calibrate``; the module gives ``classify``."""

    module: ClassifyingModule
    # how sure such a model is before any cell is held out
    temperature_prior: ClassVar[TemperaturePrior] = TemperaturePrior()
    calibration: Calibration | None = None
    # of the model that query data were mapped onto
    reference_calibration: Calibration | None = None
    # batches that the calibration is of, where it is that of a reference; else those of training
    calibrated_batches_: list[str] | None = None

    @property
    def label_names(self) -> np.ndarray:
        """Labels the model can predict, in the order of its probabilities, ``(n_labels,)``."""
        return self._categories(REGISTRY_KEYS.LABELS_KEY)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels to learn; some models do without."""
        return True

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
        calibration = self._calibrated("predict")
        if reject is not None:
            _check_reject(reject, soft, calibration.n_held_out)
            # aligned once, and handed on as it is
            adata = self._validate_anndata(adata)
            warn_of_new_batches(self, adata, indices, reject)
        names, cells = self._judged(adata, indices, batch_size)
        probabilities = calibration.probabilities(cells)
        observed = (cells.codes >= 0) & keep_observed
        probabilities[observed] = np.eye(probabilities.shape[1])[cells.codes[observed]]
        if soft:
            return pd.DataFrame(probabilities, index=names, columns=self.label_names)
        rejected = cells.empty if reject is None else cells.empty | calibration.rejected(cells, reject)
        labels = np.where(rejected & ~observed, _keys.UNASSIGNED, self._named(probabilities))
        return pd.Series(labels, index=names, dtype=object, name="predicted")

    def get_novelty_scores(
        self, adata: AnnData | None = None, *, indices: Indices | None = None, batch_size: int = BATCH_SIZE
    ) -> pd.DataFrame:
        """Novelty of each cell to the model, beside what it would be labelled.

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
        calibration = self._calibrated("get_novelty_scores")
        names, cells = self._judged(adata, indices, batch_size)
        probabilities, novelty_score = calibration.probabilities(cells), calibration.novelty_score(cells)
        columns = {
            "novelty_score": novelty_score,
            "p_value": calibration.p_values(cells, novelty_score),
            "predicted": np.where(cells.empty, _keys.UNASSIGNED, self._named(probabilities)),
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
        self._require_trained("calibrate")
        training, held_out = self._labelled_parts()
        if len(training) == 0:
            raise DeltaviError("No training cell is labelled: there is nothing to calibrate with.")
        self.calibration = Calibration.fit(
            self._classified(None, training, BATCH_SIZE)[1],
            self._classified(None, held_out, BATCH_SIZE)[1],
            judged=self._out_of_fold(training, held_out),
            prior=self.temperature_prior,
        )
        self.calibrated_batches_ = None
        if self.calibration.n_held_out == 0:
            warnings.warn(
                "No labelled cell was held out from training: the temperature rests on less, and reject=... cannot be "
                "used. Train with a smaller train_size, or label more cells.",
                CalibrationWarning,
                stacklevel=2,
            )

    # -- training and files ----------------------------------------------------------------------------------

    def _after_training(self) -> None:
        super()._after_training()
        self.trained_on_ = checksum(self.adata.obs_names.astype(str))
        if self.reference_calibration is not None and not self._sees_every_label():
            self.calibration = self.reference_calibration
        elif self.has_labels:
            self.calibrate()

    def _keep_of_reference(self, reference: Any) -> None:
        super()._keep_of_reference(reference)
        # kept unless the query has labelled cells of every label
        self.calibration = self.reference_calibration = reference.calibration
        batches = reference._categories(REGISTRY_KEYS.BATCH_KEY)
        self.calibrated_batches_ = reference.calibrated_batches_ or [str(batch) for batch in batches]

    def _extra_state(self) -> dict[str, Any]:
        state = super()._extra_state()
        state = {**state, "trained_on": self.trained_on_}
        if self.calibrated_batches_ is not None:
            state["calibrated_batches"] = list(self.calibrated_batches_)
        return state if self.calibration is None else {**state, "calibration": self.calibration.as_dict()}

    def _restore_extra_state(self, extra: dict[str, Any]) -> None:
        super()._restore_extra_state(extra)
        self.trained_on_ = extra.get("trained_on")
        self.calibrated_batches_ = extra.get("calibrated_batches")
        if "calibration" in extra:
            self.calibration = Calibration.from_dict(extra["calibration"])

    def _out_of_fold(self, training: np.ndarray, held_out: np.ndarray) -> ClassifiedCells | None:
        """Labelled cells with answers of what never saw their labels, where there are more than those held out."""
        return None

    def _check_label_names(self) -> None:
        """Raise where a label could be taken for a cell without one."""
        if _keys.UNASSIGNED in set(self.label_names):
            raise KeyClashError(
                f"A label is called {_keys.UNASSIGNED!r}, which is what cells of no known type are called. If it "
                f"stands for unlabelled cells, pass unlabeled_category={_keys.UNASSIGNED!r}; else rename it."
            )

    def _labelled_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of labelled training and validation cells."""
        codes = self._label_codes()
        parts = [np.asarray(part, dtype=int) for part in (self.train_indices_, self.validation_indices_)]
        if self.trained_on_ not in (None, checksum(self.adata.obs_names.astype(str))):
            raise DeltaviError(
                "The model holds other cells than it was trained on, or the same in another order; calibrate it where "
                "it was trained."
            )
        training, held_out = (part[codes[part] >= 0] for part in parts)
        return training, held_out

    def _label_codes(self) -> np.ndarray:
        """Label of each of the model's cells, -1 where it is unknown, ``(n_cells,)``."""
        self._validate_anndata()
        return np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(int)

    def _sees_every_label(self) -> bool:
        codes = self._label_codes()
        training, held_out = self._labelled_parts()
        return len(held_out) > 0 and len(np.unique(codes[training])) == len(self.label_names)

    # -- classification --------------------------------------------------------------------------------------

    def _calibrated(self, what: str) -> Calibration:
        self._require_trained(what)
        if self.calibration is None:
            raise DeltaviError("The model keeps no calibration, as if training was stopped; call calibrate().")
        return self.calibration

    def _named(self, probabilities: np.ndarray) -> np.ndarray:
        named: np.ndarray = self.label_names[probabilities.argmax(1)]
        return named

    def _classified(
        self, adata: AnnData | None, indices: Indices | None, batch_size: int, *, folds: np.ndarray | None = None
    ) -> tuple[pd.Index, ClassifiedCells]:
        """Names of the chosen cells, and the module's answer for them; `folds` ``(n_chosen,)`` say who must not."""
        aligned = self._validate_anndata(adata)
        chosen = positions(indices, aligned.n_obs)
        parts = [_nothing(self.module, len(self.label_names))]
        self.module.eval()
        # scvi-tools takes an AnnData without cells for none at all
        loader = self._make_data_loader(adata=aligned, indices=chosen, batch_size=batch_size) if len(chosen) else ()
        # loaders draw, though no draw reaches the answer
        with torch.inference_mode(), isolated_randomness(self.seed):
            batches = loader if folds is None else with_folds(loader, folds)
            parts = [classify(self.module, tensors) for tensors in batches] or parts
        return aligned.obs_names[chosen], joined(parts)

    def _judged(
        self, adata: AnnData | None, indices: Indices | None, batch_size: int
    ) -> tuple[pd.Index, ClassifiedCells]:
        """The same, with a warning of cells without counts."""
        names, cells = self._classified(adata, indices, batch_size)
        # the scan of a query has warned of them already
        if (adata is None or adata is self._adata) and cells.empty.any():
            _warn_empty(names[cells.empty])
        return names, cells


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


def _check_reject(reject: float, soft: bool, n_held_out: int) -> None:
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


def _warn_empty(names: pd.Index) -> None:
    warnings.warn(
        f"{len(names)} cells have no counts at all (for example {examples(names)}) and are {_keys.UNASSIGNED!r}.",
        InputDataWarning,
        stacklevel=4,
    )
