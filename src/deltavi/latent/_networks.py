"""Fully connected stacks over scvi-tools' FCLayers, down to depth zero.

scArches recognises scvi-tools' own FCLayers by type and freezes by parameter name; building on them keeps
query mapping working.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from scvi.nn import FCLayers
from torch import Tensor, nn

# Axes of a mini-batch; several samples of it have one more.
MATRIX = 2
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


@dataclass(frozen=True)
class Architecture:
    """Shape of one stack of hidden layers.

    Parameters
    ----------
    n_layers
        Hidden layers; zero makes the map linear.
    n_hidden
        Units of each hidden layer.
    dropout_rate
        Dropout after each hidden layer.
    batch_norm, layer_norm
        Normalisation after each linear map.
    inject_covariates
        Give covariates to every hidden layer, not only to the first.
    activation
        ``"relu"`` or ``"leaky_relu"``.
    bias
        Bias of the linear maps.
    """

    n_layers: int = 1
    n_hidden: int = 128
    dropout_rate: float = 0.1
    batch_norm: bool = True
    layer_norm: bool = False
    inject_covariates: bool = True
    activation: Literal["relu", "leaky_relu"] = "relu"
    bias: bool = True


class Layers(FCLayers):
    """scvi-tools' layers, which do not copy their input where no covariate is appended to it."""

    def forward(self, x: Tensor, *covariates: Tensor, cont: Tensor | None = None) -> Tensor:
        """Output of the layers at `x` ``(n_cells, n_input)``, given one-hot rows of every covariate."""
        if self.n_cov or x.dim() > MATRIX or len(covariates) < len(self.n_cat_list):
            return super().forward(x, *covariates, cont=cont)
        for block in self.fc_layers:
            for layer in block:
                x = x if layer is None else layer(x)
        return x


def hidden_layers(n_input: int, architecture: Architecture, covariates: tuple[int, ...]) -> FCLayers | None:
    """Hidden stack from `n_input` to ``architecture.n_hidden``, or ``None`` for a linear map.

    Parameters
    ----------
    n_input
        Width of the input.
    architecture
        Shape of the stack.
    covariates
        Number of categories of every covariate.
    """
    if architecture.n_layers == 0:
        return None
    return Layers(
        n_in=n_input,
        n_out=architecture.n_hidden,
        n_cat_list=list(covariates),
        n_layers=architecture.n_layers,
        n_hidden=architecture.n_hidden,
        dropout_rate=architecture.dropout_rate,
        use_batch_norm=architecture.batch_norm,
        use_layer_norm=architecture.layer_norm,
        inject_covariates=architecture.inject_covariates,
        activation_fn=ACTIVATIONS[architecture.activation],
        bias=architecture.bias,
    )


def linear_layer(
    n_input: int, n_output: int, *, architecture: Architecture, covariates: tuple[int, ...]
) -> Callable[[], nn.Module]:
    """Factory of output layers: on the hidden stack, or straight on input and covariates at depth zero.

    Parameters
    ----------
    n_input, n_output
        Width of the input of the stack, and of the output.
    architecture
        Shape of the stack that the layers end.
    covariates
        Number of categories of every covariate.
    """
    if architecture.n_layers > 0:
        return lambda: nn.Linear(architecture.n_hidden, n_output, bias=architecture.bias)
    return lambda: Layers(
        n_in=n_input,
        n_out=n_output,
        n_cat_list=list(covariates),
        n_layers=1,
        dropout_rate=0.0,
        use_batch_norm=False,
        use_activation=False,
        bias=architecture.bias,
    )


def run_layers(layers: nn.Module, x: Tensor, covariates: tuple[Tensor, ...]) -> Tensor:
    """Apply `layers`, handing covariates to those that take them.

    Parameters
    ----------
    layers
        As :func:`hidden_layers` or :func:`linear_layer` makes them.
    x
        ``([n_samples,] n_cells, n_input)``.
    covariates
        ``(n_cells, n_categories)`` one-hot rows of every covariate.
    """
    output = layers(x, *covariates) if isinstance(layers, FCLayers) else layers(x)
    return output  # type: ignore[no-any-return]


def soft_one_hot(code: Tensor, n_categories: int) -> Tensor:
    """One-hot rows of `code`; the code -1 of an unseen category becomes the average category.

    Parameters
    ----------
    code
        ``(n_cells, 1)`` category codes, -1 for a category absent from training.
    n_categories
        Number of categories.

    Returns
    -------
    ``(n_cells, n_categories)`` weights that sum to one.
    """
    if n_categories == 1:
        return torch.ones(code.shape[0], 1, device=code.device)
    eye = torch.eye(n_categories, device=code.device)
    table = torch.cat([eye, torch.full((1, n_categories), 1.0 / n_categories, device=code.device)])
    return table[code.long().squeeze(-1)]
