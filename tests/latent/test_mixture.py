"""The mixture prior against loops over components, torch.distributions and the optimum of the sampled form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Dirichlet, MixtureSameFamily, Normal, kl_divergence

from deltavi.errors import DeltaviError
from deltavi.latent import (
    LabelWeights,
    MixtureComponents,
    Usage,
    balanced_term,
    check_mixture,
    collapsed_term,
    component_log_joint,
    dirichlet_term,
    label_weights,
    latent_term,
    prior_term,
)

K, N_CELLS, N_LATENT, N_W = 4, 6, 3, 2
UNKNOWN = torch.full((N_CELLS, 1), -1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moving() -> MixtureComponents:
    """Components that depend on w and on a condition of two levels, nothing of them at zero."""
    torch.manual_seed(0)
    built = MixtureComponents(K, N_LATENT, n_w=N_W, covariates=(2,), n_hidden=5).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(0.5 * drawn(*parameter.shape, seed=parameter.numel()))
    return built


def one_hot_rows() -> torch.Tensor:
    return torch.eye(2, dtype=torch.float64)[torch.arange(N_CELLS) % 2]


def still(seed: int = 1) -> Normal:
    """Components of every cell, ``(K, n_cells, n_latent)``."""
    return Normal(drawn(K, N_CELLS, N_LATENT, seed=seed), drawn(K, N_CELLS, N_LATENT, seed=seed + 1).exp())


def posterior() -> Normal:
    return Normal(drawn(N_CELLS, N_LATENT, seed=7), drawn(N_CELLS, N_LATENT, seed=8).exp())


def soft(seed: int = 3) -> LabelWeights:
    return label_weights(2 * drawn(N_CELLS, K, seed=seed), UNKNOWN)


# -- components ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [None, 3])
def test_components_equal_a_loop_over_them(n_samples: int | None) -> None:
    mixture, rows = moving(), one_hot_rows()
    shape = (N_CELLS,) if n_samples is None else (n_samples, N_CELLS)
    z, w = drawn(*shape, N_LATENT), drawn(*shape, N_W, seed=4)
    found = mixture(z, w, rows)
    assert found.loc.shape == (K, *shape, N_LATENT)
    given_ = torch.cat([w, rows.expand(*shape, 2)], dim=-1)
    for k in range(K):
        hidden = torch.relu(mixture.given(given_) + mixture.column[k])
        loc = mixture.loc[k] + mixture.loc_shift(hidden) + rows @ mixture.common
        variance = (mixture.log_variance[k] + mixture.log_variance_shift(hidden)).exp() + 1e-4
        torch.testing.assert_close(found.loc[k], loc)
        torch.testing.assert_close(found.scale[k], variance.sqrt())


@pytest.mark.parametrize("n_w", [0, N_W])
def test_components_start_where_they_are_placed(n_w: int) -> None:
    mixture = MixtureComponents(K, N_LATENT, n_w=n_w).double()
    means, variances = drawn(K, N_LATENT), drawn(K, N_LATENT, seed=1).exp()
    mixture.place(means, variances)
    found = mixture(drawn(N_CELLS, N_LATENT), drawn(N_CELLS, n_w) if n_w else None)
    for cell in range(N_CELLS):
        torch.testing.assert_close(found.loc[:, cell], means)
        torch.testing.assert_close(found.scale[:, cell] ** 2, variances)


def test_a_fresh_component_is_the_standard_normal_but_for_the_floor() -> None:
    found = MixtureComponents(1, N_LATENT).double()(drawn(N_CELLS, N_LATENT))
    assert (found.loc == 0).all()
    np.testing.assert_allclose(found.scale.detach(), math.sqrt(1 + 1e-4))


def test_every_parameter_learns() -> None:
    mixture, w = moving(), drawn(N_CELLS, N_W).requires_grad_()
    z = drawn(N_CELLS, N_LATENT)
    latent_term(mixture(z, w, one_hot_rows()), posterior(), z, weights=soft()).sum().backward()
    for name, parameter in mixture.named_parameters():
        assert (parameter.grad != 0).any(), name
    assert (w.grad != 0).any()


# -- the term of z -------------------------------------------------------------------------------------------


def test_closed_term_is_the_weighed_sum_of_divergences() -> None:
    components, weights = still(), soft()
    found = latent_term(components, posterior(), posterior().loc, weights=weights)
    expected = torch.zeros(N_CELLS, dtype=torch.float64)
    for k in range(K):
        component = Normal(components.loc[k], components.scale[k])
        expected += weights.values[:, k] * kl_divergence(posterior(), component).sum(-1)
    torch.testing.assert_close(found, expected)


def test_the_mean_of_sampled_terms_is_the_closed_one() -> None:
    """Where q(y | z) does not depend on the draw, the two have the same expectation."""
    torch.manual_seed(0)
    n, weights, q = 40_000, soft(), posterior()
    z = q.rsample((n,))
    components = Normal(still().loc.unsqueeze(1), still().scale.unsqueeze(1))
    repeated = LabelWeights(weights.values.expand(n, -1, -1), weights.entropy.expand(n, -1))
    sampled = latent_term(components, q, z, weights=repeated, how="mc")
    closed = latent_term(still(), q, q.loc, weights=weights)
    error = sampled.std(0) / math.sqrt(n)
    assert ((sampled.mean(0) - closed).abs() < 5 * error).all()


def test_a_known_component_is_the_only_one_that_counts() -> None:
    code = torch.arange(N_CELLS).view(-1, 1) % K
    weights = label_weights(drawn(N_CELLS, K), code)
    components = still()
    found = latent_term(components, posterior(), posterior().loc, weights=weights)
    own = Normal(
        components.loc[code.squeeze(), torch.arange(N_CELLS)], components.scale[code.squeeze(), torch.arange(N_CELLS)]
    )
    torch.testing.assert_close(found, kl_divergence(posterior(), own).sum(-1))


def test_log_joint_is_that_of_a_mixture() -> None:
    components, z = still(), drawn(N_CELLS, N_LATENT, seed=9)
    log_weights = drawn(K, seed=5).log_softmax(-1)
    found = component_log_joint(components, z, log_weights)
    per_cell = torch.distributions.Independent(Normal(components.loc.movedim(0, 1), components.scale.movedim(0, 1)), 1)
    mixture = MixtureSameFamily(Categorical(logits=log_weights.expand(N_CELLS, -1)), per_cell)
    torch.testing.assert_close(found.logsumexp(-1), mixture.log_prob(z))
    several = component_log_joint(
        Normal(components.loc.unsqueeze(1), components.scale.unsqueeze(1)), z.expand(2, -1, -1), log_weights
    )
    torch.testing.assert_close(several[1], found)


# -- the terms of y ------------------------------------------------------------------------------------------


def sampled_form(weights: LabelWeights, concentration: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """The two Dirichlet terms with the expectation of log d in closed form."""
    expected_log = torch.digamma(concentration) - torch.digamma(concentration.sum(-1, keepdim=True))
    divergence = kl_divergence(Dirichlet(concentration), Dirichlet(alpha.expand_as(concentration)))
    return -weights.entropy - (weights.values * expected_log).sum(-1) + divergence


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_collapsed_term_is_the_optimum_of_the_sampled_form(alpha: float) -> None:
    alphas = alpha * torch.arange(1, K + 1, dtype=torch.float64)
    weights = soft()
    best = alphas + weights.values
    found = collapsed_term(weights, alphas)
    torch.testing.assert_close(found, sampled_form(weights, best, alphas))
    for seed in range(5):
        other = best * (0.3 * drawn(N_CELLS, K, seed=seed)).exp()
        assert (sampled_form(weights, other, alphas) > found).all()


def test_dirichlet_term_has_the_sampled_forms_expectation() -> None:
    torch.manual_seed(0)
    n, alpha = 20_000, torch.full((K,), 0.7, dtype=torch.float64)
    weights, concentration = soft(), drawn(N_CELLS, K, seed=2).exp() + 0.5
    repeated = LabelWeights(weights.values.expand(n, -1, -1), weights.entropy.expand(n, -1))
    found = dirichlet_term(repeated, concentration.expand(n, -1, -1), alpha)
    error = found.std(0) / math.sqrt(n)
    assert ((found.mean(0) - sampled_form(weights, concentration, alpha)).abs() < 5 * error).all()


@given(alpha=st.floats(0.02, 20.0), code=st.integers(0, K - 1), raw=st.lists(st.floats(-6, 6), min_size=K, max_size=K))
def test_collapsed_term_of_a_label_is_minus_its_log_share_and_never_negative(
    alpha: float, code: int, raw: list[float]
) -> None:
    alphas = alpha * torch.arange(1, K + 1, dtype=torch.float64)
    logits = torch.tensor([raw], dtype=torch.float64)
    labelled = collapsed_term(label_weights(logits, torch.tensor([[code]])), alphas)
    assert float(labelled) == pytest.approx(-math.log(alphas[code] / alphas.sum()), rel=1e-9)
    # an expected negative log density ratio with the best q(d): a sum of divergences
    assert float(collapsed_term(label_weights(logits, torch.tensor([[-1]])), alphas)) >= -1e-9


@pytest.mark.parametrize("n_components", [3, 10, 30])
def test_a_sharp_answer_costs_less_than_a_uniform_one_for_small_alpha_only(n_components: int) -> None:
    def gain(alpha: float) -> float:
        """Nats by which a uniform q costs more than a sharp one."""
        logits = torch.zeros(1, n_components, dtype=torch.float64)
        alphas = torch.full((n_components,), alpha, dtype=torch.float64)
        uniform, sharp = (collapsed_term(label_weights(logits, torch.tensor([[c]])), alphas) for c in (-1, 0))
        return float(uniform - sharp)

    assert gain(0.15) > 0
    assert gain(0.35) < 0


def test_prior_term_is_the_divergence_from_the_prior() -> None:
    weights, log_prior = soft(), drawn(K, seed=5).log_softmax(-1)
    expected = kl_divergence(Categorical(probs=weights.values), Categorical(logits=log_prior.expand(N_CELLS, -1)))
    torch.testing.assert_close(prior_term(weights, log_prior), expected)


def test_balanced_term_is_zero_for_components_used_alike_and_log_k_for_one() -> None:
    sharp = label_weights(drawn(K, K), torch.arange(K).view(-1, 1))
    alike = torch.full((K,), 1 / K, dtype=torch.float64).log()
    torch.testing.assert_close(balanced_term(sharp, alike), torch.zeros(K, dtype=torch.float64))
    collapsed = label_weights(drawn(K, K), torch.zeros(K, 1))
    torch.testing.assert_close(balanced_term(collapsed, alike), torch.full((K,), math.log(K), dtype=torch.float64))
    weights = soft()
    mean = Categorical(probs=weights.values.mean(0))
    expected = kl_divergence(mean, Categorical(probs=torch.full((K,), 1 / K, dtype=torch.float64)))
    torch.testing.assert_close(balanced_term(weights, alike), expected.expand(N_CELLS))
    uneven = drawn(K, seed=3).log_softmax(-1)
    expected = kl_divergence(mean, Categorical(logits=uneven))
    torch.testing.assert_close(balanced_term(weights, uneven), expected.expand(N_CELLS))


def test_balanced_term_has_gradients_where_a_share_is_zero() -> None:
    logits = torch.zeros(6, 3, requires_grad=True)
    weights = label_weights(logits + torch.tensor([0.0, 0.0, -1e4]), torch.full((6, 1), -1))
    log_prior = torch.tensor([0.5, 0.5, 0.0]).log().clamp_min(-1e4)
    term = balanced_term(weights, log_prior).sum()
    term.backward()
    assert term.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(logits.grad).all()


# -- usage and settings --------------------------------------------------------------------------------------


def test_usage_counts_components() -> None:
    assert Usage.of(torch.eye(5)).effective_number == pytest.approx(5)
    assert Usage.of(torch.eye(5)[[2, 2, 2]]).effective_number == pytest.approx(1)
    shares = Usage.of(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])).shares
    assert shares == pytest.approx((0.75, 0.25, 0))


def test_mixtures_that_cannot_be() -> None:
    check_mixture(n_components=3, n_labels=3, alpha=0.1)
    with pytest.raises(DeltaviError, match=r"n_components=2 .*3"):
        check_mixture(n_components=2, n_labels=3, alpha=0.1)
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(DeltaviError, match="alpha"):
            check_mixture(n_components=3, n_labels=3, alpha=alpha)
