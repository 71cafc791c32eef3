"""Registered cells in mini-batches for evaluation: in the order asked for, without a draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from deltavi.registry.manager import DataManager


class Cells:
    """Cells of a registered AnnData, read once for all mini-batches cut from them.

    A loader of torch is built anew for every pass and draws from the global generator; evaluation needs neither.

    Parameters
    ----------
    manager
        Manager of the AnnData.
    """

    def __init__(self, manager: DataManager) -> None:
        self._dataset = manager.create_torch_dataset()

    def take(self, chosen: np.ndarray) -> dict[str, Tensor]:
        """One mini-batch of the cells at the positions `chosen`, at least one, in that order."""
        return {key: torch.as_tensor(values) for key, values in self._dataset[np.asarray(chosen).tolist()].items()}

    def batches(self, chosen: np.ndarray, size: int) -> Iterator[dict[str, Tensor]]:
        """Mini-batches of at most `size` cells; none where no cell is chosen."""
        for start in range(0, len(chosen), size):
            yield self.take(chosen[start : start + size])

    def each(
        self, function: Callable[[dict[str, Tensor]], Tensor], chosen: np.ndarray, *, width: int, size: int
    ) -> np.ndarray:
        """Rows that `function` gives for the chosen cells, ``(n_chosen, width)``, in double precision.

        Parameters
        ----------
        function
            Rows ``(n_cells, width)`` of a mini-batch.
        chosen
            Positions of cells.
        width
            Columns.
        size
            Cells of a mini-batch.
        """
        parts = [function(batch).cpu().numpy() for batch in self.batches(chosen, size)]
        return np.concatenate([np.zeros((0, width)), *parts]).astype(np.float64)
