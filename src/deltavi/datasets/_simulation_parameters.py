"""Parameters of `simulate_perturbation`, checked once and then frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deltavi._entries import number, share, shown, whole_number
from deltavi._errors import DeltaviError, examples
from deltavi._types import FloatArray

COUNTED = ("n_genes", "n_cell_types", "n_batches", "n_cells_per_group")
NOT_NEGATIVE = ("shared_effect", "specific_effect", "type_effect", "batch_effect", "library_sd")
POSITIVE = ("library_median", "inverse_dispersion")
# Default library, with which cells of few genes stay sparse as well: counts per gene, and the most in all.
COUNTS_PER_GENE = 2.0
LARGEST_DEFAULT_LIBRARY = 3000.0


@dataclass(frozen=True)
class SimulationParameters:
    """Parameters of a simulation, as documented for :func:`deltavi.datasets.simulate_perturbation`.

    Raises
    ------
    DeltaviError
        If a value lies outside its range; the message names the parameter.
    """

    n_genes: int
    n_cell_types: int
    n_batches: int
    n_cells_per_group: int
    conditions: Sequence[str]
    shared_effect: float
    specific_effect: float
    responding_fraction: float
    responsiveness: Sequence[float] | None
    type_positions: ArrayLike | None
    type_effect: float
    batch_effect: float
    library_median: float | None
    library_sd: float
    inverse_dispersion: float

    def __post_init__(self) -> None:
        for name in COUNTED:
            self._read(name, whole_number(name, getattr(self, name), least=1))
        for name in NOT_NEGATIVE + POSITIVE:
            if name != "library_median" or self.library_median is not None:
                self._read(name, _size(name, getattr(self, name)))
        self._read("responding_fraction", share("responding_fraction", self.responding_fraction))
        _check_conditions(self.conditions)
        self.responsiveness_of_types()
        self.given_positions()

    def _read(self, name: str, value: float) -> None:
        # the fields are frozen once they are read
        object.__setattr__(self, name, value)

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Every condition but the control."""
        return tuple(self.conditions[1:])

    @property
    def n_responding(self) -> int:
        """Number of genes of each response programme: at least one, unless the fraction is zero."""
        return min(self.n_genes, int(np.ceil(self.responding_fraction * self.n_genes)))

    def median_library(self) -> float:
        """Median of the expected counts per cell, as given or following the number of genes."""
        if self.library_median is None:
            return min(COUNTS_PER_GENE * self.n_genes, LARGEST_DEFAULT_LIBRARY)
        return self.library_median

    def responsiveness_of_types(self) -> FloatArray:
        """Factor on the whole response of each type, shape ``(n_cell_types,)``; ones where none was given."""
        if self.responsiveness is None:
            return np.ones(self.n_cell_types)
        factors = numbers("responsiveness", self.responsiveness)
        if factors.shape != (self.n_cell_types,) or not np.isfinite(factors).all():
            raise DeltaviError(
                f"responsiveness must be {self.n_cell_types} finite numbers, one per cell type, "
                f"but is {self.responsiveness!r}."
            )
        return factors

    def given_positions(self) -> FloatArray | None:
        """Check and return the positions given, shape ``(n_cell_types, n_dimensions)``, or None to draw them."""
        if self.type_positions is None:
            return None
        positions = numbers("type_positions", self.type_positions)
        if positions.ndim != 2 or len(positions) != self.n_cell_types or not np.isfinite(positions).all():
            raise DeltaviError(
                f"type_positions must be finite, of shape ({self.n_cell_types}, n_dimensions), "
                f"but has shape {positions.shape}."
            )
        return positions


def _size(name: str, value: object) -> float:
    if name in NOT_NEGATIVE:
        return number(name, value, least=0)
    return number(name, value, above=0)


def numbers(name: str, values: object) -> FloatArray:
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DeltaviError(f"{name} has masked entries: give a value for each.")
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DeltaviError(f"{name} must hold numbers, but is {shown(values)}.") from None


def _check_conditions(conditions: Sequence[str]) -> None:
    if isinstance(conditions, str | bytes) or not hasattr(conditions, "__len__") or len(conditions) < 2:
        raise DeltaviError(
            f"conditions must name the control and at least one perturbation, but is {shown(conditions)}."
        )
    # a slash would open a group of its own when the layer named after the condition is written to a file
    bad = [c for c in conditions if not isinstance(c, str) or not c or "/" in c]
    if bad:
        raise DeltaviError(f"conditions must be non-empty strings without '/', but hold {examples(bad)}.")
    if len(set(conditions)) < len(conditions):
        raise DeltaviError(f"conditions must differ from each other, but are {examples(conditions)}.")
