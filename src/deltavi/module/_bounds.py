"""Bounds on the evidence and draws from a fitted module: evaluation, not training."""

from __future__ import annotations

import math

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, auto_move_data
from torch import Tensor
from torch.distributions import Distribution

from deltavi import _keys
from deltavi._compat import MODULE_KEYS
from deltavi._types import Cells, Outputs
from deltavi.latent import Given, LibraryKind, LibraryPrior, Prior, condition_mmd, log_density
from deltavi.likelihood import Likelihood, Nonzeros


class BoundsMixin(BaseModuleClass):
    """Base with the importance-weighted bound and posterior predictive draws of a module with Gaussian z."""

    of_counts: bool
    library: LibraryKind
    library_prior: LibraryPrior
    n_labels: int
    n_conditions: int
    condition_mmd: float
    prior: Prior

    def _log_prob(self, likelihood: Likelihood, tensors: dict[str, Tensor], cells: Cells | None = None) -> Tensor:
        """log p(x | z) of the cells of a mini-batch, or of some of them, nats."""
        x = tensors[REGISTRY_KEYS.X_KEY]
        if not self.of_counts:
            return likelihood.log_prob(x if cells is None else x[cells])
        nonzeros = Nonzeros.in_batch(tensors)
        # of counts only the positions and values of nonzero ones are used
        return likelihood.log_prob(x, nonzeros if cells is None else nonzeros.kept(cells))

    def _given(self, batch_index: Tensor, condition: Tensor | None = None) -> Given:
        """Properties of the cells of a mini-batch on which the prior may depend."""
        raise NotImplementedError

    @torch.inference_mode()
    def sample(
        self, tensors: dict[str, Tensor], n_samples: int = 1, generative_kwargs: Outputs | None = None
    ) -> Tensor:
        """Posterior predictive draw ``(n_cells, n_genes[, n_samples])``, for scvi-tools' sampling methods."""
        _, generative = self.forward(
            tensors,
            inference_kwargs={"n_samples": n_samples},
            generative_kwargs=generative_kwargs,
            compute_loss=False,
        )
        drawn: Tensor = generative[MODULE_KEYS.PX_KEY].sample()
        return (drawn.permute(1, 2, 0) if n_samples > 1 else drawn).cpu()

    @torch.inference_mode()
    @auto_move_data
    def importance_weighted_bound(self, tensors: dict[str, Tensor], n_samples: int) -> Tensor:
        """log mean_k p(x, z_k, l_k) / q(z_k, l_k | x) of each cell, ``(n_cells,)`` nats (Burda et al. 2016)."""
        return self._log_weights(tensors, max(n_samples, 2)).logsumexp(0) - math.log(max(n_samples, 2))

    @torch.inference_mode()
    @auto_move_data
    def marginal_ll(
        self,
        tensors: dict[str, Tensor],
        n_mc_samples: int,
        return_mean: bool = False,
        n_mc_samples_per_pass: int = 25,
    ) -> Tensor | float:
        """Importance-sampled log p(x) of each cell in nats, or its mean over the mini-batch."""
        passes = max(1, math.ceil(n_mc_samples / n_mc_samples_per_pass))
        per_pass = max(2, math.ceil(n_mc_samples / passes))
        weights = torch.cat([self._log_weights(tensors, per_pass) for _ in range(passes)])
        log_likelihood = weights.logsumexp(0) - math.log(weights.shape[0])
        return float(log_likelihood.mean()) if return_mean else log_likelihood.cpu()

    def _log_weights(self, tensors: dict[str, Tensor], n_samples: int) -> Tensor:
        """log p(x, z, l) - log q(z, l | x) of each sample, ``(n_samples, n_cells)``."""
        inference = self.inference(**self._get_inference_input(tensors), n_samples=n_samples)
        generative = self.generative(**self._get_generative_input(tensors, inference))
        weights = self._log_ratio_of_z(generative["likelihood"], tensors, inference)
        if self.library == "learned":
            prior = self.library_prior(tensors[REGISTRY_KEYS.BATCH_KEY])
            log_library = inference[MODULE_KEYS.LIBRARY_KEY]
            weights = weights + _log_ratio(prior, inference[MODULE_KEYS.QL_KEY], log_library)
        return weights

    def _log_ratio_of_z(self, likelihood: Likelihood, tensors: dict[str, Tensor], inference_outputs: Outputs) -> Tensor:
        """log p(x | z) p(z) - log q(z | x) of each sample; a prior with latent variables of its own overrides it."""
        z = inference_outputs[MODULE_KEYS.Z_KEY]
        given = self._given(tensors[REGISTRY_KEYS.BATCH_KEY], tensors.get(_keys.CONDITION))
        log_likelihood = self._log_prob(likelihood, tensors)
        log_prior = self.prior.log_prob(z, given)
        return log_likelihood + log_prior - log_density(inference_outputs[MODULE_KEYS.QZ_KEY], z)

    def _condition_penalty(self, inference_outputs: Outputs, tensors: dict[str, Tensor]) -> Tensor:
        """Weighted dependence of latent positions on the condition, :func:`deltavi.latent.condition_mmd`, nats."""
        z = inference_outputs[MODULE_KEYS.Z_KEY]
        penalty: Tensor = self.condition_mmd * condition_mmd(
            z if z.dim() == 2 else z[0],
            tensors[_keys.CONDITION],
            tensors[REGISTRY_KEYS.LABELS_KEY],
            n_conditions=self.n_conditions,
            n_labels=self.n_labels,
        )
        return penalty


def _log_ratio(prior: Distribution, posterior: Distribution, value: Tensor) -> Tensor:
    return log_density(prior, value) - log_density(posterior, value)
