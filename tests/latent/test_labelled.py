"""The label hierarchy against loops over labels, Monte Carlo and torch.distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from deltavi.latent import LabelHierarchy, LabelTerms, label_kl, label_weights

N_CELLS, N_LATENT, N_LABELS = 7, 3, 4


@pytest.fixture
def hierarchy() -> LabelHierarchy:
    torch.manual_seed(0)
    built = LabelHierarchy(N_LATENT, N_LABELS, n_hidden=6).double()
    built.set_prior(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
    return built


@pytest.fixture
def z1() -> torch.Tensor:
    return torch.randn(N_CELLS, N_LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def conditional_of(network: torch.nn.Module, value: torch.Tensor, label: int) -> Normal:
    """One label's Gaussian, layer by layer, as a person would write it."""
    hidden = torch.relu(network.given(value) + network.label[label])
    variance = network.log_variance(hidden).exp() + 1e-4
    return Normal(network.mean(hidden), variance.sqrt())


def test_terms_equal_a_loop_over_labels(hierarchy: LabelHierarchy, z1: torch.Tensor) -> None:
    torch.manual_seed(3)
    terms = hierarchy.terms(z1)
    torch.manual_seed(3)
    noise = torch.randn(N_LABELS, N_CELLS, N_LATENT, dtype=torch.float64)
    for label in range(N_LABELS):
        posterior = conditional_of(hierarchy.posterior, z1, label)
        z2 = posterior.loc + posterior.scale * noise[label]
        given = conditional_of(hierarchy.conditional, z2, label)
        prior = Normal(torch.zeros_like(z2), torch.ones_like(z2))
        torch.testing.assert_close(terms.log_conditional[label], given.log_prob(z1).sum(-1))
        torch.testing.assert_close(terms.kl[label], kl_divergence(posterior, prior).sum(-1))
        ratio = (prior.log_prob(z2) - posterior.log_prob(z2)).sum(-1)
        torch.testing.assert_close(terms.log_ratio[label], ratio)


def test_several_samples_are_that_many_calls(hierarchy: LabelHierarchy, z1: torch.Tensor) -> None:
    several = torch.stack([z1, 2 * z1])
    torch.manual_seed(0)
    terms = hierarchy.terms(several)
    assert terms.kl.shape == (N_LABELS, 2, N_CELLS)
    for k, sample in enumerate(several):
        torch.testing.assert_close(terms.kl[:, k], hierarchy.terms(sample).kl)


def test_closed_form_kl_is_the_mean_of_the_sampled_ratio(hierarchy: LabelHierarchy, z1: torch.Tensor) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([hierarchy.terms(z1).log_ratio for _ in range(4000)])
        kl = hierarchy.terms(z1).kl
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) + kl).abs() < 5 * error).all()


def test_weights_are_probabilities_or_the_label() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    weights = label_weights(logits, torch.tensor([[-1], [0]]))
    torch.testing.assert_close(weights.values[0], logits[0].softmax(-1))
    torch.testing.assert_close(weights.entropy[0], Categorical(logits=logits[0]).entropy())
    assert weights.values[1].tolist() == [1.0, 0.0, 0.0]
    assert weights.entropy[1] == 0


def test_label_kl_of_an_unlabelled_cell_is_the_sum_over_labels(hierarchy: LabelHierarchy, z1: torch.Tensor) -> None:
    terms = hierarchy.terms(z1)
    probabilities = torch.randn(N_CELLS, N_LABELS, dtype=torch.float64).softmax(-1)
    log_posterior = torch.randn(N_CELLS, dtype=torch.float64)
    weights = label_weights(probabilities.log(), torch.full((N_CELLS, 1), -1))
    kl = label_kl(terms, weights, log_prior=hierarchy.log_prior, log_posterior_z1=log_posterior)
    for cell in range(N_CELLS):
        q = probabilities[cell]
        z1_term = log_posterior[cell] - sum(q[y] * terms.log_conditional[y, cell] for y in range(N_LABELS))
        torch.testing.assert_close(kl["z1"][cell], z1_term)
        torch.testing.assert_close(kl["z2"][cell], sum(q[y] * terms.kl[y, cell] for y in range(N_LABELS)))
        y_term = kl_divergence(Categorical(probs=q), Categorical(logits=hierarchy.log_prior))
        torch.testing.assert_close(kl["y"][cell], y_term)


