"""Continuous covariates and size factors."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import NumericalJointObsField, NumericalObsField

from deltavi._errors import InputDataError, InputDataWarning, UnknownCategoryError, examples
from deltavi._types import State
from deltavi.registry.columns import numbers

if TYPE_CHECKING:
    from deltavi.registry.fields import ExpressionField

# Beyond the range of the training cells by so many of their standard deviations a value is far off.
FAR_OFF = 3.0
# A standard deviation below this share of the largest value is the rounding of sums.
SMALLEST_SPREAD = 1e-12


class ContinuousCovariatesField(NumericalJointObsField):
    """Continuous covariates: finite numbers, standardised with the moments of the training cells.

    The registry keeps the moments, so that a query and a loaded model use the same scale. One of an older file has
    none: its covariates are read as they are.
    """

    MOMENTS_KEY = "moments"

    def validate_field(self, adata: AnnData) -> None:
        for key in self.attr_keys:
            wrong = ~np.isfinite(numbers(adata, key))
            if wrong.any():
                raise InputDataError(
                    f"obs[{key!r}] must be numbers; {int(wrong.sum())} cells are not "
                    f"(for example {examples(adata.obs_names[wrong])})."
                )

    def register_field(self, adata: AnnData) -> State:
        self.validate_field(adata)
        values = self._values(adata)
        moments = _moments(values)
        self._warn_of_constants(values, moments)
        return self._write(adata, values, moments)

    def transfer_field(
        self, state_registry: State, adata_target: AnnData, attached: bool = False, **_: object
    ) -> State:
        self.validate_field(adata_target)
        values, moments = self._values(adata_target), state_registry.get(self.MOMENTS_KEY)
        if moments is not None:
            self._warn_of_far_off(adata_target, values, moments)
        return self._write(adata_target, values, moments)

    def write_again(self, adata: AnnData, state: State) -> None:
        """Write the standardised values once more, after another registration wrote its own."""
        self.validate_field(adata)
        self._write(adata, self._values(adata), state.get(self.MOMENTS_KEY))

    def _values(self, adata: AnnData) -> np.ndarray:
        """Covariates on their own scale, ``(n_cells, n_covariates)``."""
        return np.stack([numbers(adata, key) for key in self.attr_keys], axis=1)

    def _write(self, adata: AnnData, values: np.ndarray, moments: State | None) -> State:
        scaled = values if moments is None else standardised(values, moments)
        adata.obsm[self.attr_key] = pd.DataFrame(scaled, index=adata.obs_names, columns=list(self.attr_keys))
        kept = {} if moments is None else {self.MOMENTS_KEY: moments}
        return {self.COLUMNS_KEY: np.asarray(self.attr_keys, dtype=object), **kept}

    def _warn_of_constants(self, values: np.ndarray, moments: State) -> None:
        constant = np.flatnonzero(np.asarray(moments["scales"]) == 0)
        for place in constant if len(values) > 1 else ():
            warnings.warn(
                f"obs[{self.attr_keys[place]!r}], a continuous covariate, is {values[0, place]:g} in all {len(values)} "
                "cells: nothing can be learned of it, and its values in other cells will be ignored. Leave it out of "
                "continuous_covariate_keys.",
                InputDataWarning,
                stacklevel=4,
            )

    def _warn_of_far_off(self, adata: AnnData, values: np.ndarray, moments: State) -> None:
        scales, lows, highs = (np.asarray(moments[name]) for name in ("scales", "lows", "highs"))
        far = (values < lows - FAR_OFF * scales) | (values > highs + FAR_OFF * scales)
        for place in np.flatnonzero(far.any(0)):
            cells = adata.obs_names[far[:, place]]
            warnings.warn(
                f"obs[{self.attr_keys[place]!r}]: {len(cells)} of {adata.n_obs} cells (for example {examples(cells)}) "
                f"lie far from the training cells, whose values go from {lows[place]:g} to {highs[place]:g}. "
                "Predictions for them are extrapolated; look at the unit of the column.",
                InputDataWarning,
                stacklevel=4,
            )


def _moments(values: np.ndarray) -> State:
    """Mean, standard deviation and range of each column; a constant one has a standard deviation of zero."""
    means, scales = values.mean(0), values.std(0)
    scales[scales <= SMALLEST_SPREAD * np.abs(values).max(0)] = 0.0
    return {"means": means, "scales": scales, "lows": values.min(0), "highs": values.max(0)}


def standardised(values: np.ndarray, moments: State) -> np.ndarray:
    """`values` ``(n_cells, n_covariates)`` less the mean, in standard deviations; zero for constant ones."""
    means, scales = np.asarray(moments["means"]), np.asarray(moments["scales"])
    found: np.ndarray = np.divide(values - means, scales, out=np.zeros_like(values), where=scales > 0)
    return found


class SizeFactorField(NumericalObsField):
    """Size factor of each cell: a positive, finite number.

    The registry keeps whether the factors are relative, smaller than the counts they belong to as pooled estimates
    around one are, and how many counts a factor of one stands for, so that a query is read in the same unit.

    Parameters
    ----------
    registry_key, attr_key
        As in scvi-tools.
    expression
        Field of the matrix that the factors belong to, registered before this one.
    """

    UNIT_KEY, RELATIVE_KEY = "unit", "is_relative"

    def __init__(self, registry_key: str, attr_key: str | None, *, expression: ExpressionField) -> None:
        # a field without a column is empty
        super().__init__(registry_key, attr_key, required=False)
        self._expression = expression

    def register_field(self, adata: AnnData) -> State:
        state = super().register_field(adata)
        given, counted = numbers(adata, self.attr_key), self._expression.cell_totals()
        is_relative = are_relative(given, counted)
        # as if their mean were the mean total
        unit = float(counted.mean() / given.mean()) if is_relative else 1.0
        return {**state, self.RELATIVE_KEY: is_relative, self.UNIT_KEY: unit}

    def transfer_field(self, state_registry: State, adata_target: AnnData, **transfer_kwargs: object) -> State:
        state = super().transfer_field(state_registry, adata_target, **transfer_kwargs)
        kept = {name: state_registry[name] for name in (self.RELATIVE_KEY, self.UNIT_KEY) if name in state_registry}
        return {**state, **kept}

    def validate_field(self, adata: AnnData) -> None:
        if self.attr_key not in adata.obs:
            raise UnknownCategoryError(
                f"obs[{self.attr_key!r}], each cell's total counts over all genes, is missing. Compute it before genes "
                f"are selected: adata.obs[{self.attr_key!r}] = np.asarray(adata.X.sum(1)).ravel(). "
                f"Known: {examples(adata.obs.columns, 10)}."
            )
        values = numbers(adata, self.attr_key)
        wrong = ~np.isfinite(values) | (values <= 0)
        if wrong.any():
            raise InputDataError(
                f"obs[{self.attr_key!r}] must be positive and finite; {int(wrong.sum())} cells are not "
                f"(for example {examples(adata.obs_names[wrong])})."
            )


def are_relative(size_factors: np.ndarray, totals: np.ndarray) -> bool:
    """True if size factors are smaller than the counts they belong to, as pooled estimates around one are."""
    return len(size_factors) > 0 and bool(np.median(size_factors) < np.median(totals))
