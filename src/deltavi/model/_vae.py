"""The plain VAE: scVI's model, its Gaussian and autoencoder relatives."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from anndata import AnnData

from deltavi._entries import init_keywords, known_keywords
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness, model_seed
from deltavi._reading import reads
from deltavi.model._vae_base import VAEBase
from deltavi.module import VAE as VAEModule
from deltavi.module.readers import READERS
from deltavi.module.settings import COUNT_LIKELIHOODS

# Settings of a module that the registered data determine.
FROM_DATA = "It follows from the data that were set up."
OF_DATA = dict.fromkeys(
    (
        *("n_input", "n_batch", "n_labels", "n_conditions", "n_continuous_cov", "n_cats_per_cov"),
        *("library_log_means", "library_log_vars"),
    ),
    FROM_DATA,
)


class VAE(VAEBase):
    """Variational autoencoder of counts: scVI's model (Lopez et al. 2018) and its relatives.

    A ZINB, NB or Poisson decoder of raw counts, or a Gaussian one of log-normalised expression; the library size
    observed, given or learned; the posterior Gaussian, or deterministic, which makes it an autoencoder.

    The learning rate rises to 0.008 and falls again, which takes fewer steps than a constant one. Training as
    scvi-tools does it is ``train(max_epochs=400, plan_kwargs=VAE.scvi_plan)``.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    registry
        Registry to build the model from without data, as :meth:`load` does.
    n_hidden, n_latent, n_layers, dropout_rate
        Units of a hidden layer, latent dimensions, hidden layers (zero is linear), dropout of the encoder.
    dispersion
        ``"gene"``, ``"gene-batch"``, ``"gene-label"`` or ``"gene-cell"``.
    gene_likelihood
        ``"zinb"``, ``"nb"``, ``"poisson"`` for raw counts, ``"normal"`` for log-normalised expression, ``"bernoulli"``
        for detection (values from zero to one).
    library
        ``"observed"``, ``"size_factor"``, ``"learned"`` or ``"none"``; by default the size factor where one is
        registered, none for ``"normal"``, and the observed total otherwise.
    check_input
        Refuse a matrix on another scale than the likelihood needs.
    seed
        Seed of the initial weights and of training; by default drawn from ``scvi.settings.seed``, or zero where that is
        not set.
    **module_kwargs
        Further arguments of :class:`deltavi.module.VAE`.

    Examples
    --------
    >>> deltavi.model.VAE.setup_anndata(adata, layer="counts", batch_key="donor")  # doctest: +SKIP
    >>> model = deltavi.model.VAE(adata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> adata.obsm["X_deltavi"] = model.get_latent_representation()  # doctest: +SKIP
    """

    _module_cls: ClassVar[type[VAEModule]] = VAEModule
    default_plan: ClassVar[dict[str, Any]] = {"lr": 8e-3, "lr_schedule": "one_cycle"}
    most_epochs: ClassVar[int] = 50
    scvi_plan: ClassVar[dict[str, Any]] = {"lr": 1e-3, "lr_schedule": "constant", "n_epochs_kl_warmup": 400}

    @reads(READERS)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell", "shared", "fixed"] = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson", "normal", "bernoulli"] = "zinb",
        library: Literal["observed", "size_factor", "learned", "none"] | None = None,
        check_input: bool = True,
        seed: int | None = None,
        **module_kwargs: Any,
    ) -> None:
        seed = model_seed(seed)
        known_keywords(module_kwargs, settings_of(type(self)), among=type(self).__name__, hints=OF_DATA)
        super().__init__(adata, registry)
        self.seed, self.check_input = seed, check_input
        if check_input and adata is not None:
            self._check_scale(gene_likelihood)
        if gene_likelihood not in COUNT_LIKELIHOODS:
            module_kwargs.setdefault("log_variational", False)
        library = library or self._default_library(gene_likelihood)
        with isolated_randomness(seed):
            self.module = self._module_cls(
                **self._data_dimensions(),
                **self._library_prior(library),
                n_hidden=n_hidden,
                n_latent=n_latent,
                n_layers=n_layers,
                dropout_rate=dropout_rate,
                dispersion=dispersion,
                gene_likelihood=gene_likelihood,
                library=library,
                **module_kwargs,
            )
            self._start_module()
        self._model_summary_string = (
            f"{type(self).__name__}: {gene_likelihood} likelihood, {dispersion} dispersion, {library} library, "
            f"{n_latent} latent dimensions, {n_layers} x {n_hidden} hidden units, {len(self.gene_names)} genes"
        )
        self.init_params_ = self._get_init_params({**locals(), "module_kwargs": module_kwargs})

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        condition_key: str | None = None,
        labels_key: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | Literal[False] | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register `adata`; every value of the matrix is checked.

        Adds ``_scvi_*`` columns to obs (and to obsm for covariates) and two identifiers to uns; the rest, the matrix
        included, stays as it is.

        Parameters
        ----------
        adata
            Cells to learn from; in memory or backed, dense or sparse.
        layer
            Layer with the expression, instead of X.
        condition_key
            obs column of the perturbation, needed for :meth:`predict_perturbation`.
        labels_key
            obs column of the cell type.
        batch_key
            obs column of the batch or donor.
        size_factor_key
            obs column with each cell's total counts over all genes, where the matrix holds a selection of genes. By
            default the one that :func:`deltavi.pp.highly_variable_genes` stored; ``False`` for the sums of the matrix.
        categorical_covariate_keys, continuous_covariate_keys
            obs columns of further covariates of the decoder.
        **kwargs
            Used by :meth:`load` and :meth:`load_query_data`.

        Raises
        ------
        InputDataError
            If the matrix holds NaN, infinite values or objects, or a column has missing values.
        GeneMatchError
            If gene names repeat.
        UnknownCategoryError
            If a column or layer does not exist.
        """
        if condition_key is not None and condition_key in (labels_key, batch_key):
            raise DeltaviError(f"condition_key and another key are both {condition_key!r}: name a column for each.")
        cls._register(adata, cls._get_setup_method_args(**named_arguments(locals())), **kwargs)


def settings_of(model_class: type[VAE]) -> list[str]:
    """Names of the settings of a model: its own, those of the classes it builds on, and those of its module."""
    known = init_keywords(*(base for base in model_class.__mro__ if issubclass(base, VAE)), model_class._module_cls)
    return [name for name in known if name not in OF_DATA]


def named_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``setup_anndata`` without the transfer options, which are not replayed."""
    return {name: value for name, value in arguments.items() if name != "kwargs"}
