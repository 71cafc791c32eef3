"""Data manager: provides registered data only, with a loadable matrix made beside the user's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField
from torch.utils.data import Subset

from deltavi._compat import (
    FIELD_REGISTRIES_KEY,
    MANAGER_UUID_KEY,
    SCVI_UUID_KEY,
    STATE_REGISTRY_KEY,
    AnnDataManager,
)
from deltavi._random import taking_turns
from deltavi._types import State, StoredMatrix, Table
from deltavi.registry._batches import OrderedDataset
from deltavi.registry._changes import (
    Columns,
    changed_matrix,
    reading,
    require_same_cells,
    require_same_genes,
    written_by,
)
from deltavi.registry._fingerprint import MatrixPrint, is_lazy, is_on_disk
from deltavi.registry.checks import MatrixReport, row_blocks
from deltavi.registry.chunks import behind
from deltavi.registry.columns import codes_of
from deltavi.registry.covariates import ContinuousCovariatesField
from deltavi.registry.fields import (
    CategoricalCovariatesField,
    CategoryField,
    ExpressionField,
)
from deltavi.registry.matrix import loadable, rounded
from deltavi.registry.relative import RelativePlaces
from deltavi.registry.stored_rows import file_of, places_of
from deltavi.registry.totals import cell_totals
from deltavi.registry.whole import require_whole

# Managers whose AnnData was compared in the block that a thread is in; None outside of such blocks.
_compared: ContextVar[set[str] | None] = ContextVar("compared", default=None)
# Data sets that were made in the block that a thread is in, by what they read; None outside of such blocks.
_data_sets: ContextVar[dict[tuple[str, str, bool], OrderedDataset] | None] = ContextVar("data_sets", default=None)


@contextmanager
def compared_once() -> Iterator[None]:
    """Compare each registered AnnData once in this block, for any number of reads."""
    if _compared.get() is not None:
        yield
        return
    token = _compared.set(set())
    try:
        yield
    finally:
        _compared.reset(token)


@contextmanager
def one_data_set() -> Iterator[None]:
    """Make one data set for all loaders of the same cells in this block, which read them one after the other.

    A data set looks at the file that it reads, and keeps the stretch of rows that was read last.
    """
    token = _data_sets.set({})
    try:
        with compared_once():
            yield
    finally:
        _data_sets.reset(token)


class DataManager(AnnDataManager):
    """scvi-tools' manager with the expression matrix converted beside the user's object where needed.

    It provides the data as they were registered: changed cells, genes, values or columns are an error, and codes that
    another registration of the same AnnData overwrote are written again.

    Parameters
    ----------
    is_watched
        True if registered data are compared later; False if they are read once and released.
    *args, **kwargs
        As in scvi-tools.
    """

    # none until fields are registered
    adata: AnnData

    def __init__(self, *args: Any, is_watched: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._converted: tuple[StoredMatrix, StoredMatrix] | None = None
        self._is_watched = is_watched
        # names, columns and values when registered
        self._cells: pd.Index = pd.Index([])
        self._genes: pd.Index = pd.Index([])
        self._columns: Columns | None = None
        self._matrix: MatrixPrint | None = None
        self._places = RelativePlaces()

    # -- registration ----------------------------------------------------------------------------------------

    def register_fields(self, adata: AnnData, source_registry: State | None = None, **transfer_kwargs: object) -> None:
        with self._undone_on_error(adata):
            super().register_fields(adata, source_registry, **transfer_kwargs)
            if self._is_watched:
                self._remember(adata)

    def register_new_fields(self, fields: list[BaseAnnDataField]) -> None:
        with self._undone_on_error(self.adata):
            super().register_new_fields(fields)
            if self._is_watched:
                self._remember(self.adata)

    @contextmanager
    def _undone_on_error(self, adata: AnnData) -> Iterator[None]:
        """Remove columns and registry entries of a failed registration: the next would take them for the user's."""
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

    def _remember(self, adata: AnnData) -> None:
        self._cells, self._genes = adata.obs_names, adata.var_names
        field = self._expression_field
        x = None if field is None else behind(field.get_field_data(adata))
        sampled = None if field is None else field.sampled
        self._matrix = None if x is None else MatrixPrint(x, adata.filename or file_of(x), sampled=sampled)
        self._columns = Columns(adata, self._registered_fields())
        self._places = RelativePlaces(places_of(adata))

    @property
    def written(self) -> set[tuple[str, str]]:
        """Table and key of each column that registration wrote."""
        return set(written_by(self._registered_fields()))

    # -- comparison ------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Raise if registered data changed; write codes again that another registration overwrote.

        Raises
        ------
        DeltaviError
            If cells, genes, the matrix, or a registered column changed or went away; or the working folder, where a
            file was opened by a relative path.
        """
        self._assert_anndata_registered()
        if not self._is_watched:
            return
        compared = _compared.get()
        again = compared is None or self.id not in compared
        if again:
            self.require_same_cells()
            require_same_genes(self.adata.var_names, self._genes)
            self._places.require_same_folder()
            self._require_same_matrix()
        # models of several threads may share an AnnData, and overwrite each other's codes
        with taking_turns():
            self._require_same_columns(again)
        if compared is not None:
            compared.add(self.id)

    def require_same_cells(self) -> None:
        """Raise where cells of the AnnData went, came, or have other names or another order."""
        if self._is_watched:
            require_same_cells(self.adata.obs_names, self._cells)

    def _require_same_matrix(self) -> None:
        adata, field, registered = self.adata, self._expression_field, self._matrix
        if field is None or registered is None:
            return
        with reading(field.where, adata):
            x = behind(field.get_field_data(adata))
            same = registered.is_same(x)
        if not same:
            report = MatrixReport.from_dict(self._state(field)[field.SCAN_KEY])
            raise changed_matrix(adata, x, where=field.where, registered=registered, report=report)

    def _require_same_columns(self, again: bool) -> None:
        columns, adata = self._columns, self.adata
        if columns is not None and again:
            columns.require_unedited(adata)
            if self._is_latest:
                columns.require_written(adata)
        if not self._is_latest:
            self._register_again()

    def _register_again(self) -> None:
        """Write columns and identifiers of the AnnData once more, as they were registered.

        Codes keep their meaning if categories were added or removed. No warning is repeated, and no filter of warnings
        is set: pandas swaps filters in any thread, and may make a temporary one permanent.
        """
        adata = self.adata
        # models find their managers by it, and it is lost when uns is cleared
        adata.uns.setdefault(SCVI_UUID_KEY, self.adata_uuid)
        with self._undone_on_error(adata):
            for field, state in self._registered_fields():
                _write_again(field, adata, state)
        self._columns = Columns(adata, self._registered_fields())
        adata.uns[MANAGER_UUID_KEY] = self.id

    @property
    def _is_latest(self) -> bool:
        return bool(self.adata.uns.get(MANAGER_UUID_KEY) == self.id)

    @property
    def _expression_field(self) -> ExpressionField | None:
        return next((field for field in self.fields if isinstance(field, ExpressionField)), None)

    def gene_sums(self) -> np.ndarray:
        """Sum of each gene over all cells, ``(n_genes,)``, from the scan of the registration if it took them."""
        field = self._expression_field
        found = None if field is None else field.gene_sums()
        if found is not None:
            return found
        matrix = self.get_from_registry(REGISTRY_KEYS.X_KEY)
        sums = [np.asarray(block.sum(0), dtype=np.float64).ravel() for _, block in row_blocks(matrix)]
        return np.asarray(np.sum(sums, axis=0))

    @contextmanager
    def rows_read(self) -> Iterator[None]:
        """Block in which rows of the matrix are read; raises if its file cannot be read, or was changed meanwhile."""
        matrix, field = self.get_from_registry(REGISTRY_KEYS.X_KEY), self._expression_field
        where = "The expression matrix" if field is None else field.where
        with reading(where, self.adata):
            yield
        require_whole(matrix, where)
        self.validate()

    @property
    def reads_rows(self) -> bool:
        """True if expression is not in memory, and its rows are read when they are asked for."""
        return is_lazy(self.get_from_registry(REGISTRY_KEYS.X_KEY))

    def cell_totals(self, cells: np.ndarray | None = None) -> np.ndarray:
        """Sum of each cell, ``(n_cells,)``, from the scan of the registration if it holds counts.

        Parameters
        ----------
        cells
            Positions in increasing order, by default of all cells.
        """
        field = self._expression_field
        known = None if field is None else field.count_totals()
        if known is not None and len(known) == self.adata.n_obs:
            return known.copy() if cells is None else known[cells]
        return cell_totals(self.get_from_registry(REGISTRY_KEYS.X_KEY), cells)

    def _registered_fields(self) -> list[tuple[BaseAnnDataField, State]]:
        """Fields that are not empty, each with its state in the registry."""
        return [(field, self._state(field)) for field in self.fields if not field.is_empty]

    def _state(self, field: BaseAnnDataField) -> State:
        state: State = self._registry[FIELD_REGISTRIES_KEY][field.registry_key][STATE_REGISTRY_KEY]
        return state

    # -- data ------------------------------------------------------------------------------------------------

    def get_from_registry(self, registry_key: str) -> StoredMatrix | Table:
        if self.adata is not None:
            self.validate()
        with taking_turns():
            if self.adata is not None and not self._is_latest:
                # another thread registered its own in between
                self.validate()
            data = super().get_from_registry(registry_key)
            return self._loadable(data) if registry_key == REGISTRY_KEYS.X_KEY else data

    def _loadable(self, source: StoredMatrix) -> StoredMatrix:
        # a backed AnnData makes a new wrapper on every access, an in-memory one returns the same object
        on_disk = is_on_disk(source)
        if self._converted is not None and (self._converted[0] is source or on_disk):
            return self._converted[1]
        found = loadable(source, where="The expression matrix", quiet=True)
        found = rounded(found, self._scan, where="The expression matrix")
        # data read directly from a file must not outlive that file
        self._converted = None if found is source or is_lazy(found) else (source, found)
        return found

    @property
    def _scan(self) -> MatrixReport:
        """Scan of the expression matrix at registration."""
        state = self._registry[FIELD_REGISTRIES_KEY][REGISTRY_KEYS.X_KEY][STATE_REGISTRY_KEY]
        return MatrixReport.from_dict(state[ExpressionField.SCAN_KEY])

    def create_torch_dataset(
        self,
        indices: Sequence[int] | Sequence[bool] | None = None,
        data_and_attributes: list[str] | dict[str, type] | None = None,
        load_sparse_tensor: bool = False,
    ) -> OrderedDataset | Subset[dict[str, np.ndarray]]:
        dataset = self.dataset(data_and_attributes, load_sparse_tensor=load_sparse_tensor)
        return dataset if indices is None else Subset(dataset, indices)

    def dataset(
        self, keys: list[str] | dict[str, type] | None = None, *, load_sparse_tensor: bool = False
    ) -> OrderedDataset:
        """Data set of all cells, of the registered data named by `keys`."""
        made = _data_sets.get()
        made = {} if made is None else made
        what = self.id, repr(keys), load_sparse_tensor
        with compared_once():
            self.validate()
            if what not in made:
                made[what] = OrderedDataset(self, getitem_tensors=keys, load_sparse_tensor=load_sparse_tensor)
                # read now, before the AnnData can change
                _ = made[what].data
        return made[what]


def _write_again(field: BaseAnnDataField, adata: AnnData, state: State) -> None:
    """Write the columns of `field` to `adata`, by its own registry."""
    if isinstance(field, CategoryField):
        field.write_again(adata, state)
    elif isinstance(field, CategoricalCovariatesField):
        known = state[field.MAPPINGS_KEY]
        codes = {key: codes_of(adata.obs[key], np.asarray(known[key])) for key in field.attr_keys}
        adata.obsm[field.attr_key] = pd.DataFrame(codes, index=adata.obs_names)
    elif isinstance(field, ContinuousCovariatesField):
        field.write_again(adata, state)


def _own(table: Iterable[str]) -> list[str]:
    """Keys of obs or obsm that registration writes."""
    return [key for key in table if str(key).startswith("_scvi")]
