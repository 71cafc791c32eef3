"""LABELVI: annotate cells from some that are labelled, with a model of their counts."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._compat import SETUP_ARGS_KEY
from deltavi._entries import shown
from deltavi._errors import DeltaviError, examples
from deltavi._random import model_seed
from deltavi._reading import reads
from deltavi._text import as_text
from deltavi._types import State
from deltavi.annotation import TemperaturePrior
from deltavi.model._aligned import aligned_copy
from deltavi.model._annotates import Annotates
from deltavi.model._classification import CALIBRATION, check_label_names, predicted_groups
from deltavi.model._label_column import given_of_labels, learn_label_frequencies, split_of_labels
from deltavi.model._mean_responses import MEANS
from deltavi.model._registration import require_own_columns
from deltavi.model._totals import settings_of_totals
from deltavi.model._vae import VAE, named_arguments
from deltavi.model.recipe import EPOCHS_RANGE, AnyRecipe, Parts, Recipe
from deltavi.module import LABELVI as LABELVIModule
from deltavi.module.readers import READERS
from deltavi.registry.tables import require_cells
from deltavi.train import CellSplit, MixedSplitter

# Repeated draws are sequenced less deeply, down to this share of their molecules: the classifier then rests on what a
# cell expresses rather than on how deeply its study was sequenced.
THINNING = 0.2
# Temperatures that fitted many held-out cells of three data sets lay between 1.25 and 2.05: trained with dropout and
# repeated draws, answered at the posterior mean, the model is sure too early, by about as much whatever the data.
TEMPERATURE = TemperaturePrior(median=1.7, spread=0.25)


def _order(model: LABELVI, seed: int) -> State:
    """Seed of the order, and the depth of repeated draws."""
    return {"sampling_seed": seed, "thinning": THINNING if model.module.of_counts else 1.0}


def _begin(model: LABELVI, split: CellSplit) -> None:
    """Learn how often labels occur; a prior that was learned, or the reference's, is not forgotten."""
    if not (model.is_trained_ or model.is_mapped_):
        learn_label_frequencies(model, model.module, split)


