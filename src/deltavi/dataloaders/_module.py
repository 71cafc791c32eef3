"""Data module of the cells of an AnnData, wherever its matrix lies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import scvi
from anndata import AnnData
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

from deltavi._compat import (
    DATA_REGISTRY_KEY,
    FIELD_REGISTRIES_KEY,
    SCVI_VERSION_KEY,
    SETUP_ARGS_KEY,
    SETUP_METHOD_KEY,
    STATE_REGISTRY_KEY,
    SUMMARY_STATS_KEY,
)
from deltavi._entries import Indices, flag, names, positions, require_anndata, seed_number, whole_number
from deltavi._errors import DeltaviError
from deltavi._reading import known_arguments
from deltavi._types import State
from deltavi.dataloaders._batches import CellBatches, InOrder, Loader, SeededSplitter
from deltavi.dataloaders._columns import CellColumns
from deltavi.dataloaders._fields import NamedLabelsField
from deltavi.dataloaders._own_cells import own_cells, registered
from deltavi.dataloaders._split import split_of
from deltavi.dataloaders.annbatch import cells_of, settings_of
from deltavi.dataloaders.registry import CellsRegistry
from deltavi.registry.cells import Cells
from deltavi.registry.covariates import SizeFactorField
from deltavi.registry.fields import ExpressionField
from deltavi.registry.manager import DataManager
from deltavi.registry.tables import tables_read
from deltavi.train import whole_batches

# Cells of a mini-batch, where neither the module nor a model says how many.
BATCH_SIZE = 128


@known_arguments
class CellsDataModule(LightningDataModule):
    """Cells of an AnnData in mini-batches, for models of scvi-tools and of this package.

    The matrix may be in memory, backed by a file, read lazily, or in several files
    (:func:`deltavi.pp.concat_lazy`). Cells are split at random by cell, a file is read in blocks of rows whose cells
    are mixed, and processes that train together share the training cells.

    A model of this package that is made from its :attr:`registry` is the model of the AnnData, set up with the same
    columns; ``train(datamodule=...)`` then takes the split and the mini-batches of the module.

    Parameters
    ----------
    adata
        Cells. obs stays as it is, unless a model of this package is made; a view becomes an AnnData of its own.
    layer, batch_key, labels_key, condition_key, categorical_covariate_keys, continuous_covariate_keys
        As in :meth:`deltavi.model.VAE.setup_anndata`. Models of scvi-tools are given continuous covariates as they
        are, and conditions in an entry of their own, ``"condition"``, which they do not read.
    unlabeled_category
        Label of cells without one, as in :meth:`deltavi.model.LABELVI.setup_anndata`.
    size_factor_key
        obs column of size factors. Without it mini-batches hold the total of each cell over the mean total of all
        training cells, which is for modules of one's own.
    train_size, validation_size
        Shares of the cells to train and to validate on; by default 0.9 and the rest.
    train_indices, validation_indices
        A split of one's own, in place of shares, as positions or masks.
    batch_size
        Cells of a mini-batch, of each process where there are several; by default 128, or the default of a model of
        this package.
    seed
        Seed of the split, and of the order of training cells of a model of scvi-tools. In a model of this package the
        order follows the seed of its training.
    block_rows, buffer_rows, read_ahead
        As in ``datasplitter_kwargs`` of :meth:`deltavi.model.VAE.train`: rows of a file that are read together, rows
        that are mixed, and whether a thread reads ahead.

    Attributes
    ----------
    adata
        The cells.
    n_train, n_val
        Number of training and validation cells.
    train_idx, val_idx, test_idx
        Positions of training, validation and test cells.

    Raises
    ------
    InputDataError
        If the AnnData has no matrix, or a column lacks values.
    UnknownCategoryError
        If a column or layer does not exist.
    DeltaviError
        If the split makes no sense, or `adata` is a view of a backed file.

    Examples
    --------
    >>> cells = deltavi.dataloaders.CellsDataModule(adata, batch_key="donor")  # doctest: +SKIP
    >>> model = scvi.model.SCVI(registry=cells.registry)  # doctest: +SKIP
    >>> model.train(datamodule=cells)  # doctest: +SKIP
    >>> z = model.get_latent_representation(dataloader=cells.inference_dataloader())  # doctest: +SKIP
    """

    def __init__(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: str | None = None,
        condition_key: str | None = None,
        size_factor_key: str | Literal[False] | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        train_size: float | None = None,
        validation_size: float | None = None,
        train_indices: Indices | None = None,
        validation_indices: Indices | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        block_rows: int | None = None,
        buffer_rows: int | None = None,
        read_ahead: bool = True,
    ) -> None:
        super().__init__()
        self.batch_size = None if batch_size is None else whole_number("batch_size", batch_size, least=1)
        self.seed = seed_number("seed", seed)
        self.reading = _reading(block_rows, buffer_rows, read_ahead)
        self.columns = CellColumns(
            layer=layer,
            batch_key=batch_key,
            labels_key=labels_key,
            unlabeled_category=unlabeled_category,
            condition_key=condition_key,
            size_factor_key=size_factor_key,
            categorical_covariate_keys=names("categorical_covariate_keys", categorical_covariate_keys) or None,
            continuous_covariate_keys=names("continuous_covariate_keys", continuous_covariate_keys) or None,
        )
        self.adata = require_anndata(adata, lazy=True)
        if adata.n_obs == 0 or adata.n_vars == 0:
            raise DeltaviError(f"adata has {adata.n_obs} cells and {adata.n_vars} genes: there is nothing to train on.")
        self.split = split_of(
            self.adata.n_obs,
            shares={"train_size": train_size, "validation_size": validation_size},
            parts={"train_indices": train_indices, "validation_indices": validation_indices},
            batch_size=self.batch_size or BATCH_SIZE,
            seed=self.seed,
        )
        with tables_read(self.adata):
            self._own = own_cells(self.adata, self.columns)
            self._manager = registered(self._own, self.columns)

    @classmethod
    def from_annbatch(cls, datamodule: LightningDataModule, **options: Any) -> Self:
        """Module of the cells that scvi-tools' ``AnnbatchDataModule`` reads, in the stores of its collection.

        Parameters
        ----------
        datamodule
            A module whose loader reads Zarr stores of AnnData. Columns, split and size of mini-batches are as it has
            them; cells are split at random by cell.
        **options
            Arguments of this class that it has no place for, such as ``condition_key``, or in place of its own.

        Raises
        ------
        DeltaviError
            If it is another module, or its matrices do not lie in stores of AnnData.
        """
        adata, layer = cells_of(datamodule)
        return cls(adata, **{"layer": layer, **settings_of(datamodule, adata), **options})

    def __repr__(self) -> str:
        columns = "".join(f", {name}={value!r}" for name, value in self.columns.given().items())
        split = f"{self.n_train} to train, {self.n_val} to validate on"
        return f"{type(self).__name__}: {self.n_obs} cells ({split}), {self.n_vars} genes{columns}"

    __str__ = __repr__

    # -- what models are made of -----------------------------------------------------------------------------

    @property
    def registry(self) -> CellsRegistry:
        """Registry of the cells: the argument of a model of scvi-tools or of this package."""
        summary = {"n_vars": self.n_vars, "n_cells": self.n_obs}
        expression = {
            DATA_REGISTRY_KEY: {"attr_name": "X", "attr_key": None},
            STATE_REGISTRY_KEY: {"n_obs": self.n_obs, "n_vars": self.n_vars, "column_names": self.var_names},
            SUMMARY_STATS_KEY: summary,
        }
        size_factor: State = {DATA_REGISTRY_KEY: {}, STATE_REGISTRY_KEY: {}, SUMMARY_STATS_KEY: {}}
        # the same before and after the matrix was scanned
        as_known = {REGISTRY_KEYS.X_KEY: expression, REGISTRY_KEYS.SIZE_FACTOR_KEY: size_factor}
        fields = {**self._manager.registry[FIELD_REGISTRIES_KEY], **as_known}
        of_module = {
            SCVI_VERSION_KEY: scvi.__version__,
            SETUP_METHOD_KEY: "setup_datamodule",
            SETUP_ARGS_KEY: self.columns.of_scvi(),
            FIELD_REGISTRIES_KEY: fields,
        }
        return CellsRegistry(self, of_module)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return int(self._own.n_obs)

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return int(self._own.n_vars)

    @property
    def var_names(self) -> np.ndarray:
        """Names of the genes, ``(n_vars,)``."""
        return np.asarray(self._own.var_names, dtype=object)

    @property
    def n_batch(self) -> int:
        """Number of batches."""
        return len(self.batch_labels)

    @property
    def batch_labels(self) -> np.ndarray:
        """Batch of each code."""
        return self._categories(REGISTRY_KEYS.BATCH_KEY)

    @property
    def n_labels(self) -> int:
        """Number of labels, the name of cells without one among them."""
        return len(self.labels)

    @property
    def labels(self) -> np.ndarray:
        """Label of each code."""
        return self._categories(REGISTRY_KEYS.LABELS_KEY)

    @property
    def labels_(self) -> np.ndarray:
        """Label of each cell, ``(n_obs,)``."""
        codes = np.asarray(self._manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        found: np.ndarray = self.labels[codes]
        return found

    @property
    def label_keys(self) -> dict[object, int]:
        """Code of each label."""
        return {label: code for code, label in enumerate(self.labels)}

    @property
    def unlabeled_category(self) -> str | None:
        """Label of cells without one."""
        state = self._manager.registry[FIELD_REGISTRIES_KEY][REGISTRY_KEYS.LABELS_KEY][STATE_REGISTRY_KEY]
        found: str | None = state.get(NamedLabelsField.UNLABELED_KEY)
        return found

    @property
    def n_samples(self) -> int:
        """Number of samples; there is no place for them."""
        return 0

    def _categories(self, key: str) -> np.ndarray:
        state = self._manager.registry[FIELD_REGISTRIES_KEY][key][STATE_REGISTRY_KEY]
        return np.asarray(state["categorical_mapping"], dtype=object)

    # -- split -----------------------------------------------------------------------------------------------

    @property
    def train_idx(self) -> np.ndarray:
        """Positions of the training cells, ``(n_train,)``."""
        return self.split.train

    @property
    def val_idx(self) -> np.ndarray:
        """Positions of the validation cells, ``(n_val,)``."""
        return self.split.validation

    @property
    def test_idx(self) -> np.ndarray:
        """Positions of the other cells."""
        return self.split.test

    @property
    def n_train(self) -> int:
        """Number of training cells."""
        return len(self.split.train)

    @property
    def n_val(self) -> int:
        """Number of validation cells."""
        return len(self.split.validation)

    # -- mini-batches ----------------------------------------------------------------------------------------

    def train_dataloader(self) -> CellBatches:
        """Mini-batches of the training cells, in a new order in each epoch.

        Raises
        ------
        InputDataError
            If the matrix, which is scanned when mini-batches are first asked for, holds NaN or infinite values.
        """
        return self._complete(self._splitter.train_dataloader())

    def val_dataloader(self) -> CellBatches | list[object]:
        """Mini-batches of the validation cells; an empty list where there are none."""
        loader = self._splitter.val_dataloader() if self.n_val else None
        return [] if loader is None else self._complete(loader)

    def inference_dataloader(self, *, indices: Indices | None = None, batch_size: int | None = None) -> CellBatches:
        """Mini-batches of all cells, or those at `indices`, in their order.

        Parameters
        ----------
        indices
            Positions or a mask.
        batch_size
            Cells of a mini-batch; by default as in training.
        """
        chosen = positions(indices, self.n_obs, cells=self._own.obs_names)
        size = self.batch_size or BATCH_SIZE
        size = size if batch_size is None else whole_number("batch_size", batch_size, least=1)
        cells = Cells(self._scanned)
        return self._complete(InOrder(lambda: cells.batches(chosen, size), -(-len(chosen) // size)))

    def teardown(self, stage: str | None = None) -> None:
        """Free memory and stop reading."""
        self._splitter.teardown(stage)

    def on_exception(self, exception: BaseException) -> None:
        """Free the memory after a training that failed."""
        self._splitter.teardown()

    def _complete(self, loader: Loader) -> CellBatches:
        return CellBatches(loader, mean_total=None if self.columns.size_factor_key else self._mean_total)

    @cached_property
    def _scanned(self) -> DataManager:
        """Manager of the columns, and of the matrix, which was scanned."""
        expression = ExpressionField(REGISTRY_KEYS.X_KEY, self.columns.layer)
        key = self.columns.size_factor_key or None
        size_factor = SizeFactorField(REGISTRY_KEYS.SIZE_FACTOR_KEY, key, expression=expression)
        self._manager.register_new_fields([expression, size_factor])
        return self._manager

    @cached_property
    def _mean_total(self) -> float:
        """Mean total of the training cells, at least one molecule each."""
        return float(np.maximum(self._scanned.cell_totals()[self.split.train], 1).mean())

    @property
    def _splitter(self) -> SeededSplitter:
        """Splitter of the matrix, for the trainer that the module is attached to."""
        splitter = self._made_splitter
        splitter.trainer = self.trainer
        return splitter

    @cached_property
    def _made_splitter(self) -> SeededSplitter:
        size = whole_batches(self.n_train, self.batch_size or BATCH_SIZE)
        return SeededSplitter(self._scanned, self.split, batch_size=size, seed=self.seed, reading=self.reading)


def _reading(block_rows: int | None, buffer_rows: int | None, read_ahead: bool) -> State:
    """Options of reading from a file that are not the default."""
    rows = {"block_rows": block_rows, "buffer_rows": buffer_rows}
    found = {name: whole_number(name, value, least=1) for name, value in rows.items() if value is not None}
    return found if flag("read_ahead", read_ahead) else {**found, "read_ahead": False}
