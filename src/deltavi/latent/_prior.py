"""Priors of the latent position of a cell: the standard normal, and a mixture of encoded pseudo-inputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from deltavi.latent._labelled import log_density
from deltavi.latent.gaussian import GaussianState, kl_from_standard_normal, standard_normal_like


@dataclass(frozen=True, eq=False)
class Given:
    """Properties of the cells of a mini-batch on which a prior may depend.

    Parameters
    ----------
    encode
        Posterior of rows of expression ``(n, n_input)``, as the encoder takes them, at average covariates; evaluated
        as after training, with gradients.
    batch_index, condition
        ``(n_cells, 1)`` codes.
    """

    encode: Callable[[Tensor], Normal]
    batch_index: Tensor
    condition: Tensor | None = None


class Prior(nn.Module, ABC):
    """Prior of z, the latent position of a cell.

    A subclass defines :meth:`log_prob`; :meth:`kl` estimates the divergence from the given draws, and is
    overridden if there is a closed form.
    """

    @classmethod
    def of_size(cls, *, n_input: int, n_latent: int, n_components: int) -> Self:
        """Prior for a module of a size; a subclass whose parameters depend on the size replaces this.

        Parameters
        ----------
        n_input, n_latent
            Width of the expression that the encoder takes, and latent dimensions.
        n_components
            Components, where the prior is a mixture.
        """
        return cls()

    @abstractmethod
    def log_prob(self, z: Tensor, given: Given) -> Tensor:
        """Log density of latent positions.

        Parameters
        ----------
        z
            ``([n_samples,] n_cells, n_latent)``.
        given
            Properties of the cells.

        Returns
        -------
        ``([n_samples,] n_cells)`` nats.
        """

    def kl(self, state: GaussianState, given: Given) -> Tensor:
        """Divergence of the posterior from this prior, ``(n_cells,)`` nats; unbiased, and exact in its entropy.

        Parameters
        ----------
        state
            Posterior and draws of each cell.
        given
            Properties of the cells on which the prior may depend.
        """
        log_prior = self.log_prob(state.sample, given)
        log_prior = log_prior.mean(0) if log_prior.dim() > 1 else log_prior
        # of a Gaussian, nats
        entropy = (state.posterior.scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
        return -entropy - log_prior

    def initialise(self, expression: Callable[[int], Tensor]) -> None:
        """Initialise parameters from training cells.

        Parameters
        ----------
        expression
            Draws a number of rows of their expression at random, ``(n, n_input)``, as the encoder takes them.
        """


class StandardNormal(Prior):
    """N(0, I), the prior of a plain VAE; its divergence from a Gaussian posterior has a closed form.

    It has no parameters and nothing to initialise.
    """

    def log_prob(self, z: Tensor, given: Given) -> Tensor:
        return log_density(standard_normal_like(z), z)

    def kl(self, state: GaussianState, given: Given) -> Tensor:
        return kl_from_standard_normal(state.posterior)


class VampPrior(Prior):
    """Mixture, in equal parts, of the posteriors of learned pseudo-inputs (Tomczak and Welling 2018, eq. 9).

    Parameters
    ----------
    n_input
        Genes.
    n_pseudo_inputs
        Components of the mixture.
    """

    def __init__(self, n_input: int, n_pseudo_inputs: int) -> None:
        super().__init__()
        self.pseudo_inputs = nn.Parameter(torch.zeros(n_pseudo_inputs, n_input))

    @classmethod
    def of_size(cls, *, n_input: int, n_latent: int, n_components: int) -> Self:
        return cls(n_input, n_components)

    def log_prob(self, z: Tensor, given: Given) -> Tensor:
        components = given.encode(self.pseudo_inputs)
        per_component = log_density(components, z.unsqueeze(-2))
        return per_component.logsumexp(-1) - math.log(len(self.pseudo_inputs))

    def initialise(self, expression: Callable[[int], Tensor]) -> None:
        rows = expression(len(self.pseudo_inputs))
        with torch.no_grad():
            self.pseudo_inputs.copy_(rows)


# Priors of modules by name.
PriorKind = Literal["normal", "vamp"]
PRIORS: dict[PriorKind, type[Prior]] = {"normal": StandardNormal, "vamp": VampPrior}
