"""Latent positions of cells, and the expression that a model expects of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from anndata import AnnData
from scvi.model.base import VAEMixin

from deltavi._entries import Indices
from deltavi._random import isolated_randomness
from deltavi._types import State
from deltavi.io import PathLike
from deltavi.likelihood.base import to_numpy
from deltavi.model._answers import LATENT, Answered, AskedCells, arrays_of, latent_arrays, loaders_of_one_pass
from deltavi.model._decoding import CellDecoder
from deltavi.registry.manager import compared_once

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

# Cells encoded at a time where no gradient is kept.
CELLS_ENCODED = 512


def get_latent_representation(
    self: Responds,
    adata: AnnData | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    path: PathLike | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **kwargs: Any,
) -> Any:
    """Latent position of each cell: the mean of its posterior, ``(n_cells, n_latent)``.

    The same for any batch size, order or storage of the cells.

    Parameters
    ----------
    adata
        Cells, with any gene order; by default those of the model.
    indices
        Positions of the cells to use.
    path
        File to write, .h5ad or .zarr, instead of an array: obs of the cells, and the positions in obsm ``"X_scgen"``,
        ``"X_vae"`` and so on by the name of the model, the variances of ``return_dist`` in ``"X_scgen_variance"``.
        Cells are written as they are encoded. It takes its place once it is complete.
    overwrite
        Write to `path` though it exists.
    progress
        Show a progress bar, if standard error is a terminal or in a notebook.
    **kwargs
        As in :meth:`scvi.model.base.VAEMixin.get_latent_representation`: ``return_dist=True`` gives means and
        variances, ``give_mean=False`` a draw.

    Returns
    -------
    The positions, or `path`.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If `path` exists or names no such file.
    FileWriteError
        If the disk is full or the folder read-only; what was there before is unchanged.
    """
    self._require_trained("get_latent_representation")
    if path is None and (not progress or kwargs.get("dataloader") is not None):
        with isolated_randomness(self.seed):
            return _encoded(self, adata, indices, kwargs)
    asked, options = AskedCells.of(self, adata, indices), loaders_of_one_pass()

    def answer(cells: np.ndarray) -> Answered:
        found = _encoded(self, asked.adata, cells, {**kwargs, **next(options)})
        return Answered(obsm=latent_arrays(self, found))

    size = kwargs.get("batch_size", CELLS_ENCODED)
    return asked.delivered(path, answer, arrays_of, progress=progress, batch_size=size, record=LATENT)


def _encoded(
    model: Responds, adata: AnnData | None, indices: Sequence[int] | np.ndarray | None, options: State
) -> np.ndarray | tuple[np.ndarray, ...]:
    """Latent positions in memory."""
    if (getattr(adata, "n_obs", None) if indices is None else len(indices)) == 0:
        # scvi-tools takes an AnnData without cells for none at all
        model._validate_anndata(adata)
        nowhere = np.zeros((0, model.module.n_latent), dtype=np.float32)
        return (nowhere, nowhere.copy()) if options.get("return_dist") else nowhere
    with compared_once():
        if options.get("dataloader") is None:
            # aligned once, and handed on as it is
            adata = model._validate_anndata(adata)
            # what was registered, and no more: encoding needs nothing of what a loader finds out for likelihoods
            keys = list(model.get_anndata_manager(adata, required=True).data_registry)
            options = {"batch_size": CELLS_ENCODED, "data_and_attributes": keys, **options}
        found: np.ndarray | tuple[np.ndarray, ...] = VAEMixin.get_latent_representation(
            model, adata, indices=indices, **options
        )
        return found


@overload
def impute(
    self: Responds,
    adata: AnnData | None = ...,
    *,
    indices: Indices | None = ...,
    path: None = ...,
    overwrite: bool = ...,
    progress: bool = ...,
    batch_size: int = ...,
) -> np.ndarray: ...


@overload
def impute(
    self: Responds,
    adata: AnnData | None = ...,
    *,
    indices: Indices | None = ...,
    path: PathLike,
    overwrite: bool = ...,
    progress: bool = ...,
    batch_size: int = ...,
) -> Path: ...


@torch.inference_mode()
def impute(
    self: Responds,
    adata: AnnData | None = None,
    *,
    indices: Indices | None = None,
    path: PathLike | None = None,
    overwrite: bool = False,
    progress: bool = False,
    batch_size: int = 512,
) -> np.ndarray | Path:
    """Expected expression of each cell at its own library size, batch and covariates: denoised counts.

    Taken at the posterior mean of the latent position. Compare :meth:`get_normalized_expression`, which gives
    every cell the same library size.

    Parameters
    ----------
    adata
        Cells, with any gene order; by default those of the model.
    indices
        Positions of the cells to use, or a mask.
    path
        File to write, .h5ad or .zarr, instead of an array: the expression in X, with obs of the cells and var of the
        genes, block by block of cells as they are decoded. It takes its place once it is complete.
    overwrite
        Write to `path` though it exists.
    progress
        Show a progress bar, if standard error is a terminal or in a notebook.
    batch_size
        Cells decoded at a time; the answer does not depend on it.

    Returns
    -------
    ``(n_cells, n_genes)`` expected counts, or expected values of a model without counts, in single precision; for
    ``adata.layers``. The zeros of a zero-inflated model are part of the expectation. With `path` that.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If `path` exists or names no such file.
    FileWriteError
        If the disk is full or the folder read-only; what was there before is unchanged.
    """
    self._require_trained("impute")
    asked = AskedCells.of(self, adata, indices)
    self.module.eval()
    loaded = self._cells(asked.adata)

    def answer(cells: np.ndarray) -> Answered:
        parts = [np.zeros((0, len(self.gene_names)), dtype=np.float32)]
        with isolated_randomness(self.seed):
            for tensors in loaded.batches(cells, batch_size):
                decode = CellDecoder(self.module, tensors)
                parts.append(to_numpy(decode(decode.posterior_mean).mean).astype(np.float32))
        return Answered(np.concatenate(parts))

    how: State = {"progress": progress, "batch_size": batch_size, "record": {"verb": "impute"}}
    return asked.delivered(path, answer, lambda found: np.asarray(found.profile), **how)


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
