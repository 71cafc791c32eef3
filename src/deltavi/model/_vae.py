"""The plain VAE: scVI's model, its Gaussian and autoencoder relatives."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._entries import init_keywords, known_keywords
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness, model_seed
from deltavi._reading import known_arguments, reads
from deltavi._types import State
from deltavi.model._dimensions import data_dimensions
from deltavi.model._library_prior import library_prior
from deltavi.model._responds import Responds
from deltavi.model._scvi_exchange import export_scvi, imported
from deltavi.model._totals import start_at_mean_shares
from deltavi.module import VAE as VAEModule
from deltavi.module.readers import READERS
from deltavi.module.settings import COUNT_LIKELIHOODS
from deltavi.registry.checks import MatrixReport, Offer, scale_check
from deltavi.registry.manager import DataManager

# Settings of a module that the registered data determine.
FROM_DATA = "It follows from the data that were set up."
OF_DATA = dict.fromkeys(
    (
        *("n_input", "n_batch", "n_labels", "n_conditions", "n_continuous_cov", "n_cats_per_cov"),
        *("library_log_means", "library_log_vars"),
    ),
    FROM_DATA,
)


class VAE(Responds):
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
    module: VAEModule
    check_input: bool
    default_plan: ClassVar[State] = {"lr": 8e-3, "lr_schedule": "one_cycle"}
    most_epochs: ClassVar[int] = 50
    scvi_plan: ClassVar[State] = {"lr": 1e-3, "lr_schedule": "constant", "n_epochs_kl_warmup": 400}

    export_scvi = export_scvi

    @reads(READERS)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: State | None = None,
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

    @classmethod
    @known_arguments
    def import_scvi(
        cls,
        dir_path: str | os.PathLike[str],
        adata: AnnData | None = None,
        *,
        condition_key: str | None = None,
        labels_key: str | None = None,
        check_input: bool = True,
        allow_pickle: bool = False,
    ) -> Self:
        """Read a model that ``scvi.model.SCVI.save`` wrote, such as one from a model hub.

        It gives the same latent positions, decoded means and evidence lower bound, to single precision, and can be
        saved with :meth:`save` from then on.

        Parameters
        ----------
        dir_path
            Folder with a ``model.pt``.
        adata
            Cells to attach, with any gene order; by default those saved with the model, else none.
        condition_key
            obs column of the perturbation, for :meth:`predict_perturbation`. SCVI knows none; it is read from `adata`,
            whose cells then show how labels respond, and needs the raw counts.
        labels_key
            obs column of the cell type, where the model has no labels.
        check_input
            Refuse cells on another scale than the likelihood needs. A Gaussian SCVI takes anything, and is never
            checked.
        allow_pickle
            Read the file though it is a pickle, which is a program. It is read by torch's restricted reader, and
            everything but tensors by stand-ins that do nothing, so that no code of a file runs; but a mistake in that
            reader, unlike one in that of :meth:`load`, could let it. A file may also ask for any amount of memory.

        Raises
        ------
        ModelFileError
            If `allow_pickle` is not set, or the folder is damaged, of a format from before scvi-tools 0.15, holds NaN
            or infinite weights, another model than SCVI, or one with a setting that none here has.
        DeltaviError
            If the model has other labels already, or a condition was named and there are no cells.
        """
        return imported(
            cls,
            dir_path,
            adata,
            condition_key=condition_key,
            labels_key=labels_key,
            check_input=check_input,
            allow_pickle=allow_pickle,
        )

    # -- shape of the module ---------------------------------------------------------------------------------

    def _data_dimensions(self) -> State:
        """Sizes of the module that follow from the registered data."""
        return data_dimensions(self)

    def _start_module(self) -> None:
        """Take initial weights from the data; those of a file replace them."""
        if self._adata is not None:
            self.module.prior.initialise(self._some_expression)
        if self.starts_at_mean_shares:
            start_at_mean_shares(self)

    def _some_expression(self, n: int) -> torch.Tensor:
        """Expression of `n` cells at random, more than once where there are fewer, as the encoder takes it."""
        n_cells = self.adata.n_obs
        chosen = torch.randperm(n_cells) if n <= n_cells else torch.randint(n_cells, (n,))
        loader = self._make_data_loader(adata=self.adata, indices=chosen[:n].numpy(), batch_size=n)
        return torch.cat([self.module.encoded_expression(tensors) for tensors in loader])

    def _default_library(self, gene_likelihood: str) -> Literal["observed", "size_factor", "none"]:
        if gene_likelihood not in COUNT_LIKELIHOODS:
            return "none"
        return "observed" if self._setup_argument("size_factor_key") is None else "size_factor"

    def _library_prior(self, library: str) -> State:
        if library != "learned":
            return {}
        n_batch = self.summary_stats.n_batch
        if self._adata is None or self._adata_manager is None:
            # placeholders of the right shape: the saved weights replace them
            return {"library_log_means": np.zeros((1, n_batch)), "library_log_vars": np.ones((1, n_batch))}
        if self._adata.n_obs < 2:
            raise DeltaviError(
                f"library='learned' takes its prior from how cells differ in their totals: {self._adata.n_obs} cells "
                "are there, 2 are needed. Pass library='observed'."
            )
        return library_prior(self._adata_manager, n_batch, self._categories(REGISTRY_KEYS.BATCH_KEY))

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        if not self.check_input:
            return
        report = MatrixReport.from_dict(manager.get_state_registry(REGISTRY_KEYS.X_KEY)["scan"])
        scale_check(self.module.gene_likelihood)(report, where="The query", cells=manager.adata.obs_names, offer=offer)


def settings_of(model_class: type[VAE]) -> list[str]:
    """Names of the settings of a model: its own, those of the classes it builds on, and those of its module."""
    known = init_keywords(*(base for base in model_class.__mro__ if issubclass(base, VAE)), model_class._module_cls)
    return [name for name in known if name not in OF_DATA]


def named_arguments(arguments: State) -> State:
    """Arguments of ``setup_anndata`` without the transfer options, which are not replayed."""
    return {name: value for name, value in arguments.items() if name != "kwargs"}
