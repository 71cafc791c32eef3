"""Columns of cells as the models of scvi-tools take them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField

from deltavi import _keys
from deltavi._text import as_text
from deltavi._types import State
from deltavi.dataloaders._columns import CellColumns
from deltavi.registry.columns import codes_of, column, used_categories
from deltavi.registry.covariates import ContinuousCovariatesField
from deltavi.registry.fields import CategoricalCovariatesField, CategoryField
from deltavi.registry.labels import label_counts, require_unlabeled_category

# Name of cells without a label where the column has none for them, as in the modules of scvi-tools.
UNKNOWN = "Unknown"


class NamedLabelsField(CategoryField):
    """Labels of cells, the last of which is the name of cells without one.

    Parameters
    ----------
    registry_key, attr_key
        As in scvi-tools.
    unlabeled_category
        Value of the column for cells without a label; missing values are unlabelled too.
    """

    UNLABELED_KEY = "unlabeled_category"

    def __init__(self, registry_key: str, attr_key: str, *, unlabeled_category: str | None) -> None:
        super().__init__(registry_key, attr_key, optional_in_query=True)
        self.unlabeled_category = unlabeled_category

    def register_field(self, adata: AnnData) -> State:
        key = self._original_attr_key
        values = column(adata, key)
        if self.unlabeled_category is None and not values.isna().any():
            return {**self._write(adata, values, used_categories(values, key)), self.UNLABELED_KEY: None}
        counts = label_counts(values)
        require_unlabeled_category(self.unlabeled_category, counts, key)
        unlabeled = UNKNOWN if self.unlabeled_category is None else as_text(self.unlabeled_category)
        labels = [label for label in counts if label != unlabeled]
        lacking = len(values) > sum(counts[label] for label in labels)
        categories = np.asarray([*labels, unlabeled] if lacking else labels, dtype=object)
        return {**self._write(adata, values, categories), self.UNLABELED_KEY: unlabeled}

    def codes(self, values: pd.Series, categories: np.ndarray) -> np.ndarray:
        codes = codes_of(values, categories)
        return np.where(codes < 0, len(categories) - 1, codes)


class UnscaledCovariatesField(ContinuousCovariatesField):
    """Continuous covariates as they are, which models of scvi-tools do not standardise."""

    def register_field(self, adata: AnnData) -> State:
        self.validate_field(adata)
        return self._write(adata, self._values(adata), None)


def column_fields(columns: CellColumns) -> list[BaseAnnDataField]:
    """Fields of all columns but the size factor."""
    batch, labels, unlabeled = columns.batch_key, columns.labels_key, columns.unlabeled_category
    key = REGISTRY_KEYS.LABELS_KEY
    fields: list[BaseAnnDataField] = [
        CategoryField(REGISTRY_KEYS.BATCH_KEY, batch),
        CategoryField(key, None) if labels is None else NamedLabelsField(key, labels, unlabeled_category=unlabeled),
        CategoricalCovariatesField(REGISTRY_KEYS.CAT_COVS_KEY, columns.categorical_covariate_keys),
        UnscaledCovariatesField(REGISTRY_KEYS.CONT_COVS_KEY, columns.continuous_covariate_keys),
    ]
    if columns.condition_key is not None:
        fields.append(CategoryField(_keys.CONDITION, columns.condition_key))
    return fields
