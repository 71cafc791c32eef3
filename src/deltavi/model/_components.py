"""Components of a mixture: their names, their share in each cell, and fewer of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._entries import Indices, positions
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness
from deltavi._types import State
from deltavi.annotation import merged_components
from deltavi.io import PathLike
from deltavi.model._answers import LATENT, Answered, AskedCells, latent_arrays, only_array
from deltavi.model._classification import BATCH_SIZE

if TYPE_CHECKING:
    from deltavi.model._mixvi import MIXVI

# Column of obs and key of obsm, as the documentation of models names what a user keeps.
COMPONENT, RESPONSIBILITIES = "component", "responsibilities"


@overload
def get_responsibilities(
    self: MIXVI,
    adata: AnnData | None = ...,
    *,
    indices: Indices | None = ...,
    path: None = ...,
    overwrite: bool = ...,
    progress: bool = ...,
    batch_size: int = ...,
) -> pd.DataFrame: ...


@overload
def get_responsibilities(
    self: MIXVI,
    adata: AnnData | None = ...,
    *,
    indices: Indices | None = ...,
    path: PathLike,
    overwrite: bool = ...,
    progress: bool = ...,
    batch_size: int = ...,
) -> Path: ...


def get_responsibilities(
    self: MIXVI,
    adata: AnnData | None = None,
    *,
    indices: Indices | None = None,
    path: PathLike | None = None,
    overwrite: bool = False,
    progress: bool = False,
    batch_size: int = BATCH_SIZE,
) -> pd.DataFrame | Path:
    """Share of every component in use in each cell: q(y | z) at the posterior mean of z.

    Parameters
    ----------
    adata
        Cells, with any gene order; by default those of the model.
    indices
        Positions of the cells to use, or a mask.
    path
        File to write, .h5ad or .zarr, instead of a frame: obs of the cells, and the shares in obsm
        ``"responsibilities"``, whose columns uns ``"deltavi"["components"]`` names. It takes its place once it is
        complete.
    overwrite
        Write to `path` though it exists.
    progress
        Show a progress bar, if standard error is a terminal or in a notebook.
    batch_size
        Cells taken at a time.

    Returns
    -------
    Frame of cells by components, rows summing to one; with `path` that.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If `path` exists or names no such file.
    FileWriteError
        If the disk is full or the folder read-only; what was there before is unchanged.
    """
    self._require_trained("get_responsibilities")
    asked = AskedCells.of(self, adata, indices)
    how: State = {"progress": progress, "batch_size": batch_size}

    def answer(cells: np.ndarray) -> Answered:
        return Answered(obsm={RESPONSIBILITIES: _responsibilities(self, asked, cells, batch_size)})

    def in_memory(found: Answered) -> pd.DataFrame:
        return pd.DataFrame(found.obsm[RESPONSIBILITIES], index=asked.names, columns=self.component_names)

    return asked.delivered(path, answer, in_memory, record=_record(self, "get_responsibilities"), **how)


def _responsibilities(model: MIXVI, asked: AskedCells, cells: np.ndarray, batch_size: int) -> np.ndarray:
    """Shares of the components in use, ``(n_cells, n_in_use)``."""
    what, n_components = model.module.responsibilities, model.module.n_components
    values = over_batches(model, what, asked.adata, cells, n_components, batch_size=batch_size)
    return np.asarray(values[:, model.module.is_active.cpu().numpy()])


def _record(model: MIXVI, verb: str) -> dict[str, object]:
    return {"verb": verb, "components": model.component_names}


def merge_components(self: MIXVI, n_groups: int | None = None, *, max_overlap: float | None = None) -> pd.Series:
    """Fewer groups of components: those whose cells can hardly be told apart are merged, pair by pair.

    Components that carry labels are never merged with each other; a group with a label has its name.

    Parameters
    ----------
    n_groups
        Groups to end with.
    max_overlap
        Or: merge groups whose cells are confused with a higher probability; see
        :func:`deltavi.annotation.merged_components`.

    Returns
    -------
    Name of the group of every component, by its name: ``self.predict().map(self.merge_components(8))``.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If neither is given, there are fewer components than `n_groups`, or more labels.
    """
    if n_groups is None and max_overlap is None:
        raise DeltaviError("Say how many groups to end with, n_groups, or which to merge, max_overlap.")
    shares = self.get_responsibilities().to_numpy()
    groups = merged_components(shares, n_groups, max_overlap=max_overlap, n_apart=self.module.n_labels)
    names = self.component_names
    # the first component of a group is its label, where it has one
    first = {int(group): names[int(np.flatnonzero(groups == group)[0])] for group in np.unique(groups)}
    return pd.Series([first[int(group)] for group in groups], index=names, dtype=object, name="group")


def get_kl_per_dimension(self: MIXVI, adata: AnnData | None = None, *, indices: Indices | None = None) -> pd.Series:
    """Divergence of each latent dimension from its prior, mean over cells, in nats.

    A dimension of w near zero is not used, and conditions cannot be switched through it.

    Parameters
    ----------
    adata
        Cells, with any gene order; by default those of the model.
    indices
        Positions of the cells to use, or a mask.

    Returns
    -------
    Series by dimension: ``"z 0"``, ``"z 1"`` and so on, then ``"w 0"`` and so on.

    Raises
    ------
    NotTrainedError
        Before training.
    """
    self._require_trained("get_kl_per_dimension")
    aligned = self._validate_anndata(adata)
    names = [f"z {i}" for i in range(self.module.n_latent)] + [f"w {i}" for i in range(self.module.n_w)]
    chosen = positions(indices, aligned.n_obs)
    values = pd.DataFrame(over_batches(self, self.module.kl_per_dimension, aligned, chosen, len(names)), columns=names)
    return values.mean().rename("kl")


def all_component_names(model: MIXVI) -> np.ndarray:
    """Names of all components, those out of use too."""
    n_labels, n = model.module.n_labels, model.module.n_components
    free = [f"component {k}" for k in range(n_labels, n)]
    return np.array([*model._categories(REGISTRY_KEYS.LABELS_KEY)[:n_labels], *free], dtype=object)


def shares_of(model: MIXVI, cells: np.ndarray) -> np.ndarray:
    """Share of every component, in use or not, in some of the model's cells, ``(n_cells, n_components)``."""
    aligned = model._validate_anndata()
    return over_batches(model, model.module.responsibilities, aligned, cells, model.module.n_components)


