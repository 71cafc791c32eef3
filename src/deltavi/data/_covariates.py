"""Continuous covariates and size factors."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scvi.data.fields import NumericalJointObsField, NumericalObsField

from deltavi._errors import InputDataError, UnknownCategoryError, examples
from deltavi.data._columns import numbers


class ContinuousCovariatesField(NumericalJointObsField):  # type: ignore[misc]
    """Continuous covariates: finite numbers."""

    def validate_field(self, adata: AnnData) -> None:
        for key in self.attr_keys:
            wrong = ~np.isfinite(numbers(adata, key))
            if wrong.any():
                raise InputDataError(
                    f"obs[{key!r}] must be numbers; {int(wrong.sum())} cells are not "
                    f"(for example {examples(adata.obs_names[wrong])})."
                )


class SizeFactorField(NumericalObsField):  # type: ignore[misc]
    """Size factor of each cell: a positive, finite number."""

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
