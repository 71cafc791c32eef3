"""Distances to the k-th nearest cells of classes: the kernel against the search of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from deltavi.annotation._neighbours import least_reach, rank_of
from deltavi.annotation._open_set import OpenSetScorer
from deltavi.kernels import compiled, kernels


def scene(seed: int, sizes: tuple[int, ...], n_features: int, n_cells: int = 200) -> tuple[np.ndarray, ...]:
    """Members of classes whose codes leave gaps and are mixed, and cells near and far."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(len(sizes)) * 3 + 1, sizes))
    centres = rng.normal(size=(codes.max() + 1, n_features)) * rng.uniform(0.5, 6)
    members = (centres[codes] + rng.normal(size=(len(codes), n_features))).astype(np.float32)
    cells = (centres[rng.choice(codes, n_cells)] + 3 * rng.normal(size=(n_cells, n_features))).astype(np.float32)
    return cells, members, codes


def both(cells: np.ndarray, members: np.ndarray, codes: np.ndarray, own: np.ndarray | None) -> list[np.ndarray]:
    with compiled(False):
        expected = least_reach(cells, members, codes, own=own)
    return [least_reach(cells, members, codes, own=own), expected]


@pytest.mark.skipif(kernels("neighbours") is None, reason="no numba")
@pytest.mark.parametrize("n_features", [1, 2, 10, 20])
@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1), (2, 3, 100), (300, 101, 99, 1), (40,) * 12])
def test_the_kernel_finds_what_a_search_finds(sizes: tuple[int, ...], n_features: int) -> None:
    cells, members, codes = scene(len(sizes), sizes, n_features)
    found, expected = both(cells, members, codes, None)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    found, expected = both(members, members, codes, codes)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.skipif(kernels("neighbours") is None, reason="no numba")
def test_equal_cells_are_at_distance_zero() -> None:
    members = np.repeat(np.eye(4, dtype=np.float32), 60, axis=0)
    codes = np.arange(len(members)) % 3
    found, expected = both(members, members, codes, codes)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    lone = np.concatenate([members, np.full((1, 4), 50, dtype=np.float32)])
    found, expected = both(lone, lone, np.append(codes, 9), np.append(codes, 9))
    assert found[-1] == expected[-1] == 0


@pytest.mark.skipif(kernels("neighbours") is None, reason="no numba")
def test_a_cell_far_from_all_classes_has_the_distance_of_the_nearest() -> None:
    cells, members, codes = scene(0, (80, 90, 200), 5)
    found, expected = both(cells * np.float32(1e4), members, codes, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_an_error_either_way(bad: float) -> None:
    cells, members, codes = scene(0, (30, 20), 3)
    cells[4, 1] = bad
    for allowed in (True, False):
        with compiled(allowed), pytest.raises(ValueError, match=r"NaN|infinity"):
            least_reach(cells, members, codes, own=None)


def test_other_precision_and_layout_are_read() -> None:
    cells, members, codes = scene(0, (30, 20), 3)
    expected = least_reach(cells, members, codes, own=None)
    double = least_reach(cells.astype(float), members.astype(float), codes, own=None)
    np.testing.assert_allclose(double, expected, rtol=1e-5)
    laid = np.asfortranarray(cells), np.asfortranarray(members)
    np.testing.assert_array_equal(least_reach(*laid, codes.astype(np.int32), own=None), expected)
    assert least_reach(cells[:0], members, codes, own=None).shape == (0,)


def test_scores_are_the_same_with_and_without_kernels() -> None:
    rng = np.random.default_rng(0)
    features, codes = rng.normal(size=(500, 6)), rng.integers(4, size=500)
    features[:, 0] += 4 * codes
    errors = np.stack([rng.normal(100, 5, 500), rng.normal(8, 1, 500)], axis=1)
    scores = []
    for allowed in (True, False):
        with compiled(allowed):
            scorer = OpenSetScorer.fit(features, errors, codes)
            scores.append(scorer.score(features + 0.5, errors))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_half_of_a_small_class_is_the_rank() -> None:
    assert [rank_of(n) for n in (1, 2, 3, 99, 100, 101, 2000)] == [1, 1, 2, 50, 50, 50, 50]
