"""Questions of ``predict_perturbation``, each as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from deltavi._entries import choice, share
from deltavi.perturbation.estimators import Evidence, Shift
from deltavi.perturbation.noise import Generators, cell_generators

EmpiricalWeight = float | Literal["auto"]
Draws = Literal["matched", "independent"]
MATCHED, INDEPENDENT = "matched", "independent"
# Two estimates of about the same quality: the mean of both is hard to improve upon.
EQUAL_SHARE = 0.5
# Shifts that look at how labels lie; the others were asked for as they are.
INTERPOLATING = ("similarity", "gp")


class ShiftStrategy(Protocol):
    """Estimator of a shift: one of :data:`deltavi.perturbation.ESTIMATORS`, or a function of the user's own."""

    def __call__(self, evidence: Evidence, /) -> Shift:
        """Shift of the group of cells that `evidence` describes."""
        ...


@dataclass(frozen=True)
class Condition:
    """A condition by its name, and the measured ones it consists of.

    Parameters
    ----------
    name
        As the model has it, or as it was given.
    parts
        Names of measured conditions; several of a combination, none where the networks know the condition only by
        its features.
    code
        Code that the networks are given, where they are given one.
    """

    name: str
    parts: tuple[str, ...]
    code: int


@dataclass(frozen=True, eq=False)
class Question:
    """Settings of a prediction, as they were asked for.

    Parameters
    ----------
    control, perturbation
        Conditions to start from and to predict.
    shift
        Name of an estimator or of a route of the model, an estimator, or a vector ``(n_latent,)``.
    shift_scale
        Factor of the shift, or ``"match"``.
    bandwidth, similarity_space
        Options of the estimator.
    share
        Weight of the change seen in the training labels.
    effect_scale
        Factor of the response.
    output
        ``"cells"`` or ``"mean"``.
    draws
        ``"matched"`` or ``"independent"``.
    n_samples
        Draws of the posterior.
    seed
        Seed of the noise of cells.
    """

    control: Condition
    perturbation: Condition
    shift: str | np.ndarray | ShiftStrategy
    shift_scale: float | Literal["match"]
    bandwidth: float
    similarity_space: str
    share: float
    effect_scale: float
    output: Literal["cells", "mean"]
    draws: Draws
    n_samples: int
    seed: int

    @property
    def conditions(self) -> tuple[str, str]:
        """Names of control and perturbation."""
        return self.control.name, self.perturbation.name

    @property
    def codes(self) -> tuple[int, int]:
        """Codes of control and perturbation."""
        return self.control.code, self.perturbation.code

    @property
    def cells_drawn_with(self) -> int | None:
        """Seed of the quantiles that cells are matched at; None where they are not matched."""
        return self.seed if self.output == "cells" and self.draws == MATCHED else None

    def generators(self, names: Iterable[str]) -> Generators:
        """One generator for each cell, by its name; independent draws are of each perturbation anew."""
        own = f"-{self.perturbation.name}" if self.draws == INDEPENDENT else ""
        return cell_generators([f"{name}{own}" for name in names], seed=self.seed)


def share_of(empirical_weight: EmpiricalWeight, shift: Any, shift_scale: object) -> float:
    """Weight of the measured change; by default none where the user chose shift or scale."""
    if not isinstance(empirical_weight, str):
        return share("empirical_weight", empirical_weight)
    choice("empirical_weight", empirical_weight, ("auto",))
    usual = isinstance(shift, str) and shift in INTERPOLATING and shift_scale == "match"
    return EQUAL_SHARE if usual else 0.0


Route = Callable[..., np.ndarray]
