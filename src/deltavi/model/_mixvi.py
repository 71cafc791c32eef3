"""MIXVI: clusters, labels and conditions in one mixture over the latent space of counts."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import Indices, keywords_of, known_keywords, number, positions
from deltavi._errors import DeltaviError, InputDataWarning, KeyClashError, UnseenCategoryWarning, examples
from deltavi._random import model_seed
from deltavi._reading import known_arguments, reads
from deltavi.annotation import Calibration
from deltavi.model._attribution import AttributionMixin
from deltavi.model._classification import BATCH_SIZE
from deltavi.model._mixture_training import PRIOR_WARMUP, MixtureTrainingMixin
from deltavi.model._totals import TotalCountsMixin
from deltavi.model._training import EPOCHS_RANGE
from deltavi.model._vae import VAE, named_arguments, settings_of
from deltavi.model.routes import RoutesMixin
from deltavi.module import MIXVI as MIXVIModule
from deltavi.module.decoder import GeneLikelihood
from deltavi.module.readers import READERS, with_defaults
from deltavi.registry.checks import Offer, cell_totals
from deltavi.registry.manager import DataManager
from deltavi.train import MixedSplitter

# Nats of every dimension of w that cost nothing: without any, w falls silent and the route through it says little.
FREE_BITS_W = 0.25
# Share of the epochs in which a model that starts from clusters takes them for labels.
DROP_CLUSTERS_AFTER = 0.6


class MIXVI(
    MixtureTrainingMixin,
    RoutesMixin,
    AttributionMixin,
    TotalCountsMixin,
    VAE,
):
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
        for free (``free_bits_w``), or it would fall silent.
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
    most_epochs: ClassVar[int] = EPOCHS_RANGE[1]
    default_plan: ClassVar[dict[str, Any]] = {"lr": 2e-3, "eps": 1e-8, "lr_schedule": "one_cycle"}

    @reads(with_defaults(READERS, "n_components"))
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
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
        kwargs = self._settings_of_totals(adata, gene_likelihood, kwargs)
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
        if self.has_labels:
            self._check_label_names()
        if conditional or kwargs.get("w_prior") == "learned":
            self._check_condition()
        if drop_labels_after is not None and not self.has_labels:
            raise DeltaviError("drop_labels_after drops labels, and the model was set up without: pass labels_key.")
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
        cls._require_own_columns(labels_key=labels_key, condition_key=condition_key, batch_key=batch_key)
        if unlabeled_category is not None and labels_key is None:
            raise DeltaviError("unlabeled_category is a value of labels_key: pass both, or neither for clustering.")
        cls._register(adata, cls._get_setup_method_args(**named_arguments(locals())), **kwargs)

    @property
    def label_names(self) -> np.ndarray:
        """What :meth:`predict` can answer: labels, or components where there are none."""
        if self.has_labels:
            return self._categories(REGISTRY_KEYS.LABELS_KEY)
        return self.component_names

    @classmethod
    def from_clusters(
        cls, adata: AnnData, key: str, *, drop_labels_after: float = DROP_CLUSTERS_AFTER, **kwargs: Any
    ) -> Self:
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
        if taken := {"labels_key", "unlabeled_category"} & set(kwargs):
            raise DeltaviError(
                f"{examples(sorted(taken))} cannot be given: obs[{key!r}] names the clusters of all cells."
            )
        of_setup = [name for name in keywords_of(cls.setup_anndata) if name != "adata"]
        known_keywords(kwargs, [*of_setup, *settings_of(cls)], among=f"{cls.__name__}.from_clusters")
        if key in adata.obs and (missing := adata.obs[key].isna().to_numpy()).any():
            raise DeltaviError(
                f"{int(missing.sum())} cells have no value in obs[{key!r}] (for example "
                f"{examples(adata.obs_names[missing])}): cluster all cells, or leave these out."
            )
        setup = {name: kwargs.pop(name) for name in set(of_setup) & set(kwargs)}
        cls.setup_anndata(adata, labels_key=key, **setup)
        kwargs.setdefault("n_components", int(adata.obs[key].nunique()))
        return cls(adata, drop_labels_after=drop_labels_after, **kwargs)

    # -- answers ---------------------------------------------------------------------------------------------

    def predict(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices | None = None,
        soft: bool = False,
        keep_observed: bool = False,
        reject: float | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> pd.Series | pd.DataFrame:
        """Label of each cell or its calibrated probabilities; component and responsibilities where nothing is labelled.

        Parameters
        ----------
        adata, indices, soft, keep_observed, reject, batch_size
            As in :meth:`deltavi.model.LABELVI.predict`. Components are neither observed nor calibrated, so that
            without labels the last two of these make no sense.

        Returns
        -------
        Series of text by cell name, or with `soft` a frame of cells by labels or components. Cells without counts are
        ``"unassigned"``.

        Raises
        ------
        NotTrainedError
            Before training.
        DeltaviError
            If `reject` or `keep_observed` is asked for without labels, or `reject` is no share that can be rejected.
        """
        if self.has_labels:
            return super().predict(
                adata,
                indices=indices,
                soft=soft,
                keep_observed=keep_observed,
                reject=reject,
                batch_size=batch_size,
            )
        if reject is not None or keep_observed:
            raise DeltaviError("The model was set up without labels: there is nothing observed, and no known type.")
        responsibilities = self.get_responsibilities(adata, indices=indices, batch_size=batch_size)
        if soft:
            return responsibilities
        named = self.component_names[responsibilities.to_numpy().argmax(1)]
        if self.module.of_counts:
            aligned = self._validate_anndata(adata)
            layer = self._setup_argument("layer")
            totals = cell_totals(aligned.X if layer is None else aligned.layers[layer])
            named = np.where(totals[positions(indices, aligned.n_obs)] > 0, named, _keys.UNASSIGNED)
        return pd.Series(named, index=responsibilities.index, dtype=object, name="predicted")

    def _check_condition(self) -> None:
        if self._setup_argument("condition_key") is None:
            raise DeltaviError(
                "conditional=True and w_prior='learned' need a condition: pass condition_key to setup_anndata."
            )
        conditions = self._categories(_keys.CONDITION)
        if len(conditions) == 1:
            warnings.warn(
                f"obs[{self._condition_key()!r}] holds one condition only, {conditions[0]!r}: nothing moves with it.",
                InputDataWarning,
                stacklevel=3,
            )

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        super()._check_query(manager, offer)
        if not self.module.conditional:
            return
        n_unknown = int((np.asarray(manager.get_from_registry(_keys.CONDITION)) < 0).sum())
        if n_unknown:
            warnings.warn(
                f"{n_unknown} cells have no condition that training saw; to the model they are of the average one. "
                f"Known are {examples(self._categories(_keys.CONDITION), 10)}.",
                UnseenCategoryWarning,
                stacklevel=3,
            )

    def _check_label_names(self) -> None:
        super()._check_label_names()
        free = {f"component {k}" for k in range(self.module.n_components)}
        taken = sorted(free & set(self._categories(REGISTRY_KEYS.LABELS_KEY)) if self.has_labels else ())
        if taken:
            raise KeyClashError(f"{examples(taken)} are names of components without a label: rename these labels.")

    def _calibrated(self, what: str) -> Calibration:
        if not self.has_labels:
            raise DeltaviError(f"{what} needs labels: set the model up with labels_key.")
        return super()._calibrated(what)

    @known_arguments
    def calibrate(self) -> None:
        """Fit temperature and novelty score anew, as in :meth:`deltavi.model.LABELVI.calibrate`.

        Raises
        ------
        DeltaviError
            Without labels, or if the model holds other cells than it was trained on.
        """
        if not self.has_labels:
            raise DeltaviError("calibrate needs labels: set the model up with labels_key.")
        super().calibrate()
