"""Base of every model with a VAE for its module, but for how it is set up and made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model.base import RNASeqMixin, VAEMixin

from deltavi import _keys
from deltavi._entries import Indices, positions
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness
from deltavi.likelihood.base import to_numpy
from deltavi.model._decoding import CellDecoder
from deltavi.model._library_prior import library_prior
from deltavi.model._parameters import ParametersMixin
from deltavi.model._perturbation import PerturbationMixin
from deltavi.model._scvi_exchange import ScviExchangeMixin
from deltavi.module import VAE as VAEModule
from deltavi.module.settings import COUNT_LIKELIHOODS
from deltavi.registry.checks import MatrixReport, Offer, scale_check
from deltavi.registry.manager import DataManager, compared_once

# Cells encoded at a time where no gradient is kept.
CELLS_ENCODED = 512


class VAEBase(PerturbationMixin, ParametersMixin, RNASeqMixin, VAEMixin, ScviExchangeMixin):
    """Base of the models whose module is a VAE, and of the parts of such models; it cannot be made itself."""

    module: VAEModule
    check_input: bool

    def get_latent_representation(  # type: ignore[override]  # what scvi-tools names is among the keywords
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

    def get_marginal_ll(  # type: ignore[override]  # keyword-only after the first two
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
