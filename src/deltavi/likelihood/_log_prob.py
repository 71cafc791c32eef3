"""Log probability of counts with the special functions evaluated at nonzero counts only, exactly.

A zero count contributes theta * log(theta / (theta + mu)), which needs one logarithm; the three log-gamma terms
of the negative binomial vanish there. Nine entries in ten are zero, so they are evaluated for the others alone.
Value and gradients are analytic and made together, a few cells at a time, which stay in the processor's cache.
The small constant in the logarithms is that of scvi-tools, so that the values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from deltavi.likelihood._at_nonzeros import AtNonzeros, Zero, answers_at_once
from deltavi.likelihood._nonzero import Nonzeros
from deltavi.likelihood.compiled import Slopes, evaluate

# Entries of a block of cells: a megabyte or two for all that is computed from them.
ENTRIES_AT_ONCE = 1 << 16
# Smallest logarithm of a probability that single precision holds with all its digits, with a margin.
LEAST_PRECISE = -80.0


@dataclass(frozen=True, eq=False)
class _Gradients(Slopes):
    """The same, filled block by block."""

    @classmethod
    def for_(cls, rate: Tensor, theta: Tensor, logits: Tensor | None) -> _Gradients:
        by_logits = None if logits is None else torch.empty_like(logits)
        return cls(torch.empty_like(rate), torch.zeros_like(theta), by_logits)

    def put(self, rows: slice, zero: Zero, kept: Tensor) -> None:
        """Fill in the contribution of zeros, of which `kept` is the weighted share, ``(n_rows, n_genes or 1)``."""
        minus_share = zero.minus_share()
        torch.mul(minus_share, kept, out=self.by_rate[rows])
        slope = zero.minus_slope(minus_share)
        if self.by_theta.dim() > 1:
            torch.mul(slope, kept, out=self.by_theta[rows]).neg_()
        elif kept.shape[-1] == 1:
            self.by_theta.sub_(kept.squeeze(-1) @ slope)
        else:
            self.by_theta.sub_(slope.mul_(kept).sum(0))


def _rows(values: Tensor) -> Tensor:
    """``(..., n_cells, n_genes)`` as rows; a single row stays one."""
    return values if values.dim() == 1 else values.reshape(-1, values.shape[-1]).contiguous()


def _blocks(rate: Tensor, theta: Tensor) -> Iterator[tuple[slice, Zero]]:
    """Values of zeros, for as many rows at a time as fit into a cache with their intermediate results."""
    n_rows, n_genes = rate.shape
    at_once = max(1, ENTRIES_AT_ONCE // n_genes) if answers_at_once(rate) else max(n_rows, 1)
    for start in range(0, n_rows, at_once):
        rows = slice(start, start + at_once)
        yield rows, Zero.of(rate[rows], theta if theta.dim() == 1 else theta[rows])


def _evaluate(
    rate: Tensor, theta: Tensor, logits: Tensor | None, nonzeros: Nonzeros, weights: Tensor | None
) -> tuple[Tensor, Slopes | None]:
    """Log probability of each row ``(n_rows,)``, and the gradients of its sum with `weights`, where they are given."""
    with torch.autocast(rate.device.type, enabled=False):
        return _evaluate_exactly(rate, theta, logits, nonzeros, weights)


def _evaluate_exactly(
    rate: Tensor, theta: Tensor, logits: Tensor | None, nonzeros: Nonzeros, weights: Tensor | None
) -> tuple[Tensor, Slopes | None]:
    """The same in the precision of its input, without autocast."""
    found = evaluate(rate, theta, logits, nonzeros, weights)
    if found is not None:
        return found
    at = AtNonzeros.of(nonzeros, rate, theta, logits)
    total = torch.empty(rate.shape[0], dtype=rate.dtype, device=rate.device)
    gradients = None if weights is None else _Gradients.for_(rate, theta, logits)
    for rows, zero in _blocks(rate, theta):
        row_weights = None if weights is None else weights[rows].unsqueeze(-1)
        if logits is None:
            torch.neg(zero.over_genes(), out=total[rows])
            kept = row_weights
        else:
            kept = _lost_or_zero(logits[rows], zero, total[rows], row_weights, gradients, rows)
        if gradients is not None and kept is not None:
            gradients.put(rows, zero, kept)
    at.add_to(total)
    if gradients is not None and weights is not None:
        at.add_slopes_to(gradients.by_rate, gradients.by_theta, gradients.by_logits, weights)
    return total, gradients


def _lost_or_zero(
    logits: Tensor, zero: Zero, total: Tensor, weights: Tensor | None, gradients: _Gradients | None, rows: slice
) -> Tensor | None:
    """Write the log probability of zeros with dropout to `total`; return the weighted share that was not dropped.

    With N = logit + theta * log(1 + rate / theta) a zero is worth log sigmoid(logit) - log sigmoid(N) nats.
    """
    # needs a test of the precision of the odds
    found = _moderate(logits, zero) if answers_at_once(logits) else None
    value, kept, not_lost = _extreme(logits, zero) if found is None else found
    torch.sum(value, -1, out=total)
    if gradients is None or gradients.by_logits is None or weights is None:
        return None
    torch.sub(not_lost, kept, out=gradients.by_logits[rows]).mul_(weights)
    return kept.mul_(weights)


def _moderate(logits: Tensor, zero: Zero) -> tuple[Tensor, Tensor, Tensor] | None:
    """Value of zeros, sigmoid(-N) and sigmoid(-logit), from the odds of dropout: half the special functions.

    ``None`` where odds overflow, or where a zero is so improbable that single precision loses digits of it.
    """
    odds = logits.exp()
    only_zero = (zero.log * -zero.theta).exp_()
    any_zero, any_count = odds + only_zero, odds.add_(1)
    value = (any_zero / any_count).log_()
    # a comparison with NaN is false as well
    if value.numel() and not float(value.amin()) > LEAST_PRECISE:
        return None
    return value, only_zero.div_(any_zero), any_count.reciprocal_()


def _extreme(logits: Tensor, zero: Zero) -> tuple[Tensor, Tensor, Tensor]:
    """The same for logits of any size."""
    both = torch.addcmul(logits, zero.log, zero.theta)
    log_lost, log_both = logsigmoid(logits), logsigmoid(both)
    return log_lost - log_both, log_both.sub_(both).exp_(), log_lost.sub_(logits).exp_()


class CountLogProb(torch.autograd.Function):
    """``(..., n_cells)`` nats for rates ``(..., n_cells, n_genes)``; theta and dropout logits of that shape.

    Theta may be one row, dropout logits nothing. On a CPU the gradients are made with the value, for minus the mean
    over cells, which is what training minimises; on other devices the comparison of weights would synchronise.
    """

    @staticmethod
    def forward(ctx: Any, rate: Tensor, theta: Tensor, logits: Tensor | None, nonzeros: Nonzeros) -> Tensor:
        ctx.save_for_backward(rate, theta, logits)
        ctx.nonzeros = nonzeros
        n_rows = rate.shape[:-1].numel()
        ahead = any(ctx.needs_input_grad) and answers_at_once(rate)
        guess = rate.new_full((n_rows,), -1 / max(n_rows, 1)) if ahead else None
        total, ctx.gradients = _evaluate(*_as_rows(rate, theta, logits), nonzeros, guess)
        return total.view(rate.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        rate, theta, logits = ctx.saved_tensors
        flat = weights.reshape(-1)
        # returned once, since autograd may add to them in place
        gradients, ctx.gradients = ctx.gradients, None
        factor = None if gradients is None else _ratio(flat)
        if factor is None:
            gradients, factor = _evaluate(*_as_rows(rate, theta, logits), ctx.nonzeros, flat)[1], 1.0
        by_rate, by_theta, by_logits = gradients.scaled(factor)
        return (
            by_rate.view_as(rate),
            by_theta.view_as(theta),
            None if by_logits is None else by_logits.view_as(rate),
            None,
        )


def _as_rows(rate: Tensor, theta: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return _rows(rate), _rows(theta), None if logits is None else _rows(logits)


def _ratio(weights: Tensor) -> float | None:
    """Ratio of equal weights to those of the precomputed gradients; ``None`` if weights are not equal."""
    if not len(weights):
        return 1.0
    if not bool((weights == weights[0]).all()):
        return None
    return float(weights[0] / weights.new_tensor(-1 / len(weights)))


def _aligned(rate: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Rate and theta of one shape, or theta as one row, in the precision of the rate."""
    theta = theta.to(rate.dtype)
    if theta.dim() == 1:
        return rate, theta
    shape = torch.broadcast_shapes(rate.shape, theta.shape)  # type: ignore[no-untyped-call]
    return rate.expand(shape), theta.expand(shape)


