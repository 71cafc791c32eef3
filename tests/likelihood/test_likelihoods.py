"""Likelihoods against scvi-tools, SciPy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deltavi.likelihood import (
    Dispersion,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    rows_with_average,
)

N_CELLS, N_GENES = 7, 5


def build(kind: str, *, seed: int = 0, rows: int | None = None) -> Likelihood:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    rate = draw(N_CELLS, N_GENES) * 8 + 0.01
    values = draw(N_GENES) * 3 + 0.1 if rows is None else draw(rows, N_GENES) * 3 + 0.1
    row = None if rows is None else torch.arange(N_CELLS) % rows
    dispersion = Dispersion(values=values, row=row)
    if kind == "poisson":
        return Poisson(rate=rate)
    if kind == "nb":
        return NegativeBinomial(rate=rate, dispersion=dispersion)
    if kind == "normal":
        return Gaussian(rate=rate, dispersion=dispersion)
    return ZeroInflatedNegativeBinomial(rate=rate, dispersion=dispersion, dropout_logits=draw(N_CELLS, N_GENES) * 4 - 2)


KINDS = ("poisson", "nb", "zinb", "normal")
COUNTS = KINDS[:3]


def counts(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).poisson(2.0, (N_CELLS, N_GENES)).astype(np.float64))


@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_equals_the_scvi_distribution(kind: str, rows: int | None) -> None:
    likelihood, x = build(kind, rows=rows), counts()
    expected = likelihood.distribution.log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(x), expected, rtol=1e-12, atol=1e-12)
    assert likelihood.log_prob(x).shape == (N_CELLS,)


def test_negative_binomial_equals_scipy() -> None:
    likelihood = build("nb")
    theta, mu = likelihood.dispersion.gathered().numpy(), likelihood.rate.numpy()
    expected = stats.nbinom.logpmf(counts().numpy(), theta, theta / (theta + mu)).sum(-1)
    # scvi-tools adds 1e-8 inside its logarithms
    np.testing.assert_allclose(likelihood.log_prob(counts()).numpy(), expected, rtol=1e-6)


def test_poisson_and_gaussian_equal_scipy() -> None:
    poisson, normal, x = build("poisson"), build("normal"), counts()
    np.testing.assert_allclose(
        poisson.log_prob(x).numpy(), stats.poisson.logpmf(x.numpy(), poisson.rate.numpy()).sum(-1), rtol=1e-10
    )
    deviation = normal.dispersion.gathered().numpy()
    np.testing.assert_allclose(
        normal.log_prob(x).numpy(), stats.norm.logpdf(x.numpy(), normal.rate.numpy(), deviation).sum(-1), rtol=1e-12
    )


def test_zero_inflation_is_a_mixture_with_zero() -> None:
    likelihood, x = build("zinb"), counts()
    theta, mu = likelihood.dispersion.gathered().numpy(), likelihood.rate.numpy()
    dropout = torch.sigmoid(likelihood.dropout_logits).numpy()
    pmf = (1 - dropout) * stats.nbinom.pmf(x.numpy(), theta, theta / (theta + mu)) + dropout * (x.numpy() == 0)
    np.testing.assert_allclose(likelihood.log_prob_per_gene(x).numpy(), np.log(pmf), rtol=1e-6)


@pytest.mark.parametrize("kind", COUNTS)
def test_moments_agree_with_the_mass_function(kind: str) -> None:
    likelihood = build(kind)
    support = torch.arange(600, dtype=torch.float64)
    grid = support.view(-1, 1, 1).expand(-1, N_CELLS, N_GENES)
    mass = likelihood.log_prob_per_gene(grid).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(N_CELLS, N_GENES, dtype=torch.float64), atol=1e-5, rtol=0)
    mean = (mass * grid).sum(0)
    torch.testing.assert_close(likelihood.mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(likelihood.variance, (mass * grid**2).sum(0) - mean**2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", COUNTS)
def test_cdf_sums_the_mass_function(kind: str) -> None:
    likelihood = build(kind)
    for bound in (0, 1, 5):
        below = torch.arange(bound + 1, dtype=torch.float64).view(-1, 1, 1).expand(-1, N_CELLS, N_GENES)
        expected = likelihood.log_prob_per_gene(below).exp().sum(0).numpy()
        np.testing.assert_allclose(likelihood.cdf(np.full((N_CELLS, N_GENES), float(bound))), expected, rtol=1e-5)
    assert (likelihood.cdf(np.full((N_CELLS, N_GENES), -1.0)) == 0).all()


@pytest.mark.parametrize("kind", COUNTS)
@given(u=st.floats(0.0, 0.999), seed=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_quantile_is_the_generalised_inverse_of_the_cdf(kind: str, u: float, seed: int) -> None:
    likelihood = build(kind, seed=seed)
    q = likelihood.quantile(np.full((N_CELLS, N_GENES), u))
    assert (q >= 0).all()
    assert (q == np.floor(q)).all()
    assert (likelihood.cdf(q) >= u - 1e-9).all()
    assert (np.where(q > 0, likelihood.cdf(q - 1), -1.0) <= u + 1e-9).all()


def test_gaussian_quantile_inverts_the_cdf() -> None:
    likelihood, x = build("normal"), counts().numpy()
    np.testing.assert_allclose(likelihood.quantile(likelihood.cdf(x)), x, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_stated_moments_and_need_only_the_generator(kind: str) -> None:
    likelihood = build(kind)
    before = torch.random.get_rng_state()
    drawn = torch.stack([likelihood.sample(np.random.default_rng(seed)) for seed in range(4000)]).double()
    assert torch.equal(before, torch.random.get_rng_state())
    error = (likelihood.variance / 4000).sqrt()
    assert ((drawn.mean(0) - likelihood.mean).abs() < 5 * error).all()
    repeated = likelihood.sample(np.random.default_rng(3))
    assert torch.equal(repeated, likelihood.sample(np.random.default_rng(3)))


def test_zinb_samples_are_gamma_poisson_counts_with_dropout() -> None:
    likelihood = build("zinb")
    drawn = torch.stack([likelihood.sample(np.random.default_rng(seed)) for seed in range(4000)]).numpy()
    zeros = (drawn == 0).mean(0)
    expected = likelihood.log_prob_per_gene(torch.zeros(N_CELLS, N_GENES, dtype=torch.float64)).exp().numpy()
    assert (np.abs(zeros - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)).all()


def test_negative_binomial_approaches_poisson_as_theta_grows() -> None:
    rate, x = build("poisson").rate, counts()
    errors = []
    for theta in (1e2, 1e4, 1e6):
        wide = NegativeBinomial(rate=rate, dispersion=Dispersion(values=torch.full((N_GENES,), theta).double()))
        errors.append(float((wide.log_prob(x) - Poisson(rate=rate).log_prob(x)).abs().max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_rows_are_gathered_and_an_unseen_category_gets_their_average() -> None:
    table = torch.randn(N_GENES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dispersion = rows_with_average(table, torch.tensor([[0], [2], [-1]]))
    gathered = dispersion.gathered()
    torch.testing.assert_close(gathered[0], table[:, 0].exp())
    torch.testing.assert_close(gathered[1], table[:, 2].exp())
    torch.testing.assert_close(gathered[2], table.mean(1).exp())
    assert dispersion.values.shape == (4, N_GENES)


def test_dispersion_maps_rows_before_gathering_them() -> None:
    dispersion = Dispersion(values=torch.ones(2, N_GENES), row=torch.tensor([0, 1, 1]))
    mapped = dispersion.map(torch.log)
    assert mapped.values.shape == (2, N_GENES)
    assert torch.equal(mapped.gathered(), torch.zeros(3, N_GENES))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right(kind: str) -> None:
    likelihood, x = build(kind), counts()
    rate = likelihood.rate.clone().requires_grad_()
    if kind == "poisson":
        function = lambda r: Poisson(rate=r).log_prob(x)  # noqa: E731
        assert torch.autograd.gradcheck(function, (rate,))
        return
    theta = likelihood.dispersion.values.clone().requires_grad_()
    if kind == "zinb":
        logits = likelihood.dropout_logits.clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda r, t, p: ZeroInflatedNegativeBinomial(r, Dispersion(t), p).log_prob(x), (rate, theta, logits)
        )
        return
    cls = NegativeBinomial if kind == "nb" else Gaussian
    assert torch.autograd.gradcheck(lambda r, t: cls(r, Dispersion(t)).log_prob(x), (rate, theta))


@pytest.mark.parametrize("kind", KINDS)
def test_survival_complements_the_cdf(kind: str) -> None:
    likelihood, x = build(kind), counts().numpy()
    np.testing.assert_allclose(likelihood.survival(x), 1 - likelihood.cdf(x), atol=1e-12)
    assert (likelihood.survival(np.full_like(x, -1.0)) == 1).all() or kind == "normal"


@pytest.mark.parametrize("kind", COUNTS)
@given(exponent=st.floats(-200, -0.01), seed=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_upper_quantile_inverts_the_survival_far_out(kind: str, exponent: float, seed: int) -> None:
    likelihood = build(kind, seed=seed)
    s = np.full((N_CELLS, N_GENES), 10.0**exponent)
    q = likelihood.upper_quantile(s)
    assert (q >= 0).all()
    assert (likelihood.survival(q) <= s * (1 + 1e-6)).all()
    assert (np.where(q > 0, likelihood.survival(q - 1), 1.0) >= s * (1 - 1e-6)).all()


def test_gaussian_upper_quantile_inverts_the_survival() -> None:
    likelihood, x = build("normal"), counts().numpy() + 3.0
    np.testing.assert_allclose(likelihood.upper_quantile(likelihood.survival(x)), x, rtol=1e-9)


def test_extreme_rates_and_quantiles_stay_finite() -> None:
    huge = torch.full((2, 3), 1e30, dtype=torch.float64)
    theta = Dispersion(values=torch.ones(3, dtype=torch.float64))
    for likelihood in (Poisson(huge), NegativeBinomial(huge, theta)):
        assert torch.isfinite(likelihood.sample(np.random.default_rng(0))).all()
    for kind in COUNTS:
        likelihood = build(kind)
        shape = (N_CELLS, N_GENES)
        assert np.isfinite(likelihood.quantile(np.ones(shape))).all()
        assert np.isfinite(likelihood.upper_quantile(np.zeros(shape))).all()


def test_the_gaussian_hands_scvi_expression_rather_than_its_logarithm() -> None:
    gaussian = Gaussian(torch.tensor([[0.0, 1.0, -0.5]]), Dispersion(torch.ones(3)))
    torch.testing.assert_close(
        gaussian.distribution.get_normalized("scale"), torch.tensor([[0.0, np.e - 1, 0.0]]).float()
    )
