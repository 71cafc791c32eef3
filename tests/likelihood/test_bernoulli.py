"""The Bernoulli likelihood against torch and SciPy, and its place among the settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from deltavi.errors import DeltaviError
from deltavi.likelihood import Bernoulli
from deltavi.module._vae import VAE
from deltavi.perturbation.coupling import couple

N_CELLS, N_GENES = 7, 5


def bernoulli(seed: int = 0, scale: float = 2.0) -> Bernoulli:
    generator = torch.Generator().manual_seed(seed)
    return Bernoulli(scale * torch.randn(N_CELLS, N_GENES, generator=generator, dtype=torch.float64))


def detected(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (N_CELLS, N_GENES)).astype(np.float64))


def test_log_prob_equals_torch_and_scipy() -> None:
    likelihood, x = bernoulli(), detected()
    torch.testing.assert_close(likelihood.log_prob(x), likelihood.distribution.log_prob(x).sum(-1))
    expected = stats.bernoulli.logpmf(x.numpy(), likelihood.rate.numpy()).sum(-1)
    np.testing.assert_allclose(likelihood.log_prob(x).numpy(), expected, rtol=1e-10)


def test_values_between_zero_and_one_are_probabilities() -> None:
    likelihood = bernoulli()
    grey = torch.rand(N_CELLS, N_GENES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    zeros, ones = torch.zeros_like(grey), torch.ones_like(grey)
    expected = (1 - grey) * likelihood.log_prob_per_gene(zeros) + grey * likelihood.log_prob_per_gene(ones)
    torch.testing.assert_close(likelihood.log_prob_per_gene(grey), expected)


def test_extreme_log_odds_stay_finite() -> None:
    sure = Bernoulli(torch.tensor([[800.0, -800.0]]))
    assert sure.log_prob(torch.tensor([[1.0, 0.0]])).item() == 0.0
    assert sure.log_prob(torch.tensor([[0.0, 1.0]])).item() == -1600.0


def test_moments_and_draws() -> None:
    likelihood = bernoulli()
    np.testing.assert_allclose(likelihood.mean.numpy(), likelihood.distribution.mean.numpy())
    np.testing.assert_allclose(likelihood.variance.numpy(), likelihood.distribution.variance.numpy())
    drawn = torch.stack([likelihood.sample(np.random.default_rng(seed)) for seed in range(4000)]).double()
    assert ((drawn.mean(0) - likelihood.mean).abs() < 5 * (likelihood.variance / 4000).sqrt()).all()
    assert torch.equal(likelihood.sample(np.random.default_rng(3)), likelihood.sample(np.random.default_rng(3)))


def test_distribution_function_and_its_inverses() -> None:
    likelihood, shape = bernoulli(), (N_CELLS, N_GENES)
    p = likelihood.rate.numpy()
    for bound, below in ((-1.0, 0.0), (0.0, 1 - p), (0.5, 1 - p), (1.0, 1.0)):
        np.testing.assert_allclose(likelihood.cdf(np.full(shape, bound)), np.broadcast_to(below, shape))
        np.testing.assert_allclose(likelihood.survival(np.full(shape, bound)), np.broadcast_to(1 - below, shape))
    u = np.random.default_rng(0).uniform(size=shape)
    np.testing.assert_array_equal(likelihood.quantile(u), stats.bernoulli.ppf(u, p))
    np.testing.assert_array_equal(likelihood.upper_quantile(u), stats.bernoulli.isf(u, p))


def test_coupling_changes_as_few_genes_as_the_means_allow() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(1, 40))).expand(20_000, 40)
    source, target = Bernoulli(logits), Bernoulli(logits + torch.from_numpy(rng.normal(size=40)))
    observed = source.sample(rng).numpy()
    moved = couple(observed, source, target, uniform=rng.uniform(size=observed.shape))
    p, q = source.mean[0].numpy(), target.mean[0].numpy()
    spread = np.sqrt(0.25 / len(observed))
    assert (np.abs(moved.mean(0) - q) < 5 * spread).all()
    # of all couplings the monotone one changes a gene with probability |p - q|
    assert (np.abs((moved != observed).mean(0) - np.abs(p - q)) < 5 * spread).all()


def test_greys_are_coupled_as_what_they_are_nearer_to() -> None:
    rng = np.random.default_rng(0)
    x = detected().numpy()
    u = rng.uniform(size=x.shape)
    expected = couple(x, bernoulli(), bernoulli(1), uniform=u)
    np.testing.assert_array_equal(couple(0.6 * x + 0.2, bernoulli(), bernoulli(1), uniform=u), expected)


@pytest.mark.parametrize(
    "wrong", [{"library": "observed"}, {"scale_activation": "softmax"}, {"dispersion": "shared"}], ids=str
)
def test_settings_that_do_not_go_with_it(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeltaviError, match="bernoulli"):
        VAE(5, **{"gene_likelihood": "bernoulli", "library": "none", "log_variational": False, **wrong})


def test_the_module_has_nothing_it_does_not_use() -> None:
    module = VAE(5, gene_likelihood="bernoulli", library="none", log_variational=False, n_hidden=4, n_latent=2)
    assert module.px_r is None
    assert not module.of_counts
    assert module.scale_activation == "linear"
    x, code = torch.rand(6, 5), torch.zeros(6, 1, dtype=torch.long)
    tensors = {"X": x, "batch": code, "labels": code}
    _, generated, loss = module(tensors)
    loss.loss.backward()
    assert all(p.grad is not None for p in module.parameters())
    torch.testing.assert_close(generated["likelihood"].mean, generated["px"].probs)