def negative_binomial_log_prob(nonzeros: Nonzeros, rate: Tensor, theta: Tensor) -> Tensor:
    """Log probability of each cell's counts, ``(..., n_cells)`` nats.

    Parameters
    ----------
    nonzeros
        Counts of the mini-batch.
    rate
        ``(..., n_cells, n_genes)`` expected counts.
    theta
        Inverse dispersion: a row ``(n_genes,)``, or what broadcasts against `rate`.
    """
    return CountLogProb.apply(*_aligned(rate, theta), None, nonzeros)  # type: ignore[no-any-return, no-untyped-call]


def zero_inflated_log_prob(nonzeros: Nonzeros, rate: Tensor, theta: Tensor, dropout_logits: Tensor) -> Tensor:
    """The same with `dropout_logits` ``(..., n_cells, n_genes)``, the logits of losing every molecule of a gene."""
    rate, theta = _aligned(rate, theta)
    logits = dropout_logits.to(rate.dtype).expand(rate.shape)
    return CountLogProb.apply(rate, theta, logits, nonzeros)  # type: ignore[no-any-return, no-untyped-call]


def poisson_log_prob(nonzeros: Nonzeros, rate: Tensor) -> Tensor:
    """Log probability of each cell's counts under a Poisson of `rate`, ``(..., n_cells)`` nats."""
    at = nonzeros.count * nonzeros.taken_from(rate).log()
    total = -rate.sum(-1) - nonzeros.log_factorial.to(rate.dtype)
    return total.index_add(-1, nonzeros.cell, at)
