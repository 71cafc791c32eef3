"""Calibration of a classifier on labelled cells: a temperature, a scorer of novelty, held-out scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from deltavi._types import State
from deltavi.annotation._open_set import OpenSetScorer
from deltavi.annotation._temperature import WEAK_PRIOR, TemperaturePrior, fit_temperature, softmax
from deltavi.annotation.conformal import MIN_GROUP, cells_needed, conformal_p_values


@dataclass(frozen=True, eq=False)
class ClassifiedCells:
    """Outputs of a classifier for some cells.

    Parameters
    ----------
    logits
        ``(n_cells, n_labels)`` unnormalised log probabilities.
    features
        ``(n_cells, n_features)`` position in which classes are compact.
    reconstruction_error
        Reconstruction error of each cell, a row per cell; ``None`` if there is no reconstruction.
    codes
        ``(n_cells,)`` codes of labels, -1 for unlabelled cells.
    empty
        ``(n_cells,)`` mask of cells without any counts, which cannot be classified.
    """

    logits: np.ndarray
    features: np.ndarray
    reconstruction_error: np.ndarray | None
    codes: np.ndarray
    empty: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, cells: np.ndarray) -> ClassifiedCells:
        errors = None if self.reconstruction_error is None else self.reconstruction_error[cells]
        return ClassifiedCells(self.logits[cells], self.features[cells], errors, self.codes[cells], self.empty[cells])


@dataclass(frozen=True, eq=False)
class Calibration:
    """Conversion of outputs into probabilities, novelty scores and p-values.

    Parameters
    ----------
    temperature
        Divisor of the logits.
    scorer
        Scorer with the positions of the classes.
    scores
        ``(n_held_out,)`` novelty scores of held-out labelled cells.
    predicted
        ``(n_held_out,)`` the label predicted for each, by which p-values are grouped.
    """

    temperature: float
    scorer: OpenSetScorer
    scores: np.ndarray
    predicted: np.ndarray

    @classmethod
    def fit(
        cls,
        training: ClassifiedCells,
        held_out: ClassifiedCells,
        *,
        judged: ClassifiedCells | None = None,
        prior: TemperaturePrior = WEAK_PRIOR,
    ) -> Self:
        """Calibrate on labelled cells; those without counts are left out.

        Parameters
        ----------
        training
            Cells the classifier was trained on, for the positions of the classes.
        held_out
            Cells it was not trained on, for the distribution of novelty score.
        judged
            Cells with logits of networks that were not trained on them, for the temperature. By default those held out.
        prior
            Prior of the temperature.
        """
        judged = held_out if judged is None else judged
        training, held_out, judged = (cells[_usable(cells)] for cells in (training, held_out, judged))
        temperature = fit_temperature(judged.logits, judged.codes, prior)
        scorer = OpenSetScorer.fit(training.features, training.reconstruction_error, training.codes)
        without_scores = cls(temperature, scorer, scores=np.zeros(0), predicted=held_out.logits.argmax(1))
        return replace(without_scores, scores=without_scores.novelty_score(held_out))

    @property
    def n_held_out(self) -> int:
        """Held-out cells that p-values rest on."""
        return len(self.scores)

    def probabilities(self, cells: ClassifiedCells) -> np.ndarray:
        """Calibrated probabilities ``(n_cells, n_labels)``; all the same for cells without counts."""
        probabilities = softmax(cells.logits, self.temperature)
        probabilities[cells.empty] = 1 / probabilities.shape[1]
        return probabilities

    def novelty_score(self, cells: ClassifiedCells) -> np.ndarray:
        """Novelty score of each cell, NaN for those without counts, ``(n_cells,)``."""
        scores = np.full(len(cells), np.nan)
        judged = cells[~cells.empty]
        if len(judged):
            scores[~cells.empty] = self.scorer.score(judged.features, judged.reconstruction_error)
        return scores

    def p_values(self, cells: ClassifiedCells, novelty_score: np.ndarray, *, min_group: int = MIN_GROUP) -> np.ndarray:
        """Conformal p-value of each cell, NaN where it has no counts or nothing was held out, ``(n_cells,)``."""
        p_values, judged = np.full(len(cells), np.nan), ~cells.empty
        if self.n_held_out:
            p_values[judged] = conformal_p_values(
                novelty_score[judged],
                self.scores,
                groups=cells.logits[judged].argmax(1),
                calibration_groups=self.predicted,
                min_group=min_group,
            )
        return p_values

    def rejected(self, cells: ClassifiedCells, share: float) -> np.ndarray:
        """Mask of cells with a p-value of at most `share`, ``(n_cells,)``.

        Groups that are too small to reject such a share are tested together with all cells.
        """
        min_group = max(MIN_GROUP, cells_needed(share))
        rejected: np.ndarray = self.p_values(cells, self.novelty_score(cells), min_group=min_group) <= share
        return rejected

    def as_dict(self) -> State:
        """Plain form, for files."""
        own = {"temperature": self.temperature, "scores": self.scores, "predicted": self.predicted}
        return {**own, "scorer": self.scorer.as_dict()}

    @classmethod
    def from_dict(cls, saved: State) -> Self:
        """Inverse of :meth:`as_dict`."""
        return cls(**{**saved, "scorer": OpenSetScorer.from_dict(saved["scorer"])})


def _usable(cells: ClassifiedCells) -> np.ndarray:
    usable: np.ndarray = (cells.codes >= 0) & ~cells.empty
    return usable
