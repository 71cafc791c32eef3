"""Prior of the library size, from the totals of the registered cells."""

from __future__ import annotations

import warnings

import numpy as np
from scvi import REGISTRY_KEYS

from deltavi._compat import init_library_size
from deltavi._errors import InputDataWarning, examples
from deltavi._text import as_text
from deltavi._types import State
from deltavi.registry.manager import DataManager

# Smallest variance of log totals: a standard deviation of 3 %. Around a narrower prior the divergence of a new encoder
# is thousands of nats, and of a prior without any variance infinite.
SMALLEST_VARIANCE = 1e-3


def library_prior(manager: DataManager, n_batch: int, batches: np.ndarray) -> State:
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
    if manager.reads_rows:
        # scvi-tools would read all cells of a batch into memory
        means, variances = _of_totals(manager, n_batch)
    else:
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


def _of_totals(manager: DataManager, n_batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of log totals, as scvi-tools finds them, from the sums of the scan."""
    codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
    totals = manager.cell_totals().astype(np.float32)
    logs = np.log(totals, out=np.zeros_like(totals), where=totals > 0)
    found = np.zeros((2, 1, n_batch))
    for batch in np.unique(codes):
        found[:, 0, batch] = logs[codes == batch].mean(), logs[codes == batch].var()
    return found[0], found[1]


def _named(places: np.ndarray, batches: np.ndarray) -> str:
    return examples([as_text(batches[place]) for place in places])
