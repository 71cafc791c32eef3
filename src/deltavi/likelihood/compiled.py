"""Log probability of counts and its gradients by compiled kernels, where there are any for the numbers at hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltavi._threads import in_parts
from deltavi.kernels import kernels
from deltavi.likelihood._nonzero import Nonzeros

# Entries of a mini-batch below which to start threads takes longer than to wait for them.
SMALLEST_FOR_THREADS = 1 << 16


@dataclass(frozen=True, eq=False)
class Slopes:
    """Derivatives of the weighted sum of log probabilities, each of the shape of its rows.

    Parameters
    ----------
    by_rate, by_theta, by_logits
        ``(n_rows, n_genes)``; that by theta may be one row, and that by logits is missing without dropout.
    """

    by_rate: Tensor
    by_theta: Tensor
    by_logits: Tensor | None

    def scaled(self, factor: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """All of them times `factor`; unchanged if it is one."""
        if factor == 1:
            return self.by_rate, self.by_theta, self.by_logits
        by_logits = None if self.by_logits is None else self.by_logits * factor
        return self.by_rate * factor, self.by_theta * factor, by_logits


def evaluate(
    rate: Tensor, theta: Tensor, logits: Tensor | None, nonzeros: Nonzeros, weights: Tensor | None
) -> tuple[Tensor, Slopes | None] | None:
    """Log probability of each row, and gradients of its sum with `weights`; ``None`` where torch has to compute them.

    Parameters
    ----------
    rate, theta, logits
        Rows of all samples, one below the other; theta may be one row.
    nonzeros
        Counts of the cells of each sample.
    weights
        ``(n_rows,)``, where gradients are needed.
    """
    found = kernels("counts") if _is_plain(rate, theta, logits) else None
    starts = None if found is None else _starts(nonzeros)
    if found is None or starts is None:
        return None
    # other threads would record a graph
    rate, theta, logits = rate.detach(), theta.detach(), None if logits is None else logits.detach()
    n_rows, n_cells = len(rate), nonzeros.shape[0]
    size = theta if theta.dim() > 1 else theta.unsqueeze(0)
    each = torch.zeros_like(rate[:, 0]) if weights is None else weights.to(rate.dtype).contiguous()
    total = torch.empty_like(each)
    # without weights every row overwrites the gradients of the row before
    made = [None if values is None or weights is None else torch.empty_like(values) for values in (rate, logits)]
    gene, count = nonzeros.gene.numpy(), nonzeros.count.to(rate.dtype).numpy()
    kernel = found.negative_binomial if logits is None else found.zero_inflated

    def part(first: int, last: int) -> Tensor:
        """Evaluate these rows, which belong to one sample; return the gradient by theta."""
        rows, cell = slice(first, last), first % n_cells
        of_rows = size[rows] if len(size) > 1 else size
        by_theta = torch.zeros_like(of_rows)
        given = [rate[rows], of_rows, *([] if logits is None else [logits[rows]])]
        slopes = [torch.empty_like(rate[:1]) if values is None else values[rows] for values in made]
        filled = [total[rows], slopes[0], by_theta, *slopes[1 : len(given) - 1]]
        places = starts[cell : cell + last - first + 1], gene, count
        kernel(*(x.numpy() for x in given), *places, each[rows].numpy(), *(x.numpy() for x in filled))
        return by_theta

    parts: list[Tensor] = []
    for sample in range(0, n_rows, n_cells):
        parts += in_parts(part, sample, sample + n_cells, least=SMALLEST_FOR_THREADS // rate.shape[1])
    if not bool(total.isfinite().all()):
        return None
    total.view(-1, n_cells).sub_(nonzeros.log_factorial)
    if made[0] is None:
        return total, None
    by_theta = torch.cat(parts) if len(size) > 1 else torch.stack(parts).sum(0)
    return total, Slopes(made[0], by_theta.view_as(theta), made[1])


def _is_plain(rate: Tensor, theta: Tensor, logits: Tensor | None) -> bool:
    """True of single precision on the CPU, of at least one entry."""
    given = [rate, theta, *([] if logits is None else [logits])]
    usual = all(x.dtype is torch.float32 and x.device.type == "cpu" and x.is_contiguous() for x in given)
    return usual and rate.numel() > 0


def _starts(nonzeros: Nonzeros) -> np.ndarray | None:
    """Place at which each cell's counts begin, ``(n_cells + 1,)``; ``None`` if they are in another order."""
    cell = nonzeros.cell.numpy()
    if (cell[1:] < cell[:-1]).any():
        return None
    return np.searchsorted(cell, np.arange(nonzeros.shape[0] + 1))