def test_label_kl_of_a_labelled_cell_has_the_label_and_its_prior_only(hierarchy: LabelHierarchy) -> None:
    draw = torch.arange(N_LABELS, dtype=torch.float64).unsqueeze(-1)
    terms = LabelTerms(log_conditional=draw, kl=10 + draw, log_ratio=draw)
    weights = label_weights(torch.randn(1, N_LABELS, dtype=torch.float64), torch.tensor([[2]]))
    kl = label_kl(terms, weights, log_prior=hierarchy.log_prior, log_posterior_z1=torch.zeros(1, dtype=torch.float64))
    assert kl["z1"].item() == -2.0
    assert kl["z2"].item() == 12.0
    assert kl["y"].item() == pytest.approx(-math.log(0.3))


def test_one_hot_weights_have_finite_gradients() -> None:
    logits = torch.randn(3, N_LABELS, requires_grad=True)
    weights = label_weights(logits, torch.tensor([[0], [-1], [3]]))
    zeros = torch.zeros(N_LABELS, 3)
    kl = label_kl(
        LabelTerms(zeros, zeros, zeros), weights, log_prior=torch.zeros(N_LABELS), log_posterior_z1=torch.zeros(3)
    )
    kl["y"].sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[[0, 2]] == 0).all()
    assert (logits.grad[1] != 0).any()


def test_probabilities_that_underflow_have_finite_gradients() -> None:
    """A sure classifier must not end training: exp(-800) is zero in single precision."""
    logits = torch.tensor([[0.0, 400.0, -400.0]], requires_grad=True)
    weights = label_weights(logits, torch.tensor([[-1]]))
    assert weights.values[0, 2] == 0
    zeros = torch.zeros(3, 1)
    kl = label_kl(LabelTerms(zeros, zeros, zeros), weights, log_prior=torch.zeros(3), log_posterior_z1=torch.zeros(1))
    (kl["y"] + kl["z1"] + weights.entropy).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_log_marginal_integrates_the_hierarchy(hierarchy: LabelHierarchy) -> None:
    """exp of it, averaged, is p(z1): compared with draws of p(z1 | z2, y) p(z2) p(y) by ancestral sampling."""
    torch.manual_seed(0)
    point = torch.tensor([[0.2, -0.1, 0.3]], dtype=torch.float64)
    with torch.no_grad():
        importance = torch.cat([hierarchy.log_marginal(point) for _ in range(3000)]).exp().numpy()
        z2 = torch.randn(N_LABELS, 100_000, N_LATENT, dtype=torch.float64)
        per_draw = hierarchy.conditional.for_each(z2).log_prob(point).sum(-1).exp()
        ancestral = (hierarchy.log_prior.exp().unsqueeze(-1) * per_draw).sum(0).numpy()
    error = np.hypot(importance.std() / len(importance) ** 0.5, ancestral.std() / len(ancestral) ** 0.5)
    assert abs(importance.mean() - ancestral.mean()) < 5 * error


def test_a_learned_prior_is_a_parameter_and_a_set_one_is_not() -> None:
    learned = LabelHierarchy(2, 3, n_hidden=4, learn_prior=True)
    fixed = LabelHierarchy(2, 3, n_hidden=4)
    assert "prior_logits" in dict(learned.named_parameters())
    assert "prior_logits" not in dict(fixed.named_parameters())
    assert "prior_logits" in fixed.state_dict()
    torch.testing.assert_close(fixed.log_prior.exp(), torch.full((3,), 1 / 3))


def test_dropout_is_that_of_the_posterior_in_training_only() -> None:
    torch.manual_seed(0)
    built, z = LabelHierarchy(3, 4, n_hidden=64, dropout_rate=0.5), torch.randn(5, 3)
    assert not torch.equal(built.posterior(z).loc, built.posterior(z).loc)
    assert torch.equal(built.conditional(z).loc, built.conditional(z).loc)
    built.eval()
    assert torch.equal(built.posterior(z).loc, built.posterior(z).loc)
