"""Layers skip what scvi-tools' layers do for covariates that are not there, and answer the same."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from scvi.nn import FCLayers
from torch import Tensor

from deltavi.latent._networks import Architecture, Layers, hidden_layers, linear_layer

N_CELLS, N_INPUT = 9, 6
STACKS = [
    Architecture(n_layers=n, n_hidden=5, batch_norm=batch, layer_norm=layer, inject_covariates=inject, activation=name)
    for n, (batch, layer), inject, name in itertools.product(
        (1, 3), ((True, False), (False, True), (False, False)), (True, False), ("relu", "leaky_relu")
    )
]


def rows_of(covariates: tuple[int, ...], shape: tuple[int, ...]) -> list[Tensor]:
    """Rows that weigh the categories of each covariate, as one-hot rows and averages do."""
    return [torch.rand(*shape, n).softmax(-1) for n in covariates]


def assert_same(layers: FCLayers, x: Tensor, *covariates: Tensor, cont: Tensor | None = None) -> None:
    """Output, gradients and running means are those of scvi-tools' own forward, while training and after."""
    assert isinstance(layers, Layers)
    theirs = copy.deepcopy(layers)
    for training in (True, False):
        outputs = []
        for one, forward in ((layers, Layers.forward), (theirs, FCLayers.forward)):
            torch.manual_seed(0)
            outputs.append(forward(one.train(training), x, *covariates, cont=cont))
            outputs[-1].square().sum().backward()
        torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    for own, other in zip(layers.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=0)
    for own, other in zip(layers.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(N_CELLS,), (3, N_CELLS)], ids=["cells", "samples of cells"])
@pytest.mark.parametrize("covariates", [(), (1,), (4,), (1, 1), (1, 4), (2, 3)], ids=str)
def test_hidden_layers_are_those_of_scvi(covariates: tuple[int, ...], shape: tuple[int, ...]) -> None:
    for seed, stack in enumerate(STACKS):
        torch.manual_seed(seed)
        layers = hidden_layers(N_INPUT, stack, covariates)
        assert layers is not None
        rows = rows_of(covariates, (N_CELLS,))
        assert_same(layers, torch.randn(*shape, N_INPUT), *rows)


@pytest.mark.parametrize("covariates", [(), (1,), (4,), (2, 3)], ids=str)
def test_a_linear_map_is_that_of_scvi(covariates: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    layers = linear_layer(N_INPUT, 4, architecture=Architecture(n_layers=0), covariates=covariates)()
    assert isinstance(layers, FCLayers)
    assert_same(layers, torch.randn(N_CELLS, N_INPUT), *rows_of(covariates, (N_CELLS,)))


@pytest.mark.parametrize("covariates", [(), (3,)], ids=str)
def test_continuous_covariates_are_those_of_scvi(covariates: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    layers = Layers(n_in=N_INPUT, n_out=4, n_cat_list=list(covariates), n_cont=2, n_layers=2, n_hidden=5)
    assert_same(layers, torch.randn(N_CELLS, N_INPUT), *rows_of(covariates, (N_CELLS,)), cont=torch.randn(N_CELLS, 2))


def test_a_covariate_that_is_missing_is_refused_as_by_scvi() -> None:
    layers = hidden_layers(N_INPUT, Architecture(), (1, 3))
    assert layers is not None
    for forward in (Layers.forward, FCLayers.forward):
        with pytest.raises(ValueError, match="doesn't match"):
            forward(layers, torch.randn(N_CELLS, N_INPUT))
