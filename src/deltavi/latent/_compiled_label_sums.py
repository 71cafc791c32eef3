"""The sums over labels with all but the matrix products in compiled loops: single precision on a CPU."""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltavi.kernels import kernels
from deltavi.latent._label_sums import N_TENSORS, Network
from deltavi.latent.gaussian import VARIANCE_FLOOR

FLOOR = np.float32(VARIANCE_FLOOR)


def compiled_sums(*tensors: Tensor) -> ModuleType | None:
    """Module of kernels for these tensors; ``None`` where there is none."""
    if all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors):
        return kernels("labels")
    return None


class _Kept(Protocol):
    """Context of the function between both passes."""

    kernels: ModuleType
    pairs: tuple[np.ndarray, np.ndarray]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class CompiledLabelSums(torch.autograd.Function):
    """The same as :class:`deltavi.latent.LabelSums`, of codes ``(n_cells,)`` in place of pairs, and of a module."""

    @staticmethod
    def forward(
        ctx: _Kept, z1: Tensor, weights: Tensor, noise: Tensor, code: Tensor, found: ModuleType, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        posterior, conditional = Network.of(*tensors[:N_TENSORS]), Network.of(*tensors[N_TENSORS:])
        n_labels, n_cells, n_latent = noise.shape
        cell, label = _pairs(found, code, n_labels)
        n_pairs = len(cell)
        z1, weights, noise = z1.contiguous(), weights.contiguous(), noise.contiguous()
        hidden, hidden_z2 = (z1.new_empty(n_pairs, posterior.given.shape[0]) for _ in range(2))
        deviation, z2, pull = z1.new_empty(3, n_latent, n_pairs).unbind()
        terms, sums = z1.new_empty(2, n_pairs), z1.new_empty(2, n_cells)
        given = torch.addmm(posterior.bias, z1, posterior.given.T)
        found.hidden_layer(_a(given), cell, _a(posterior.columns.contiguous()), label, _a(hidden))
        heads, variable = posterior.heads_of(hidden)
        found.draw(_a(heads), _a(variable), _a(noise), cell, label, FLOOR, _a(deviation), _a(z2), _a(terms[1]))
        given = torch.addmm(conditional.bias, z2.T, conditional.given.T)
        found.hidden_layer(_a(given), np.arange(n_pairs), _a(conditional.columns.contiguous()), label, _a(hidden_z2))
        heads_z1, variable_z1 = conditional.heads_of(hidden_z2)
        of_density = _a(heads_z1), _a(variable_z1), _a(z1), _a(weights)
        found.density(*of_density, cell, label, FLOOR, _a(terms[1]), _a(pull), _a(terms[0]), _a(sums))
        ctx.kernels, ctx.pairs = found, (cell, label)
        ctx.save_for_backward(
            *(z1, weights, terms, *tensors), *(hidden, heads, variable, deviation, z2, hidden_z2, variable_z1, pull)
        )
        return sums[0], sums[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: _Kept, by_log_density: Tensor, by_kl: Tensor) -> tuple[Tensor | None, ...]:
        z1, weights, terms, *saved = ctx.saved_tensors
        tensors, inner = saved[: 2 * N_TENSORS], saved[2 * N_TENSORS :]
        hidden, heads, variable, deviation, z2, hidden_z2, variable_z1, pull = inner
        posterior, conditional = Network.of(*tensors[:N_TENSORS]), Network.of(*tensors[N_TENSORS:])
        found, (cell, label) = ctx.kernels, ctx.pairs
        by_terms, by_heads = torch.empty_like(terms), torch.empty_like(heads)
        by_weights, by_z1 = torch.empty_like(weights), torch.empty_like(z1)
        by_sums = torch.stack([by_log_density, by_kl])
        of_pairs = _a(by_sums), _a(weights), cell, label, FLOOR, _a(variable_z1), _a(pull), _a(terms)
        found.density_back(*of_pairs, _a(by_terms), _a(by_weights), _a(by_heads), _a(by_z1))
        n_cells = len(z1)
        by_hidden_z2, _, by_conditional = _layer_back(found, conditional, by_heads, hidden_z2, (cell, label, n_cells))
        by_z2 = conditional.given.T @ by_hidden_z2.T
        by_conditional[0] = by_hidden_z2.T @ z2.T
        found.draw_back(*(_a(by_z2), _a(by_terms), _a(heads), _a(variable), FLOOR, _a(deviation)), _a(by_heads))
        _, by_given, by_posterior = _layer_back(found, posterior, by_heads, hidden, (cell, label, n_cells))
        by_posterior[0] = by_given.T @ z1
        by_z1 = by_z1.addmm_(by_given, posterior.given)
        return by_z1, by_weights, None, None, None, *by_posterior, *by_conditional


def _pairs(found: ModuleType, code: Tensor, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Cell and label of every pair."""
    cell, label = np.empty((2, len(code) * n_labels), dtype=np.int64)
    n_pairs = found.pairs_of(_a(code.contiguous()), n_labels, cell, label)
    return cell[:n_pairs], label[:n_pairs]


def _layer_back(
    found: ModuleType,
    network: Network,
    by_heads: Tensor,
    hidden: Tensor,
    pairs: tuple[np.ndarray, np.ndarray, int],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients by what enters the hidden layer of every pair, their sums over those of a cell, and by all tensors.

    The place of the first of these, the weights of the first layer, is left for the caller.
    """
    cell, label, n_cells = pairs
    by_hidden = by_heads.T @ network.heads
    by_columns = torch.empty_like(network.columns, memory_format=torch.contiguous_format)
    by_rows = hidden.new_empty(n_cells, hidden.shape[-1])
    found.hidden_back(_a(by_hidden), _a(hidden), cell, label, _a(by_rows), _a(by_columns))
    by_weights, by_biases = by_heads @ hidden, by_heads.sum(-1)
    n_latent = len(by_heads) // 2
    of_heads = (by_weights[:n_latent], by_biases[:n_latent], by_weights[n_latent:], by_biases[n_latent:])
    return by_hidden, by_rows, [by_rows, by_columns.sum(0), by_columns, *of_heads]


def _a(tensor: Tensor) -> np.ndarray:
    """Values of a tensor without gaps, which the array shares."""
    return tensor.detach().numpy()
