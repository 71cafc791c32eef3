"""Prior of the library size, from the totals of the registered cells."""

from __future__ import annotations

import warnings

import numpy as np

from deltavi._compat import AnnDataManager, init_library_size
from deltavi._errors import InputDataWarning, examples
from deltavi._text import as_text
from deltavi._types import State

# Smallest variance of log totals: a standard deviation of 3 %. Around a narrower prior the divergence of a new encoder
# is thousands of nats, and of a prior without any variance infinite.
SMALLEST_VARIANCE = 1e-3


def library_prior(manager: AnnDataManager, n_batch: int, batches: np.ndarray) -> State:
    """Mean and variance of log total counts in each batch, ``(1, n_batch)`` each; the variance has a floor.

    Parameters
    ----------
    manager
        Manager of the registered cells.
    n_batch
        Number of batches.
    batches
        Their names.
    """
    means, variances = init_library_size(manager, n_batch)
    means, variances = np.nan_to_num(means), np.nan_to_num(variances)
    narrow = np.flatnonzero(variances.ravel() < SMALLEST_VARIANCE)
    if len(narrow):
        where = "" if len(batches) < 2 else f" of {len(narrow)} of {n_batch} batches ({_named(narrow, batches)})"
        warnings.warn(
            f"library='learned': the totals of the cells{where} hardly differ. The variance of their logarithm is "
            f"{variances.min():.2g}, and {SMALLEST_VARIANCE:g} is taken for it, as none is learned around a point. If "
            "counts were scaled to one total, pass raw counts; library='observed' needs no prior.",
            InputDataWarning,
            stacklevel=4,
        )
    return {"library_log_means": means, "library_log_vars": np.maximum(variances, SMALLEST_VARIANCE)}


def _named(places: np.ndarray, batches: np.ndarray) -> str:
    return examples([as_text(batches[place]) for place in places])
