"""Exact log probabilities of counts and their gradients, against scvi-tools in double precision and fifty digits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltavi.likelihood import Dispersion, NegativeBinomial, Nonzeros, ZeroInflatedNegativeBinomial, _log_prob
from deltavi.likelihood._at_nonzeros import TABLED_COUNT, Zero
from deltavi.likelihood._log_prob import _extreme, _moderate
from tests.likelihood.count_inputs import (
    KINDS,
    N_CELLS,
    N_GENES,
    SUMS,
    THETAS,
    Inputs,
    assert_same,
    draw,
    error,
    exact,
    gradients,
)

# scvi-tools' check of fractions, and of parameters that are meant to be extreme
pytestmark = pytest.mark.filterwarnings("ignore:The value argument must be within the support:UserWarning")

DENSITIES = (0.01, 0.1, 0.6)
# -800 overflows the odds in double precision, -200 in single
LOGITS = (-800.0, -200.0, -50.0, 0.0, 50.0, 200.0)
SETTINGS = [*(("zinb", logit) for logit in LOGITS), ("nb", 0.0), ("poisson", 0.0)]


def assert_equals_scvi(inputs: Inputs, tolerance: float) -> None:
    """Value, and gradients under all weights of cells."""
    inputs = inputs.leaves()
    found, expected = inputs.likelihood.log_prob(inputs.x), inputs.scvi.log_prob(inputs.x).sum(-1)
    assert_same({"value": found}, {"value": expected}, tolerance)
    for weigh in SUMS:
        assert_same(gradients(inputs, found, weigh), gradients(inputs, expected, weigh), tolerance)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("kind", "logit"), SETTINGS)
def test_equals_scvi(kind: str, logit: float, density: float) -> None:
    assert_equals_scvi(draw(kind, density=density, logit=logit, log_theta=(-4, 2)), 1e-12)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("kind", "logit"), [setting for setting in SETTINGS if setting[0] != "poisson"])
def test_equals_scvi_at_large_theta(kind: str, logit: float, density: float) -> None:
    # theta times the rounding of a difference of logarithms: scvi-tools' own error
    assert_equals_scvi(draw(kind, density=density, logit=logit, log_theta=(2, 4)), 1e-11)


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("kind", ["zinb", "nb"])
def test_equals_scvi_for_every_shape_of_theta(kind: str, theta: str, samples: bool) -> None:
    assert_equals_scvi(draw(kind, theta=theta, samples=samples, log_theta=(-2, 2)), 1e-12)


def test_poisson_equals_scvi_for_samples() -> None:
    assert_equals_scvi(draw("poisson", samples=True), 1e-12)


@pytest.mark.parametrize("count", [TABLED_COUNT - 1, TABLED_COUNT, TABLED_COUNT + 1, 3000.0, 0.25, 7.5])
@pytest.mark.parametrize("theta", ["row", "cell"])
def test_equals_scvi_on_either_side_of_the_table(theta: str, count: float) -> None:
    inputs = draw("nb", density=1.0, theta=theta)
    inputs.x[:, ::2] = count
    assert_equals_scvi(inputs, 1e-12)


NAMES = ("value", "rate", "theta", "logit")
ENTRIES = list(itertools.product((0.0, 0.5, 1.0, 8.0, 9.0, 300.0), (1e-4, 1.0, 1e2, 1e4), (None, -28.0, 0.0, 28.0)))


@pytest.mark.parametrize("shape", [(1,), (1, 1)], ids=["row", "cell"])
def test_equals_fifty_digits(shape: tuple[int, ...]) -> None:
    for x, theta, logit in ENTRIES:
        parameters = (2.5, theta) if logit is None else (2.5, theta, logit)
        leaves = [torch.tensor([[value]], dtype=torch.float64) for value in parameters]
        leaves[1] = leaves[1].view(shape)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        kind = NegativeBinomial if logit is None else ZeroInflatedNegativeBinomial
        value = kind(leaves[0], Dispersion(leaves[1]), *leaves[2:]).log_prob(torch.tensor([[x]], dtype=torch.float64))
        found = [value, *torch.autograd.grad(value.sum(), leaves)]
        # log gamma at 1e4, a hundred thousand nats, is known to 1e-11
        tolerance = 2e-11 if theta == 1e4 else 1e-12
        for name, ours, expected in zip(NAMES, found, exact(x, *parameters), strict=False):
            wrong = error(ours.flatten(), torch.tensor([expected], dtype=torch.float64))
            assert wrong <= tolerance, (name, x, theta, logit, wrong)


@pytest.mark.parametrize("kind", ["zinb", "nb"])
@pytest.mark.parametrize("shape", [(1,), (1, 1)], ids=["row", "cell"])
def test_single_precision_holds_where_scvi_loses_its_digits(shape: tuple[int, ...], kind: str) -> None:
    lost = []
    for x in (1.0, 2.0, 5.0, 20.0):
        parameters = {"rate": torch.tensor([[1.1 * x]]), "theta": torch.full(shape, 1e6)}
        if kind == "zinb":
            parameters["logits"] = torch.tensor([[-1.0]])
        inputs = Inputs(kind, torch.tensor([[x]]), parameters)
        expected = exact(x, *(float(value) for value in parameters.values()))[0]
        assert float(inputs.likelihood.log_prob(inputs.x)) == pytest.approx(expected, rel=1e-5)
        lost.append(abs(float(inputs.scvi.log_prob(inputs.x)) - expected))
    # log gamma of a million is thirteen million, of which single precision knows the whole numbers
    assert max(lost) > 0.1


@pytest.mark.parametrize(("kind", "logit"), [s for s in SETTINGS if abs(s[1]) <= 50])
@pytest.mark.parametrize("theta", THETAS)
def test_single_precision(kind: str, logit: float, theta: str) -> None:
    if kind == "poisson" and theta != "row":
        return
    reference = draw(kind, logit=logit, theta=theta, log_theta=(-2, 4)).to(torch.float32).to(torch.float64).leaves()
    inputs = reference.to(torch.float32).leaves()
    found, expected = inputs.likelihood.log_prob(inputs.x), reference.scvi.log_prob(reference.x).sum(-1)
    assert found.dtype == torch.float32
    # a few roundings of 6e-8 in each of forty terms; products of counts and logarithms cancel by a digit
    assert_same({"value": found}, {"value": expected}, 2e-6)
    for weigh in SUMS:
        assert_same(gradients(inputs, found, weigh), gradients(reference, expected, weigh), 1e-5)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_single_precision_at_extreme_dropout(logit: float) -> None:
    reference = draw("zinb", logit=logit).to(torch.float32).to(torch.float64).leaves()
    inputs = reference.to(torch.float32).leaves()
    found, expected = inputs.likelihood.log_prob(inputs.x), reference.scvi.log_prob(reference.x).sum(-1)
    # two hundred nats less two hundred nats, in each of forty genes
    assert_same({"value": found}, {"value": expected}, 40 * 200 * 1e-7)
    assert_same(gradients(inputs, found, "sum"), gradients(reference, expected, "sum"), 1e-4)


def test_both_ways_to_take_dropout_agree() -> None:
    inputs = draw("zinb", log_theta=(-2, 2), logit=-3)
    rate, theta, logits = inputs.parameters.values()
    for ours, expected in zip(*(way(logits, Zero.of(rate, theta)) for way in (_moderate, _extreme)), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("dtype", "lowest"), [(torch.float32, -103.0), (torch.float64, -744.0)])
def test_odds_that_are_almost_too_small_for_their_precision(dtype: torch.dtype, lowest: float) -> None:
    """Where an exponential has lost some of its digits, and does not vanish yet."""
    inputs = draw("zinb", theta="cell", log_theta=(2, 3)).to(dtype)
    inputs.x[:] = 0
    # beside no dropout a zero is less likely still
    inputs.parameters["rate"] *= 1e4
    inputs.parameters["logits"] = torch.linspace(lowest, lowest + 20, N_CELLS * N_GENES, dtype=dtype).view(N_CELLS, -1)
    inputs, reference = inputs.leaves(), inputs.to(torch.float64).leaves()
    found, expected = inputs.likelihood.log_prob(inputs.x), reference.scvi.log_prob(reference.x).sum(-1)
    assert_same({"value": found}, {"value": expected}, 2e-6 if dtype == torch.float32 else 1e-12)
    slopes = gradients(inputs, found, "sum"), gradients(reference, expected, "sum")
    assert_same(*slopes, 1e-5 if dtype == torch.float32 else 1e-12)


def test_one_extreme_cell_does_not_change_the_others() -> None:
    inputs = draw("zinb", theta="cell")
    alone = inputs.likelihood.log_prob(inputs.x)
    inputs.parameters["logits"][3] = -1000.0
    beside = inputs.likelihood.log_prob(inputs.x)
    others = torch.arange(N_CELLS) != 3
    torch.testing.assert_close(beside[others], alone[others], rtol=1e-12, atol=1e-12)
    assert beside.isfinite().all()


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str, theta: str) -> None:
    inputs = draw(kind, density=0.5, theta=theta, samples=theta == "cell", shape=(4, 5)).leaves()

    def log_prob(*values: Tensor) -> Tensor:
        parameters = dict(zip(inputs.parameters, values, strict=True))
        return Inputs(kind, inputs.x, parameters, inputs.row).likelihood.log_prob(inputs.x)

    assert torch.autograd.gradcheck(log_prob, tuple(inputs.parameters.values()))


@pytest.mark.parametrize("weigh", list(SUMS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_is_kept_gives_the_same_gradients_again(kind: str, weigh: str) -> None:
    inputs = draw(kind).leaves()
    nats = inputs.likelihood.log_prob(inputs.x)
    first = gradients(inputs, nats, weigh)
    other = gradients(inputs, nats, "unequal" if weigh != "unequal" else "sum")
    assert error(other["rate"], first["rate"]) > 0.01
    assert_same(gradients(inputs, nats, weigh), first, 1e-14)


@pytest.mark.parametrize("weigh", list(SUMS))
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_leaves_add_up(kind: str, weigh: str) -> None:
    inputs = draw(kind).leaves()
    nats = inputs.likelihood.log_prob(inputs.x)
    once = gradients(inputs, nats, weigh)
    for _ in range(3):
        SUMS[weigh](nats).backward(retain_graph=True)
    assert_same({k: v.grad for k, v in inputs.parameters.items()}, {k: 3 * v for k, v in once.items()}, 1e-14)
    for leaf in inputs.parameters.values():
        leaf.grad.zero_()
    SUMS[weigh](nats).backward()
    assert_same({k: v.grad for k, v in inputs.parameters.items()}, once, 1e-14)


@pytest.mark.parametrize("kind", ["zinb", "nb"])
def test_gradients_of_some_parameters_are_those_of_all(kind: str) -> None:
    inputs = draw(kind).leaves()
    every = gradients(inputs, inputs.likelihood.log_prob(inputs.x), "sum")
    for name, leaf in inputs.parameters.items():
        fixed = {k: v if k == name else v.detach() for k, v in inputs.parameters.items()}
        nats = Inputs(kind, inputs.x, fixed).likelihood.log_prob(inputs.x)
        assert_same({name: torch.autograd.grad(SUMS["sum"](nats), leaf)[0]}, {name: every[name]}, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_values_do_not_depend_on_whether_gradients_are_made(kind: str) -> None:
    inputs = draw(kind)
    with torch.no_grad():
        without = inputs.likelihood.log_prob(inputs.x)
    inputs = inputs.leaves()
    assert_same({"value": inputs.likelihood.log_prob(inputs.x)}, {"value": without}, 0.0)
    with torch.inference_mode():
        assert_same({"value": inputs.likelihood.log_prob(inputs.x)}, {"value": without}, 0.0)


def test_inputs_are_left_alone() -> None:
    inputs = draw("zinb").leaves()
    before = {name: value.detach().clone() for name, value in inputs.parameters.items()}
    x = inputs.x.clone()
    inputs.likelihood.log_prob(inputs.x).mean().backward()
    assert_same(inputs.parameters, before, 0.0)
    assert torch.equal(inputs.x, x)


def test_second_derivatives_are_refused() -> None:
    inputs = draw("nb").leaves()
    rate = inputs.parameters["rate"]
    (slope,) = torch.autograd.grad(inputs.likelihood.log_prob(inputs.x).sum(), rate, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(slope.sum(), rate)


@pytest.mark.parametrize("theta", ["row", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_takes_the_same_digits(kind: str, theta: str) -> None:
    inputs = draw(kind, theta=theta).to(torch.float32)
    if kind == "zinb":  # as a decoder's last layer gives them
        inputs.parameters["logits"] = inputs.parameters["logits"].bfloat16()
    plain, inputs = inputs.to(torch.float32).leaves(), inputs.leaves()
    expected = plain.likelihood.log_prob(plain.x)
    with torch.autocast("cpu", torch.bfloat16):
        found = inputs.likelihood.log_prob(inputs.x)
    assert found.dtype == torch.float32
    assert_same({"value": found}, {"value": expected}, 2e-6)
    slopes = gradients(inputs, found, "loss"), gradients(plain, expected, "loss")
    for name, value in slopes[0].items():
        assert value.dtype == inputs.parameters[name].dtype
        assert error(value, slopes[1][name]) <= (1e-3 if value.dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("theta", ["row", "batch", "cell"])
@pytest.mark.parametrize("kind", KINDS)
def test_small_shapes(kind: str, theta: str, samples: bool, shape: tuple[int, int]) -> None:
    inputs = draw(kind, density=0.5, theta=theta, samples=samples, shape=shape).leaves()
    found, expected = inputs.likelihood.log_prob(inputs.x), inputs.scvi.log_prob(inputs.x).sum(-1)
    assert_same({"value": found}, {"value": expected}, 1e-12)
    for weigh in ("sum", "unequal"):
        assert_same(gradients(inputs, found, weigh), gradients(inputs, expected, weigh), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_that_differ_between_samples(kind: str) -> None:
    inputs = draw(kind, samples=True)
    x = torch.stack([inputs.x, inputs.x.flip(0), 0 * inputs.x])
    found, expected = inputs.likelihood.log_prob(x), inputs.likelihood.log_prob_per_gene(x).sum(-1)
    assert_same({"value": found}, {"value": expected}, 0.0)


# -- properties ----------------------------------------------------------------------------------------------

SEEDS, DENSITY = st.integers(0, 2**20), st.floats(0.0, 1.0)
MASKS = st.lists(st.booleans(), min_size=N_CELLS, max_size=N_CELLS)
FEW = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, density=DENSITY, n_cells=st.integers(1, 9), n_genes=st.integers(1, 9), theta=st.sampled_from(THETAS))
@FEW
def test_a_cell_is_the_sum_of_its_genes(
    kind: str, seed: int, density: float, n_cells: int, n_genes: int, theta: str
) -> None:
    inputs = draw(kind, density=density, theta=theta, shape=(n_cells, n_genes), seed=seed)
    found, expected = inputs.likelihood.log_prob(inputs.x), inputs.likelihood.log_prob_per_gene(inputs.x).sum(-1)
    assert_same({"value": found}, {"value": expected}, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, density=DENSITY, at=st.integers(0, N_CELLS), theta=st.sampled_from(["row", "cell"]))
@FEW
def test_cells_do_not_know_their_mini_batch(kind: str, seed: int, density: float, at: int, theta: str) -> None:
    inputs = draw(kind, density=density, theta=theta, seed=seed)
    parts = [inputs.of(cells) for cells in torch.arange(N_CELLS).split([at, N_CELLS - at])]
    apart = torch.cat([part.likelihood.log_prob(part.x) for part in parts])
    assert_same({"value": apart}, {"value": inputs.likelihood.log_prob(inputs.x)}, 1e-13)


@pytest.mark.parametrize("weigh", list(SUMS))
@pytest.mark.parametrize("theta", ["row", "cell"])
@pytest.mark.parametrize("kind", ["zinb", "nb"])
def test_blocks_do_not_matter(kind: str, theta: str, weigh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(kind, theta=theta, samples=True, logit=-2).leaves()
    found = []
    for entries in (1, 2 * N_GENES, 5 * N_GENES + 3, 1 << 16):
        monkeypatch.setattr(_log_prob, "ENTRIES_AT_ONCE", entries)
        nats = inputs.likelihood.log_prob(inputs.x)
        found.append({"value": nats, **gradients(inputs, nats, weigh)})
    for values in found[:-1]:
        assert_same(values, found[-1], 1e-13)


def assert_same_nonzeros(found: Nonzeros, expected: Nonzeros) -> None:
    assert found.shape == expected.shape
    for name in ("cell", "gene", "count", "position"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(found.log_factorial, expected.log_factorial, rtol=1e-14, atol=1e-14)


@given(
    seed=SEEDS, density=DENSITY, kept=st.lists(st.booleans(), min_size=N_CELLS, max_size=N_CELLS), known=st.booleans()
)
@FEW
def test_kept_cells_have_the_nonzeros_of_a_smaller_matrix(
    seed: int, density: float, kept: list[bool], known: bool
) -> None:
    x, cells = draw("poisson", density=density, seed=seed).x, torch.tensor(kept)
    log_factorial = torch.lgamma(x + 1).sum(-1) if known else None
    nonzeros = replace(Nonzeros.of(x), known_log_factorial=log_factorial)
    assert_same_nonzeros(nonzeros.kept(cells), Nonzeros.of(x[cells]))


@pytest.mark.parametrize("density", DENSITIES)
def test_the_first_cells_are_kept(density: float) -> None:
    x = draw("poisson", density=density).x
    for n_kept in range(N_CELLS + 1):
        for cells in (slice(n_kept), torch.arange(N_CELLS) < n_kept):
            assert_same_nonzeros(Nonzeros.of(x).kept(cells), Nonzeros.of(x[:n_kept]))


@given(seed=SEEDS, density=DENSITY)
@FEW
def test_places_may_be_in_any_order(seed: int, density: float) -> None:
    inputs = draw("zinb", density=density, seed=seed).leaves()
    places = inputs.x.nonzero().T
    order = torch.randperm(places.shape[1], generator=torch.Generator().manual_seed(seed))
    cell, gene = places[:, order]
    shuffled = Nonzeros(cell, gene, inputs.x[cell, gene], (N_CELLS, N_GENES))
    results = []
    for nonzeros in (shuffled, None):
        nats = inputs.likelihood.log_prob(inputs.x, nonzeros)
        results.append({"value": nats, **gradients(inputs, nats, "unequal")})
    assert_same(*results, 1e-13)


def test_a_known_log_factorial_is_taken() -> None:
    inputs = draw("nb")
    shift = torch.arange(N_CELLS, dtype=torch.float64)
    nonzeros = Nonzeros.of(inputs.x)
    known = replace(nonzeros, known_log_factorial=nonzeros.log_factorial + shift)
    moved = inputs.likelihood.log_prob(inputs.x) - inputs.likelihood.log_prob(inputs.x, known)
    torch.testing.assert_close(moved, shift, rtol=0, atol=1e-12)


def test_special_functions_see_nonzero_counts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    lgamma = torch.lgamma
    monkeypatch.setattr(torch, "lgamma", lambda x: (seen.append(x.numel()), lgamma(x))[1])
    inputs = draw("zinb", theta="cell")
    inputs.likelihood.log_prob(inputs.x)
    assert max(seen) == (inputs.x > 0).sum()
