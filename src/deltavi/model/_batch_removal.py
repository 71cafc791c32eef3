"""Removal of batch effects: every batch of a label moved onto the label's largest batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness
from deltavi.io import BlockFile, PathLike
from deltavi.model._asked import positions_of, totals_of
from deltavi.model._decoding import CellDecoder, Predicted, predict_cells, stack
from deltavi.model._together import asked_of, write_shared
from deltavi.perturbation.batches import BatchMoves, batch_moves
from deltavi.perturbation.noise import cell_generators
from deltavi.registry.columns import category_names, column
from deltavi.registry.writable import writable_columns
from deltavi.train.progress import progress_bar

if TYPE_CHECKING:
    from deltavi.model._scgen import SCGEN


@overload
def batch_removal(
    self: SCGEN,
    adata: AnnData | None = ...,
    *,
    path: None = ...,
    overwrite: bool = ...,
    progress: bool = ...,
    batch_size: int = ...,
    seed: int = ...,
) -> AnnData: ...


@overload
def batch_removal(
    self: SCGEN,
    adata: AnnData | None = ...,
    *,
    path: PathLike,
    overwrite: bool = ...,
    progress: bool = ...,
    batch_size: int = ...,
    seed: int = ...,
) -> Path: ...


@torch.inference_mode()
def batch_removal(
    self: SCGEN,
    adata: AnnData | None = None,
    *,
    path: PathLike | None = None,
    overwrite: bool = False,
    progress: bool = False,
    batch_size: int = 512,
    seed: int = 0,
) -> AnnData | Path:
    """Move every batch of a label onto the label's largest batch.

    Parameters
    ----------
    adata
        Cells to correct; by default those of the model. Needs the registered label and batch columns.
    path
        File to write, .h5ad or .zarr, instead of an AnnData in memory: cells are written as they are decoded. It takes
        its place once it is complete.
    overwrite
        Write to `path` though it exists.
    progress
        Show a progress bar, if standard error is a terminal or in a notebook.
    batch_size
        Cells decoded at a time.
    seed
        Seed of quantiles within counts.

    Returns
    -------
    New AnnData with the same cells, order, names and metadata, or `path`. X: corrected log1p CP10k (a Gaussian model:
    the scale of its input); obsm ``"X_deltavi"``: corrected latent positions; uns ``"deltavi"``: the reference batch
    of each label, and the labels seen in one batch only, which are left as they are.

    Raises
    ------
    NotTrainedError
        Before training.
    DeltaviError
        If the model has no labels or batches, or `path` exists or names no such file.
    FileWriteError
        If the disk is full or the folder read-only; what was there before is unchanged.
    """
    self._require_trained("batch_removal")
    labels_key, batch_key = (self._setup_argument(name) for name in ("labels_key", "batch_key"))
    if labels_key is None or batch_key is None:
        raise DeltaviError("batch_removal needs labels_key and batch_key in setup_anndata.")
    source = self._validate_anndata() if adata is None else adata
    aligned = self._validate_anndata(adata)
    before = positions_of(self, aligned, np.arange(aligned.n_obs))
    batches = category_names(column(source, batch_key), self._categories(REGISTRY_KEYS.BATCH_KEY))
    moves = batch_moves(before, labels=self._groups(source, aligned), batches=batches)
    moved = _Moved(self, aligned, before, (before + moves.vectors).astype(np.float32), moves, seed)
    result = moved.described(source)
    n_parts, parts = -(-aligned.n_obs // batch_size), partial(moved.parts, batch_size)

    def write(part: Path, found: Iterable[Predicted]) -> None:
        with BlockFile(part, aligned.n_obs) as file:
            for one in found:
                file.add_rows(one.profile, {})
                count(one.rate.shape[0])
            file.finish(obs=result.obs, var=result.var, obsm=result.obsm, uns=result.uns)

    def asked() -> dict[str, object]:
        return asked_of(self, aligned.obs_names, seed)

    with moved.working(progress) as count:
        if path is not None:
            write_shared(Path(path), parts, write, n_blocks=n_parts, asked=asked)
            return Path(path)
        decoded = []
        for one in parts(range(n_parts)):
            decoded.append(one)
            count(one.rate.shape[0])
    result.X = stack(decoded, len(self.gene_names)).profile
    return result


@dataclass(frozen=True, eq=False)
class _Moved:
    """Cells at their latent positions without batch effects.

    Parameters
    ----------
    model, adata
        A trained model, and the cells in its form.
    before, after
        ``(n_cells, n_latent)`` positions.
    moves
        Reference batches.
    seed
        Seed of quantiles within counts.
    """

    model: SCGEN
    adata: AnnData
    before: np.ndarray
    after: np.ndarray
    moves: BatchMoves
    seed: int

    def described(self, source: AnnData) -> AnnData:
        """All that is told of the cells beside their expression."""
        genes = self.model.gene_names.astype(str)
        result = AnnData(obs=writable_columns(source.obs), var=pd.DataFrame(index=genes))
        result.obsm.update({k: np.asarray(value) for k, value in source.obsm.items() if not k.startswith("_scvi")})
        result.obsm[_keys.OBSM_LATENT_AFTER] = self.after
        references = self.moves.references
        result.uns[_keys.UNS_PREDICTION] = {
            "reference_batch": pd.DataFrame(
                {"label": list(references), "batch": [str(batch) for batch in references.values()]}
            ),
            "unmoved_labels": np.asarray(self.moves.single_batch, dtype=str),
            "seed": self.seed,
        }
        return result

    @contextmanager
    def working(self, progress: bool) -> Iterator[Callable[[int], object]]:
        """Counter of decoded cells."""
        bar = progress_bar(self.adata.n_obs, "correcting", wanted=progress)
        with isolated_randomness(self.seed), bar:
            yield bar.update

    def parts(self, batch_size: int, numbers: range) -> Iterator[Predicted]:
        """Cells of the mini-batches of these numbers, decoded as if from their reference batch."""
        model, start = self.model, numbers.start * batch_size
        cells = np.arange(start, min(numbers.stop * batch_size, self.adata.n_obs))
        known = pd.Index([str(batch) for batch in model._categories(REGISTRY_KEYS.BATCH_KEY)])
        codes, totals = known.get_indexer(pd.Index(self.moves.reference)), totals_of(model, self.adata)
        for tensors in model._cells(self.adata).batches(cells, batch_size):
            rows = slice(start, start + tensors[REGISTRY_KEYS.X_KEY].shape[0])
            yield self._decoded(CellDecoder(model.module, tensors), rows, codes[rows], totals[rows])
            start = rows.stop

    def _decoded(self, decode: CellDecoder, rows: slice, codes: np.ndarray, totals: np.ndarray) -> Predicted:
        """Cells of one mini-batch."""
        batch = torch.from_numpy(codes.reshape(-1, 1).astype(np.int64))
        return predict_cells(
            decode.observed,
            decode(self.before[rows]),
            decode(self.after[rows], batch=batch),
            totals=totals,
            output="cells",
            generators=cell_generators(self.adata.obs_names[rows], seed=self.seed),
        )
