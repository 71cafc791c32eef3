"""Sums over labels of log p(z1 | z2, y) and of the divergence of z2, with analytic gradients, as one function.

A cell whose label is known takes part with that label alone, any other with all of them. Nothing but the hidden layers
of both networks and what lies between them is kept for the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltavi.latent.gaussian import VARIANCE_FLOOR

# Tensors of one network: first layer, columns of the labels, and both heads.
N_TENSORS = 7


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a cell and a label that the sums are over: first all labels of unlabelled cells, label by label.

    Parameters
    ----------
    unknown, known
        ``(n_unknown,)`` and ``(n_known,)`` rows of cells without and with a label.
    label
        ``(n_known,)`` label of the latter.
    n_labels
        Number of labels.
    """

    unknown: Tensor
    known: Tensor
    label: Tensor
    n_labels: int

    @classmethod
    def of(cls, code: Tensor, n_labels: int) -> Pairs:
        """Pairs of the cells with these codes ``(n_cells,)``, -1 where the label is unknown."""
        is_known = code >= 0
        known = is_known.nonzero().squeeze(-1)
        return cls((~is_known).nonzero().squeeze(-1), known, code[known], n_labels)

    @property
    def n_dense(self) -> int:
        """Pairs of unlabelled cells."""
        return self.n_labels * len(self.unknown)

    def of_cells(self, values: Tensor) -> Tensor:
        """Values of cells ``(..., n_cells)`` for every pair, ``(..., n_pairs)``."""
        dense = values[..., self.unknown].repeat(*[1] * (values.dim() - 1), self.n_labels)
        return torch.cat([dense, values[..., self.known]], dim=-1)

    def chosen(self, values: Tensor) -> Tensor:
        """Values of every pair ``(..., n_pairs)`` of those of labels and cells ``(..., n_labels, n_cells)``."""
        dense = values[..., self.unknown].flatten(-2)
        return torch.cat([dense, values[..., self.label, self.known]], dim=-1)

    def summed(self, values: Tensor) -> Tensor:
        """Sums of ``(..., n_pairs)`` over the pairs of each cell, ``(..., n_cells)``."""
        out = values.new_empty(*values.shape[:-1], len(self.unknown) + len(self.known))
        dense = values[..., : self.n_dense].reshape(*values.shape[:-1], self.n_labels, len(self.unknown))
        out[..., self.unknown] = dense.sum(-2)
        out[..., self.known] = values[..., self.n_dense :]
        return out

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``(n_pairs, n_hidden)`` by label and unlabelled cell, and those of labelled cells."""
        dense = values[: self.n_dense].view(self.n_labels, len(self.unknown), values.shape[-1])
        return dense, values[self.n_dense :]

    def with_columns(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Positive part of a row of each cell plus a column of each label, ``(n_pairs, n_hidden)``."""
        out = rows.new_empty(self.n_dense + len(self.known), rows.shape[-1])
        dense, rest = self._parts(out)
        torch.add(rows[self.unknown].unsqueeze(0), columns.unsqueeze(1), out=dense)
        torch.add(rows[self.known], columns[self.label], out=rest)
        return out.relu_()

    def add_columns(self, values: Tensor, columns: Tensor) -> Tensor:
        """Positive part of `values` ``(n_pairs, n_hidden)``, which are overwritten, plus a column of each label."""
        dense, rest = self._parts(values)
        dense.add_(columns.unsqueeze(1))
        rest.add_(columns[self.label])
        return values.relu_()

    def of_each_cell(self, values: Tensor) -> Tensor:
        """Sums of ``(n_pairs, n_hidden)`` over the pairs of each cell, ``(n_cells, n_hidden)``."""
        dense, rest = self._parts(values)
        out = values.new_empty(len(self.unknown) + len(self.known), values.shape[-1])
        out[self.unknown], out[self.known] = dense.sum(0), rest
        return out

    def of_each_label(self, values: Tensor) -> Tensor:
        """Sums of ``(n_pairs, n_hidden)`` over the pairs of each label, ``(n_labels, n_hidden)``."""
        dense, rest = self._parts(values)
        return dense.sum(1).index_add_(0, self.label, rest)


