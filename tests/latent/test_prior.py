"""Priors of z against torch.distributions and Monte Carlo sums."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from deltavi.latent import PRIORS, GaussianState, Given, Prior, PriorKind, StandardNormal, VampPrior

N_CELLS, N_LATENT, N_GENES = 7, 3, 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encode(rows: Tensor) -> Normal:
    """A linear posterior, in place of that of a network."""
    weights = torch.randn(N_GENES, N_LATENT, generator=generator(3), dtype=rows.dtype)
    return Normal(rows @ weights, (0.3 * rows @ weights.abs()).sigmoid() + 0.2)


@pytest.fixture
def given() -> Given:
    return Given(encode, torch.zeros(N_CELLS, 1, dtype=torch.long))


@pytest.fixture
def posterior() -> Normal:
    return Normal(
        torch.randn(N_CELLS, N_LATENT, generator=generator(1)).double(),
        torch.rand(N_CELLS, N_LATENT, generator=generator(2)).double() + 0.1,
    )


def vamp(n: int = 4) -> VampPrior:
    prior = VampPrior(N_GENES, n).double()
    prior.initialise(lambda k: torch.rand(k, N_GENES, generator=generator(5)).double())
    return prior


def as_mixture(prior: VampPrior) -> MixtureSameFamily:
    components = encode(prior.pseudo_inputs.detach())
    return MixtureSameFamily(Categorical(torch.ones(len(prior.pseudo_inputs))), Independent(components, 1))


@pytest.mark.parametrize("shape", [(N_CELLS, N_LATENT), (6, N_CELLS, N_LATENT)])
def test_a_vamp_prior_is_the_mixture_of_its_encoded_pseudo_inputs(given: Given, shape: tuple[int, ...]) -> None:
    prior, z = vamp(), torch.randn(shape, generator=generator(4)).double()
    torch.testing.assert_close(prior.log_prob(z, given), as_mixture(prior).log_prob(z))


def test_a_vamp_prior_sums_to_one(given: Given) -> None:
    prior = vamp()
    proposal = Normal(torch.zeros(N_LATENT).double(), 4.0)
    torch.manual_seed(0)
    z = proposal.sample((200_000,))
    ratio = (prior.log_prob(z, given) - proposal.log_prob(z).sum(-1)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(len(ratio))
    assert ratio.std() / math.sqrt(len(ratio)) < 0.02


@pytest.mark.parametrize("prior", [StandardNormal(), vamp()], ids=["normal", "vamp"])
def test_the_divergence_is_that_of_a_monte_carlo_sum(prior: Prior, given: Given, posterior: Normal) -> None:
    torch.manual_seed(0)
    draws = posterior.sample((40_000,))
    ratios = posterior.log_prob(draws).sum(-1) - prior.log_prob(draws, given)
    kl = prior.kl(GaussianState(sample=posterior.sample((40_000,)), posterior=posterior), given).detach()
    error = ratios.std(0) / math.sqrt(len(ratios))
    assert kl.shape == (N_CELLS,)
    assert ((kl - ratios.mean(0)).abs() < 6 * error).all()


def test_the_divergence_from_a_standard_normal_is_exact(given: Given, posterior: Normal) -> None:
    state = GaussianState(sample=posterior.sample(), posterior=posterior)
    torch.testing.assert_close(StandardNormal().kl(state, given), kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1))


def test_one_pseudo_input_that_is_the_cell_costs_nothing(given: Given) -> None:
    prior = vamp(1)
    own = encode(prior.pseudo_inputs.detach()).expand((N_CELLS, N_LATENT))
    torch.manual_seed(0)
    divergence = prior.kl(GaussianState(sample=own.sample((20_000,)), posterior=own), given)
    torch.testing.assert_close(divergence, torch.zeros_like(divergence), atol=0.05, rtol=0)


def test_gradients_reach_pseudo_inputs_and_draws(given: Given, posterior: Normal) -> None:
    prior, z = vamp(), posterior.rsample().requires_grad_()
    prior.log_prob(z, given).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().min() > 0
    assert prior.pseudo_inputs.grad is not None
    assert prior.pseudo_inputs.grad.abs().sum() > 0


def test_a_prior_of_a_users_own_needs_its_density_only(given: Given, posterior: Normal) -> None:
    class Wide(Prior):
        def log_prob(self, z: Tensor, given: Given) -> Tensor:
            return Normal(0.0, 2.0).log_prob(z).sum(-1)

    draws = posterior.sample((40_000,))
    exact = kl_divergence(posterior, Normal(0.0, 2.0)).sum(-1)
    kl = Wide().kl(GaussianState(sample=draws, posterior=posterior), given)
    torch.testing.assert_close(kl, exact, atol=0.05, rtol=0)


def test_names_of_priors_are_those_of_the_type() -> None:
    assert get_args(PriorKind) == tuple(PRIORS)


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_made_for_a_size(name: PriorKind, given: Given, posterior: Normal) -> None:
    prior = PRIORS[name].of_size(n_input=N_GENES, n_latent=N_LATENT, n_components=4).double()
    prior.initialise(lambda k: torch.rand(k, N_GENES, generator=generator(5)).double())
    kl = prior.kl(GaussianState(sample=posterior.sample(), posterior=posterior), given)
    assert kl.shape == (N_CELLS,)
    assert torch.isfinite(kl).all()
    # components that are not asked for are not there
    assert all(len(value) == 4 for value in prior.parameters())
