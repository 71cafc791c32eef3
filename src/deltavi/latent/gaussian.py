"""A Gaussian latent variable with a standard normal prior, or a point estimate in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from scvi.nn import FCLayers
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from deltavi.latent._networks import Architecture, hidden_layers, linear_layer, run_layers

# Variance floor of scvi-tools' encoder; it avoids the log of zero in a narrow posterior.
VARIANCE_FLOOR = 1e-4
# A deterministic posterior is still a distribution object, whose scale must be positive.
POINT_SCALE = 1e-6


@dataclass(frozen=True, eq=False)
class GaussianState:
    """Posterior, draws and divergence of one Gaussian latent variable.

    Parameters
    ----------
    sample
        ``([n_samples,] n_cells, n_latent)`` reparameterised draw, or the mean of a point estimate.
    posterior
        q(z | x) with ``loc`` and ``scale`` of shape ``(n_cells, n_latent)``.
    kl
        Named KL terms, each ``(n_cells,)`` nats.
    """

    sample: Tensor
    posterior: Normal
    kl: dict[str, Tensor] = field(default_factory=dict)


class GaussianEncoder(nn.Module):
    """Encode expression into a diagonal Gaussian.

    Parameters
    ----------
    n_input
        Width of the input: genes, and continuous covariates where they are encoded.
    n_latent
        Dimensions of the latent variable.
    architecture
        Hidden layers; none makes the encoder linear.
    covariates
        Number of categories of every encoded covariate.
    posterior
        ``"gaussian"`` learns a variance; ``"deterministic"`` has no variance head and no KL term.
    """

    def __init__(
        self,
        n_input: int,
        n_latent: int,
        *,
        architecture: Architecture,
        covariates: tuple[int, ...] = (),
        posterior: Literal["gaussian", "deterministic"] = "gaussian",
    ) -> None:
        super().__init__()
        self.deterministic = posterior == "deterministic"
        self.encoder: FCLayers | None = hidden_layers(n_input, architecture, covariates)
        build = linear_layer(n_input, n_latent, architecture=architecture, covariates=covariates)
        self.mean_encoder = build()
        if not self.deterministic:
            self.var_encoder = build()

    def forward(self, x: Tensor, *covariates: Tensor, n_samples: int = 1) -> GaussianState:
        """Encode `x` ``(n_cells, n_input)`` and draw `n_samples` reparameterised samples."""
        hidden = x if self.encoder is None else run_layers(self.encoder, x, covariates)
        mean = run_layers(self.mean_encoder, hidden, covariates)
        if self.deterministic:
            return self._point(mean, n_samples)
        variance = run_layers(self.var_encoder, hidden, covariates).exp() + VARIANCE_FLOOR
        posterior = Normal(mean, variance.sqrt(), validate_args=False)
        sample = posterior.rsample() if n_samples == 1 else posterior.rsample((n_samples,))
        return GaussianState(sample=sample, posterior=posterior)

    @staticmethod
    def _point(mean: Tensor, n_samples: int) -> GaussianState:
        sample = mean if n_samples == 1 else mean.unsqueeze(0).expand(n_samples, *mean.shape)
        posterior = Normal(mean, torch.full_like(mean, POINT_SCALE), validate_args=False)
        return GaussianState(sample=sample, posterior=posterior, kl={"z": torch.zeros_like(mean[..., 0])})


def standard_normal_like(z: Tensor) -> Normal:
    """Standard normal prior of the shape of `z`.

    Parameters
    ----------
    z
        Latent positions of any shape.
    """
    return Normal(torch.zeros_like(z), torch.ones_like(z), validate_args=False)


def kl_from_standard_normal(posterior: Normal) -> Tensor:
    """KL[q || N(0, I)] of each cell, ``(n_cells,)`` nats."""
    kl: Tensor = kl_divergence(posterior, standard_normal_like(posterior.loc)).sum(-1)
    return kl


def gaussian_state(encoder: GaussianEncoder, x: Tensor, *covariates: Tensor, n_samples: int = 1) -> GaussianState:
    """Latent structure of the plain VAE: encode, and add KL[q(z | x) || N(0, I)] under the name ``"z"``.

    Parameters
    ----------
    encoder
        Network that yields q(z | x).
    x
        ``(n_cells, n_input)`` input of the encoder.
    covariates
        ``(n_cells, n_categories)`` one-hot rows of each encoded covariate.
    n_samples
        Number of draws; more than one adds a leading axis to ``sample``.
    """
    state: GaussianState = encoder(x, *covariates, n_samples=n_samples)
    if encoder.deterministic:
        return state
    kl = {"z": kl_from_standard_normal(state.posterior)}
    return GaussianState(sample=state.sample, posterior=state.posterior, kl=kl)
