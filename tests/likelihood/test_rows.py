"""Counts at quantiles by recurrence: those of SciPy, entry by entry, however extreme the parameters are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi.kernels import compiled, kernels
from deltavi.likelihood import Dispersion, Likelihood, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from deltavi.likelihood.rows import arrays_of, quantile_rows
from deltavi.perturbation.coupling import count_coupling

KINDS = ("poisson", "nb", "zinb")
# Log rates, log inverse dispersions, dropout logits.
USUAL, WIDE = ((-6, 3), (-2, 3), (-4, 4)), ((-18, 12), (-8, 16), (-200, 200))
LARGE, LOST = ((2, 7), (-2, 5), (-3, 3)), ((-3, 3), (-3, 8), (-20, 40))
RANGES = {"usual": USUAL, "wide": WIDE, "large": LARGE, "lost": LOST}
SHAPE = (12, 150)


@pytest.fixture(autouse=True)
def with_kernels() -> None:
    if kernels("quantiles") is None:
        pytest.skip("numba is not there, or switched off")


def single(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def build(kind: str, rng: np.random.Generator, ranges: tuple = USUAL, shape: tuple[int, int] = SHAPE) -> Likelihood:
    rates, thetas, logits = ranges
    rate = single(np.exp(rng.uniform(*rates, shape)))
    # one seed for source and target, which share it
    theta = Dispersion(single(np.exp(np.random.default_rng(shape[1]).uniform(*thetas, shape[1]))))
    lost = single(rng.uniform(*logits, shape))
    return {
        "poisson": lambda: Poisson(rate),
        "nb": lambda: NegativeBinomial(rate, theta),
        "zinb": lambda: ZeroInflatedNegativeBinomial(rate, theta, lost),
    }[kind]()


def assert_same(found: sparse.csr_matrix, expected: sparse.csr_matrix) -> None:
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert found.shape == expected.shape


def assert_drawn_alike(likelihood: Likelihood, u: np.ndarray) -> sparse.csr_matrix:
    assert arrays_of(likelihood) is not None
    found = quantile_rows(likelihood, u)
    with compiled(False):
        assert_same(found, quantile_rows(likelihood, u))
    assert_same(found, sparse.csr_matrix(likelihood.quantile(u)))
    return found


def assert_carried_alike(observed: np.ndarray, source: Likelihood, target: Likelihood, uniform: np.ndarray) -> None:
    found, several = (count_coupling(observed, source, uniform=uniform, n_targets=n) for n in (1, 2))
    with compiled(False):
        plain = count_coupling(observed, source, uniform=uniform)
    for one in (target, source, target):
        expected = plain(one)
        assert_same(found(one), expected)
        # asked again, it uses what it kept
        assert_same(several(one), expected)


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_scipy(kind: str, ranges: str) -> None:
    rng = np.random.default_rng(0)
    source, target = build(kind, rng, RANGES[ranges]), build(kind, rng, RANGES[ranges])
    observed = source.sample(rng).numpy()
    # some far from what is expected of them
    far = rng.random(SHAPE) < 0.02
    observed[far] = rng.poisson(8.0, far.sum())
    found = assert_drawn_alike(target, rng.random(SHAPE))
    assert found.nnz > 0
    assert_carried_alike(observed, source, target, rng.random(SHAPE))


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), rate=st.floats(-18, 12), theta=st.floats(-8, 16))
@settings(max_examples=40, deadline=None)
def test_counts_are_those_of_scipy_anywhere(seed: int, kind: str, rate: float, theta: float) -> None:
    rng = np.random.default_rng(seed)
    near = ((rate - 1, rate + 1), (theta - 1, theta + 1), sorted(rng.uniform(-200, 200, 2)))
    source, target = (build(kind, rng, near, (3, 20)) for _ in range(2))
    observed = source.sample(rng).numpy()
    assert_drawn_alike(target, rng.random((3, 20)))
    assert_carried_alike(observed, source, target, rng.random((3, 20)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # SciPy, of a search that does not end
@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_at_steps_are_decided_by_scipy(kind: str) -> None:
    """Within rounding of P(X <= k), from below and from above."""
    rng = np.random.default_rng(1)
    likelihood = build(kind, rng, ((-3, 2), (-2, 3), (-3, 1)))
    for count in (0.0, 1.0, 4.0):
        step = likelihood.cdf(np.full(SHAPE, count))
        for u in (step, np.nextafter(step, 0), np.nextafter(step, 1), step * (1 - 1e-12), step * (1 + 1e-12)):
            assert_drawn_alike(likelihood, np.minimum(u, 1.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("u", [0.0, 1e-300, 1e-12, 0.5, 1 - 1e-9, 1 - 2**-53, 1.0])
def test_ends_of_the_unit_interval(kind: str, u: float) -> None:
    rng = np.random.default_rng(2)
    likelihood = build(kind, rng)
    assert_drawn_alike(likelihood, np.full(SHAPE, u))
    assert_carried_alike(likelihood.sample(rng).numpy(), likelihood, build(kind, rng), np.full(SHAPE, u))


@pytest.mark.parametrize("rows", ["shared", "one", "of batches", "of cells"])
@pytest.mark.parametrize("kind", ["nb", "zinb"])
def test_dispersions_are_found_for_each_cell(kind: str, rows: str) -> None:
    rng = np.random.default_rng(3)
    theta = single(rng.gamma(1.0, 2.0, SHAPE) + 0.01)
    dispersion = {
        "shared": Dispersion(theta[0]),
        "one": Dispersion(theta[0, :1]),
        # the last row is that of unseen batches
        "of batches": Dispersion(theta[:3], torch.from_numpy(rng.integers(-1, 2, SHAPE[0]))),
        "of cells": Dispersion(theta),
    }[rows]
    rate, lost = single(rng.gamma(0.7, 2.0, SHAPE)), (single(rng.normal(size=SHAPE)),)
    make = NegativeBinomial if kind == "nb" else ZeroInflatedNegativeBinomial
    source, target = (make(factor * rate, dispersion, *lost[: kind == "zinb"]) for factor in (1.0, 1.7))
    assert_drawn_alike(target, rng.random(SHAPE))
    assert_carried_alike(source.sample(rng).numpy(), source, target, rng.random(SHAPE))


ODD = {
    "above 2^24": lambda x: x * 0 + 2.0**24 + 2,
    "fractional": lambda x: x + 0.5 * (x > 1),
    "negative zero": lambda x: -0.0 * x,
    "empty rows": lambda x: x * (np.arange(len(x)) % 2)[:, None],
    "nothing": lambda x: x * 0,
    "one gene": lambda x: x[:, :1],
    "one cell": lambda x: x[:1],
    "not contiguous": lambda x: np.asfortranarray(x),
    "a view": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "double": lambda x: x.astype(np.float64),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_counts_are_carried_alike(kind: str, odd: str) -> None:
    rng = np.random.default_rng(4)
    shape = np.shape(ODD[odd](np.zeros(SHAPE, dtype=np.float32)))
    source, target = build(kind, rng, USUAL, shape), build(kind, rng, USUAL, shape)
    observed = ODD[odd](build(kind, rng).sample(rng).numpy()).astype("f8" if odd == "double" else "f4", copy=False)
    uniform = rng.random(shape[::-1]).T if odd == "not contiguous" else rng.random(shape)
    assert_carried_alike(observed, source, target, uniform)
    assert_drawn_alike(target, uniform)


def test_no_cells_and_other_types_are_left_to_scipy() -> None:
    rng = np.random.default_rng(5)
    double = NegativeBinomial(torch.rand(3, 4, dtype=torch.float64), Dispersion(torch.rand(4).double() + 0.1))
    assert arrays_of(double) is None
    assert_same(quantile_rows(double, np.full((3, 4), 0.9)), sparse.csr_matrix(double.quantile(np.full((3, 4), 0.9))))
    assert arrays_of(Poisson(torch.rand(2, 3, 4))) is None
    empty = Poisson(torch.zeros(0, 4))
    assert quantile_rows(empty, np.zeros((0, 4))).shape == (0, 4)
    assert count_coupling(np.zeros((0, 4), np.float32), empty, uniform=np.zeros((0, 4)))(empty).shape == (0, 4)
    # kinds may be mixed only where SciPy is asked
    source = build("nb", rng)
    assert count_coupling(source.sample(rng).numpy(), source, uniform=rng.random(SHAPE))(double_of(source)).nnz


def double_of(likelihood: NegativeBinomial) -> NegativeBinomial:
    theta = Dispersion(likelihood.dispersion.values.double())
    return NegativeBinomial(likelihood.rate.double(), theta)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_do_not_depend_on_one_another(kind: str) -> None:
    rng = np.random.default_rng(6)
    source, target = build(kind, rng), build(kind, rng)
    observed, uniform = source.sample(rng).numpy(), rng.random(SHAPE)
    together = count_coupling(observed, source, uniform=uniform)(target)
    places = np.meshgrid(np.arange(SHAPE[0])[::-1], np.arange(SHAPE[1]), indexing="ij")
    parts = []
    for start in range(0, SHAPE[0], 5):
        cells, genes = (place[start : start + 5] for place in places)
        here, there = source.at(cells, genes), target.at(cells, genes)
        parts.append(count_coupling(observed[cells, genes], here, uniform=uniform[cells, genes])(there))
    assert_same(sparse.csr_matrix(sparse.vstack(parts)), together[::-1])