@dataclass(frozen=True, eq=False)
class _Network:
    """Tensors of a :class:`deltavi.latent.LabelConditional`, both heads in one."""

    given: Tensor
    bias: Tensor
    columns: Tensor
    heads: Tensor
    heads_bias: Tensor

    @classmethod
    def of(cls, given: Tensor, bias: Tensor, columns: Tensor, *heads: Tensor) -> _Network:
        mean, mean_bias, log_variance, log_variance_bias = heads
        return cls(given, bias, columns, torch.cat([mean, log_variance]), torch.cat([mean_bias, log_variance_bias]))

    def out(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and its variable part of every pair, ``(n_latent, n_pairs)`` each."""
        mean, log_variance = torch.addmm(self.heads_bias.unsqueeze(-1), self.heads, hidden.T).chunk(2)
        variable = log_variance.exp()
        return mean, variable + VARIANCE_FLOOR, variable

    def back(self, by_heads: Tensor, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients by what enters the hidden layer, and by mean and log variance heads with their biases.

        `by_heads` ``(2 * n_latent, n_pairs)`` are those by mean and log variance.
        """
        by_hidden: Tensor = torch.ops.aten.threshold_backward(by_heads.T @ self.heads, hidden, 0)
        by_mean_head, by_other_head = (by_heads @ hidden).chunk(2)
        by_bias, by_other_bias = by_heads.sum(-1).chunk(2)
        return by_hidden, [by_mean_head, by_bias, by_other_head, by_other_bias]


class _Kept(Protocol):
    """Context of the function between both passes."""

    pairs: Pairs
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class LabelSums(torch.autograd.Function):
    """Weighted sums over labels of log p(z1 | z2, y) and of KL[q(z2 | z1, y) || N(0, I)], ``(n_cells,)`` nats each.

    The arguments are z1 ``(n_cells, n_latent)``, weights ``(n_cells, n_labels)``, which are constants where the label
    is known, standard normal noise ``(n_labels, n_cells, n_latent)``, the :class:`Pairs`, and the tensors of q(z2 | z1,
    y) and p(z1 | z2, y). Within, the values of a dimension lie side by side, for all pairs.
    """

    @staticmethod
    def forward(
        ctx: _Kept, z1: Tensor, weights: Tensor, noise: Tensor, pairs: Pairs, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        posterior, conditional = _Network.of(*tensors[:N_TENSORS]), _Network.of(*tensors[N_TENSORS:])
        hidden = pairs.with_columns(torch.addmm(posterior.bias, z1, posterior.given.T), posterior.columns)
        mean, variance, variable = posterior.out(hidden)
        deviation = variance.sqrt().mul_(pairs.chosen(noise.permute(2, 0, 1)))
        z2 = mean + deviation
        kl = (variance - variance.log()).addcmul_(mean, mean).sum(0).sub_(len(mean)).mul_(0.5)
        hidden_z2 = torch.addmm(conditional.bias, z2.T, conditional.given.T)
        hidden_z2 = pairs.add_columns(hidden_z2, conditional.columns)
        centre, spread, variable_z1 = conditional.out(hidden_z2)
        apart = pairs.of_cells(z1.T).sub_(centre)
        pull = apart / spread
        log_density = spread.log().addcmul_(apart, pull).sum(0).add_(len(mean) * math.log(2 * math.pi)).mul_(-0.5)
        over = pairs.chosen(weights.T)
        ctx.pairs = pairs
        ctx.save_for_backward(
            *(z1, over, log_density, kl, *tensors),
            *(hidden, mean, variance, variable, deviation, z2, hidden_z2, apart, pull, variable_z1 / spread),
        )
        return pairs.summed(over * log_density), pairs.summed(over * kl)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Kept, by_log_density: Tensor, by_kl: Tensor) -> tuple[Tensor | None, ...]:
        z1, over, log_density, kl, *saved = ctx.saved_tensors
        tensors, inner = saved[: 2 * N_TENSORS], saved[2 * N_TENSORS :]
        pairs: Pairs = ctx.pairs
        of_density, of_kl = pairs.of_cells(torch.stack([by_log_density, by_kl]))
        by_weights = torch.zeros_like(z1[:, :1]).repeat(1, pairs.n_labels)
        of_weights = (of_density * log_density).addcmul_(of_kl, kl)[: pairs.n_dense]
        by_weights[pairs.unknown] = of_weights.view(pairs.n_labels, len(pairs.unknown)).T
        by_z1, by_tensors = _gradients(z1, pairs, (of_density * over, of_kl * over), tensors, inner)
        return by_z1, by_weights, None, None, *by_tensors


def _gradients(
    z1: Tensor, pairs: Pairs, by_pairs: tuple[Tensor, Tensor], tensors: Sequence[Tensor], inner: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Gradients by z1 and by the tensors of both networks, from those by both terms of every pair."""
    posterior, conditional = _Network.of(*tensors[:N_TENSORS]), _Network.of(*tensors[N_TENSORS:])
    hidden, mean, variance, variable, deviation, z2, hidden_z2, apart, pull, share = inner
    by_density, by_kl = by_pairs
    # log p(z1 | z2, y), by its mean and log variance
    by_centre = pull * by_density
    by_log_spread = (pull * apart).sub_(1).mul_(share).mul_(by_density * 0.5)
    by_hidden_z2, by_heads_z2 = conditional.back(torch.cat([by_centre, by_log_spread]), hidden_z2)
    # z2 by way of that density, and the divergence directly
    by_z2 = conditional.given.T @ by_hidden_z2.T
    by_mean = torch.addcmul(by_z2, mean, by_kl)
    by_variance = (by_z2 * deviation).add_((variance - 1).mul_(by_kl)).mul_(variable / variance).mul_(0.5)
    by_hidden, by_heads = posterior.back(torch.cat([by_mean, by_variance]), hidden)
    by_given = pairs.of_each_cell(by_hidden)
    by_columns, by_columns_z2 = pairs.of_each_label(by_hidden), pairs.of_each_label(by_hidden_z2)
    by_z1 = torch.addmm(pairs.summed(by_centre).T, by_given, posterior.given, beta=-1)
    return by_z1, [
        *(by_given.T @ z1, by_given.sum(0), by_columns, *by_heads),
        *(by_hidden_z2.T @ z2.T, by_columns_z2.sum(0), by_columns_z2, *by_heads_z2),
    ]
