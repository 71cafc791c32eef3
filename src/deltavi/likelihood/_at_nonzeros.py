"""Parts of the log probability of counts: the value of a zero, and the difference of a nonzero count from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from deltavi._compat import SMALLEST_COUNT
from deltavi.likelihood._nonzero import Nonzeros

EPS = SMALLEST_COUNT
# Whole counts up to this have log-gamma differences summed: faster, and exact for large theta.
TABLED_COUNT = 8


def answers_at_once(values: Tensor) -> bool:
    """True if tensors are on the CPU, where reading a value needs no synchronisation."""
    return values.device.type == "cpu"


@dataclass(frozen=True, eq=False)
class Zero:
    """Log probability of a zero count without dropout, and its derivatives.

    Parameters
    ----------
    ratio
        ``(n_rows, n_genes)`` rate over theta.
    log
        log(1 + ratio); the log probability of a zero is -theta times it.
    theta
        ``(n_rows, n_genes)`` or one row.
    """

    ratio: Tensor
    log: Tensor
    theta: Tensor

    @classmethod
    def of(cls, rate: Tensor, theta: Tensor) -> Zero:
        """Of rates; not as a difference of logarithms, which loses its digits where theta is much the larger."""
        ratio = rate * (theta + EPS).reciprocal()
        return cls(ratio, ratio.log1p(), theta)

    def over_genes(self) -> Tensor:
        """Minus the log probability of zeros in all genes, ``(n_rows,)``."""
        return self.log @ self.theta if self.theta.dim() == 1 else (self.log * self.theta).sum(-1)

    def minus_share(self) -> Tensor:
        """-theta / (theta + rate), the derivative of the log probability by rate."""
        return (-self.theta / (self.theta + EPS)) / (self.ratio + 1)

    def minus_slope(self, minus_share: Tensor) -> Tensor:
        """Minus the derivative of the log probability by theta."""
        return torch.addcmul(self.log, self.ratio, minus_share)


def gamma_differences(count: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """log Gamma(x + theta) - log Gamma(theta) and its derivative by theta, for any `theta` of the shape of `count`."""
    value = torch.lgamma(count + theta).sub_(torch.lgamma(theta))
    return value, torch.digamma(count + theta).sub_(torch.digamma(theta))


def gamma_differences_of_row(count: Tensor, row: Tensor, gene: Tensor) -> tuple[Tensor, Tensor]:
    """The same for ``(n_nonzero,)`` counts of genes that share the ``(n_genes,)`` thetas of `row`.

    For whole x they are the sums of log(theta + k) and of 1 / (theta + k) over k < x, of which a gene needs few.
    """
    steps = row + torch.arange(TABLED_COUNT, dtype=row.dtype, device=row.device).unsqueeze(-1)
    tabled = (count <= TABLED_COUNT) & (count == count.floor())
    place = (count - 1).clamp_(0, TABLED_COUNT - 1).long().mul_(len(row)).add_(gene)
    value = steps.log().cumsum(0).view(-1).index_select(0, place)
    slope = steps.reciprocal().cumsum(0).view(-1).index_select(0, place)
    others = tabled.logical_not_().nonzero().squeeze(-1)
    if len(others):
        far_value, far_slope = gamma_differences(count[others], row[gene[others]])
        value.index_copy_(0, others, far_value)
        slope.index_copy_(0, others, far_slope)
    return value, slope


@dataclass(frozen=True, eq=False)
class AtNonzeros:
    """Terms added by nonzero counts, ``(n_samples, n_nonzero)``.

    Differences of log Gamma are taken in double precision where the device has it: they lose every digit of single
    precision where theta is large.

    Parameters
    ----------
    nonzeros
        Positions of the counts.
    count, rate, theta
        Values at these positions.
    row
        Theta where all cells share one, ``(n_genes,)``.
    logits
        Dropout logits at these positions, if there is dropout.
    """

    nonzeros: Nonzeros
    count: Tensor
    rate: Tensor
    theta: Tensor
    row: Tensor | None
    logits: Tensor | None

    @classmethod
    def of(cls, nonzeros: Nonzeros, rate: Tensor, theta: Tensor, logits: Tensor | None) -> AtNonzeros:
        """From rows of all samples, one below the other."""
        n_samples = rate.shape[0] // nonzeros.shape[0] if nonzeros.shape[0] else 1

        def at(values: Tensor) -> Tensor:
            return nonzeros.taken_from(values.view(n_samples, *nonzeros.shape))

        row = theta if theta.dim() == 1 else None
        return cls(
            nonzeros,
            nonzeros.count.to(rate.dtype),
            at(rate),
            at(theta) if row is None else row.index_select(0, nonzeros.gene),
            row,
            None if logits is None else at(logits),
        )

    def add_to(self, total: Tensor) -> None:
        """Turn the log probability of zeros in every row, ``(n_rows,)``, into that of the counts, in place."""
        value = torch.log((self.rate + EPS) / self._sum).mul_(self.count).add_(self._gamma[0])
        if self.logits is not None:
            value.sub_(softplus(self._lost_or_zero))
        samples = total.view(len(self.rate), self.nonzeros.shape[0])
        samples.sub_(self.nonzeros.log_factorial)
        samples.index_add_(-1, self.nonzeros.cell, value.to(total.dtype))

    def add_slopes_to(self, by_rate: Tensor, by_theta: Tensor, by_logits: Tensor | None, weights: Tensor) -> None:
        """Turn gradients of zeros in every row into those of the counts, in place; `weights` are ``(n_rows,)``."""
        of_count = self.count / self._sum
        # x / rate - x / (theta + rate), without the difference
        rate_slope = of_count * self.theta / (self.rate + EPS)
        theta_slope = self._gamma[1] - of_count
        of_cell = weights.view(len(self.rate), self.nonzeros.shape[0]).index_select(-1, self.nonzeros.cell)
        if by_logits is not None:
            # a nonzero count was not dropped: its share of values that were not dropped is one
            lost = torch.sigmoid(self._lost_or_zero)
            minus_share = self._zero.minus_share()
            rate_slope.addcmul_(lost, minus_share)
            theta_slope.addcmul_(lost, self._zero.minus_slope(minus_share), value=-1)
            self._add(by_logits, lost.neg_().mul_(of_cell))
        self._add(by_rate, rate_slope.mul_(of_cell))
        theta_slope.mul_(of_cell)
        if self.row is None:
            self._add(by_theta, theta_slope)
        else:
            of_gene = torch.zeros_like(self.row).index_add_(0, self.nonzeros.gene, theta_slope.sum(0))
            by_theta.add_(of_gene.to(by_theta.dtype))

    def _add(self, total: Tensor, values: Tensor) -> None:
        n_entries = self.nonzeros.shape[0] * self.nonzeros.shape[1]
        total.view(len(values), n_entries).index_add_(-1, self.nonzeros.position, values.to(total.dtype))

    @cached_property
    def _sum(self) -> Tensor:
        return self.theta + self.rate + EPS

    @cached_property
    def _zero(self) -> Zero:
        return Zero.of(self.rate, self.theta)

    @cached_property
    def _lost_or_zero(self) -> Tensor:
        """Logit of dropout minus the log probability of a zero; a nonzero count excludes both."""
        assert self.logits is not None
        return torch.addcmul(self.logits, self._zero.log, self.theta)

    @cached_property
    def _gamma(self) -> tuple[Tensor, Tensor]:
        exact = torch.float32 if self.rate.device.type == "mps" else torch.float64
        count = self.count.to(exact)
        # needs the number of counts beyond the table
        if self.row is None or not answers_at_once(self.rate):
            value, slope = gamma_differences(count, self.theta.to(exact))
        else:
            value, slope = gamma_differences_of_row(count, self.row.to(exact), self.nonzeros.gene)
        return value.to(self.rate.dtype), slope.to(self.rate.dtype)
