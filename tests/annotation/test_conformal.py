"""Conformal p-values: by brute force, and valid in simulations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deltavi.annotation import conformal_p_values
from deltavi.annotation.conformal import cells_needed
from deltavi.errors import DeltaviError


def by_hand(
    scores: np.ndarray, calibration: np.ndarray, groups: np.ndarray, calibration_groups: np.ndarray, min_group: int
) -> list[float]:
    values = []
    of_group = {g: [s for s, h in zip(calibration, calibration_groups, strict=True) if h == g] for g in range(3)}
    large = {g for g, own in of_group.items() if len(own) >= min_group}
    rest = [s for s, g in zip(calibration, calibration_groups, strict=True) if g not in large]
    for score, group in zip(scores, groups, strict=True):
        small = rest if len(rest) >= min_group else list(calibration)
        reference = of_group[group] if group in large else small
        values.append((1 + sum(s >= score for s in reference)) / (len(reference) + 1))
    return values


@given(
    seed=st.integers(0, 10_000), n=st.integers(0, 30), n_calibration=st.integers(0, 60), min_group=st.integers(1, 20)
)
@settings(max_examples=150, deadline=None)
def test_it_equals_a_loop(seed: int, n: int, n_calibration: int, min_group: int) -> None:
    rng = np.random.default_rng(seed)
    # few distinct scores, so that ties are common
    scores, calibration = rng.integers(0, 6, n) / 2, rng.integers(0, 6, n_calibration) / 2
    groups, calibration_groups = rng.integers(0, 3, n), rng.integers(0, 3, n_calibration)
    found = conformal_p_values(
        scores, calibration, groups=groups, calibration_groups=calibration_groups, min_group=min_group
    )
    np.testing.assert_allclose(found, by_hand(scores, calibration, groups, calibration_groups, min_group), rtol=1e-15)
    pooled = conformal_p_values(scores, calibration)
    np.testing.assert_allclose(pooled, by_hand(scores, calibration, 0 * groups, 0 * calibration_groups, 1), rtol=1e-15)


def test_p_values_of_exchangeable_cells_are_uniform() -> None:
    """Each of the n + 1 possible values is as frequent as the others."""
    rng = np.random.default_rng(0)
    p_values = np.array([conformal_p_values(rng.gamma(2, size=1), rng.gamma(2, size=19))[0] for _ in range(4000)])
    frequencies = np.bincount(np.rint(20 * p_values).astype(int), minlength=21)[1:]
    assert stats.chisquare(frequencies).pvalue > 0.01
    rejected = int((p_values <= 0.05).sum())
    assert stats.binomtest(rejected, len(p_values), 0.05).pvalue > 0.01


def test_ties_are_never_rejected_too_often() -> None:
    rng = np.random.default_rng(1)
    p_values = np.array([conformal_p_values(rng.integers(0, 4, 1), rng.integers(0, 4, 39))[0] for _ in range(3000)])
    for share in (0.05, 0.25, 0.5):
        assert stats.binomtest(int((p_values <= share).sum()), 3000, share, alternative="greater").pvalue > 0.01


def test_groups_are_valid_one_by_one_where_pooling_is_not() -> None:
    """A group whose cells are all stranger than another's is rejected too often only when judged together."""
    rng = np.random.default_rng(2)
    rejected: dict[str, list[bool]] = {"grouped": [], "pooled": []}
    for _ in range(2000):
        groups = np.repeat([0, 1], [79, 39])
        calibration = rng.normal(2.0 * groups)
        score = rng.normal(2.0, size=1)
        grouped = conformal_p_values(score, calibration, groups=np.array([1]), calibration_groups=groups)
        rejected["grouped"].append(grouped[0] <= 0.1)
        rejected["pooled"].append(conformal_p_values(score, calibration)[0] <= 0.1)
    assert stats.binomtest(sum(rejected["grouped"]), 2000, 0.1).pvalue > 0.01
    assert stats.binomtest(sum(rejected["pooled"]), 2000, 0.1, alternative="greater").pvalue < 1e-6


def test_a_group_with_too_few_calibration_cells_is_compared_with_all() -> None:
    rng = np.random.default_rng(3)
    scores, calibration = rng.normal(size=5), rng.normal(size=50)
    calibration_groups = np.repeat([0, 1], [31, 19])
    found = conformal_p_values(scores, calibration, groups=np.ones(5), calibration_groups=calibration_groups)
    np.testing.assert_array_equal(found, conformal_p_values(scores, calibration))
    unseen = conformal_p_values(scores, calibration, groups=np.full(5, 7), calibration_groups=calibration_groups)
    np.testing.assert_array_equal(unseen, found)
    own = conformal_p_values(scores, calibration, groups=np.zeros(5), calibration_groups=calibration_groups)
    np.testing.assert_array_equal(own, conformal_p_values(scores, calibration[:31]))


def test_extremes() -> None:
    calibration = np.arange(9.0)
    found = conformal_p_values(np.array([-np.inf, 8.0, 8.5, np.inf]), calibration)
    np.testing.assert_allclose(found, [1, 0.2, 0.1, 0.1])
    np.testing.assert_array_equal(conformal_p_values(np.array([3.0]), np.zeros(0)), [1])


def test_what_cannot_be_ranked() -> None:
    with pytest.raises(DeltaviError, match="NaN"):
        conformal_p_values(np.array([np.nan]), np.zeros(3))
    with pytest.raises(DeltaviError, match="NaN"):
        conformal_p_values(np.zeros(1), np.array([np.nan]))
    with pytest.raises(DeltaviError, match="groups"):
        conformal_p_values(np.zeros(1), np.zeros(3), groups=np.zeros(1))
    with pytest.raises(DeltaviError, match="groups"):
        conformal_p_values(np.zeros(1), np.zeros(3), groups=np.zeros(2), calibration_groups=np.zeros(3))


@pytest.mark.parametrize("n", [19, 48, 97, 102, 106, 195])
def test_so_many_cells_and_no_more_are_needed(n: int) -> None:
    assert cells_needed(1 / (n + 1)) == n
    assert conformal_p_values(np.array([9.0]), np.zeros(n))[0] <= 1 / (n + 1)
