"""Compiled likelihoods of counts: the same numbers as torch in double precision, or torch's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from deltavi.kernels import compiled, kernels
from deltavi.likelihood import Nonzeros
from deltavi.likelihood import compiled as compiled_likelihoods
from deltavi.likelihood._log_prob import CountLogProb
from deltavi.likelihood.compiled import evaluate
from tests.likelihood.count_inputs import THETAS, Inputs, assert_same, draw, gradients

pytestmark = [
    # scvi-tools' check of fractions, and of parameters that are meant to be extreme
    pytest.mark.filterwarnings("ignore:The value argument must be within the support:UserWarning"),
    pytest.mark.skipif(kernels("counts") is None, reason="numba is switched off"),
]

KINDS = ("zinb", "nb")
# Logarithms of rates and inverse dispersions that decoders reach, and logits beyond what single precision holds.
LOG_RATES, LOG_THETAS, LOGITS = (-18.0, 12.0), (-8.0, 16.0), (-200.0, 200.0)
COUNTS = (0.0, 0.5, 1.0, 2.0, 7.5, 16.0, 17.0, 300.0, 2.0**24 + 2)


# A probability near one is known to the rounding of one.
FLOOR = 1.0


def wide(kind: str, *, n_cells: int = 50, n_genes: int = 200, counts: tuple[float, ...] = COUNTS) -> Inputs:
    """Parameters over their whole range, in single precision; a third of the counts are not zero."""
    generator = torch.Generator().manual_seed(0)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    parameters = {
        "rate": between(*LOG_RATES, n_cells, n_genes).exp().float(),
        "theta": between(*LOG_THETAS, n_genes).exp().float(),
    }
    if kind == "zinb":
        parameters["logits"] = between(*LOGITS, n_cells, n_genes).float()
    chosen = torch.randint(0, len(counts), (n_cells, n_genes), generator=generator)
    x = torch.tensor(counts)[chosen] * (between(0, 3, n_cells, n_genes) < 1)
    return Inputs(kind, x, parameters)


def as_column(inputs: Inputs) -> Inputs:
    """Every entry as a cell of its own."""
    n = inputs.x.numel()
    parameters = {name: value.expand(inputs.x.shape).reshape(n, 1) for name, value in inputs.parameters.items()}
    return Inputs(inputs.kind, inputs.x.reshape(n, 1), parameters)


def in_double(inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
    """Log probability of each cell without log x!, and slopes of minus the mean, by torch in double precision."""
    exact = inputs.to(torch.float64).leaves()
    nats = exact.likelihood.log_prob(exact.x)
    return nats.detach() + torch.lgamma(exact.x + 1).sum(-1), list(gradients(exact, nats, "loss").values())


def by_kernel(inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
    """The same by a kernel."""
    n = len(inputs.x)
    found = Nonzeros.of(inputs.x)
    without = Nonzeros(found.cell, found.gene, found.count, found.shape, torch.zeros(n))
    value, slopes = evaluate(*rows_of(inputs), without, torch.full((n,), -1 / n)) or (None, None)
    assert value is not None
    assert slopes is not None
    made = slopes.by_rate, slopes.by_theta, slopes.by_logits
    return value, [slope for slope in made if slope is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_has_the_digits_of_single_precision(kind: str) -> None:
    inputs = as_column(wide(kind))
    (value, slopes), (expected, exact) = by_kernel(inputs), in_double(inputs)
    x, rate, theta = (t.double().squeeze(1) for t in (inputs.x, *rows_of(inputs)[:2]))
    # a zero less likely by a nonzero count is rounded by its own size, as are terms in the count
    terms = FLOOR + expected.abs() + theta * torch.log1p(rate / theta) + x * (rate / (rate + theta)).log().abs()
    # the probability of a zero with dropout is a quotient: two roundings
    assert float(((value - expected).abs() / terms).max()) < (1e-7 if kind == "nb" else 1.5e-7)
    sizes = 1 + x / rate, torch.log1p(rate / theta) + x / theta, torch.ones_like(x)
    for ours, theirs, size in zip(slopes, exact, sizes, strict=False):
        # an exponential has the rounding of its exponent beside its own
        wrong = len(x) * (ours - theirs).squeeze(1).abs()
        assert float((wrong / (len(x) * theirs.squeeze(1).abs() + size)).max()) < (3e-7 if kind == "nb" else 6e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_as_exact(kind: str) -> None:
    inputs = wide(kind, n_cells=200, n_genes=1100)
    (value, slopes), (expected, exact) = by_kernel(inputs), in_double(inputs)
    assert float(((value - expected) / expected).abs().max()) < 1e-7
    for ours, theirs in zip(slopes, exact, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 3e-7


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_without_kernels(kind: str, theta: str, samples: bool) -> None:
    inputs = draw(kind, theta=theta, samples=samples, log_theta=(-2, 2)).to(torch.float32).leaves()
    for weigh in ("loss", "unequal"):
        found = inputs.likelihood.log_prob(inputs.x)
        slopes = gradients(inputs, found, weigh)
        with compiled(False):
            expected = inputs.likelihood.log_prob(inputs.x)
            theirs = gradients(inputs, expected, weigh)
        assert not torch.equal(found, expected)
        assert_same({"value": found, **slopes}, {"value": expected, **theirs}, 1e-5)


def rows_of(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None]:
    return inputs.parameters["rate"], inputs.parameters["theta"], inputs.parameters.get("logits")


@pytest.fixture
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads for however few cells."""
    monkeypatch.setattr(compiled_likelihoods, "SMALLEST_FOR_THREADS", 1)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("theta", ["row", "cell"])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_share_the_cells(kind: str, theta: str) -> None:
    inputs = draw(kind, theta=theta, samples=True, shape=(13, 40)).to(torch.float32).leaves()
    nats = inputs.likelihood.log_prob(inputs.x)
    slopes = gradients(inputs, nats, "unequal")
    torch.set_num_threads(1)
    alone = inputs.likelihood.log_prob(inputs.x)
    assert torch.equal(nats, alone)
    assert_same(slopes, gradients(inputs, alone, "unequal"), 1e-6)


