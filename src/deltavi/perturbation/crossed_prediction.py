"""Predicted changes of genes with their uncertainty, and what is to be said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import t as student

from deltavi._entries import number
from deltavi._errors import DeltaviError, unknown_category
from deltavi._reading import known_arguments

if TYPE_CHECKING:
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_skill import Skill

NO_EVIDENCE = "no_evidence"
SHRUNKEN_MEAN = "shrunken_mean"
NEW_CONTEXT = "new_context"
NEW_PERTURBATION = "new_perturbation"
WORSE_THAN_NO_CHANGE = "worse_than_no_change"
# Meaning of each flag.
FLAGS = {
    NO_EVIDENCE: "the measured changes are no larger than their noise: no change is predicted",
    SHRUNKEN_MEAN: "too few changes were measured for more than their mean, shrunken by its noise",
    NEW_CONTEXT: "nothing was measured in this context",
    NEW_PERTURBATION: "a part of this perturbation was measured nowhere: its own share of the change is unknown",
    WORSE_THAN_NO_CHANGE: "the squared error that is expected exceeds the squared response",
}


@known_arguments
@dataclass(frozen=True, eq=False)
class ResponsePrediction:
    """Predicted changes of one context under one or more perturbations.

    Attributes
    ----------
    context
        Name of the context.
    perturbations, genes
        Names.
    change, variance
        ``(n_perturbations, n_genes)`` expected true change of the mean, log1p CP10k, and its variance.
    weights
        ``(n_perturbations, n_pairs)`` weights of the measured pairs in the change, averaged over genes.
    pairs
        Context and perturbation of each measured pair.
    uncertainty
        ``(n_perturbations,)`` expected squared error relative to the expected squared response: 0 is certain, from 1
        on no change is as good an answer.
    skills
        For each perturbation the skill with which measured groups were predicted that were left out, in the way that
        this was: contexts for a new context; in a measured one pairs, combinations of measured perturbations, or
        perturbations measured nowhere else.
    flags
        For each perturbation what is to be said of it: keys of `deltavi.perturbation.RESPONSE_FLAGS`.
    freedom
        Degrees of freedom of the intervals: groups are the units.
    cell_variance
        ``(n_genes,)`` variance of one cell, from which the noise of a measured mean follows.
    """

    context: str
    perturbations: tuple[str, ...]
    genes: tuple[str, ...]
    change: Vector
    variance: Vector
    weights: Vector
    pairs: tuple[tuple[str, str], ...]
    uncertainty: Vector
    skills: tuple[Skill, ...]
    flags: tuple[tuple[str, ...], ...]
    freedom: float
    cell_variance: Vector

    def __repr__(self) -> str:
        said = f", at least {self.expected_skill:.0%} explained" if np.isfinite(self.expected_skill) else ""
        flags = "".join(f"; {flag}" for flag in dict.fromkeys(flag for row in self.flags for flag in row))
        return (
            f"ResponsePrediction of {self.context!r}: {len(self.perturbations)} perturbations, {len(self.genes)} genes"
            f"{said}{flags}"
        )

    @property
    def expected_skills(self) -> Vector:
        """``(n_perturbations,)`` share of the squared response of such groups that was explained; NaN without any."""
        return np.array([skill.explained for skill in self.skills])

    @property
    def expected_skill(self) -> float:
        """Smallest of `expected_skills`; NaN where none is known."""
        return self._weakest.explained

    @property
    def n_worse(self) -> int:
        """Number of the groups behind `expected_skill` that no change would have been nearer to."""
        return self._weakest.n_worse

    @property
    def n_groups(self) -> int:
        """Number of the groups behind `expected_skill`."""
        return len(self._weakest.errors)

    @property
    def _weakest(self) -> Skill:
        order = np.argsort(self.expected_skills, kind="stable")
        return self.skills[int(order[0])]

    def interval(
        self, coverage: float = 0.9, *, n_perturbed: float | None = None, n_control: float | None = None
    ) -> tuple[Vector, Vector]:
        """Interval of the change of each gene.

        Parameters
        ----------
        coverage
            Share of the genes whose change it is to hold.
        n_perturbed, n_control
            Numbers of cells of an experiment: the interval is then that of the change that it would measure, with the
            noise of so many cells; by default that of the true change.

        Returns
        -------
        Lower and upper ends, ``(n_perturbations, n_genes)`` each, log1p CP10k.

        Raises
        ------
        DeltaviError
            `coverage` does not lie between 0 and 1, or a number of cells is below one.
        """
        share = number("coverage", coverage, above=0)
        if share >= 1:
            raise DeltaviError(f"coverage must be below 1, not {share:g}: no finite interval holds everything.")
        sizes = {"n_perturbed": n_perturbed, "n_control": n_control}
        noise = sum(1 / number(name, size, least=1) for name, size in sizes.items() if size is not None)
        half = student.ppf((1 + share) / 2, self.freedom) * np.sqrt(self.variance + noise * self.cell_variance)
        return self.change - half, self.change + half

    def as_frame(self, perturbation: str | None = None, *, coverage: float = 0.9) -> pd.DataFrame:
        """One row for each gene, with its ``change``, ``standard_error``, ``lower`` and ``upper`` end.

        Parameters
        ----------
        perturbation
            One of those that were predicted; it may be left out if there is only one.
        coverage
            Of the interval.

        Raises
        ------
        UnknownCategoryError
            The perturbation was not predicted.
        """
        name = self.perturbations[0] if perturbation is None and len(self.perturbations) == 1 else perturbation
        if name not in self.perturbations:
            raise unknown_category("perturbation", name, self.perturbations, among="the prediction")
        row = self.perturbations.index(name)
        lower, upper = self.interval(coverage)
        columns = {"change": self.change[row], "standard_error": np.sqrt(self.variance[row])}
        index = pd.Index(self.genes, name="gene")
        return pd.DataFrame({**columns, "lower": lower[row], "upper": upper[row]}, index=index)
