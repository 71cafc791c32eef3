"""Removal of batch effects: every batch of a label moved onto the label's largest batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._errors import DeltaviError
from deltavi._random import isolated_randomness
from deltavi.model._asked import positions_of, totals_of
from deltavi.model._decoding import CellDecoder, Predicted, predict_cells, stack
from deltavi.perturbation.batches import batch_moves
from deltavi.perturbation.noise import cell_generators
from deltavi.registry.columns import category_names, column
from deltavi.registry.writable import writable_columns

if TYPE_CHECKING:
    from deltavi.model._scgen import SCGEN


@torch.inference_mode()
def batch_removal(self: SCGEN, adata: AnnData | None = None, *, batch_size: int = 512, seed: int = 0) -> AnnData:
    """Move every batch of a label onto the label's largest batch.

    Parameters
    ----------
    adata
        Cells to correct; by default those of the model. Needs the registered label and batch columns.
    batch_size
        Cells decoded at a time.
    seed
        Seed of quantiles within counts.

    Returns
    -------
    New AnnData with the same cells, order, names and metadata. X: corrected log1p CP10k (a Gaussian model: the
    scale of its input); obsm ``"X_deltavi"``: corrected latent positions; uns ``"deltavi"``: the reference batch
    of each label, and the labels seen in one batch only, which are left as they are.
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
    after = (before + moves.vectors).astype(np.float32)
    with isolated_randomness(seed):
        predicted = _decode_moved(self, aligned, before, after, moves.reference, batch_size, seed)
    result = AnnData(
        X=predicted.profile, obs=writable_columns(source.obs), var=pd.DataFrame(index=self.gene_names.astype(str))
    )
    result.obsm.update({key: np.asarray(value) for key, value in source.obsm.items() if not key.startswith("_scvi")})
    result.obsm[_keys.OBSM_LATENT_AFTER] = after
    result.uns[_keys.UNS_PREDICTION] = {
        "reference_batch": pd.DataFrame(
            {"label": list(moves.references), "batch": [str(b) for b in moves.references.values()]}
        ),
        "unmoved_labels": np.asarray(moves.single_batch, dtype=str),
        "seed": seed,
    }
    return result


def _decode_moved(
    model: SCGEN,
    adata: AnnData,
    before: np.ndarray,
    after: np.ndarray,
    reference: np.ndarray,
    batch_size: int,
    seed: int,
) -> Predicted:
    """Profiles of cells moved to `after` and decoded as if from their reference batch."""
    known = pd.Index([str(b) for b in model._categories(REGISTRY_KEYS.BATCH_KEY)])
    codes = known.get_indexer(pd.Index(reference))
    totals, parts, start = totals_of(model, adata), [], 0
    for tensors in model._cells(adata).batches(np.arange(adata.n_obs), batch_size):
        rows = slice(start, start + tensors[REGISTRY_KEYS.X_KEY].shape[0])
        decode = CellDecoder(model.module, tensors)
        batch = torch.from_numpy(codes[rows].reshape(-1, 1).astype(np.int64))
        parts.append(
            predict_cells(
                decode.observed,
                decode(before[rows]),
                decode(after[rows], batch=batch),
                totals=totals[rows],
                output="cells",
                generators=cell_generators(adata.obs_names[rows], seed=seed),
            )
        )
        start = rows.stop
    return stack(parts, len(model.gene_names))
