"""Inverse dispersion kept as the few rows a model has, never as a cells x genes matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Dispersion:
    """Inverse dispersion theta of a count likelihood, or the standard deviation of a Gaussian one.

    Parameters
    ----------
    values
        ``(n_genes,)`` when all cells share a row, ``(n_rows, n_genes)`` with `row` when cells share
        rows (one per batch or label), or ``([n_samples,] n_cells, n_genes)`` when every cell has its own.
    row
        ``(n_cells,)`` row of each cell, or ``None`` when `values` is shared or per cell already.
    """

    values: Tensor
    row: Tensor | None = None

    def gathered(self) -> Tensor:
        """Values that broadcast against ``([n_samples,] n_cells, n_genes)`` rates."""
        return self.values if self.row is None else self.values[self.row]

    def at(self, shape: torch.Size, cells: np.ndarray, genes: np.ndarray) -> Dispersion:
        """Values of single entries of a matrix of this `shape`, ``(n_entries,)``."""
        return Dispersion(self.gathered().expand(shape)[cells, genes])

    def map(self, function: object) -> Dispersion:
        """Apply an elementwise `function` to the rows, before any of them is gathered."""
        return Dispersion(values=function(self.values), row=self.row)  # type: ignore[operator]


def rows_with_average(log_values: Tensor, code: Tensor) -> Dispersion:
    """Dispersion per category from a table of logarithms.

    A category that is absent from training has the code -1; it gets the average row, which is put last so
    that negative indexing selects it.

    Parameters
    ----------
    log_values
        ``(n_genes, n_categories)`` log inverse dispersion, in the orientation scvi-tools stores it.
    code
        ``(n_cells, 1)`` category of each cell, -1 for an unseen one.

    Returns
    -------
    Rows ``(n_categories + 1, n_genes)`` with the row of each cell.
    """
    table = log_values.T
    return Dispersion(values=torch.cat([table, table.mean(0, keepdim=True)]).exp(), row=code.long().squeeze(-1))
