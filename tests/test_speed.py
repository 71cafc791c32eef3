"""What made training fast stays so: counted, or beside scvi-tools in the same run, never by the clock alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import anndata
import numpy as np
import pytest
import scvi.distributions
import torch
from scipy import sparse
from torch import Tensor

from deltavi.likelihood import Dispersion, Likelihood, NegativeBinomial, Nonzeros, ZeroInflatedNegativeBinomial
from deltavi.model import VAE

N_CELLS, N_GENES, DENSITY = 128, 1000, 0.1


@pytest.fixture
def counts() -> Tensor:
    generator = np.random.default_rng(0)
    drawn = generator.poisson(2, (N_CELLS, N_GENES)) * (generator.random((N_CELLS, N_GENES)) < DENSITY)
    return torch.from_numpy(drawn.astype(np.float32))


@pytest.fixture
def parameters() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rate = torch.rand(N_CELLS, N_GENES, generator=generator) + 0.1
    theta = torch.rand(N_GENES, generator=generator) + 0.5
    logits = torch.randn(N_CELLS, N_GENES, generator=generator)
    for values in (rate, theta, logits):
        values.requires_grad_()
    return rate, theta, logits


def ours(kind: str, rate: Tensor, theta: Tensor, logits: Tensor) -> Likelihood:
    if kind == "nb":
        return NegativeBinomial(rate=rate, dispersion=Dispersion(values=theta))
    return ZeroInflatedNegativeBinomial(rate=rate, dispersion=Dispersion(values=theta), dropout_logits=logits)


def theirs(kind: str, rate: Tensor, theta: Tensor, logits: Tensor) -> torch.distributions.Distribution:
    if kind == "nb":
        return scvi.distributions.NegativeBinomial(mu=rate, theta=theta)
    return scvi.distributions.ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=logits)


def count_entries(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> dict[str, int]:
    """Entries that each torch function of `names` is asked for from now on."""
    entries = dict.fromkeys(names, 0)

    def counted(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(values: Tensor, *args: object, **kwargs: object) -> Tensor:
            entries[name] += values.numel()
            return function(values, *args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(torch, name, counted(name, getattr(torch, name)))
    return entries


def cpu_seconds(run: Callable[[], Tensor], repeats: int = 7) -> float:
    """Least CPU time of `run` and its gradient."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        run().backward()
        seconds.append(time.process_time() - started)
    return min(seconds)


@pytest.mark.parametrize("kind", ["nb", "zinb"])
def test_log_gamma_is_evaluated_for_large_counts_and_once_per_cell_at_most(
    monkeypatch: pytest.MonkeyPatch, counts: Tensor, parameters: tuple[Tensor, Tensor, Tensor], kind: str
) -> None:
    n_nonzero = int((counts > 0).sum())
    likelihood = ours(kind, *parameters)
    entries = count_entries(monkeypatch, ("lgamma", "digamma"))
    nonzeros = Nonzeros.of(counts)
    likelihood.log_prob(counts, nonzeros).mean().backward()
    # log x! of every nonzero count, and differences of the few beyond the table
    n_large = int((counts > 8).sum())
    assert entries["lgamma"] <= n_nonzero + 2 * n_large
    assert entries["digamma"] <= 2 * n_large


def test_the_factorials_of_a_cell_are_not_computed_again(monkeypatch: pytest.MonkeyPatch, counts: Tensor) -> None:
    adata = anndata.AnnData(sparse.csr_matrix(counts.numpy()))
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=8)
    entries = count_entries(monkeypatch, ("lgamma",))
    model.train(2, train_size=1.0, batch_size=64, enable_progress_bar=False, accelerator="cpu")
    assert entries["lgamma"] <= 2 * 2 * int((counts > 8).sum())


@pytest.mark.parametrize(("kind", "least"), [("nb", 2.0), ("zinb", 2.0)])
def test_the_likelihood_takes_less_than_half_the_time_of_scvi_tools(
    counts: Tensor, parameters: tuple[Tensor, Tensor, Tensor], kind: str, least: float
) -> None:
    nonzeros = Nonzeros.of(counts)
    reference = cpu_seconds(lambda: -theirs(kind, *parameters).log_prob(counts).sum(-1).mean())
    assert reference > least * cpu_seconds(lambda: -ours(kind, *parameters).log_prob(counts, nonzeros).mean())


def test_nobody_makes_a_distribution_object_while_training(monkeypatch: pytest.MonkeyPatch, counts: Tensor) -> None:
    adata = anndata.AnnData(sparse.csr_matrix(counts.numpy()))
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=8)

    def refused(_: object) -> None:
        raise AssertionError("a distribution was made")

    monkeypatch.setattr(ZeroInflatedNegativeBinomial, "distribution", property(refused))
    model.train(1, enable_progress_bar=False, accelerator="cpu")
