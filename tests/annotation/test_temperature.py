"""Temperature scaling: it finds a known temperature, and a few easy cells do not mislead it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from deltavi.annotation import TemperaturePrior, fit_temperature, softmax
from deltavi.errors import DeltaviError


def drawn(temperature: float, *, n_cells: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n_cells, 5))
    cumulative = softmax(logits, temperature).cumsum(1)
    return logits, (rng.random((n_cells, 1)) > cumulative[:, :-1]).sum(1)


def negative_log_likelihood(logits: np.ndarray, codes: np.ndarray, temperature: float) -> float:
    scaled = logits / temperature
    return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(codes)), codes]).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize(("temperature", "n_cells"), [(0.7, 5), (1.0, 30), (3.0, 300)])
def test_it_is_the_optimum_of_a_fine_grid(temperature: float, n_cells: int) -> None:
    logits, codes = drawn(temperature, n_cells=n_cells)
    grid = np.linspace(-5, 5, 4001)
    objective = [negative_log_likelihood(logits, codes, np.exp(u)) + u**2 / 2 for u in grid]
    assert np.log(fit_temperature(logits, codes)) == pytest.approx(grid[int(np.argmin(objective))], abs=3e-3)


def test_calibration_makes_held_out_labels_more_likely() -> None:
    fitted = fit_temperature(*drawn(2.5, seed=1))
    logits, codes = drawn(2.5, seed=2)
    best = negative_log_likelihood(logits, codes, 2.5)
    found = negative_log_likelihood(logits, codes, fitted)
    assert found - best < 0.05 * (negative_log_likelihood(logits, codes, 1.0) - best)


def test_a_few_perfectly_separated_cells_do_not_drive_it_to_zero() -> None:
    codes = np.arange(3)
    few, many = (fit_temperature(4 * np.eye(3)[np.tile(codes, n)], np.tile(codes, n)) for n in (1, 100))
    # without the prior the likelihood alone would go to the smallest temperature allowed, whatever the number
    assert 0.5 < few < 1
    assert many < few
    assert fit_temperature(100 * np.eye(3), codes) == pytest.approx(1, abs=1e-3)


def test_labels_that_logits_know_nothing_of_flatten_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits, codes = rng.normal(0, 3, (2000, 4)), rng.integers(0, 4, 2000)
    assert softmax(logits, fit_temperature(logits, codes)).max() < 0.5


def test_only_differences_of_logits_matter() -> None:
    logits, codes = drawn(2.0)
    shifted = logits + np.random.default_rng(3).normal(0, 100, (len(logits), 1))
    assert fit_temperature(shifted, codes) == pytest.approx(fit_temperature(logits, codes), rel=1e-4)


def test_without_cells_it_is_the_median_of_the_prior() -> None:
    nothing = np.zeros((0, 3)), np.zeros(0, dtype=int)
    assert fit_temperature(*nothing) == 1
    assert fit_temperature(*nothing, TemperaturePrior(median=1.7, spread=0.25)) == 1.7


@pytest.mark.parametrize(("median", "spread"), [(1.7, 0.25), (0.4, 2.0)])
def test_the_prior_weighs_as_its_density(median: float, spread: float) -> None:
    logits, codes = drawn(3.0, n_cells=20)
    grid = np.linspace(-5, 5, 4001)
    objective = [
        negative_log_likelihood(logits, codes, np.exp(u)) - norm.logpdf(u, np.log(median), spread) for u in grid
    ]
    found = fit_temperature(logits, codes, TemperaturePrior(median, spread))
    assert np.log(found) == pytest.approx(grid[int(np.argmin(objective))], abs=3e-3)


def test_many_cells_overrule_the_prior_and_few_do_not() -> None:
    prior = TemperaturePrior(median=1.7, spread=0.25)
    few, many = (fit_temperature(*drawn(4.0, n_cells=n, seed=3), prior) for n in (2, 4000))
    assert abs(np.log(few / 1.7)) < abs(np.log(few / 4.0))
    assert many == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_a_prior_needs_positive_numbers(values: tuple[float, float]) -> None:
    with pytest.raises(DeltaviError, match="positive"):
        TemperaturePrior(*values)


def test_probabilities_of_extreme_logits_are_finite() -> None:
    probabilities = softmax(np.array([[1e5, 0.0, -1e5], [0.0, 0.0, 0.0]]), 0.5)
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [1 / 3] * 3])


@pytest.mark.parametrize(
    ("logits", "codes", "word"),
    [
        (np.zeros((2, 3)), np.array([0, -1]), "unlabelled"),
        (np.zeros((2, 3)), np.array([0, 3]), "between 0 and 2"),
        (np.zeros((2, 3)), np.array([0]), "row per cell"),
        (np.array([[0.0, np.nan]]), np.array([0]), "1 of 1 cells"),
    ],
)
def test_what_does_not_fit(logits: np.ndarray, codes: np.ndarray, word: str) -> None:
    with pytest.raises(DeltaviError, match=word):
        fit_temperature(logits, codes)