def over_batches(
    model: MIXVI, what: Any, adata: AnnData, chosen: np.ndarray, width: int, *, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """`what` of the mini-batches of the chosen cells, joined, ``(n_chosen, width)``."""
    model.module.eval()
    with torch.inference_mode(), isolated_randomness(model.seed):
        return model._cells(adata).each(what, chosen, width=width, size=batch_size)


def predicted_components(
    model: MIXVI,
    asked: AskedCells,
    *,
    soft: bool,
    path: PathLike | None,
    progress: bool,
    batch_size: int,
) -> pd.Series | pd.DataFrame | Path:
    """Component of each cell, or its responsibilities, of a model without labels; both in a file."""
    counted = None
    if model.module.of_counts:
        counted = model._manager_of(asked.adata).cell_totals() > 0

    def answer(cells: np.ndarray) -> Answered:
        shares = _responsibilities(model, asked, cells, batch_size)
        named = model.component_names[shares.argmax(1)]
        named = named if counted is None else np.where(counted[cells], named, _keys.UNASSIGNED)
        return Answered(obsm={RESPONSIBILITIES: shares}, obs={COMPONENT: named})

    def in_memory(found: Answered) -> pd.Series | pd.DataFrame:
        if soft:
            return pd.DataFrame(found.obsm[RESPONSIBILITIES], index=asked.names, columns=model.component_names)
        return pd.Series(found.obs[COMPONENT], index=asked.names, dtype=object, name="predicted")

    how: State = {"progress": progress, "batch_size": batch_size, "record": _record(model, "predict")}
    return asked.delivered(path, answer, in_memory, **how)


def w_positions(model: MIXVI, asked: AskedCells, *, path: PathLike | None, progress: bool) -> np.ndarray | Path:
    """Posterior means of w, ``(n_cells, n_w)``."""
    if model.module.n_w == 0:
        raise DeltaviError("The model has no w: make it with n_w of at least 1.")

    def answer(cells: np.ndarray) -> Answered:
        found = over_batches(model, model.module.w_means, asked.adata, cells, model.module.n_w)
        return Answered(obsm=latent_arrays(model, np.asarray(found, dtype=np.float32), "_w"))

    how: State = {"progress": progress, "batch_size": BATCH_SIZE, "record": LATENT}
    return asked.delivered(path, answer, only_array, **how)
