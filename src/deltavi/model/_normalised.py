"""Expression of cells at one library size, by scvi-tools' draws, in memory or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.model.base import RNASeqMixin

from deltavi._entries import Indices
from deltavi._errors import DeltaviError
from deltavi._types import State
from deltavi.io import PathLike
from deltavi.model._answers import Answered, AskedCells, loaders_of_one_pass

if TYPE_CHECKING:
    from deltavi.model._responds import Responds


def get_normalized_expression(
    self: Responds,
    adata: AnnData | None = None,
    indices: Indices | None = None,
    transform_batch: Sequence[str] | str | None = None,
    *,
    gene_list: Sequence[str] | None = None,
    n_samples: int = 1,
    n_samples_overall: int | None = None,
    batch_size: int | None = None,
    return_mean: bool = True,
    return_numpy: bool | None = None,
    data_loader_kwargs: State | None = None,
    path: PathLike | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **kwargs: Any,
) -> Any:
    """Decoded expression of each cell at one library size, at draws of its latent position.

    Parameters
    ----------
    adata
        Cells, with any gene order; by default those of the model.
    indices
        Positions of the cells to use, or a mask.
    transform_batch
        Batch, or batches to average over, that cells are decoded as if from; by default that of each.
    gene_list
        Genes of the answer, by default all.
    n_samples
        Draws of the latent position of each cell, from the model's seed.
    n_samples_overall
        Or: draws over all cells.
    batch_size
        Cells decoded at a time.
    return_mean
        Return the mean of the draws of a cell rather than each.
    return_numpy
        Return an array rather than a frame.
    data_loader_kwargs
        Arguments of the loader of scvi-tools.
    path
        File to write, .h5ad or .zarr, instead of a frame: the expression in X, with obs of the cells and var of the
        genes, block by block of cells as they are decoded. It takes its place once it is complete.
    overwrite
        Write to `path` though it exists.
    progress
        Show a progress bar, if standard error is a terminal or in a notebook; there is none for `n_samples_overall`.
    **kwargs
        As in :meth:`scvi.model.base.RNASeqMixin.get_normalized_expression`: ``library_size`` is the total that
        expression sums to, or ``"latent"`` for that of each cell.

    Returns
    -------
    Frame or array ``(n_cells, n_genes)``; without `return_mean` an array ``(n_samples, n_cells, n_genes)``, and with
    `n_samples_overall` one ``(n_samples_overall, n_genes)``. With `path` that.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If `path` exists or names no such file, or draws are asked for that are not one for each cell and gene.
    FileWriteError
        If the disk is full or the folder read-only; what was there before is unchanged.
    """
    how = {"transform_batch": transform_batch, "n_samples": n_samples, "batch_size": batch_size, **kwargs}
    how["return_mean"] = return_mean
    if path is None and (not progress or n_samples_overall is not None or kwargs.get("dataloader") is not None):
        how |= {"gene_list": gene_list, "n_samples_overall": n_samples_overall, "return_numpy": return_numpy}
        return RNASeqMixin.get_normalized_expression(self, adata, indices, data_loader_kwargs=data_loader_kwargs, **how)
    asked, options = AskedCells.of(self, adata, indices), loaders_of_one_pass()
    genes, order = _genes(asked, gene_list)

    def answer(cells: np.ndarray) -> Answered:
        loading = {**(data_loader_kwargs or {}), **next(options)}
        how.update(return_numpy=True, gene_list=gene_list, data_loader_kwargs=loading)
        found = RNASeqMixin.get_normalized_expression(self, asked.adata, cells, **how)
        return Answered(found if order is None else found[..., order])

    if path is not None:
        _require_matrix(n_samples, n_samples_overall, return_mean)
    record = {"verb": "get_normalized_expression", "n_samples": n_samples, "seed": self.seed}
    record["library_size"] = kwargs.get("library_size", 1)
    is_array = return_numpy or (n_samples > 1 and not return_mean)

    def in_memory(found: Answered) -> Any:
        names = asked.names, asked.adata.var_names[genes]
        return found.profile if is_array else pd.DataFrame(found.profile, *names)

    return asked.delivered(
        path, answer, in_memory, progress=progress, batch_size=batch_size, record=record, genes=genes
    )


def _genes(asked: AskedCells, gene_list: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions of the genes of the answer, and their order among those that scvi-tools gives, which is the model's."""
    names = asked.adata.var_names
    if gene_list is None:
        return np.arange(len(names)), None
    places = names.get_indexer(pd.Index(gene_list))
    return places, np.argsort(np.argsort(places))


def _require_matrix(n_samples: int, n_samples_overall: int | None, return_mean: bool) -> None:
    """Raise where the answer has no row of genes for each cell."""
    if n_samples_overall is not None:
        raise DeltaviError(
            "path holds a row for each cell, and n_samples_overall draws over all: leave one of them out."
        )
    if n_samples > 1 and not return_mean:
        raise DeltaviError(
            f"path holds one value for each cell and gene, and return_mean=False gives {n_samples}: leave it out."
        )
