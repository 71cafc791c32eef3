"""AnnData fields: scvi-tools' registration with full checks and a defined code for unseen categories."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.abc import CSRDataset
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalJointObsField, CategoricalObsField, LayerField

from deltavi import _keys
from deltavi._errors import DeltaviError, InputDataError, examples
from deltavi._text import as_text
from deltavi._types import State
from deltavi.registry._fingerprint import SampledSums
from deltavi.registry.checks import MatrixReport, Scanned, require_finite, scan_and_sum, warn_unusual
from deltavi.registry.chunks import DaskMatrix, rowwise
from deltavi.registry.columns import UNSEEN, codes_of, column, extended, used_categories, warn_unseen
from deltavi.registry.matrix import loadable, read_from, rounded
from deltavi.registry.names import (
    checksum,
    sorted_names,
    warn_mixed_types,
    warn_near_duplicates,
    warn_small_batches,
)
from deltavi.registry.source import matrix_name, matrix_of
from deltavi.registry.whole import require_whole
from deltavi.registry.whole_tables import require_whole_column

logger = logging.getLogger("deltavi")

# Names of one value of a column, and of several.
NOUNS = {
    REGISTRY_KEYS.BATCH_KEY: ("batch", "batches"),
    REGISTRY_KEYS.LABELS_KEY: ("label", "labels"),
    _keys.CONDITION: ("condition", "conditions"),
}


class ExpressionField(LayerField):
    """Expression matrix; scanned in full, never converted in place.

    Parameters
    ----------
    registry_key
        Name of the tensor handed to the module.
    layer
        Layer with the expression; None for X.
    sums_genes
        Sum every gene in the pass of the scan.
    """

    SCAN_KEY = "scan"

    def __init__(self, registry_key: str, layer: str | None, *, sums_genes: bool = False) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)
        self._sums_genes = sums_genes
        self._scanned: Scanned | None = None
        # of a matrix whose rows have to be computed
        self.sampled: SampledSums | None = None

    @property
    def where(self) -> str:
        """Name of the matrix in messages."""
        return matrix_name(self.attr_key)

    def validate_field(self, adata: AnnData) -> None:
        matrix_of(adata, self.attr_key)

    def require_finite(self, adata: AnnData, *, quiet: bool = True) -> MatrixReport:
        """Scan the matrix; raise if it holds NaN or infinite values."""
        self.validate_field(adata)
        x = self.get_field_data(adata)
        with read_from(x, self.where):
            matrix = loadable(x, where=self.where, quiet=quiet)
            if not isinstance(rowwise(matrix), CSRDataset):
                # the pieces of others are counted by their reader
                require_whole(rowwise(x), self.where)
            self.sampled = SampledSums(matrix) if isinstance(matrix, DaskMatrix) else None
            options = {} if self.sampled is None else {"also": self.sampled.add}
            self._scanned = scan_and_sum(matrix, genes=self._sums_genes, where=self.where, **options)
        report = self._scanned.report
        require_finite(report, where=self.where, cells=adata.obs_names, genes=adata.var_names, layer=self.attr_key)
        if report.max_value > float(np.finfo(np.float32).max):
            raise InputDataError(
                f"{self.where} holds values up to {report.max_value:.3g}, which are infinite in single precision, the "
                "one that models compute in. They are no counts: repair them."
            )
        return report

    def cell_totals(self) -> np.ndarray:
        """Sum of each cell that was last scanned, ``(n_cells,)``."""
        assert self._scanned is not None
        return self._scanned.cell_totals

    def count_totals(self) -> np.ndarray | None:
        """Sum of each cell that was last scanned, ``(n_cells,)``; None if the matrix holds other values than counts."""
        scanned = self._scanned
        is_known = scanned is not None and scanned.report.are_counts and not scanned.report.n_rounding
        return scanned.cell_totals if scanned is not None and is_known else None

    def gene_sums(self) -> np.ndarray | None:
        """Sum of each gene over the cells that were last scanned, ``(n_genes,)``; None if they are to be read again.

        Values that are whole but for rounding are read as whole, and were scanned as they are.
        """
        scanned = self._scanned
        return None if scanned is None or scanned.report.n_rounding else scanned.gene_sums

    def transfer_field(self, state_registry: State, adata_target: AnnData, **transfer_kwargs: object) -> State:
        # a query starts no decoder
        self._sums_genes = False
        return dict(super().transfer_field(state_registry, adata_target, **transfer_kwargs))

    def register_field(self, adata: AnnData) -> State:
        report = self.require_finite(adata, quiet=False)
        warn_unusual(report, where=self.where, cells=adata.obs_names)
        if report.n_rounding and report.are_counts:
            rounded(loadable(self.get_field_data(adata), where=self.where, quiet=True), report, where=self.where)
            message = "%s holds whole numbers but for rounding, in %d values: they are read as whole."
            logger.info(message, self.where, report.n_rounding)
        return {
            self.N_OBS_KEY: adata.n_obs,
            self.N_VARS_KEY: adata.n_vars,
            self.COLUMN_NAMES_KEY: np.asarray(adata.var_names.astype(str), dtype=object),
            self.SCAN_KEY: report.as_dict(),
        }


class CategoryField(CategoricalObsField):
    """Categorical column: only categories in use count, and unseen ones of a query get the code -1.

    Parameters
    ----------
    registry_key
        Name of the tensor handed to the module.
    attr_key
        obs column; ``None`` makes a constant one.
    optional_in_query
        True if a query may lack the column (labels are then unknown, which a prediction does not need).
    """

    CELLS_KEY = "cells_sha256"
    CODES_KEY = "codes_by_cell_name"

    def __init__(self, registry_key: str, attr_key: str | None, *, optional_in_query: bool = False) -> None:
        super().__init__(registry_key, attr_key)
        self.optional_in_query = optional_in_query

    def register_field(self, adata: AnnData) -> State:
        if self.is_default:
            self._setup_default_attr(adata)
        key = self._original_attr_key
        values = column(adata, key)
        require_whole_column(adata, values, key)
        categories = used_categories(values, key)
        warn_mixed_types(values, key)
        warn_near_duplicates([as_text(category) for category in categories], key)
        self._warn_of_batches(values)
        state = self._write(adata, values, categories)
        return state if self.is_default else {**state, **self._fingerprint(adata)}

    def transfer_field(
        self,
        state_registry: State,
        adata_target: AnnData,
        extend_categories: bool = False,
        attached: bool = False,
        **_: object,
    ) -> State:
        categories = np.asarray(state_registry[self.CATEGORICAL_MAPPING_KEY], dtype=object)
        if self.is_default:
            self._setup_default_attr(adata_target)
        key = self._original_attr_key
        # fingerprint of training cells, to detect those that are passed again with other values
        keys = () if extend_categories else (self.CELLS_KEY, self.CODES_KEY)
        kept = {name: state_registry[name] for name in keys if name in state_registry}
        if key not in adata_target.obs and self.optional_in_query:
            adata_target.obs[self.attr_key] = np.full(adata_target.n_obs, UNSEEN, dtype=np.int64)
            return {**kept, self.CATEGORICAL_MAPPING_KEY: categories, self.ORIGINAL_ATTR_KEY: key}
        values = column(adata_target, key)
        if extend_categories:
            categories = extended(categories, values, key)
            self._warn_of_batches(values)
        state = {**kept, **self._write(adata_target, values, categories)}
        if extend_categories and not self.is_default:
            # from here on these are the training cells
            state |= self._fingerprint(adata_target)
        if attached:
            self._require_same(state_registry, adata_target)
        require_whole_column(adata_target, values, key)
        if not self.optional_in_query:
            used_categories(values, key)
            warn_unseen(values, np.asarray(adata_target.obs[self.attr_key]), key)
        return state

    def codes(self, values: pd.Series, categories: np.ndarray) -> np.ndarray:
        """Code of each value, ``(n_cells,)``."""
        return codes_of(values, categories)

    def _warn_of_batches(self, values: pd.Series) -> None:
        if self.registry_key == REGISTRY_KEYS.BATCH_KEY:
            warn_small_batches(values, self._original_attr_key)

    def _fingerprint(self, adata: AnnData) -> State:
        """Fingerprint by which the same cells with other values are detected later."""
        codes = np.asarray(adata.obs[self.attr_key])
        names = sorted_names(adata.obs_names)
        smallest = np.min_scalar_type(-2 - int(codes.max(initial=UNSEEN)))
        return {self.CELLS_KEY: checksum(names), self.CODES_KEY: codes[names.index].astype(smallest)}

    def _require_same(self, state: State, adata: AnnData) -> None:
        """Raise where the cells are those of training, by name, and have other values.

        Cells without a known value, here or in training, are not compared: a query may hide labels. Nor are cells of
        a model file that was written before values were kept.
        """
        known = np.asarray(state.get(self.CODES_KEY, ()))
        if len(known) != adata.n_obs:
            return
        names = sorted_names(adata.obs_names)
        if not len(names) or checksum(names) != state[self.CELLS_KEY]:
            return
        codes = np.asarray(adata.obs[self.attr_key])[names.index]
        differ = (codes != known) & (codes != UNSEEN) & (known != UNSEEN)
        if differ.any():
            value, values = NOUNS.get(self.registry_key, ("value", "values"))
            raise DeltaviError(
                f"{int(differ.sum())} of {adata.n_obs} cells carry another {value} in "
                f"obs[{self._original_attr_key!r}] than in training (for example {examples(names[differ])}). Restore "
                f"those {values}, or set up and train a new model. If these are other cells that share names with the "
                "training cells, rename them: adata.obs_names = 'query-' + adata.obs_names."
            )

    def write_again(self, adata: AnnData, state: State) -> None:
        """Write the codes of what the column holds by now, after another registration wrote its own."""
        key, codes = state[self.ORIGINAL_ATTR_KEY], np.zeros(adata.n_obs, dtype=np.int64)
        if key not in adata.obs and self.optional_in_query:
            codes = np.full(adata.n_obs, UNSEEN, dtype=np.int64)
        elif not self.is_default:
            values = column(adata, key)
            if not self.optional_in_query:
                used_categories(values, key)  # raises where values are missing
            codes = self.codes(values, np.asarray(state[self.CATEGORICAL_MAPPING_KEY], dtype=object))
        adata.obs[self.attr_key] = codes

    def _write(self, adata: AnnData, values: pd.Series, categories: np.ndarray) -> State:
        adata.obs[self.attr_key] = self.codes(values, categories)
        return {self.CATEGORICAL_MAPPING_KEY: categories, self.ORIGINAL_ATTR_KEY: self._original_attr_key}


class CategoricalCovariatesField(CategoricalJointObsField):
    """Several categorical columns together, with the same code for unseen categories."""

    def validate_field(self, adata: AnnData) -> None:
        for key in self.attr_keys:
            column(adata, key)

    def _make_array_categorical(self, adata: AnnData, category_dict: dict[str, list[str]] | None = None) -> State:
        frame = getattr(adata, self.attr_name)[self.attr_key]
        categories = {
            key: used_categories(column(adata, key), key) if category_dict is None else np.asarray(category_dict[key])
            for key in self.attr_keys
        }
        for key, known in categories.items():
            codes = codes_of(adata.obs[key], known)
            warn_unseen(adata.obs[key], codes, key)
            frame[key] = codes
        return {
            self.MAPPINGS_KEY: categories,
            self.FIELD_KEYS_KEY: self.attr_keys,
            self.N_CATS_PER_KEY: [len(known) for known in categories.values()],
        }
