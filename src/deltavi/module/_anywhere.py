"""Decoding of latent positions, and encoding of expression, apart from the cells of a data set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from scvi.module.base import BaseModuleClass, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal

from deltavi._cp10k import CP10K
from deltavi.latent import CategoryRows, OneHotRows
from deltavi.likelihood import Likelihood

if TYPE_CHECKING:
    from deltavi.module._vae import VAE


class AnywhereMixin(BaseModuleClass):
    """Base with the rows of covariates, and the decoding of positions without a cell; the module defines ``decode``."""

    covariate_rows: tuple[CategoryRows, ...]
    covariate_sizes: tuple[int, ...]
    condition_in_decoder: bool
    n_continuous_cov: int
    of_counts: bool

    def decode(
        self,
        z: Tensor,
        library: Tensor | None,
        batch_index: Tensor,
        condition: Tensor | None = None,
        cont_covs: Tensor | None = None,
        cat_covs: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Likelihood:
        """Likelihood at latent positions `z` ``([n_samples,] n_cells, n_latent)``."""
        raise NotImplementedError

    def _condition_rows(self, n_conditions: int) -> CategoryRows:
        """Numbers that the networks read of each condition."""
        return OneHotRows(n_conditions)

    def _covariates(self, batch_index: Tensor, condition: Tensor | None, cat_covs: Tensor | None) -> tuple[Tensor, ...]:
        """Rows of all covariates of the decoder, ``(n_cells, width)`` each."""
        codes = [batch_index]
        if self.condition_in_decoder:
            assert condition is not None
            codes.append(condition)
        if cat_covs is not None:
            codes.extend(torch.split(cat_covs, 1, dim=1))
        return tuple(rows(code) for rows, code in zip(self.covariate_rows, codes, strict=True))

    @auto_move_data
    def likelihood_anywhere(
        self, z: Tensor, *, condition: int | Tensor, batch: int = -1, library: float = CP10K
    ) -> Likelihood:
        """Likelihood at latent positions, categorical covariates at their average and continuous ones at zero.

        Parameters
        ----------
        z
            ``(n, n_latent)``.
        condition
            Code of the condition, one for all or ``(n, 1)``.
        batch
            Code of the batch; -1 is the average of all.
        library
            Library size, where the likelihood has one.
        """
        average = torch.full((z.shape[0], 1), -1, device=z.device)
        conditions = torch.as_tensor(condition, device=z.device).expand(z.shape[0], 1)
        n_categorical = len(self.covariate_sizes) - 1 - self.condition_in_decoder
        return self.decode(
            z,
            torch.full((z.shape[0], 1), math.log(library), device=z.device),
            torch.full_like(average, batch),
            conditions,
            torch.zeros(z.shape[0], self.n_continuous_cov, device=z.device) if self.n_continuous_cov else None,
            average.expand(-1, n_categorical) if n_categorical else None,
            average,
        )

    def decode_anywhere(self, z: Tensor, *, condition: int) -> Tensor:
        """Profile ``(n, n_genes)`` at latent positions `z` ``(n, n_latent)``, at average batch and covariates.

        On the scale of log1p CP10k; of a Gaussian or Bernoulli likelihood, its mean.
        """
        mean = self.likelihood_anywhere(z, condition=condition).mean
        return mean.log1p() if self.of_counts else mean


def encode_anywhere(module: VAE, expression: Tensor) -> Normal:
    """Posterior of z of rows of expression, categorical covariates at their average and continuous ones at zero.

    Parameters
    ----------
    module
        The module.
    expression
        ``(n, n_input)``, as the encoder takes it.

    Returns
    -------
    Normal of shape ``(n, n_latent)``, evaluated without dropout and with the running means of batch normalisation.
    """
    average = torch.full((len(expression), 1), -1, device=expression.device)
    n_categorical = len(module.covariate_sizes) - 1 - module.condition_in_decoder
    encoder_input, covariates = module._encoder_input(
        expression,
        average,
        average,
        expression.new_zeros(len(expression), module.n_continuous_cov) if module.n_continuous_cov else None,
        average.expand(-1, n_categorical) if n_categorical else None,
    )
    with _as_evaluated(module.z_encoder):
        posterior: Normal = module.z_encoder(encoder_input, *covariates).posterior
    return posterior


@contextmanager
def _as_evaluated(network: nn.Module) -> Iterator[None]:
    """Run a network in evaluation mode, with gradients."""
    training = [part for part in network.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
