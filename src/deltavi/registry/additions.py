"""Changes of mini-batches: arrays are added to arrays, and tensors on a device to tensors there."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from torch import Tensor

from deltavi.registry._device_rows import sent

# A mini-batch by keys of the registry: arrays, or tensors of a device.
Loaded: TypeAlias = dict[str, np.ndarray | Tensor]


def beside(x: np.ndarray | Tensor, values: np.ndarray) -> np.ndarray | Tensor:
    """`values` in the form of `x` of the same mini-batch: an array, or a tensor on its device without synchronising."""
    return sent(values, x.device) if isinstance(x, Tensor) else values


def replaced(x: np.ndarray | Tensor, cell: np.ndarray, gene: np.ndarray, values: np.ndarray) -> np.ndarray | Tensor:
    """Copy of `x` with new values at some positions, each given once.

    Parameters
    ----------
    x
        ``(n_cells, n_genes)``, an array or a tensor on a device.
    cell, gene
        ``(n_places,)`` rows and columns, in the memory of the computer.
    values
        ``(n_places,)`` new values.
    """
    if isinstance(x, Tensor):
        place = sent(cell.astype(np.int64) * x.shape[1] + gene, x.device)
        return x.flatten().scatter(0, place, sent(values.astype(np.float32), x.device)).view_as(x)
    changed = x.copy()
    changed[cell, gene] = values
    return changed