@pytest.mark.usefixtures("_two_threads")
def test_threads_without_gradients() -> None:
    inputs = draw("zinb", shape=(37, 300)).to(torch.float32)
    nats = [inputs.likelihood.log_prob(inputs.x) for _ in range(20)]
    torch.set_num_threads(1)
    assert all(torch.equal(found, inputs.likelihood.log_prob(inputs.x)) for found in nats)


# -- what kernels do not take ---------------------------------------------------------------------------------

ODD = {
    "double precision": lambda p: {name: value.double() for name, value in p.items()},
    "NaN as a rate": lambda p: {**p, "rate": p["rate"].clone().index_fill_(1, torch.tensor([3]), float("nan"))},
    "infinite rates": lambda p: {**p, "rate": p["rate"].clone().index_fill_(1, torch.tensor([3]), float("inf"))},
    "NaN as a logit": lambda p: {**p, "logits": p["logits"].clone().index_fill_(1, torch.tensor([3]), float("nan"))},
    "no dispersion": lambda p: {**p, "theta": p["theta"] * 0},
    "infinite theta": lambda p: {**p, "theta": p["theta"] / 0},
    "rates by column": lambda p: {**p, "rate": p["rate"].T.contiguous().T},
}


@pytest.mark.parametrize("odd", list(ODD))
def test_odd_parameters_are_answered_as_without_kernels(odd: str) -> None:
    inputs = draw("zinb").to(torch.float32)
    inputs = Inputs("zinb", inputs.x, ODD[odd](inputs.parameters)).leaves()
    assert_as_without(inputs)


COUNT_ROWS = {
    "above what single precision counts": [2.0**24 + 2, 0.0, 3.0],
    "fractions": [0.25, 1.5, 0.0],
    "negative zero": [-0.0, 1.0, 2.0],
    "NaN": [float("nan"), 1.0, 0.0],
    "infinity": [float("inf"), 1.0, 0.0],
    "nothing": [0.0, 0.0, 0.0],
    "negative": [-1.0, 2.0, 0.0],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", list(COUNT_ROWS))
def test_odd_counts_are_answered_as_without_kernels(row: str, kind: str) -> None:
    inputs = draw(kind, shape=(5, 3)).to(torch.float32)
    inputs.x[2] = torch.tensor(COUNT_ROWS[row])
    assert_as_without(inputs.leaves())


@pytest.mark.parametrize("n_genes", [1, 2, 127, 128, 129, 1023, 1024, 1025, 2049])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_genes(kind: str, n_genes: int) -> None:
    assert_as_without(draw(kind, shape=(3, n_genes)).to(torch.float32).leaves())


def test_a_million_genes() -> None:
    assert_as_without(draw("zinb", shape=(2, 1_000_000), density=0.001).to(torch.float32).leaves())


def assert_as_without(inputs: Inputs) -> None:
    """Values, gradients, or what is not finite in them."""
    found = inputs.likelihood.log_prob(inputs.x)
    slopes = gradients(inputs, found, "sum")
    with compiled(False):
        expected = inputs.likelihood.log_prob(inputs.x)
        theirs = gradients(inputs, expected, "sum")
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-5, equal_nan=True)
    for name, value in slopes.items():
        torch.testing.assert_close(value, theirs[name], rtol=2e-5, atol=2e-5, equal_nan=True)


def test_counts_in_another_order_are_left_to_torch() -> None:
    inputs = draw("nb").to(torch.float32)
    nonzeros = Nonzeros.of(inputs.x)
    back = Nonzeros(nonzeros.cell.flip(0), nonzeros.gene.flip(0), nonzeros.count.flip(0), nonzeros.shape)
    assert evaluate(*rows_of(inputs), back, None) is None
    rate, theta, _ = rows_of(inputs)
    torch.testing.assert_close(
        CountLogProb.apply(rate, theta, None, back), CountLogProb.apply(rate, theta, None, nonzeros)
    )


def test_digamma_and_products_meet() -> None:
    """Counts on either side of the largest product, and fractions next to whole numbers."""
    x = torch.tensor([[15.999, 16.0, 16.001, 17.0]])
    theta, rate = torch.tensor([0.01, 0.5, 3.0, 1e4]), torch.full((1, 4), 12.0)
    for shift in range(4):
        inputs = Inputs("nb", x.roll(shift, 1), {"rate": rate, "theta": theta}).leaves()
        exact = inputs.to(torch.float64).leaves()
        found, expected = inputs.likelihood.log_prob(inputs.x), exact.likelihood.log_prob(exact.x)
        torch.testing.assert_close(found.double(), expected, rtol=2e-7, atol=2e-6)
        for ours, theirs in zip(
            gradients(inputs, found, "sum").values(), gradients(exact, expected, "sum").values(), strict=True
        ):
            np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-6, atol=1e-8)
