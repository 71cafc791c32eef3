"""Cells that are to be rejected in batches of which the held-out cells say nothing."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._entries import Indices, positions
from deltavi._errors import UnknownBatchWarning, examples
from deltavi.registry.columns import UNSEEN

if TYPE_CHECKING:
    from deltavi.model._annotates import Annotates

logger = logging.getLogger("deltavi")


def warn_of_new_batches(model: Annotates, adata: AnnData, indices: Indices | None, reject: float) -> None:
    """Warn where the cells to be judged are of batches that the calibration of `model` did not see.

    The share of known cells that is rejected is that of cells exchangeable with those held out. Models without batches
    cannot tell, and log it of cells that are not their own.

    Parameters
    ----------
    model
        Model that annotates.
    adata
        AnnData in its form.
    indices
        Cells that are judged.
    reject
        Share that is to be rejected.
    """
    key = model._setup_argument("batch_key")
    if key is None:
        if adata is not model._adata:
            message = "reject=%g holds for cells like those held out from training; of another batch more may go."
            logger.info(message, reject)
        return
    chosen = positions(indices, adata.n_obs)
    codes = model._manager_of(adata).get_from_registry(REGISTRY_KEYS.BATCH_KEY)
    new = chosen[_is_new(model, np.asarray(codes).ravel().astype(int)[chosen])]
    if len(new):
        batches = examples(adata.obs[key].iloc[new].astype(str).unique())
        warnings.warn(
            f"reject={reject:g} promises nothing for {len(new)} of {len(chosen)} cells: the calibration saw no cell of "
            f"their batches (obs[{key!r}]: {batches}), and far more or fewer known cells than that share may be "
            "rejected. Label some cells of those batches and train with them, or look at get_novelty_scores().",
            UnknownBatchWarning,
            stacklevel=3,
        )


def _is_new(model: Annotates, codes: np.ndarray) -> np.ndarray:
    """Mark the codes of batches that the calibration has no cells of."""
    unseen: np.ndarray = codes == UNSEEN
    if model.calibrated_batches_ is None:
        return unseen
    known = np.isin(model._categories(REGISTRY_KEYS.BATCH_KEY).astype(str), model.calibrated_batches_)
    return np.asarray(unseen | ~known[codes])
