"""Weights of a linear VAE that stand for a linear Gaussian in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deltavi._types import StoredMatrix
from deltavi.latent import LinearGaussian
from deltavi.latent.gaussian import VARIANCE_FLOOR
from deltavi.module import VAE
from deltavi.registry.checks import row_blocks
from deltavi.train.progress import progress_bar


def write_weights(module: VAE, fit: LinearGaussian) -> None:
    """Write the closed form into encoder, decoder and noise of the linear VAE."""
    encoder, log_noise = module.z_encoder, _log_noise(module)
    variances = np.maximum(1 / fit.precision - VARIANCE_FLOOR, np.finfo(np.float32).tiny)
    # one number where the noise of all genes is alike
    noise = fit.noise[: len(log_noise)]
    with torch.no_grad():
        _set(encoder.mean_encoder, fit.projection, -fit.projection @ fit.mean)
        _set(encoder.var_encoder, np.zeros_like(fit.projection), np.log(variances))
        _set(module.decoder.px_scale_decoder[0], fit.loadings, fit.mean)
        log_noise.copy_(torch.from_numpy(0.5 * np.log(noise)))


def read_weights(module: VAE) -> LinearGaussian:
    """The fitted model, as the weights say."""
    linear = _linear(module.decoder.px_scale_decoder[0])
    loadings, mean = (value.detach().cpu().numpy().astype(np.float64) for value in (linear.weight, linear.bias))
    noise = np.exp(2 * _log_noise(module).detach().cpu().numpy().astype(np.float64))
    return LinearGaussian(mean, loadings, np.broadcast_to(noise, mean.shape))


def factor_positions(fit: LinearGaussian, x: StoredMatrix, cells: np.ndarray, *, progress: bool) -> np.ndarray:
    """Posterior means of the factors of `cells`, in rows of all cells there are, ``(n_all, n_latent)``.

    Parameters
    ----------
    fit
        The fitted model.
    x
        ``(n_all, n_genes)`` log-normalised expression.
    cells
        Positions; rows of other cells are zero.
    progress
        Show a progress bar.
    """
    z, wanted = np.zeros((x.shape[0], len(fit.projection)), dtype=np.float32), np.unique(cells)
    with progress_bar(len(wanted), "answering", wanted=progress) as bar:
        for rows, block in row_blocks(x, wanted):
            z[rows] = block @ fit.projection.T - fit.projection @ fit.mean
            bar.update(len(rows))
    return z


def _log_noise(module: VAE) -> torch.Tensor:
    """Logarithms of the standard deviation of the noise, of all genes or of each."""
    assert module.px_r is not None
    return module.px_r


def _linear(layers: Any) -> torch.nn.Linear:
    linear: torch.nn.Linear = layers.fc_layers[0][0]
    return linear


def _set(layers: Any, weight: np.ndarray, bias: np.ndarray) -> None:
    linear = _linear(layers)
    linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    linear.bias.copy_(torch.from_numpy(bias))
