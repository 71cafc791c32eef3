"""Parameters of the likelihood of each cell, for every likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi.model.base import RNASeqMixin

from deltavi._errors import DeltaviError
from deltavi.likelihood.base import to_numpy

if TYPE_CHECKING:
    from deltavi.model._responds import Responds

# Likelihoods whose counts vary by a gamma distribution around the rate.
WITH_GAMMA = ("nb", "zinb")


@torch.inference_mode()
def get_likelihood_parameters(
    self: Responds,
    adata: AnnData | None = None,
    indices: Any = None,
    n_samples: int = 1,
    give_mean: bool = False,
    batch_size: int | None = None,
    dataloader: Any = None,
    **data_loader_kwargs: Any,
) -> dict[str, np.ndarray]:
    """Parameters of the likelihood p(x | z) at draws of the posterior.

    Parameters
    ----------
    adata
        Cells, with any gene order; by default those of the model.
    indices
        Positions of the cells to use, or a mask.
    n_samples
        Draws of the posterior per cell.
    give_mean
        Return the mean over the draws.
    batch_size
        Cells decoded at a time.
    dataloader
        Mini-batches to use in place of `adata`.
    **data_loader_kwargs
        Arguments of the loader of the cells.

    Returns
    -------
    Arrays ``(n_cells, n_genes)``, or ``(n_samples, n_cells, n_genes)`` of several draws, by name. ``"mean"``:
    expected counts, before dropout; the mean of a Gaussian; the probability of detection. ``"dispersions"``:
    inverse dispersion of a negative binomial. ``"dropout"``: its probability, where zeros are inflated.
    ``"scale"``: standard deviation of a Gaussian.

    Raises
    ------
    NotTrainedError
        Before training.
    """
    if dataloader is None:
        cells = self._validate_anndata(adata)
        dataloader = self._make_data_loader(adata=cells, indices=indices, batch_size=batch_size, **data_loader_kwargs)
    parts = []
    for tensors in dataloader:
        options = {"n_samples": n_samples}
        _, generated = self.module.forward(tensors=tensors, inference_kwargs=options, compute_loss=False)
        found = generated["likelihood"].parameters
        parts.append({name: to_numpy(value).astype(np.float32) for name, value in found.items()})
    joined = {name: np.concatenate([part[name] for part in parts], axis=-2) for name in parts[0]}
    return {name: values.mean(0) for name, values in joined.items()} if give_mean and n_samples > 1 else joined


def get_latent_library_size(
    self: Responds,
    adata: AnnData | None = None,
    indices: Any = None,
    give_mean: bool = True,
    batch_size: int | None = None,
    dataloader: Any = None,
    **data_loader_kwargs: Any,
) -> np.ndarray:
    """Library size of each cell, ``(n_cells, 1)``, as in :class:`scvi.model.base.RNASeqMixin`.

    Parameters
    ----------
    adata
        Cells, with any gene order; by default those of the model.
    indices
        Positions of the cells to use, or a mask.
    give_mean
        Return the mean of the posterior rather than the size that the decoder takes.
    batch_size
        Cells encoded at a time.
    dataloader
        Mini-batches to use in place of `adata`.
    **data_loader_kwargs
        Arguments of the loader of the cells.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If a mean is asked for, and the library size is not learned.
    """
    if self.module.library == "none":
        raise DeltaviError(f"gene_likelihood={self.module.gene_likelihood!r} has no library size.")
    if give_mean and self.module.library != "learned":
        raise DeltaviError(
            f"library={self.module.library!r} is given and has no posterior: pass give_mean=False for the size of "
            "each cell, or train a model with library='learned'."
        )
    return RNASeqMixin.get_latent_library_size(
        self,
        adata,
        indices=indices,
        give_mean=give_mean,
        batch_size=batch_size,
        dataloader=dataloader,
        **data_loader_kwargs,
    )


def get_feature_correlation_matrix(
    self: Responds,
    adata: AnnData | None = None,
    indices: Any = None,
    n_samples: int = 10,
    batch_size: int = 64,
    rna_size_factor: float = 1000,
    transform_batch: Any = None,
    correlation_type: Literal["spearman", "pearson"] = "spearman",
    silent: bool = True,
) -> pd.DataFrame:
    """Correlation of genes over denoised cells, as in :class:`scvi.model.base.RNASeqMixin`.

    Parameters
    ----------
    adata
        Cells, with any gene order; by default those of the model.
    indices
        Positions of the cells to use, or a mask.
    n_samples
        Denoised draws per cell.
    batch_size
        Cells decoded at a time.
    rna_size_factor
        Total counts of a denoised cell.
    transform_batch
        Batch to decode in, or several to average over; by default the batch of each cell.
    correlation_type
        ``"spearman"`` or ``"pearson"``.
    silent
        Show no bar.

    Returns
    -------
    Frame of genes by genes.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If the likelihood is no negative binomial: without a dispersion there is no denoised cell to draw.
    """
    likelihood = self.module.gene_likelihood
    if likelihood not in WITH_GAMMA:
        raise DeltaviError(
            "get_feature_correlation_matrix draws from the gamma distribution of a negative binomial, and the "
            f"likelihood is {likelihood!r}. Correlate get_normalized_expression() instead, or train a model with "
            "gene_likelihood='nb'."
        )
    return RNASeqMixin.get_feature_correlation_matrix(
        self,
        adata,
        indices=indices,
        n_samples=n_samples,
        batch_size=batch_size,
        rna_size_factor=rna_size_factor,
        transform_batch=transform_batch,
        correlation_type=correlation_type,
        silent=silent,
    )
