"""Encoders, priors and their KL terms against torch.distributions and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from deltavi.latent import (
    Architecture,
    GaussianEncoder,
    LibraryPrior,
    gaussian_state,
    learned_library_state,
    library_encoder,
    observed_log_library,
    soft_one_hot,
)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(0))


def encoder(**kwargs: object) -> GaussianEncoder:
    torch.manual_seed(0)
    return GaussianEncoder(6, 3, architecture=Architecture(n_hidden=8, dropout_rate=0.0, **kwargs)).eval()


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_kl_is_the_closed_form_and_agrees_with_monte_carlo(x: torch.Tensor, n_layers: int) -> None:
    net = encoder(n_layers=n_layers)
    with torch.no_grad():
        state = gaussian_state(net, x)
        prior = Normal(0.0, 1.0)
        torch.testing.assert_close(state.kl["z"], kl_divergence(state.posterior, prior).sum(-1))
        draws = state.posterior.sample((60_000,))
        ratio = (state.posterior.log_prob(draws) - prior.log_prob(draws)).sum(-1)
    error = ratio.std(0) / 60_000**0.5
    assert ((ratio.mean(0) - state.kl["z"]).abs() < 5 * error).all()


def test_samples_have_their_axis_and_gradients(x: torch.Tensor) -> None:
    net = encoder()
    assert gaussian_state(net, x).sample.shape == (9, 3)
    state = gaussian_state(net, x, n_samples=5)
    assert state.sample.shape == (5, 9, 3)
    state.sample.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_point_estimate_has_no_spread(x: torch.Tensor) -> None:
    net = GaussianEncoder(6, 3, architecture=Architecture(), posterior="deterministic").eval()
    state = gaussian_state(net, x, n_samples=4)
    assert torch.equal(state.sample[0], state.sample[3])
    assert (state.kl["z"] == 0).all()
    assert (state.posterior.scale > 0).all()


def test_covariates_reach_every_depth(x: torch.Tensor) -> None:
    for n_layers in (0, 2):
        torch.manual_seed(0)
        net = GaussianEncoder(6, 3, architecture=Architecture(n_layers=n_layers), covariates=(2,)).eval()
        means = [net(x, soft_one_hot(torch.full((9, 1), code), 2)).posterior.loc for code in (0, 1)]
        assert not torch.allclose(means[0], means[1])


def test_soft_one_hot_averages_what_is_unseen() -> None:
    weights = soft_one_hot(torch.tensor([[0], [2], [-1]]), 3)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3]]))


def test_observed_library_counts_an_empty_cell_as_one_molecule() -> None:
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    torch.testing.assert_close(observed_log_library(x), torch.tensor([[np.log(3.0)], [0.0]]).float())


def test_library_prior_by_batch_and_for_an_unseen_one() -> None:
    prior = LibraryPrior(np.array([[1.0, 3.0]]), np.array([[0.25, 1.0]]))
    drawn = prior(torch.tensor([[0], [1], [-1]]))
    torch.testing.assert_close(drawn.loc.ravel(), torch.tensor([1.0, 3.0, 2.0]))
    torch.testing.assert_close(drawn.variance.ravel(), torch.tensor([0.25, 1.0, 0.625]))


def test_learned_library_kl_against_the_batch_prior(x: torch.Tensor) -> None:
    torch.manual_seed(0)
    net = library_encoder(6, Architecture(n_layers=3, n_hidden=8), ()).eval()
    assert len(net.encoder.fc_layers) == 1
    prior = LibraryPrior(np.array([[1.0, 3.0]]), np.array([[0.25, 1.0]]))
    batch = torch.tensor([[0], [1]] * 4 + [[1]])
    state = learned_library_state(net, prior, x, batch=batch)
    assert state.sample.shape == (9, 1)
    torch.testing.assert_close(state.kl["l"], kl_divergence(state.posterior, prior(batch)).sum(-1))
