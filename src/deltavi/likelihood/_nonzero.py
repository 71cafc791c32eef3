"""Nonzero counts of a mini-batch, the entries for which likelihoods need special functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from deltavi import _keys
from deltavi._compat import SMALLEST_COUNT
from deltavi._types import Cells


@dataclass(frozen=True, eq=False)
class Nonzeros:
    """The nonzero counts of a mini-batch.

    Parameters
    ----------
    cell, gene
        ``(n_nonzero,)`` row and column of each, row by row.
    count
        ``(n_nonzero,)`` raw counts.
    shape
        Cells and genes.
    known_log_factorial
        ``(n_cells,)`` sum over genes of log x!, if it is computed already.
    """

    cell: Tensor
    gene: Tensor
    count: Tensor
    shape: tuple[int, int]
    known_log_factorial: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor) -> Nonzeros:
        """Find those of `x` ``(n_cells, n_genes)``."""
        cell, gene = (x > SMALLEST_COUNT).nonzero(as_tuple=True)
        count = x.reshape(-1).index_select(0, torch.add(gene, cell, alpha=x.shape[1]))
        return cls(cell, gene, count, (x.shape[0], x.shape[1]))

    @classmethod
    def in_batch(cls, tensors: dict[str, Tensor]) -> Nonzeros:
        """Nonzero counts of a mini-batch, from its loader if that read a sparse matrix, else found in the counts."""
        x = tensors[REGISTRY_KEYS.X_KEY]
        if _keys.NONZERO not in tensors:
            return cls.of(x)
        cell, gene = tensors[_keys.NONZERO].unbind(0)
        return cls(cell, gene, tensors[_keys.NONZERO_COUNT], (x.shape[0], x.shape[1]), tensors[_keys.LOG_FACTORIAL])

    @cached_property
    def position(self) -> Tensor:
        """``(n_nonzero,)`` place of each in the flattened matrix."""
        return torch.add(self.gene, self.cell, alpha=self.shape[1])

    @cached_property
    def log_factorial(self) -> Tensor:
        """``(n_cells,)`` sum over genes of log x!."""
        if self.known_log_factorial is not None:
            return self.known_log_factorial
        terms = torch.lgamma(self.count + 1)
        return terms.new_zeros(self.shape[0]).index_add_(0, self.cell, terms)

    def taken_from(self, values: Tensor) -> Tensor:
        """Entries of `values` ``(..., n_cells, n_genes)`` at these places, ``(..., n_nonzero)``."""
        return values.flatten(-2).index_select(-1, self.position)

    def kept(self, cells: Cells) -> Nonzeros:
        """Those of the first cells, or of cells that a mask ``(n_cells,)`` marks, whose rows move up."""
        known = None if self.known_log_factorial is None else self.known_log_factorial[cells]
        if isinstance(cells, slice):
            n_kept = len(range(self.shape[0])[cells])
            stop = int(torch.searchsorted(self.cell, n_kept))
            return Nonzeros(self.cell[:stop], self.gene[:stop], self.count[:stop], (n_kept, self.shape[1]), known)
        n_kept, chosen = int(cells.sum()), cells.index_select(0, self.cell)
        row = (cells.cumsum(0) - 1).index_select(0, self.cell[chosen])
        return Nonzeros(row, self.gene[chosen], self.count[chosen], (n_kept, self.shape[1]), known)