class LABELVI(Annotates, VAE):
    """Semi-supervised annotation of cells with a generative model of their counts.

    A latent state z1 generates the counts, and a label y with a basal state z2 generates z1; labelled cells enter
    with the bound of their label, unlabelled ones with the sum over all labels, in the same mini-batch. Predicted
    probabilities are calibrated, and cells of no known type can be rejected.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    registry
        Registry to build the model from without data, as :meth:`load` does.
    n_latent
        Dimensions of z1 and of z2.
    n_hidden
        Hidden units of every network.
    dropout_rate
        Dropout of encoder and classifier.
    gene_likelihood
        ``"nb"``, ``"zinb"`` or ``"poisson"`` on raw counts, ``"normal"`` on log-normalised expression.
    classification_weight
        Weight of the mean cross entropy of labelled cells beside the mean negative bound of all cells.
    seed
        Seed of the initial weights and of training; by default drawn from ``scvi.settings.seed``, or zero where that is
        not set.
    **kwargs
        Arguments of :class:`deltavi.model.VAE` and :class:`deltavi.module.LABELVI`: ``dispersion``, ``library``,
        ``y_prior``, ``class_balance``, ``logit_adjustment``, ``encoder_input`` and others.

    Examples
    --------
    >>> deltavi.model.LABELVI.setup_anndata(  # doctest: +SKIP
    ...     adata, labels_key="cell_type", unlabeled_category="unknown", size_factor_key="total_counts"
    ... )
    >>> model = deltavi.model.LABELVI(adata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> adata.obs["predicted"] = model.predict(reject=0.05)  # doctest: +SKIP
    """

    module: LABELVIModule
    _module_cls: ClassVar[type[LABELVIModule]] = LABELVIModule
    _data_splitter_cls = MixedSplitter
    recipe: ClassVar[AnyRecipe] = Recipe(split=split_of_labels, given=given_of_labels, order=_order, begin=_begin)
    keeps: ClassVar[Parts] = (MEANS, CALIBRATION)
    starts_at_mean_shares: ClassVar[bool] = True
    temperature_prior = TEMPERATURE
    most_epochs: ClassVar[int] = EPOCHS_RANGE[1]
    default_plan: ClassVar[State] = {"lr": 2e-3, "eps": 1e-8, "lr_schedule": "one_cycle"}

    @reads(READERS)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: State | None = None,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        dropout_rate: float = 0.5,
        gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "nb",
        classification_weight: float = 50.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        seed = model_seed(seed)
        if adata is None and registry is None:
            raise DeltaviError("LABELVI needs an AnnData that LABELVI.setup_anndata has registered.")
        kwargs = settings_of_totals(type(self), adata, gene_likelihood, kwargs)
        super().__init__(
            adata,
            registry,
            n_latent=n_latent,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            gene_likelihood=gene_likelihood,
            classification_weight=classification_weight,
            seed=seed,
            **kwargs,
        )
        check_label_names(self)
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(  # type: ignore[override]  # labels are what this model is for
        cls,
        adata: AnnData,
        *,
        labels_key: str,
        unlabeled_category: str | None = None,
        layer: str | None = None,
        condition_key: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | Literal[False] | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register `adata`; every value of the matrix is checked.

        Parameters
        ----------
        adata
            Cells to learn from, with a label or without; in memory or backed, dense or sparse.
        labels_key
            obs column of the cell type.
        unlabeled_category
            Value of that column for cells without a label; missing values are unlabelled too.
        layer
            Layer with the expression, instead of X.
        condition_key
            obs column of the perturbation, needed for :meth:`predict_perturbation`.
        batch_key
            obs column of the batch, donor or study.
        size_factor_key
            obs column with each cell's total counts over all genes. Give it where the matrix holds a selection of
            genes: what a selection leaves of a cell's counts depends on its type. By default the one that
            :func:`deltavi.pp.highly_variable_genes` stored; ``False`` for the sums of the matrix.
        categorical_covariate_keys, continuous_covariate_keys
            obs columns of further covariates of the decoder.
        **kwargs
            Used by :meth:`load` and :meth:`load_query_data`.

        Raises
        ------
        DeltaviError
            If no cell is labelled, or all carry the same label.
        InputDataError
            If the matrix holds NaN, infinite values or objects.
        UnknownCategoryError
            If a column or layer does not exist, or `unlabeled_category` looks mistyped.
        """
        require_own_columns(labels_key=labels_key, condition_key=condition_key, batch_key=batch_key)
        cls._register(adata, cls._get_setup_method_args(**named_arguments(locals())), **kwargs)

    @classmethod
    def from_vae(
        cls,
        vae: VAE,
        adata: AnnData | None = None,
        *,
        labels_key: str | None = None,
        unlabeled_category: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Start from a trained VAE or SCGEN: its encoder and decoder are taken over, the label part is new.

        Parameters
        ----------
        vae
            A trained model; it stays as it is.
        adata
            Cells to learn from, with the batches and covariates `vae` knows; by default those of `vae`.
        labels_key
            obs column of the cell type; by default the one `vae` was set up with.
        unlabeled_category
            Value of that column for cells without a label.
        **kwargs
            Arguments of the label part, such as ``classification_weight``.

        Raises
        ------
        NotTrainedError
            If `vae` was never trained.
        DeltaviError
            If no label column is known, or the cells hold batches that `vae` does not know.
        """
        if not isinstance(vae, VAE):
            raise DeltaviError(f"vae must be a trained VAE or SCGEN, not {shown(vae)}.")
        vae._require_trained("LABELVI.from_vae")
        setup = dict(vae.registry_[SETUP_ARGS_KEY])
        labels_key = labels_key or setup["labels_key"]
        if labels_key is None:
            raise DeltaviError("The model was set up without labels: pass labels_key.")
        source = vae._validate_anndata() if adata is None else require_cells(adata)
        # annotation is copied and the matrix shared: the registration of the VAE stays as it is
        cells = aligned_copy(source, vae.gene_names, layer=setup["layer"], min_overlap=vae.min_gene_overlap)
        setup |= {"labels_key": labels_key, "unlabeled_category": unlabeled_category}
        cls.setup_anndata(cells, **setup)
        model = cls(cells, **{**_settings_of(vae), **_as_encoded_by(vae), **kwargs})
        _require_same_categories(model, vae)
        _take_over(model.module, vae.module)
        return model

    def _groups(self, adata: AnnData, aligned: AnnData) -> np.ndarray:
        return predicted_groups(self, adata, aligned)


def _settings_of(vae: VAE) -> State:
    """Arguments `vae` was made with, defaults included."""
    given: State = vae.init_params_
    settings = {**given["non_kwargs"], **{k: v for group in given["kwargs"].values() for k, v in group.items()}}
    settings.pop("registry", None)
    return settings


def _as_encoded_by(vae: VAE) -> State:
    """Arguments without which the weights of `vae` would mean something else; labels take the place of its prior."""
    return {"encoder_input": "log1p", "scale_activation": vae.module.scale_activation, "prior": "normal"}


def _require_same_categories(model: LABELVI, vae: VAE) -> None:
    """Raise where a weight of `vae` would come to stand for another batch, condition or covariate."""
    keys = [REGISTRY_KEYS.BATCH_KEY, _keys.CONDITION]
    if vae.module.dispersion == "gene-label":
        keys.append(REGISTRY_KEYS.LABELS_KEY)
    known = {key: [as_text(c) for c in vae._categories(key)] for key in keys}
    given = {key: [as_text(c) for c in model._categories(key)] for key in keys}
    for which, source in ((known, vae), (given, model)):
        mappings = source._state(REGISTRY_KEYS.CAT_COVS_KEY).get("mappings", {})
        which |= {str(key): [as_text(c) for c in values] for key, values in mappings.items()}
    for key in [key for key in known if known[key] != given[key]]:
        raise DeltaviError(
            f"The trained model knows {key} {examples(known[key])}, and the cells hold {examples(given[key])}: its "
            "weights would stand for others. Train a VAE on these cells, or pass all cells it was trained on."
        )


def _take_over(module: torch.nn.Module, source: torch.nn.Module) -> None:
    """Copy every weight of `source` that `module` has in the same shape; all of them where the models agree."""
    own = module.state_dict()
    wrong = [name for name, value in source.state_dict().items() if own.get(name, value).shape != value.shape]
    if wrong:
        raise DeltaviError(
            f"{len(wrong)} tensors of the trained model do not fit, for example {examples(wrong)}: settings of its "
            "networks cannot be changed."
        )
    module.load_state_dict({**own, **{k: v for k, v in source.state_dict().items() if k in own}})
