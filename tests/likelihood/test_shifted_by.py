"""Likelihoods moved elsewhere: rates multiplied, means and log odds added to, everything else kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scvi import REGISTRY_KEYS

from deltavi._compat import MODULE_KEYS
from deltavi.likelihood import Bernoulli, Likelihood, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from deltavi.model import VAE
from tests.likelihood.test_likelihoods import COUNTS, KINDS, N_CELLS, N_GENES, build, counts

SEEDS = st.integers(0, 2**32 - 1)
EVERY = (*KINDS, "bernoulli")


def of_kind(kind: str, *, rows: int | None = None) -> Likelihood:
    if kind != "bernoulli":
        return build(kind, rows=rows)
    return Bernoulli(torch.randn(N_CELLS, N_GENES, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def moves(seed: int = 0, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape or (N_CELLS, N_GENES)))


@pytest.mark.parametrize("kind", COUNTS)
def test_the_mean_of_counts_is_multiplied(kind: str) -> None:
    likelihood, by = build(kind), moves()
    moved = likelihood.shifted_by(by)
    np.testing.assert_allclose(moved.mean.numpy(), likelihood.mean.numpy() * np.exp(by.numpy()), rtol=1e-12)
    assert type(moved) is type(likelihood)
    assert moved.scale is None


def test_a_gaussian_mean_is_added_to_and_its_spread_kept() -> None:
    likelihood, by = build("normal"), moves()
    moved = likelihood.shifted_by(by)
    np.testing.assert_allclose(moved.mean.numpy(), (likelihood.mean + by).numpy(), rtol=1e-12)
    assert torch.equal(moved.variance, likelihood.variance)
    np.testing.assert_allclose(
        moved.log_prob_per_gene(counts()).numpy(),
        stats.norm.logpdf(counts().numpy(), moved.mean.numpy(), np.sqrt(likelihood.variance.numpy())),
    )


def test_log_odds_of_detection_are_added_to() -> None:
    likelihood, by = of_kind("bernoulli"), moves()
    moved = likelihood.shifted_by(by)
    odds = [special.logit(of.mean.numpy()) for of in (likelihood, moved)]
    np.testing.assert_allclose(odds[1], odds[0] + by.numpy(), rtol=1e-9)


@pytest.mark.parametrize("rows", [None, 3])
def test_dispersion_and_dropout_stay(rows: int | None) -> None:
    by = moves()
    for kind in ("nb", "zinb"):
        likelihood = build(kind, rows=rows)
        moved = likelihood.shifted_by(by)
        assert torch.equal(moved.dispersion.gathered(), likelihood.dispersion.gathered())
        theta, rate = likelihood.dispersion.gathered().numpy(), (likelihood.rate * by.exp()).numpy()
        zero = stats.nbinom.pmf(0, theta, theta / (theta + rate))
        if kind == "zinb":
            assert torch.equal(moved.dropout_logits, likelihood.dropout_logits)
            dropout = special.expit(likelihood.dropout_logits.numpy())
            zero = dropout + (1 - dropout) * zero
        np.testing.assert_allclose(moved.cdf(np.zeros((N_CELLS, N_GENES))), zero, rtol=1e-9)


@pytest.mark.parametrize("kind", EVERY)
@given(first=SEEDS, second=SEEDS)
@settings(max_examples=15, deadline=None)
def test_moves_add_up(kind: str, first: int, second: int) -> None:
    likelihood, a, b = of_kind(kind), moves(first), moves(second)
    twice, once = likelihood.shifted_by(a).shifted_by(b), likelihood.shifted_by(a + b)
    torch.testing.assert_close(twice.mean, once.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(twice.variance, once.variance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(likelihood.shifted_by(a).shifted_by(-a).mean, likelihood.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(likelihood.shifted_by(torch.zeros_like(a)).mean, likelihood.mean, rtol=0, atol=0)


@pytest.mark.parametrize("kind", EVERY)
def test_a_row_moves_all_cells_alike(kind: str) -> None:
    likelihood, row = of_kind(kind), moves(1, N_GENES)
    found, expected = likelihood.shifted_by(row), likelihood.shifted_by(row.expand(N_CELLS, N_GENES))
    for name in ("mean", "variance"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
    assert found.mean.shape == (N_CELLS, N_GENES)
    # one gene moves, the others stay
    single = likelihood.shifted_by(torch.tensor([0.7, 0, 0, 0, 0], dtype=torch.float64))
    assert torch.equal(single.mean[:, 1:], likelihood.mean[:, 1:])
    assert (single.mean[:, 0] > likelihood.mean[:, 0]).all()


@pytest.mark.parametrize("kind", EVERY)
def test_quantiles_go_where_the_mean_goes_and_the_old_one_is_left_alone(kind: str) -> None:
    likelihood = of_kind(kind)
    kept = likelihood.mean.clone()
    u = np.random.default_rng(0).random((N_CELLS, N_GENES))
    down, up = likelihood.shifted_by(torch.tensor(-2.0)), likelihood.shifted_by(torch.tensor(2.0))
    assert (down.quantile(u) <= likelihood.quantile(u)).all()
    assert (up.quantile(u) >= likelihood.quantile(u)).all()
    assert (up.quantile(u) > down.quantile(u)).any()
    assert torch.equal(likelihood.mean, kept)


def test_shares_move_with_their_rates() -> None:
    rate = torch.rand(4, 3, dtype=torch.float64)
    theta = build("nb").dispersion
    for likelihood in (
        Poisson(rate, rate / 7),
        NegativeBinomial(rate, type(theta)(theta.values[:3]), rate / 7),
        ZeroInflatedNegativeBinomial(rate, type(theta)(theta.values[:3]), torch.zeros_like(rate), rate / 7),
    ):
        moved = likelihood.shifted_by(moves(2, 3))
        torch.testing.assert_close(moved.scale, moved.rate / 7)
        torch.testing.assert_close(moved.distribution.scale, moved.rate / 7)


# -- as a decoder makes them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
@pytest.mark.parametrize("kind", ["poisson", "nb", "zinb"])
def test_likelihoods_of_softmax_shares_move(kind: str, dispersion: str) -> None:
    """Of the library of a cell the decoder gives shares, from which rates may be made as late as they are asked for."""
    rng = np.random.default_rng(0)
    adata = AnnData(rng.poisson(2.0, (20, 9)).astype(np.float32))
    adata.obs["batch"] = ["a", "b"] * 10
    VAE.setup_anndata(adata, batch_key="batch")
    module = VAE(adata, n_hidden=8, n_latent=2, gene_likelihood=kind, dispersion=dispersion).module.eval()
    x = torch.from_numpy(adata.X)
    tensors = {
        REGISTRY_KEYS.X_KEY: x,
        REGISTRY_KEYS.BATCH_KEY: torch.arange(20).view(-1, 1) % 2,
        REGISTRY_KEYS.LABELS_KEY: torch.zeros(20, 1),
    }
    with torch.no_grad():
        inference = module.inference(**module._get_inference_input(tensors))
        likelihood = module.generative(**module._get_generative_input(tensors, inference))["likelihood"]
        # as many numbers as a decoder gives: (n_cells, n_genes), with no draws in front
        assert likelihood.mean.shape == (20, 9)
        assert MODULE_KEYS.Z_KEY in inference
        by = moves(1, 20, 9).float()
        moved = likelihood.shifted_by(by)
        torch.testing.assert_close(moved.mean, likelihood.mean * by.exp())
        torch.testing.assert_close(moved.scale, likelihood.scale * by.exp())
        torch.testing.assert_close(moved.shifted_by(-by).mean, likelihood.mean)
        # log probabilities are those of the moved rates, whatever path they take
        torch.testing.assert_close(moved.log_prob(x), moved.log_prob_per_gene(x).sum(-1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            moved.shifted_by(-by).log_prob(x), likelihood.log_prob_per_gene(x).sum(-1), rtol=1e-4, atol=1e-4
        )
        assert not torch.allclose(moved.log_prob(x), likelihood.log_prob(x), atol=0.1)
        row = by[0]
        torch.testing.assert_close(likelihood.shifted_by(row).mean, likelihood.mean * row.exp())
