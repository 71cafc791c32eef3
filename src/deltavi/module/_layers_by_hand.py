"""Hidden layers, and their gradients, without a graph of automatic differentiation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from scvi.nn import FCLayers
from torch import Tensor, nn

# Gradients by weight; a module has a dozen weights.
Gradients: TypeAlias = dict[Tensor, Tensor]
aten = torch.ops.aten


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Output of a linear map with a bias, ``(n_cells, n_output)``."""
    return torch.addmm(layer.bias, x, layer.weight.t())


def linear_slopes(layer: nn.Linear, x: Tensor, by_output: Tensor, gradients: Gradients) -> None:
    """Put the gradients of the weights of `layer`, whose input was `x`, into `gradients`."""
    gradients[layer.weight] = by_output.t() @ x
    gradients[layer.bias] = by_output.sum(0)


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """Linear map, batch normalisation, rectifier and dropout.

    Parameters
    ----------
    linear
        The map; inputs beyond those of the layer before are covariates.
    norm
        Normalisation, where there is one.
    dropout
        Probability that a unit is left out.
    """

    linear: nn.Linear
    norm: nn.BatchNorm1d | None
    dropout: float

    @classmethod
    def of(cls, block: Iterable[nn.Module | None]) -> HiddenLayer | None:
        """The same layer as a block of scvi-tools; ``None`` if it has other parts."""
        parts = [part for part in block if part is not None]
        linear, norm, dropout = parts[0], None, 0.0
        for part in parts[1:]:
            if type(part) is nn.BatchNorm1d:
                norm = part
            elif type(part) is nn.Dropout:
                dropout = part.p
            elif type(part) is not nn.ReLU:
                return None
        usual = type(linear) is nn.Linear and linear.bias is not None and any(type(p) is nn.ReLU for p in parts)
        if not usual or (norm is not None and not _normalises(norm)) or not 0 <= dropout < 1:
            return None
        assert isinstance(linear, nn.Linear)
        return cls(linear, norm, dropout)

    def run(self, x: Tensor, covariates: list[Tensor]) -> Ran:
        """Output at `x` ``(n_cells, n_units)``; running means are updated, and dropout draws as torch's does."""
        if self.linear.in_features > x.shape[1]:
            x = torch.cat((x, *covariates), dim=1)
        mapped = linear(self.linear, x)
        if self.norm is None:
            rectified, moments = mapped.clamp_min(0), None
        else:
            norm = self.norm
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.add_(1)
            rectified, *moments = aten.native_batch_norm(
                *(mapped, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps)
            )
            rectified.clamp_min_(0)
        kept = None
        if self.dropout:
            kept = torch.empty_like(rectified).bernoulli_(1 - self.dropout).div_(1 - self.dropout)
        return Ran(self, x, mapped, moments, rectified, kept, rectified if kept is None else rectified * kept)


@dataclass(frozen=True, eq=False)
class Ran:
    """Values of a layer that its gradients need.

    Parameters
    ----------
    layer
        The layer.
    x, mapped, rectified, output
        Values before the layer, and after each of its parts.
    moments
        Mean and inverse standard deviation of `mapped`, if it was normalised.
    kept
        Factors of dropout.
    """

    layer: HiddenLayer
    x: Tensor
    mapped: Tensor
    moments: list[Tensor] | None
    rectified: Tensor
    kept: Tensor | None
    output: Tensor

    def slopes(self, by_output: Tensor, gradients: Gradients) -> Tensor:
        """Gradient by the output of the linear map; those of the weights are put into `gradients`."""
        layer, norm = self.layer, self.layer.norm
        by_rectified = by_output if self.kept is None else by_output * self.kept
        by_mapped = aten.threshold_backward(by_rectified, self.rectified, 0)
        if norm is not None and self.moments is not None:
            by_mapped, gradients[norm.weight], gradients[norm.bias] = aten.native_batch_norm_backward(
                *(by_mapped, self.mapped, norm.weight, norm.running_mean, norm.running_var, *self.moments),
                *(True, norm.eps, [True, True, True]),
            )
        linear_slopes(layer.linear, self.x, by_mapped, gradients)
        found: Tensor = by_mapped
        return found


def layers_of(stack: FCLayers | None) -> list[HiddenLayer] | None:
    """Layers of a stack of scvi-tools; ``None`` if there are none, or one has parts that are not known here."""
    if stack is None:
        return None
    found = [HiddenLayer.of(block) for block in stack.fc_layers]
    return None if None in found else [layer for layer in found if layer is not None]


def back_through(ran: list[Ran], by_output: Tensor, gradients: Gradients, n_input: int | None) -> Tensor | None:
    """Gradient by the first `n_input` inputs of a stack; ``None`` if they are not asked for."""
    for index in range(len(ran) - 1, -1, -1):
        by_mapped = ran[index].slopes(by_output, gradients)
        wanted = ran[index - 1].output.shape[1] if index else n_input
        if wanted is None:
            return None
        by_output = by_mapped @ ran[index].layer.linear.weight[:, :wanted]
    return by_output


def _normalises(norm: nn.BatchNorm1d) -> bool:
    """True if a normalisation scales its output, and keeps running means with a fixed weight."""
    return norm.affine and norm.track_running_stats and norm.momentum is not None
