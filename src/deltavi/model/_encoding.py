"""Latent positions of cells, and the expression that a model expects of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anndata import AnnData
from scvi.model.base import VAEMixin

from deltavi._entries import Indices, positions
from deltavi._random import isolated_randomness
from deltavi.likelihood.base import to_numpy
from deltavi.model._decoding import CellDecoder
from deltavi.registry.manager import compared_once

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

# Cells encoded at a time where no gradient is kept.
CELLS_ENCODED = 512


def get_latent_representation(
    self: Responds, adata: AnnData | None = None, indices: Sequence[int] | np.ndarray | None = None, **kwargs: Any
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
            return VAEMixin.get_latent_representation(self, adata, indices=indices, **kwargs)


@torch.inference_mode()
def impute(
    self: Responds, adata: AnnData | None = None, *, indices: Indices | None = None, batch_size: int = 512
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
    self.module.eval()
    with isolated_randomness(self.seed):
        for tensors in self._cells(aligned).batches(chosen, batch_size):
            decode = CellDecoder(self.module, tensors)
            parts.append(to_numpy(decode(decode.posterior_mean).mean).astype(np.float32))
    return np.concatenate(parts)


def get_marginal_ll(
    self: Responds,
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
    values = VAEMixin.get_marginal_ll(self, adata, indices, n_mc_samples=n_mc_samples, return_mean=False, **kwargs)
    return float(values.mean()) if return_mean else values
