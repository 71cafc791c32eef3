"""ACTINN: the supervised baseline of annotation, trained on labelled cells only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness, model_seed
from deltavi._reading import reads
from deltavi._types import State
from deltavi.annotation import ClassifiedCells
from deltavi.io import PathLike
from deltavi.model._actinn_training import FOLDS, RECIPE, answers_without_own_fold
from deltavi.model._annotates import Annotates
from deltavi.model._answers import LATENT, Answered, AskedCells, latent_arrays, only_array
from deltavi.model._classification import BATCH_SIZE, CALIBRATION, check_label_names, classified
from deltavi.model._vae import named_arguments
from deltavi.model.recipe import AnyRecipe, Parts
from deltavi.module import ACTINN as ACTINNModule
from deltavi.module.readers import READERS_OF_ACTINN, with_defaults
from deltavi.registry.checks import (
    ANY_VALUES,
    MatrixReport,
    Offer,
    require_counts,
)
from deltavi.registry.covariates import SizeFactorField
from deltavi.registry.fields import ExpressionField
from deltavi.registry.manager import DataManager
from deltavi.train import FoldSplitter

NEEDS = f"ACTINN needs raw counts, which it normalises itself. {ANY_VALUES}"


class ACTINN(Annotates):
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
    recipe: ClassVar[AnyRecipe] = RECIPE
    keeps: ClassVar[Parts] = (CALIBRATION, FOLDS)
    default_plan: ClassVar[State] = {
        "lr": 2e-3,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "lr_schedule": "one_cycle",
    }
    published: ClassVar[State] = {
        "n_hidden": (100, 50, 25),
        "n_networks": 1,
        "weight_l2": 0.005,
        "filter_genes": True,
    }
    published_plan: ClassVar[State] = {"lr": 1e-4, "lr_schedule": "staircase"}
    # fold of each cell by name, -1 for none; from the first training on
    folds_: pd.Series | None = None

    @reads(with_defaults(READERS_OF_ACTINN, "weight_l2"))
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: State | None = None,
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
        check_label_names(self)
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
    def _fields(cls, setup: State) -> list[Any]:
        expression = ExpressionField(REGISTRY_KEYS.X_KEY, setup.get("layer"))
        return [
            expression,
            cls._label_field(setup),
            SizeFactorField(REGISTRY_KEYS.SIZE_FACTOR_KEY, setup.get("size_factor_key"), expression=expression),
        ]

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        path: PathLike | None = None,
        overwrite: bool = False,
        progress: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> np.ndarray | Path:
        """Logits of each cell, the mean of the networks and centred within the cell, ``(n_cells, n_labels)``.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use, or a mask.
        path
            File to write, .h5ad or .zarr, instead of an array: obs of the cells, and the logits in obsm
            ``"X_actinn"``. It takes its place once it is complete.
        overwrite
            Write to `path` though it exists.
        progress
            Show a progress bar, if standard error is a terminal or in a notebook.
        batch_size
            Cells taken at a time.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If `path` exists or names no such file.
        FileWriteError
            If the disk is full or the folder read-only; what was there before is unchanged.
        """
        self._require_trained("get_latent_representation")
        asked = AskedCells.of(self, adata, indices)

        def answer(cells: np.ndarray) -> Answered:
            found = classified(self, asked.adata, cells, batch_size)[1].features
            return Answered(obsm=latent_arrays(self, found.astype(np.float32)))

        how: State = {"progress": progress, "batch_size": batch_size, "record": LATENT}
        return asked.delivered(path, answer, only_array, **how)

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

    def _answers_without(self, training: np.ndarray, held_out: np.ndarray) -> ClassifiedCells | None:
        """Training cells with the logits of the network that did not see them, and held-out cells in the same way."""
        return answers_without_own_fold(self, training, held_out)

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        if self.check_input:
            report = MatrixReport.from_dict(manager.get_state_registry(REGISTRY_KEYS.X_KEY)["scan"])
            check = partial(require_counts, needs=NEEDS, offer=offer)
            check(report, where="The query", cells=manager.adata.obs_names)
