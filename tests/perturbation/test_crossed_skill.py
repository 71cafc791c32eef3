"""Calibration of intervals by what was left out: the length of a response, which all of its genes share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deltavi.perturbation import ResponseTable
from deltavi.perturbation.crossed_process import Moments
from deltavi.perturbation.crossed_skill import calibrated, length_variance
from tests.perturbation.crossed_scenes import scene

N_GROUPS, N_GENES = 40, 200


def of_lengths(seed: int, spread: float) -> tuple[ResponseTable, Moments]:
    """Predictions that are right but for the length of each response."""
    rng = np.random.default_rng(seed)
    base = scene(seed, N_GROUPS, 1, N_GENES)
    direction = rng.normal(size=N_GENES) * rng.gamma(0.5, 1, N_GENES)
    lengths = 1 + spread * rng.normal(size=base.n_pairs)
    noise = rng.normal(size=base.changes.shape) * np.sqrt(base.squared_errors)
    table = replace(base, changes=lengths[:, None] * direction + noise)
    change = np.repeat(direction[None], base.n_pairs, axis=0)
    return table, Moments(change, np.zeros_like(change), np.zeros((base.n_pairs, 0)))


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.6])
def test_the_variance_of_lengths_is_found_beside_noise(spread: float) -> None:
    found = np.mean([length_variance(*of_lengths(seed, spread)) for seed in range(10)])
    assert found == pytest.approx(spread**2, rel=0.2, abs=0.005)


def test_intervals_of_large_changes_are_as_wide_as_lengths_vary() -> None:
    table, moments = of_lengths(3, 0.4)
    calibration = calibrated(table, moments, np.arange(table.n_pairs))
    variance = calibration.variance(moments)
    large = np.argsort(-np.abs(moments.change[0]))[:20]
    error = (moments.change - table.changes) ** 2 - table.squared_errors
    assert variance[:, large].mean() == pytest.approx(error[:, large].mean(), rel=0.25)
    # a change of another size has the variance that goes with it
    doubled = replace(moments, change=2 * moments.change)
    gained = calibration.variance(doubled) - variance
    np.testing.assert_allclose(gained, 3 * calibration.length * moments.change**2)


def test_nothing_that_was_predicted_has_no_length() -> None:
    table, moments = of_lengths(0, 0.4)
    assert length_variance(table, replace(moments, change=np.zeros_like(moments.change))) == 0
