"""Data manager: hands out a loadable matrix without touching the user's, and keeps cells in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from torch.utils.data import Subset

from deltavi._compat import (
    FIELD_REGISTRIES_KEY,
    MANAGER_UUID_KEY,
    SCVI_UUID_KEY,
    STATE_REGISTRY_KEY,
    AnnDataManager,
)
from deltavi._errors import DeltaviError
from deltavi._random import taking_turns
from deltavi.data._batches import OrderedDataset
from deltavi.data._columns import codes_of
from deltavi.data._covariates import ContinuousCovariatesField
from deltavi.data._fields import (
    CategoricalCovariatesField,
    CategoryField,
    ExpressionField,
)
from deltavi.data._matrix import loadable


class DataManager(AnnDataManager):  # type: ignore[misc]
    """scvi-tools' manager with the expression matrix converted beside the user's object where needed.

    What it hands out is what was registered with it: columns edited since are an error, and codes that another
    registration of the same AnnData wrote over are written again.
    """

    adata: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._converted: tuple[Any, Any] | None = None
        # cell names and codes when registered; constant columns and those a query lacked are not among them
        self._cells: Any = None
        self._codes: dict[str, np.ndarray] = {}

    # -- registration ----------------------------------------------------------------------------------------

    def register_fields(
        self, adata: AnnData, source_registry: dict[str, Any] | None = None, **transfer_kwargs: Any
    ) -> None:
        with self._undone_on_error(adata):
            super().register_fields(adata, source_registry, **transfer_kwargs)
        self._remember_codes(adata)

    @contextmanager
    def _undone_on_error(self, adata: AnnData) -> Iterator[None]:
        """Leave no columns behind that the next attempt would take for the user's, and no half of a registry."""
        registries = self._registry[FIELD_REGISTRIES_KEY]
        before = dict(registries)
        # a view is refused before anything is written
        written = () if adata.is_view else (adata.obs, adata.obsm)
        tables = [(table, {key: table[key].copy() for key in _own(table)}) for table in written]
        try:
            yield
        except Exception:
            for table, kept in tables:
                for key in _own(table):
                    del table[key]
                for key, value in kept.items():
                    table[key] = value
            registries.clear()
            registries.update(before)
            raise

    def validate(self) -> None:
        """Raise where a registered column was edited; register again where another registration came after.

        Raises
        ------
        DeltaviError
            If a batch, condition or label column, or the codes made of it, changed or went away.
        """
        self._assert_anndata_registered()
        # models of several threads may share an AnnData, and write over each other's codes
        with taking_turns():
            self._require_unedited()
            if not self._is_latest:
                self._register_again()

    def _register_again(self) -> None:
        """Write columns and identifiers of the AnnData once more, as they were registered.

        Codes keep their meaning though categories came or went. Nothing is warned of again, and without a filter of
        warnings: pandas swaps filters in whatever thread it runs, and may make one that is meant for a moment stay.
        """
        adata = self.adata
        # models find their managers by it; whoever clears uns takes it away
        adata.uns.setdefault(SCVI_UUID_KEY, self.adata_uuid)
        with self._undone_on_error(adata):
            for field in self.fields:
                if not field.is_empty:
                    _write_again(field, adata, self._registry[FIELD_REGISTRIES_KEY][field.registry_key])
        self._remember_codes(adata)
        adata.uns[MANAGER_UUID_KEY] = self.id

    def _remember_codes(self, adata: AnnData) -> None:
        self._cells = adata.obs_names
        self._codes = {
            field.attr_key: np.array(adata.obs[field.attr_key], dtype=np.int32)
            for field in self._category_fields()
            if not field.is_default and self._state(field)[field.ORIGINAL_ATTR_KEY] in adata.obs
        }

    @property
    def _is_latest(self) -> bool:
        return bool(self.adata.uns.get(MANAGER_UUID_KEY) == self.id)

    def _category_fields(self) -> list[CategoryField]:
        return [field for field in self.fields if isinstance(field, CategoryField)]

    def _state(self, field: CategoryField) -> dict[str, Any]:
        state: dict[str, Any] = self._registry[FIELD_REGISTRIES_KEY][field.registry_key][STATE_REGISTRY_KEY]
        return state

    def _require_unedited(self) -> None:
        for field in self._category_fields():
            registered = self._registered_codes(field)
            if registered is not None:
                field.require_unedited(self.adata, self._state(field), registered)

    def _registered_codes(self, field: CategoryField) -> np.ndarray | None:
        """Codes of the cells as they were registered, ``(n_cells,)``; ``None`` where there is nothing to compare."""
        obs, key = self.adata.obs, field.attr_key
        if not self._is_latest:
            # the column holds the codes of another registration; ours fit if no cell moved or went since
            return self._codes.get(key) if self._cells.equals(self.adata.obs_names) else None
        if key not in obs:
            raise DeltaviError(
                f"obs[{key!r}], which setup_anndata wrote for {self.adata.n_obs} cells, is gone. Run setup_anndata "
                "with the same arguments: it writes the column again, and the model stays usable."
            )
        return np.asarray(obs[key]) if key in self._codes else None

    # -- data ------------------------------------------------------------------------------------------------

    def get_from_registry(self, registry_key: str) -> Any:
        with taking_turns():
            if self.adata is not None and not self._is_latest:
                self.validate()
            data = super().get_from_registry(registry_key)
            return self._loadable(data) if registry_key == REGISTRY_KEYS.X_KEY else data

    def _loadable(self, source: Any) -> Any:
        # a backed AnnData makes a new wrapper on every access, an in-memory one returns the same object
        backed = bool(self.adata is not None and self.adata.isbacked)
        if self._converted is None or not (backed or self._converted[0] is source):
            self._converted = (source, loadable(source, where="The expression matrix", quiet=True))
        return self._converted[1]

    def create_torch_dataset(
        self,
        indices: Sequence[int] | Sequence[bool] | None = None,
        data_and_attributes: list[str] | dict[str, Any] | None = None,
        load_sparse_tensor: bool = False,
    ) -> Any:
        self.validate()
        dataset = OrderedDataset(self, getitem_tensors=data_and_attributes, load_sparse_tensor=load_sparse_tensor)
        return dataset if indices is None else Subset(dataset, indices)


def _write_again(field: Any, adata: AnnData, registered: dict[str, Any]) -> None:
    """Write what `field` adds to `adata`, by its own registry."""
    state = registered[STATE_REGISTRY_KEY]
    if isinstance(field, CategoryField):
        field.write_again(adata, state)
    elif isinstance(field, CategoricalCovariatesField):
        field.validate_field(adata)
        known = state[field.MAPPINGS_KEY]
        codes = {key: codes_of(adata.obs[key], np.asarray(known[key])) for key in field.attr_keys}
        adata.obsm[field.attr_key] = pd.DataFrame(codes, index=adata.obs_names)
    elif isinstance(field, ContinuousCovariatesField):
        field.validate_field(adata)
        adata.obsm[field.attr_key] = adata.obs[field.attr_keys].copy()
    elif isinstance(field, ExpressionField):
        field.require_finite(adata)
    else:
        field.validate_field(adata)


def _own(table: Any) -> list[str]:
    """Keys of obs or obsm that registration writes."""
    return [key for key in table if str(key).startswith("_scvi")]
