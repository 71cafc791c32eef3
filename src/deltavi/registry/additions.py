"""What is added to a mini-batch or changed in it: arrays beside arrays, tensors on the device beside tensors there."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deltavi.registry._device_rows import sent


def beside(x: np.ndarray | Tensor, values: np.ndarray) -> np.ndarray | Tensor:
    """`values` as `x` of the same mini-batch is: an array, or a tensor on its device, without waiting for it."""
    return sent(values, x.device) if isinstance(x, Tensor) else values


def replaced(x: np.ndarray | Tensor, cell: np.ndarray, gene: np.ndarray, values: np.ndarray) -> np.ndarray | Tensor:
    """Copy of `x` with other values at some places, each named once.

    Parameters
    ----------
    x
        ``(n_cells, n_genes)``, an array or a tensor on a device.
    cell, gene
        ``(n_places,)`` rows and columns, in the memory of the computer.
    values
        ``(n_places,)`` what is to stand there.
    """
    if isinstance(x, Tensor):
        place = sent(cell.astype(np.int64) * x.shape[1] + gene, x.device)
        return x.flatten().scatter(0, place, sent(values.astype(np.float32), x.device)).view_as(x)
    changed = x.copy()
    changed[cell, gene] = values
    return changed
