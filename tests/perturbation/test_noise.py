"""Noise of cells by a compiled kernel: the numbers of NumPy's generators, draw by draw."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.kernels import compiled, kernels
from deltavi.perturbation.noise import States, cell_generators, normals, uniforms

NAMES = ["AAAC", "CCTG-1", "", "β-cell", "a" * 300, *(f"cell {number}" for number in range(40))]
SEEDS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 7, 2**64, 2**130 + 3, np.int64(5)]


@pytest.fixture(autouse=True)
def with_kernels() -> None:
    if kernels("draws") is None:
        pytest.skip("numba is not there, or switched off")


def plain(names: list[str], seed: int) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in names]


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_are_those_of_numpy(seed: int) -> None:
    found, expected = cell_generators(NAMES, seed=seed), plain(NAMES, seed)
    assert isinstance(found, States)
    np.testing.assert_array_equal(uniforms(found, 1000), [one.random(1000) for one in expected])


@given(seed=st.integers(0, 2**70), lengths=st.lists(st.integers(0, 9), max_size=6), data=st.data())
@settings(max_examples=40, deadline=None)
def test_streams_go_on_whatever_is_drawn_in_between(seed: int, lengths: list[int], data: st.DataObject) -> None:
    found, expected = cell_generators(NAMES[:5], seed=seed), plain(NAMES[:5], seed)
    for length in lengths:
        if data.draw(st.booleans()):
            np.testing.assert_array_equal(normals(found, length), [one.standard_normal(length) for one in expected])
        else:
            np.testing.assert_array_equal(uniforms(found, length), [one.random(length) for one in expected])


def test_kernels_may_be_switched_off_in_between() -> None:
    found, expected = cell_generators(NAMES, seed=3), plain(NAMES, 3)
    for allowed in (True, False, True):
        with compiled(allowed):
            np.testing.assert_array_equal(uniforms(found, 7), [one.random(7) for one in expected])


def test_order_and_split_do_not_matter() -> None:
    together = uniforms(cell_generators(NAMES, seed=1), 50)
    backwards = uniforms(cell_generators(NAMES[::-1], seed=1), 50)
    np.testing.assert_array_equal(together, backwards[::-1])
    parts = [uniforms(cell_generators(NAMES[start : start + 7], seed=1), 50) for start in range(0, len(NAMES), 7)]
    np.testing.assert_array_equal(together, np.concatenate(parts))


def test_without_kernels_generators_are_those_of_numpy() -> None:
    with compiled(False):
        found = cell_generators(NAMES, seed=2)
    assert not isinstance(found, States)
    np.testing.assert_array_equal(uniforms(found, 5), uniforms(cell_generators(NAMES, seed=2), 5))
    assert uniforms(cell_generators([], seed=2), 5).shape == normals(cell_generators([], seed=2), 5).shape == (0, 5)
