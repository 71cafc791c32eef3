"""Parameters of `simulate_screen`, checked once and then frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from deltavi._entries import choice, number, share, whole_number
from deltavi._errors import DeltaviError, examples
from deltavi._types import FloatArray
from deltavi.datasets._simulation_parameters import COUNTS_PER_GENE, LARGEST_DEFAULT_LIBRARY, numbers

Gains: TypeAlias = Literal["similar", "random"]
GAINS = ("similar", "random")

LEAST: dict[str, int] = {
    "n_genes": 20,
    "n_contexts": 1,
    "n_perturbations": 0,
    "n_pairs": 0,
    "n_drugs": 0,
    "n_batches": 1,
    "n_cells_per_group": 1,
    "n_programmes": 1,
}
NOT_NEGATIVE = (
    *("specific_effect", "generic_effect", "context_interaction", "pair_interaction", "size_sd", "unevenness"),
    *("context_effect", "batch_effect", "library_sd"),
)
POSITIVE = ("library_median", "inverse_dispersion")
SHARES = ("responding_fraction", "inert_fraction", "interacting_fraction", "absent_fraction")
# Cells of the control in each context, as a multiple of the cells of a perturbed group.
CONTROL_GROUPS = 4
# Targets are genes whose expression is so high that a knockdown shows, and no higher: ranks among all genes.
TARGET_RANKS = (0.7, 0.95)


@dataclass(frozen=True)
class ScreenParameters:
    """Parameters of a simulated screen, as documented for :func:`deltavi.datasets.simulate_screen`.

    Raises
    ------
    DeltaviError
        If a value lies outside its range; the message names the parameter.
    """

    n_genes: int
    n_contexts: int
    n_perturbations: int
    n_pairs: int
    n_drugs: int
    doses: Sequence[float]
    n_batches: int
    n_cells_per_group: int
    n_control_cells: int | None
    unevenness: float
    absent_fraction: float
    n_programmes: int
    responding_fraction: float
    specific_effect: float
    generic_effect: float
    context_interaction: float
    gains: Gains
    pair_interaction: float
    interacting_fraction: float
    size_sd: float
    inert_fraction: float
    knockdown: float
    context_positions: ArrayLike | None
    context_effect: float
    batch_effect: float
    library_median: float | None
    library_sd: float
    inverse_dispersion: float

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            self._read(name, whole_number(name, getattr(self, name), least=least))
        for name in NOT_NEGATIVE:
            self._read(name, number(name, getattr(self, name), least=0))
        for name in SHARES:
            self._read(name, share(name, getattr(self, name)))
        for name in POSITIVE:
            if name != "library_median" or self.library_median is not None:
                self._read(name, number(name, getattr(self, name), above=0))
        if self.n_control_cells is not None:
            self._read("n_control_cells", whole_number("n_control_cells", self.n_control_cells, least=1))
        choice("gains", self.gains, GAINS)
        if share("knockdown", self.knockdown) == 1:
            raise DeltaviError("knockdown must lie below 1: some expression of the target has to be left.")
        self._check_numbers_of_perturbations()
        self.dose_levels()
        self.given_positions()

    def _read(self, name: str, value: float) -> None:
        # the fields are frozen once they are read
        object.__setattr__(self, name, value)

    def _check_numbers_of_perturbations(self) -> None:
        most = len(self.target_ranks())
        if self.n_perturbations > most:
            raise DeltaviError(
                f"n_perturbations is {self.n_perturbations}, but only {most} of {self.n_genes} genes are expressed as "
                "a target has to be. Raise n_genes, or use n_drugs, which have no target."
            )
        n_pairs = self.n_perturbations * (self.n_perturbations - 1) // 2
        if self.n_pairs > n_pairs:
            raise DeltaviError(
                f"n_pairs is {self.n_pairs}, but {self.n_perturbations} perturbations make {n_pairs} pairs."
            )
        if self.n_perturbations + self.n_drugs == 0:
            raise DeltaviError("n_perturbations and n_drugs are both 0; a screen needs at least one perturbation.")

    def target_ranks(self) -> range:
        """Ranks, by increasing expression, of the genes that may be targets."""
        low, high = (int(np.ceil(rank * self.n_genes)) for rank in TARGET_RANKS)
        return range(low, high)

    @property
    def n_responding(self) -> int:
        """Number of genes of each programme: at least one, unless the fraction is zero."""
        return int(np.ceil(self.responding_fraction * self.n_genes))

    def control_cells(self) -> int:
        """Number of control cells in each context, as given or as a multiple of those of a perturbed group."""
        return CONTROL_GROUPS * self.n_cells_per_group if self.n_control_cells is None else self.n_control_cells

    def median_library(self) -> float:
        """Median of the expected counts per cell, as given or following the number of genes."""
        if self.library_median is None:
            return min(COUNTS_PER_GENE * self.n_genes, LARGEST_DEFAULT_LIBRARY)
        return self.library_median

    def dose_levels(self) -> FloatArray:
        """Check and return the doses, shape ``(n_doses,)``."""
        doses = numbers("doses", self.doses)
        if doses.ndim != 1 or not doses.size or not np.isfinite(doses).all() or (doses <= 0).any():
            raise DeltaviError(f"doses must be a list of at least one finite number above zero, but is {self.doses!r}.")
        if len(np.unique(doses)) < len(doses):
            raise DeltaviError(f"doses must differ from each other, but are {examples(doses.tolist())}.")
        return doses

    def given_positions(self) -> FloatArray | None:
        """Check and return the positions given, shape ``(n_contexts, n_dimensions)``, or None to draw them."""
        if self.context_positions is None:
            return None
        positions = numbers("context_positions", self.context_positions)
        if positions.ndim != 2 or len(positions) != self.n_contexts or not np.isfinite(positions).all():
            raise DeltaviError(
                f"context_positions must be finite, of shape ({self.n_contexts}, n_dimensions), "
                f"but has shape {positions.shape}."
            )
        return positions
