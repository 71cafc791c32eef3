"""MIXVI: clusters, labels and conditions in one mixture over the latent space of counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._entries import Indices, number
from deltavi._errors import DeltaviError
from deltavi._random import model_seed
from deltavi._reading import reads
from deltavi._types import State
from deltavi.io import PathLike
from deltavi.latent import Usage
from deltavi.model._annotates import Annotates
from deltavi.model._answers import AskedCells
from deltavi.model._classification import BATCH_SIZE, CALIBRATION, predicted_groups
from deltavi.model._components import (
    all_component_names,
    get_kl_per_dimension,
    get_responsibilities,
    merge_components,
    predicted_components,
    w_positions,
)
from deltavi.model._mean_responses import MEANS
from deltavi.model._mixture_setup import (
    check_condition,
    check_labels,
    setup_of_clusters,
    warn_of_unknown_conditions,
)
from deltavi.model._mixture_training import (
    PRIOR_WARMUP,
    RECIPE,
    SETTLED,
    USAGE,
    dimensions_of,
    train_mixture,
)
from deltavi.model._question import Route
from deltavi.model._registration import require_own_columns
from deltavi.model._totals import settings_of_totals
from deltavi.model._vae import VAE, named_arguments
from deltavi.model.recipe import EPOCHS_RANGE, AnyRecipe, Parts
from deltavi.model.routes import ROUTES, as_query, sample
from deltavi.module import MIXVI as MIXVIModule
from deltavi.module.decoder import GeneLikelihood
from deltavi.module.readers import READERS, with_defaults
from deltavi.registry.checks import Offer
from deltavi.registry.manager import DataManager
from deltavi.train import MixedSplitter

# Nats of every dimension of w that cost nothing: without any, w falls silent and the route through it says little.
FREE_BITS_W = 0.25
# Share of the epochs in which a model that starts from clusters takes them for labels.
DROP_AFTER = 0.6


class MIXVI(Annotates, VAE):
    """A mixture of Gaussians over the latent space of counts: clusters, cell types and conditions in one model.

    Without labels its components are clusters. With labels of some or all cells a label names a component, and
    further components stay free for cells of other types. With ``conditional=True`` components and decoder depend on
    the condition.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    registry
        Registry to build the model from without data, as :meth:`load` does.
    n_components
        Components of the mixture. By default 12, or five more than there are labels.
    n_latent, n_w
        Dimensions of z, and of w, which moves components; zero for none. Each dimension of w has a quarter of a nat
        for free (``free_bits_w``), without which it would collapse to its prior.
    conditional
        Let components and decoder depend on the condition.
    prior_warmup
        Share of the epochs before components are placed, in which the prior is a standard normal distribution and
        labels are not used.
    drop_labels_after
        Share of the epochs after which labels are dropped, see :meth:`from_clusters`.
    gene_likelihood
        ``"nb"``, ``"zinb"`` or ``"poisson"`` on raw counts, ``"normal"`` on log-normalised expression, ``"bernoulli"``
        on detection (values from zero to one).
    n_hidden, dropout_rate
        Hidden units of every network, and dropout of the encoder.
    seed
        Seed of the initial weights and of training; by default drawn from ``scvi.settings.seed``, or zero where that is
        not set.
    **kwargs
        Arguments of :class:`deltavi.model.VAE` and its module: ``y_prior``, ``alpha``,
        ``w_prior``, ``z_term``, ``classifier`` and others.

    Examples
    --------
    >>> deltavi.model.MIXVI.setup_anndata(adata, layer="counts")  # doctest: +SKIP
    >>> model = deltavi.model.MIXVI(adata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> adata.obs["component"] = model.predict()  # doctest: +SKIP
    """

    module: MIXVIModule
    _module_cls: ClassVar[type[MIXVIModule]] = MIXVIModule
    _data_splitter_cls = MixedSplitter
    recipe: ClassVar[AnyRecipe] = RECIPE
    keeps: ClassVar[Parts] = (SETTLED, MEANS, CALIBRATION, USAGE)
    routes: ClassVar[Mapping[str, Route]] = ROUTES
    starts_at_mean_shares: ClassVar[bool] = True
    # shares of the epochs before components are placed, and after which labels are let go, if they are
    prior_warmup: float
    drop_labels_after: float | None
    _asked_components: int | None
    usage_: Usage | None = None  # of the components by the training cells

    get_responsibilities = get_responsibilities
    merge_components = merge_components
    get_kl_per_dimension = get_kl_per_dimension
    sample = sample
    _query = as_query
    most_epochs: ClassVar[int] = EPOCHS_RANGE[1]
    default_plan: ClassVar[State] = {"lr": 2e-3, "eps": 1e-8, "lr_schedule": "one_cycle"}

    @reads(with_defaults(READERS, "n_components"))
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: State | None = None,
        *,
        n_components: int | None = None,
        n_latent: int = 10,
        n_w: int = 0,
        conditional: bool = False,
        prior_warmup: float = PRIOR_WARMUP,
        drop_labels_after: float | None = None,
        gene_likelihood: GeneLikelihood = "nb",
        n_hidden: int = 128,
        dropout_rate: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        seed = model_seed(seed)
        if adata is None and registry is None:
            raise DeltaviError("MIXVI needs an AnnData that MIXVI.setup_anndata has registered.")
        kwargs = settings_of_totals(type(self), adata, gene_likelihood, kwargs)
        kwargs.setdefault("free_bits_w", FREE_BITS_W if n_w else 0.0)
        self._asked_components = n_components
        self.drop_labels_after, self.prior_warmup = drop_labels_after, prior_warmup
        if not 0 <= number("prior_warmup", prior_warmup) < 1:
            raise DeltaviError(f"prior_warmup is a share of the epochs, in [0, 1), not {prior_warmup!r}.")
        super().__init__(
            adata,
            registry,
            n_latent=n_latent,
            n_w=n_w,
            conditional=conditional,
            gene_likelihood=gene_likelihood,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            seed=seed,
            **kwargs,
        )
        check_labels(self)
        if conditional or kwargs.get("w_prior") == "learned":
            check_condition(self)
        # a file remembers the number, whatever the default will be one day
        n_components = self.module.n_components
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        condition_key: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: str | None = None,
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
        layer
            Layer with the expression, instead of X.
        condition_key
            obs column of the perturbation.
        labels_key
            obs column of the cell type, where some cells have one; without it components are clusters.
        unlabeled_category
            Value of that column for cells without a label; missing values are unlabelled too.
        batch_key
            obs column of the batch, donor or study.
        size_factor_key
            obs column with each cell's total counts over all genes, where the matrix holds a selection of genes. By
            default the one that :func:`deltavi.pp.highly_variable_genes` stored; ``False`` for the sums of the matrix.
        categorical_covariate_keys, continuous_covariate_keys
            obs columns of further covariates of the decoder.
        **kwargs
            Used by :meth:`load` and :meth:`load_query_data`.

        Raises
        ------
        DeltaviError
            If `labels_key` is given and no cell is labelled, or all carry the same label.
        InputDataError
            If the matrix holds NaN, infinite values or objects.
        UnknownCategoryError
            If a column or layer does not exist, or `unlabeled_category` looks mistyped.
        """
        require_own_columns(labels_key=labels_key, condition_key=condition_key, batch_key=batch_key)
        if unlabeled_category is not None and labels_key is None:
            raise DeltaviError("unlabeled_category is a value of labels_key: pass both, or neither for clustering.")
        cls._register(adata, cls._get_setup_method_args(**named_arguments(locals())), **kwargs)

    @property
    def label_names(self) -> np.ndarray:
        """Labels that :meth:`predict` can give, or components where there are none."""
        if self.has_labels:
            return self._categories(REGISTRY_KEYS.LABELS_KEY)
        return self.component_names

    @classmethod
    def from_clusters(cls, adata: AnnData, key: str, *, drop_labels_after: float = DROP_AFTER, **kwargs: Any) -> Self:
        """Start from clusters: they name components, and are dropped before training ends.

        For the first part of training clusters are labels, as if they were known types; then the model goes on
        without them, so that cells may change their component (as Kolb 2023 does with Louvain clusters).

        Parameters
        ----------
        adata
            Cells to learn from.
        key
            obs column of the clusters, such as ``"leiden"``.
        drop_labels_after
            Share of the epochs after which clusters are dropped.
        **kwargs
            Arguments of :meth:`setup_anndata`, and of the model. By default there are as many components as clusters.

        Returns
        -------
        The model, to be trained.

        Raises
        ------
        DeltaviError
            If a cell is in no cluster, or there is only one.
        """
        setup = setup_of_clusters(cls, adata, key, kwargs)
        cls.setup_anndata(adata, labels_key=key, **setup)
        kwargs.setdefault("n_components", int(adata.obs[key].nunique()))
        return cls(adata, drop_labels_after=drop_labels_after, **kwargs)

    # -- training --------------------------------------------------------------------------------------------

    def train(  # type: ignore[override]  # what is handed on is among the keywords
        self, max_epochs: int | None = None, **kwargs: Any
    ) -> None:
        """Train the model, as in :meth:`deltavi.model.VAE.train`.

        The first part of the epochs trains a VAE with a standard normal prior; components are then placed where its
        cells lie. Components that end without cells are no longer used. A run that ends with one component in use is
        started again once, with another seed.

        Parameters
        ----------
        max_epochs, **kwargs
            As there.

        Raises
        ------
        DeltaviError
            If there are more components than training cells, or an argument makes no sense.
        """
        train_mixture(self, super().train, max_epochs, kwargs)

    def _data_dimensions(self) -> State:
        return dimensions_of(self, super()._data_dimensions())

    def _groups(self, adata: AnnData, aligned: AnnData) -> np.ndarray:
        # without labels all cells are one group, as in a VAE
        return predicted_groups(self, adata, aligned) if self.has_labels else super()._groups(adata, aligned)

    # -- answers ---------------------------------------------------------------------------------------------

    def predict(  # type: ignore[override]  # said by the base class
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices | None = None,
        soft: bool = False,
        keep_observed: bool = False,
        reject: float | None = None,
        path: PathLike | None = None,
        overwrite: bool = False,
        progress: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> pd.Series | pd.DataFrame | Path:
        """Label of each cell or its calibrated probabilities; component and responsibilities where nothing is labelled.

        Parameters
        ----------
        adata, indices, soft, keep_observed, reject, overwrite, progress, batch_size
            As in :meth:`deltavi.model.LABELVI.predict`. Components are neither observed nor calibrated, so that
            without labels `keep_observed` and `reject` make no sense.
        path
            As there; components are written to obs ``"component"``, responsibilities to obsm ``"responsibilities"``,
            and the names of its columns to uns ``"deltavi"["components"]``.

        Returns
        -------
        Series of text by cell name, or with `soft` a frame of cells by labels or components. Cells without counts are
        ``"unassigned"``. With `path` that.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If `reject` or `keep_observed` is asked for without labels, or `reject` is no share that can be rejected; if
            `path` exists or names no such file.
        FileWriteError
            If the disk is full or the folder read-only; what was there before is unchanged.
        """
        how: State = {"soft": soft, "path": path, "progress": progress, "batch_size": batch_size}
        if self.has_labels:
            return super().predict(adata, indices=indices, keep_observed=keep_observed, reject=reject, **how)
        if reject is not None or keep_observed:
            raise DeltaviError("The model was set up without labels: there is nothing observed, and no known type.")
        self._require_trained("predict")
        return predicted_components(self, AskedCells.of(self, adata, indices), **how)

    @property
    def component_names(self) -> np.ndarray:
        """Name of every component in use: its label, or "component 0", "component 1" and so on for the free ones."""
        in_use = self.module.is_active.cpu().numpy()
        names: np.ndarray = all_component_names(self)[in_use]
        return names

    def get_latent_representation(  # type: ignore[override]  # what scvi-tools names is among the keywords
        self,
        adata: AnnData | None = None,
        indices: Any = None,
        *,
        of: Literal["z", "w"] = "z",
        path: PathLike | None = None,
        overwrite: bool = False,
        progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Latent position of each cell: the posterior mean of z, or of w.

        Parameters
        ----------
        adata, indices, overwrite, progress, **kwargs
            As in :meth:`deltavi.model.VAE.get_latent_representation`; for w nothing further.
        of
            ``"z"``, ``(n_cells, n_latent)``, or ``"w"``, ``(n_cells, n_w)``.
        path
            As there; w is written to obsm ``"X_mixvi_w"``.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If the model has no w, or `path` exists or names no such file.
        FileWriteError
            If the disk is full or the folder read-only; what was there before is unchanged.
        """
        if of == "z":
            return super().get_latent_representation(adata, indices=indices, path=path, progress=progress, **kwargs)
        if of != "w" or kwargs:
            raise DeltaviError(f"of must be 'z' or 'w', not {of!r}." if of != "w" else f"w takes no {list(kwargs)}.")
        self._require_trained("get_latent_representation")
        return w_positions(self, AskedCells.of(self, adata, indices), path=path, progress=progress)

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        super()._check_query(manager, offer)
        if self.module.conditional:
            warn_of_unknown_conditions(self, manager)
