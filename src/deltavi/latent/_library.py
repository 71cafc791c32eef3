"""Library size: observed, given, or a log-normal latent variable with a prior per batch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from deltavi.latent._networks import Architecture, soft_one_hot
from deltavi.latent.gaussian import GaussianEncoder, GaussianState

LibraryKind = Literal["observed", "size_factor", "learned", "none"]


class LibraryPrior(nn.Module):
    """Normal prior of log library size, one mean and variance per batch (Lopez et al. 2018).

    Parameters
    ----------
    log_means, log_vars
        ``(1, n_batches)`` mean and variance of log total counts in each batch.
    """

    def __init__(self, log_means: np.ndarray, log_vars: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("log_means", torch.from_numpy(np.asarray(log_means)).float())
        self.register_buffer("log_vars", torch.from_numpy(np.asarray(log_vars)).float())

    def forward(self, batch: Tensor) -> Normal:
        """Prior of each cell, ``(n_cells, 1)``; an unseen batch gets the average of those in training."""
        means, variances = self.get_buffer("log_means"), self.get_buffer("log_vars")
        weights = soft_one_hot(batch, means.shape[1]).to(means.dtype)
        return Normal(weights @ means.T, (weights @ variances.T).sqrt(), validate_args=False)


def observed_log_library(x: Tensor) -> Tensor:
    """Log of each cell's total counts, ``(n_cells, 1)``; an empty cell counts as one molecule.

    Parameters
    ----------
    x
        Raw counts ``(n_cells, n_genes)``.
    """
    return x.sum(1, keepdim=True).clamp_min(1.0).log()


def known_log_library(x: Tensor, size_factor: Tensor | None, *, n_samples: int = 1) -> Tensor:
    """Log of the given size factor, or else of the total counts, ``([n_samples,] n_cells, 1)``.

    Parameters
    ----------
    x
        Raw counts ``(n_cells, n_genes)``.
    size_factor
        ``(n_cells, 1)`` on the scale of counts, or ``None``.
    n_samples
        Draws it is repeated for; more than one adds a leading axis.
    """
    library = observed_log_library(x) if size_factor is None else size_factor.log()
    return library if n_samples == 1 else library.unsqueeze(0).expand(n_samples, *library.shape)


def learned_library_state(
    encoder: GaussianEncoder,
    prior: LibraryPrior,
    x: Tensor,
    *covariates: Tensor,
    batch: Tensor,
    n_samples: int = 1,
) -> GaussianState:
    """Encode log library size and add KL[q(l | x) || p(l | batch)] under the name ``"l"``.

    Parameters
    ----------
    encoder
        Network that yields q(l | x).
    prior
        Prior of each batch.
    x
        ``(n_cells, n_input)`` input of the encoder.
    covariates
        ``(n_cells, n_categories)`` one-hot rows of each encoded covariate.
    batch
        ``(n_cells, 1)`` codes; -1 is the average of all.
    n_samples
        Number of draws; more than one adds a leading axis to ``sample``.
    """
    state: GaussianState = encoder(x, *covariates, n_samples=n_samples)
    kl = kl_divergence(state.posterior, prior(batch)).sum(-1)
    return GaussianState(sample=state.sample, posterior=state.posterior, kl={"l": kl})


def library_encoder(n_input: int, architecture: Architecture, covariates: tuple[int, ...]) -> GaussianEncoder:
    """Encoder of log library size: always one hidden layer, as in scVI.

    Parameters
    ----------
    n_input
        Width of the input.
    architecture
        Shape of the other encoder, but for the number of layers.
    covariates
        Number of categories of every encoded covariate.
    """
    shallow = Architecture(**{**architecture.__dict__, "n_layers": 1})
    return GaussianEncoder(n_input, 1, architecture=shallow, covariates=covariates)
