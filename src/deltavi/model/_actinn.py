"""ACTINN: the supervised baseline of annotation, trained on labelled cells only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from deltavi._cp10k import cp10k_factors
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness, model_seed
from deltavi._reading import reads
from deltavi.annotation import ClassifiedCells, informative_genes
from deltavi.model._asked_split import labelled_split, only_labelled
from deltavi.model._attribution import AttributionMixin
from deltavi.model._classification import BATCH_SIZE
from deltavi.model._training import EPOCHS_RANGE
from deltavi.model._vae import named_arguments
from deltavi.module import ACTINN as ACTINNModule
from deltavi.module.readers import READERS_OF_ACTINN, with_defaults
from deltavi.registry.checks import (
    ANY_VALUES,
    MatrixReport,
    Offer,
    are_relative,
    cell_totals,
    require_counts,
    row_blocks,
)
from deltavi.registry.covariates import SizeFactorField
from deltavi.registry.fields import ExpressionField
from deltavi.registry.labels import LabelField
from deltavi.registry.manager import DataManager
from deltavi.train import CellSplit, FoldSplitter, assign_folds, split_labelled

NEEDS = f"ACTINN needs raw counts, which it normalises itself. {ANY_VALUES}"
# Epochs of the published program, and steps below which networks have hardly begun to learn.
DEFAULT_EPOCHS, SMALLEST_STEPS = 50, 1000
# The penalty that predicts best falls about with the root of the number of labelled cells: this over the root.
L2_OF_ONE_CELL = 2.0
# Learning rate at which logistic regression gets near its optimum in as many steps.
REGRESSION_RATE = 1e-2
# Share of the squared mean below which a variance is rounding.
SMALLEST_VARIANCE = 1e-12


class ACTINN(AttributionMixin):
    """Annotation by small neural networks (after Ma and Pellegrini 2020), or by logistic regression.

    Each cell is scaled to 10,000 counts and taken as log2(1 + x); a hidden layer and a softmax name the cell. Five
    such networks each learn from four fifths of the labelled training cells, and the mean of their logits is the
    answer: the fifth that a network has not seen tells how sure it may be. Genes and scaling are fitted on labelled
    training cells only and kept with the model: unlike in the original program a query changes nothing. Unlabelled
    cells are not used in training. Training takes 50 epochs as there, and more where fewer than 2560 labelled cells
    would make it shorter than 1000 steps.

    The one deeper network of the original program is ``ACTINN(adata, **ACTINN.published)``, trained with
    ``plan_kwargs=ACTINN.published_plan``.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    registry
        Registry to build the model from without data, as :meth:`load` does.
    n_hidden
        Units of each hidden layer; ``()`` is multinomial logistic regression.
    n_networks
        Networks; with one, nothing but the validation cells says how sure it may be.
    weight_l2
        Multiplier of half the squared weights, added to the loss; by default 2 over the root of the number of labelled
        training cells.
    filter_genes
        Leave out genes outside the 1st to 99th percentile of mean log expression, and then of its coefficient of
        variation.
    scale
        Standardise log expression by mean and standard deviation of labelled training cells.
    class_weight
        ``"balanced"`` lets every label count the same in the loss; ``None`` every cell.
    check_input
        Refuse a matrix that does not hold raw counts.
    seed
        Seed of the initial weights and of training; by default drawn from ``scvi.settings.seed``, or zero where that is
        not set.

    Examples
    --------
    >>> deltavi.model.ACTINN.setup_anndata(adata, labels_key="cell_type")  # doctest: +SKIP
    >>> model = deltavi.model.ACTINN(adata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> adata.obs["predicted"] = model.predict(reject=0.05)  # doctest: +SKIP
    """

    module: ACTINNModule
    check_input: bool
    _data_splitter_cls = FoldSplitter
    default_plan: ClassVar[dict[str, Any]] = {
        "lr": 2e-3,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "lr_schedule": "one_cycle",
    }
    published: ClassVar[dict[str, Any]] = {
        "n_hidden": (100, 50, 25),
        "n_networks": 1,
        "weight_l2": 0.005,
        "filter_genes": True,
    }
    published_plan: ClassVar[dict[str, Any]] = {"lr": 1e-4, "lr_schedule": "staircase"}
    # fold of each cell by name, -1 for none; from the first training on
    folds_: pd.Series | None = None

    @reads(with_defaults(READERS_OF_ACTINN, "weight_l2"))
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        n_hidden: int | Sequence[int] = (100,),
        n_networks: int = 5,
        weight_l2: float | None = None,
        filter_genes: bool = False,
        scale: bool = False,
        class_weight: Literal["balanced"] | None = None,
        check_input: bool = True,
        seed: int | None = None,
    ) -> None:
        seed = model_seed(seed)
        if adata is None and registry is None:
            raise DeltaviError("ACTINN needs an AnnData that ACTINN.setup_anndata has registered.")
        super().__init__(adata, registry)
        self.seed, self.check_input = seed, check_input
        self.filter_genes, self.scale, self.class_weight = filter_genes, scale, class_weight
        self.chooses_penalty = weight_l2 is None
        self._check_label_names()
        if check_input and adata is not None:
            check = partial(require_counts, needs=NEEDS, offer=self._offer())
            check(self._scan(), where=self._matrix_name(), cells=self.adata.obs_names)
        with isolated_randomness(seed):
            self.module = ACTINNModule(
                self.summary_stats.n_vars,
                n_labels=len(self.label_names),
                n_hidden=n_hidden,
                n_networks=n_networks,
                weight_l2=0.0 if weight_l2 is None else weight_l2,
            )
        self._model_summary_string = (
            f"ACTINN: {len(self.gene_names)} genes, {n_networks} networks with hidden layers {n_hidden}, "
            f"{len(self.label_names)} labels"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        labels_key: str,
        unlabeled_category: str | None = None,
        layer: str | None = None,
        size_factor_key: str | Literal[False] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register `adata`; every value of the matrix is checked.

        Adds ``_scvi_*`` columns to obs and two identifiers to uns; the rest, the matrix included, stays as it is.

        Parameters
        ----------
        adata
            Cells to learn from; in memory or backed, dense or sparse.
        labels_key
            obs column of the cell type.
        unlabeled_category
            Value of that column for cells without a label; missing values are unlabelled too.
        layer
            Layer with raw counts, instead of X.
        size_factor_key
            obs column with each cell's total counts over all genes, where the matrix holds a selection of genes. By
            default the one that :func:`deltavi.pp.highly_variable_genes` stored; ``False`` for the sums of the matrix.
        **kwargs
            Used by :meth:`load`.

        Raises
        ------
        DeltaviError
            If no cell is labelled, or all carry the same label.
        InputDataError
            If the matrix holds NaN, infinite values or objects.
        GeneMatchError
            If gene names repeat.
        UnknownCategoryError
            If a column or layer does not exist, or `unlabeled_category` looks mistyped.
        """
        cls._register(adata, cls._get_setup_method_args(**named_arguments(locals())), **kwargs)

    @classmethod
    def _fields(cls, setup: dict[str, Any]) -> list[Any]:
        expression = ExpressionField(REGISTRY_KEYS.X_KEY, setup.get("layer"))
        return [
            expression,
            LabelField(
                REGISTRY_KEYS.LABELS_KEY, setup["labels_key"], unlabeled_category=setup.get("unlabeled_category")
            ),
            SizeFactorField(REGISTRY_KEYS.SIZE_FACTOR_KEY, setup.get("size_factor_key"), expression=expression),
        ]

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> np.ndarray:
        """Logits of each cell, the mean of the networks and centred within the cell, ``(n_cells, n_labels)``.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use, or a mask.
        batch_size
            Cells taken at a time.

        Raises
        ------
        NotTrainedError
            Before training.
        """
        self._require_trained("get_latent_representation")
        return self._classified(adata, indices, batch_size)[1].features.astype(np.float32)

    @classmethod
    def load_query_data(  # type: ignore[override]  # it is refused
        cls, adata: AnnData, reference_model: Any, **freeze: Any
    ) -> NoReturn:
        """Refuse: there is no batch to learn.

        Parameters
        ----------
        adata, reference_model, **freeze
            As in other models.

        Raises
        ------
        DeltaviError
            Always.
        """
        raise DeltaviError(
            "ACTINN knows no batches, so that there is nothing to learn from a query: ask the trained model for "
            "predict(adata). LABELVI maps queries."
        )

    # -- training --------------------------------------------------------------------------------------------

    def _plan_defaults(self) -> dict[str, Any]:
        # the default is a rate for networks with hidden layers
        return {**self.default_plan, **({} if len(self.module.committee[0].hidden) else {"lr": REGRESSION_RATE})}

    def _default_epochs(self, batch_size: int) -> int:
        """50 as in the program, and more where labelled cells are so few that these would make few steps."""
        steps_per_epoch = math.ceil(int((self._label_codes() >= 0).sum()) / batch_size)
        return int(np.clip(math.ceil(SMALLEST_STEPS / steps_per_epoch), DEFAULT_EPOCHS, EPOCHS_RANGE[1]))

    def _split_cells(self, **options: Any) -> CellSplit:
        """Labelled cells, each label alike; unlabelled ones are in neither training nor validation."""
        codes = self._label_codes()
        labelled = np.flatnonzero(codes >= 0)
        split = split_labelled(codes[labelled], **options)
        return CellSplit(
            train=labelled[split.train],
            validation=labelled[split.validation],
            test=np.concatenate([labelled[split.test], np.flatnonzero(codes < 0)]),
        )

    def _of_given(self, split: CellSplit) -> CellSplit:
        codes = self._label_codes()
        return labelled_split(only_labelled(split, codes), codes, self.label_names)

    def _loading_options(self, seed: int) -> dict[str, Any]:
        return {"folds": self._folds(), "sampling_seed": seed}

    def _folds(self) -> np.ndarray:
        """Fold of each of the model's cells; a cell that was in none before is in none, and every network learns it."""
        names = self.adata.obs_names.astype(str)
        if self.folds_ is None:
            return np.full(len(names), -1)
        if names.equals(self.folds_.index):
            return self.folds_.to_numpy()
        known = self.folds_[~self.folds_.index.duplicated(keep=False)]
        found = known.index.get_indexer(names)
        return np.where(found >= 0, known.to_numpy()[found], -1) if len(known) else found

    def _before_training(self, split: CellSplit) -> None:
        """Deal out folds, choose genes and penalty, learn scaling and label weights; further training keeps them."""
        if self.is_trained_:
            return
        codes = self._label_codes()
        # all labelled cells have a fold, so that another split of them leaves no cell to the network it taught
        folds = assign_folds(
            codes, len(self.module.networks), np.random.default_rng([self.seed, 1]), training=split.train
        )
        self.folds_ = pd.Series(folds, index=self.adata.obs_names.astype(str))
        cells = np.sort(split.train)
        if self.chooses_penalty:
            self.module.get_buffer("weight_l2").fill_(L2_OF_ONE_CELL / math.sqrt(len(cells)))
        matrix = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        totals = self._totals(matrix, cells)
        if self.filter_genes or self.scale:
            mean, sd = log_moments(matrix, cells, totals)
            if self.filter_genes:
                self.module.choose_genes(torch.from_numpy(_chosen(mean, sd)))
            if self.scale:
                self.module.standardise(torch.from_numpy(mean), torch.from_numpy(np.where(sd > 0, sd, 1.0)))
        if self.class_weight == "balanced":
            n = np.bincount(codes[cells], minlength=len(self.label_names))
            self.module.get_buffer("label_weight").copy_(torch.from_numpy(len(cells) / (len(n) * np.maximum(n, 1))))

    def _out_of_fold(self, training: np.ndarray, held_out: np.ndarray) -> ClassifiedCells | None:
        """Training cells with the logits of the network that did not see them, and held-out cells in the same way."""
        folds = self._folds()
        apart = np.concatenate([training[folds[training] >= 0], held_out])
        if not (folds[apart] >= 0).any():
            return None
        return self._classified(None, apart, BATCH_SIZE, folds=folds[apart])[1]

    def _extra_state(self) -> dict[str, Any]:
        if self.folds_ is None:
            return super()._extra_state()
        in_folds = self.folds_[self.folds_ >= 0]
        folds = {"cells": in_folds.index.tolist(), "folds": in_folds.to_numpy()}
        return {**super()._extra_state(), "folds": folds}

    def _restore_extra_state(self, extra: dict[str, Any]) -> None:
        super()._restore_extra_state(extra)
        if "folds" in extra:
            saved = extra["folds"]
            self.folds_ = pd.Series(np.asarray(saved["folds"]), index=pd.Index(saved["cells"], dtype=object))

    def _totals(self, matrix: Any, cells: np.ndarray) -> np.ndarray:
        """Total of each cell of the model, of which only those of `cells` are used, ``(n_cells,)``."""
        counted = cell_totals(matrix)
        key = self._setup_argument("size_factor_key")
        if key is None:
            return counted
        given = np.asarray(self.adata.obs[key], dtype=np.float64)
        if are_relative(given[cells], counted[cells]):
            # as if their mean were the mean total; kept, so that a query is read in the same unit. Cells without a
            # label are no training cells, and may be on another scale
            self.module.get_buffer("size_factor_unit").fill_(counted[cells].mean() / given[cells].mean())
        return given * float(self.module.get_buffer("size_factor_unit"))

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        if self.check_input:
            report = MatrixReport.from_dict(manager.get_state_registry(REGISTRY_KEYS.X_KEY)["scan"])
            check = partial(require_counts, needs=NEEDS, offer=offer)
            check(report, where="The query", cells=manager.adata.obs_names)


def log_moments(matrix: Any, cells: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log2(1 + 1e4 x / total) over cells, both ``(n_genes,)``.

    Parameters
    ----------
    matrix
        ``(n_all, n_genes)`` counts, dense, sparse or backed; a block of rows is in memory at a time.
    cells
        Positions of the cells to use.
    totals
        ``(n_all,)`` total of every cell; cells without counts have log expression zero.
    """
    sums, squares = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1])
    for rows, block in row_blocks(matrix, cells):
        scaled = sparse.diags(cp10k_factors(totals[rows])) @ sparse.csr_matrix(block, dtype=np.float64)
        scaled.data = np.log2(1 + scaled.data)
        sums += np.asarray(scaled.sum(0)).ravel()
        squares += np.asarray(scaled.power(2).sum(0)).ravel()
    mean = sums / len(cells)
    variance = squares / len(cells) - mean**2
    # of a gene that is the same in all cells rounding leaves a variance, by which scaling would blow up a query
    return mean, np.sqrt(np.where(variance > SMALLEST_VARIANCE * mean**2, variance, 0.0))


def _chosen(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    mask = informative_genes(mean, sd)
    if not mask.any():
        raise DeltaviError(
            f"The gene filter leaves none of {len(mean)} genes ({int((mean > 0).sum())} of them expressed in labelled "
            "training cells): with so few, pass filter_genes=False."
        )
    return mask
