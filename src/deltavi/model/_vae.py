"""The plain VAE: scVI's model, its Gaussian and autoencoder relatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model.base import RNASeqMixin, VAEMixin

from deltavi import _keys
from deltavi._entries import Indices, init_keywords, known_keywords, positions
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness, model_seed
from deltavi._reading import reads
from deltavi.data._checks import MatrixReport, Offer, scale_check
from deltavi.data._manager import DataManager, compared_once
from deltavi.likelihood._base import to_numpy
from deltavi.model._base import CountModel
from deltavi.model._decoding import CellDecoder
from deltavi.model._library_prior import library_prior
from deltavi.model._parameters import ParametersMixin
from deltavi.model._perturbation import PerturbationMixin
from deltavi.model._scvi_exchange import ScviExchangeMixin
from deltavi.model._training import TrainingMixin
from deltavi.module import VAE as VAEModule
from deltavi.module._readers import READERS
from deltavi.module._settings import COUNT_LIKELIHOODS

# Cells encoded at a time where no gradient is kept.
CELLS_ENCODED = 512
# Settings of a module that the registered data determine.
FROM_DATA = "It follows from the data that were set up."
OF_DATA = dict.fromkeys(
    (
        *("n_input", "n_batch", "n_labels", "n_conditions", "n_continuous_cov", "n_cats_per_cov"),
        *("library_log_means", "library_log_vars"),
    ),
    FROM_DATA,
)


class VAE(
    PerturbationMixin,
    ParametersMixin,
    RNASeqMixin,  # type: ignore[misc]
    VAEMixin,  # type: ignore[misc]
    ScviExchangeMixin,
    TrainingMixin,
    CountModel,
):
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

    _module_cls: ClassVar[Any] = VAEModule
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
            default the one that :func:`deltavi.data.select_genes` stored; ``False`` for the sums of the matrix.
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

    def get_latent_representation(
        self, adata: AnnData | None = None, indices: Sequence[int] | np.ndarray | None = None, **kwargs: Any
    ) -> Any:
        """Latent position of each cell: the mean of its posterior, ``(n_cells, n_latent)``.

        The same for any batch size, order or storage of the cells.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use.
        **kwargs
            As in :meth:`scvi.model.base.VAEMixin.get_latent_representation`: ``return_dist=True`` gives means and
            variances, ``give_mean=False`` a draw.

        Raises
        ------
        NotTrainedError
            Before training.
        """
        if (getattr(adata, "n_obs", None) if indices is None else len(indices)) == 0:
            # scvi-tools takes an AnnData without cells for none at all
            self._require_trained("get_latent_representation")
            self._validate_anndata(adata)
            nowhere = np.zeros((0, self.module.n_latent), dtype=np.float32)
            return (nowhere, nowhere.copy()) if kwargs.get("return_dist") else nowhere
        with compared_once():
            if kwargs.get("dataloader") is None:
                self._require_trained("get_latent_representation")
                # aligned once, and handed on as it is
                adata = self._validate_anndata(adata)
                # what was registered, and no more: encoding needs nothing of what a loader finds out for likelihoods
                keys = list(self.get_anndata_manager(adata, required=True).data_registry)
                kwargs = {"batch_size": CELLS_ENCODED, "data_and_attributes": keys, **kwargs}
            with isolated_randomness(self.seed):
                return super().get_latent_representation(adata, indices=indices, **kwargs)

    @torch.inference_mode()
    def impute(
        self, adata: AnnData | None = None, *, indices: Indices | None = None, batch_size: int = 512
    ) -> np.ndarray:
        """Expected expression of each cell at its own library size, batch and covariates: denoised counts.

        Taken at the posterior mean of the latent position. Compare :meth:`get_normalized_expression`, which gives
        every cell the same library size.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use, or a mask.
        batch_size
            Cells decoded at a time; the answer does not depend on it.

        Returns
        -------
        ``(n_cells, n_genes)`` expected counts, or expected values of a model without counts, in single precision; for
        ``adata.layers``. The zeros of a zero-inflated model are part of the expectation.

        Raises
        ------
        NotTrainedError
            Before training.
        """
        self._require_trained("impute")
        aligned = self._validate_anndata(adata)
        chosen = positions(indices, aligned.n_obs)
        parts = [np.zeros((0, len(self.gene_names)), dtype=np.float32)]
        # scvi-tools takes an AnnData without cells for none at all
        loader = self._make_data_loader(adata=aligned, indices=chosen, batch_size=batch_size) if len(chosen) else ()
        self.module.eval()
        with isolated_randomness(self.seed):
            for tensors in loader:
                decode = CellDecoder(self.module, tensors)
                parts.append(to_numpy(decode(decode.posterior_mean).mean).astype(np.float32))
        return np.concatenate(parts)

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Indices | None = None,
        *,
        n_mc_samples: int = 1000,
        return_mean: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Importance-sampled log p(x) in nats, of each cell or on average.

        scvi-tools averages the means of mini-batches, so that cells of a short last one count for more; here every
        cell counts the same.

        Parameters
        ----------
        adata
            Cells, with any gene order; by default those of the model.
        indices
            Positions of the cells to use, or a mask.
        n_mc_samples
            Draws of the posterior per cell.
        return_mean
            Return the mean over cells rather than a value per cell.
        **kwargs
            As in :meth:`scvi.model.base.VAEMixin.get_marginal_ll`.
        """
        values = super().get_marginal_ll(adata, indices, n_mc_samples=n_mc_samples, return_mean=False, **kwargs)
        return float(values.mean()) if return_mean else values

    # -- shape of the module ---------------------------------------------------------------------------------

    def _data_dimensions(self) -> dict[str, Any]:
        stats = self.summary_stats
        return {
            "n_input": stats.n_vars,
            "n_batch": stats.n_batch,
            "n_labels": stats.n_labels,
            "n_conditions": max(1, len(self._categories(_keys.CONDITION))),
            "n_continuous_cov": stats.get("n_extra_continuous_covs", 0),
            "n_cats_per_cov": tuple(self._state(REGISTRY_KEYS.CAT_COVS_KEY).get("n_cats_per_key", ())),
        }

    def _start_module(self) -> None:
        """Take initial weights from the data; those of a file replace them."""
        if self._adata is not None:
            self.module.prior.initialise(self._some_expression)

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

    def _library_prior(self, library: str) -> dict[str, Any]:
        if library != "learned":
            return {}
        n_batch = self.summary_stats.n_batch
        if self._adata is None:
            # placeholders of the right shape: the saved weights replace them
            return {"library_log_means": np.zeros((1, n_batch)), "library_log_vars": np.ones((1, n_batch))}
        if self._adata.n_obs < 2:
            raise DeltaviError(
                f"library='learned' takes its prior from how cells differ in their totals: {self._adata.n_obs} cells "
                "are there, 2 are needed. Pass library='observed'."
            )
        return library_prior(self.adata_manager, n_batch, self._categories(REGISTRY_KEYS.BATCH_KEY))

    def _check_query(self, manager: DataManager, offer: Offer) -> None:
        if not self.check_input:
            return
        report = MatrixReport.from_dict(manager.get_state_registry(REGISTRY_KEYS.X_KEY)["scan"])
        scale_check(self.module.gene_likelihood)(report, where="The query", cells=manager.adata.obs_names, offer=offer)


def settings_of(model_class: type[VAE]) -> list[str]:
    """Names of the settings of a model: its own, those of the classes it builds on, and those of its module."""
    known = init_keywords(*(base for base in model_class.__mro__ if issubclass(base, VAE)), model_class._module_cls)
    return [name for name in known if name not in OF_DATA]


def named_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``setup_anndata`` without the transfer options, which are not replayed."""
    return {name: value for name, value in arguments.items() if name != "kwargs"}
