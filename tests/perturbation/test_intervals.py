"""Intervals of a kriged response: coverage on simulated responses, what widens them, and what leaves them alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deltavi.perturbation import intervals
from deltavi.perturbation._kriging import Responses, best_width, interpolate
from deltavi.perturbation.intervals import CLASSES, ResponseEstimate, estimate_response
from tests.perturbation import plain_kriging as plain

SEEDS = st.integers(0, 2**32 - 1)
N_LABELS, N_GENES, N_DRAWS = 8, 400, 60


@dataclass(frozen=True, eq=False)
class Draw:
    """Responses of labels and of a query, from the Gaussian process that kriging assumes.

    Attributes
    ----------
    responses
        Of the labels, measured with noise.
    query
        Where its control cells lie.
    observed, error
        ``(n_genes,)`` measured response of the query and its squared standard error.
    """

    responses: Responses
    query: np.ndarray
    observed: np.ndarray
    error: np.ndarray

    def estimate(self, **options: float) -> ResponseEstimate:
        return estimate_response(self.responses, self.query, query_error=self.error, **options)

    def inside(self, found: ResponseEstimate) -> np.ndarray:
        return np.abs(self.observed - found.change) <= found.half_width


def draw(
    seed: int,
    *,
    n_labels: int = N_LABELS,
    n_genes: int = N_GENES,
    far: float = 1.0,
    noise: float = 0.02,
    n_responding: int | None = None,
) -> Draw:
    """A scene in two dimensions; the mean of a gene is as large as its spread, and few respond where it is said."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_labels + 1, 2))
    points[-1] *= far
    distances = ((points[:, None] - points) ** 2).sum(-1)
    scale = 2 * distances[:-1, :-1][np.triu_indices(n_labels, 1)].mean()
    root = np.linalg.cholesky(np.exp(-distances / scale) + 1e-9 * np.eye(n_labels + 1))
    spread = np.sqrt(rng.gamma(1.0, 1.0, n_genes))
    if n_responding is not None:
        spread = np.where(np.arange(n_genes) < n_responding, 1.0, 0.1)
    true = spread * (rng.normal(size=n_genes) + root @ rng.normal(size=(n_labels + 1, n_genes)))
    errors = np.full(true.shape, noise)
    observed = true + np.sqrt(errors) * rng.normal(size=true.shape)
    return Draw(Responses(points[:-1], observed[:-1], errors[:-1]), points[-1], observed[-1], errors[-1])


@pytest.fixture(scope="module")
def draws() -> list[tuple[Draw, ResponseEstimate]]:
    return [(scene, scene.estimate()) for scene in map(draw, range(N_DRAWS))]


# -- learning: coverage --------------------------------------------------------------------------------------------


def test_intervals_cover_as_many_genes_as_they_should(draws: list[tuple[Draw, ResponseEstimate]]) -> None:
    covered = np.array([scene.inside(found).mean() for scene, found in draws])
    assert 0.85 <= covered.mean() <= 0.95
    half = [scene.inside(scene.estimate(coverage=0.5)).mean() for scene, _ in draws[:30]]
    assert 0.4 <= np.mean(half) <= 0.6


@pytest.mark.parametrize("far", [0.1, 3.0])
def test_coverage_holds_for_near_and_far_queries(far: float) -> None:
    scenes = [draw(seed, far=far) for seed in range(40)]
    assert 0.83 <= np.mean([scene.inside(scene.estimate()).mean() for scene in scenes]) <= 0.97


def test_uncertainty_tells_large_errors_from_small_ones(draws: list[tuple[Draw, ResponseEstimate]]) -> None:
    uncertainties = [found.uncertainty for _, found in draws]
    errors = [((scene.observed - found.change) ** 2).mean() for scene, found in draws]
    assert stats.spearmanr(uncertainties, errors).statistic > 0.6
    # nor does it only rank them: it is the error relative to how much responses differ, up to noise
    spread = [interpolate(scene.responses, scene.query).spread.mean() for scene, _ in draws]
    expected = np.mean(np.array(uncertainties) * spread) + 0.02
    assert expected == pytest.approx(np.mean(errors), rel=0.35)


def plain_classes(change: np.ndarray) -> list[list[int]]:
    """Genes of each class: a twentieth with the largest changes, the next 15 %, and the others."""
    order, n = sorted(range(len(change)), key=lambda gene: -abs(change[gene])), len(change)
    return [order[: n // 20], order[n // 20 : n // 5], order[n // 5 :]]


def plain_deviation(responses: Responses, query: np.ndarray, width: float, error: np.ndarray) -> np.ndarray:
    """Expected error of each gene; of its spread two labels' worth is that of its class."""
    found, n = plain.kriging(responses, query, width), len(responses.points)
    variance = np.zeros(len(error))
    for genes in plain_classes(found.weights @ responses.changes):
        shrunk = ((n - 1) * found.spread[genes] + 2 * np.mean(found.spread[genes])) / (n - 1 + 2)
        variance[genes] = found.uncertainty * shrunk + error[genes]
    return np.sqrt(variance)


def test_half_widths_equal_those_computed_plainly() -> None:
    """Quantile of the errors of labels left out, by class, in units of what is expected."""
    for seed in range(3):
        scene = draw(seed, n_labels=6, n_genes=100)
        responses, width = scene.responses, plain.preferred_width(scene.responses)
        scores: list[list[float]] = [[], [], []]
        for label in range(6):
            others, at = responses.without(label), responses.points[label]
            change = plain.kriging(others, at, width).weights @ others.changes
            relative = np.abs(responses.changes[label] - change) / plain_deviation(
                others, at, width, responses.errors[label]
            )
            for scored, genes in zip(scores, plain_classes(change), strict=True):
                scored.extend(relative[genes])
        expected = plain_deviation(responses, scene.query, width, scene.error)
        change = plain.kriging(responses, scene.query, width).weights @ responses.changes
        for scored, genes in zip(scores, plain_classes(change), strict=True):
            # the smallest score that nine tenths of them do not exceed
            expected[genes] *= sorted(scored)[int(np.ceil(0.9 * (len(scored) - 1)))]
        np.testing.assert_allclose(scene.estimate().half_width, expected, rtol=1e-6)


def test_genes_that_change_much_are_calibrated_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One width for all genes would leave out many of those that respond."""
    scenes = [draw(seed, n_responding=40) for seed in range(30)]

    def largest_covered() -> tuple[float, float]:
        covered, ratio = [], []
        for scene in scenes:
            found = scene.estimate()
            order = np.argsort(-np.abs(found.change))
            largest, others = order[: int(CLASSES[0] * N_GENES)], order[N_GENES // 2 :]
            covered.append(scene.inside(found)[largest].mean())
            ratio.append(found.half_width[largest].mean() / found.half_width[others].mean())
        return float(np.mean(covered)), float(np.mean(ratio))

    apart = largest_covered()
    monkeypatch.setattr(intervals, "CLASSES", (1.0,))
    together = largest_covered()
    assert apart[0] >= 0.85
    assert apart[0] > together[0] + 0.05
    assert apart[1] > together[1] > 1


# -- what widens them ------------------------------------------------------------------------------------------------


def test_fewer_cells_of_the_query_widen_every_interval() -> None:
    scene = draw(0)
    widths = [
        estimate_response(scene.responses, scene.query, query_error=error).half_width
        for error in (0.0, np.full(N_GENES, 0.05), 0.5)
    ]
    assert (np.diff(widths, axis=0) > 0).all()
    # variances add up
    ratio = (widths[2] ** 2 - widths[0] ** 2) / (widths[1] ** 2 - widths[0] ** 2)
    np.testing.assert_allclose(ratio, 10, rtol=1e-6)


def test_fewer_cells_of_the_labels_widen_the_intervals() -> None:
    few, many = ([draw(seed, noise=noise).estimate() for seed in range(10)] for noise in (0.5, 0.001))
    assert np.mean([f.half_width.mean() for f in few]) > 1.3 * np.mean([f.half_width.mean() for f in many])


def test_a_query_far_away_gets_wide_intervals_and_more_uncertainty() -> None:
    scene = draw(0)
    direction = np.array([1.0, 0.3])
    found = [estimate_response(scene.responses, distance * direction) for distance in (0.0, 1.0, 2.0, 3.0, 5.0, 50.0)]
    assert (np.diff([f.uncertainty for f in found]) > 0).all()
    assert (np.diff([f.half_width.mean() for f in found]) > 0).all()
    assert len({f.max_training_uncertainty for f in found}) == 1
    assert found[0].uncertainty < found[0].max_training_uncertainty < found[-1].uncertainty


def test_a_wider_coverage_is_wider() -> None:
    widths = [draw(0).estimate(coverage=share).half_width for share in (0.5, 0.8, 0.9, 0.99)]
    assert (np.diff(widths, axis=0) > 0).all()


def test_max_training_uncertainty_is_the_largest_of_a_label_left_out() -> None:
    scene = draw(1)
    width = best_width(scene.responses)
    uncertainties = [
        interpolate(scene.responses.without(label), scene.responses.points[label], width).uncertainty
        for label in range(N_LABELS)
    ]
    assert scene.estimate().max_training_uncertainty == pytest.approx(max(uncertainties))
    found, expected = scene.estimate(), interpolate(scene.responses, scene.query)
    np.testing.assert_allclose(found.change, expected.weights @ scene.responses.changes)
    np.testing.assert_array_equal(found.weights, expected.weights)


# -- edges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_labels", [1, 2])
def test_fewer_than_three_labels_say_nothing_of_their_errors(n_labels: int) -> None:
    found = draw(0, n_labels=N_LABELS)
    responses = Responses(*(values[:n_labels] for values in vars(found.responses).values()))
    estimate = estimate_response(responses, found.query, query_error=found.error)
    assert np.isnan(estimate.half_width).all()
    assert estimate.half_width.shape == (N_GENES,)
    assert np.isnan(estimate.max_training_uncertainty)
    assert np.isfinite(estimate.change).all()
    assert estimate.weights.sum() == pytest.approx(1)
    three = Responses(*(values[:3] for values in vars(found.responses).values()))
    assert np.isfinite(estimate_response(three, found.query).half_width).all()


def test_a_gene_that_nobody_expresses_has_no_width() -> None:
    scene = draw(0)
    responses, error = scene.responses, scene.error.copy()
    for values in (responses.changes, responses.errors):
        values[:, 10:60] = 0
    error[10:60] = 0
    found = estimate_response(responses, scene.query, query_error=error)
    np.testing.assert_array_equal(found.half_width[10:60], 0)
    np.testing.assert_array_equal(found.change[10:60], 0)
    assert (np.delete(found.half_width, np.arange(10, 60)) > 0).all()
    # the query may express what no label does
    error[10] = 0.1
    assert estimate_response(responses, scene.query, query_error=error).half_width[10] > 0


@pytest.mark.parametrize("n_genes", [1, 2, 7])
def test_few_genes_and_no_change_stay_finite(n_genes: int) -> None:
    scene = draw(0, n_genes=n_genes)
    assert np.isfinite(scene.estimate().half_width).all()
    still = Responses(scene.responses.points, np.zeros((N_LABELS, n_genes)), np.zeros((N_LABELS, n_genes)))
    np.testing.assert_array_equal(estimate_response(still, scene.query).half_width, 0)


# -- properties --------------------------------------------------------------------------------------------------------


@given(seed=SEEDS)
@settings(deadline=None, max_examples=15)
def test_order_of_genes_and_labels_is_irrelevant(seed: int) -> None:
    scene, rng = draw(seed, n_labels=5, n_genes=60), np.random.default_rng(seed)
    genes, labels = rng.permutation(60), rng.permutation(5)
    responses = Responses(
        scene.responses.points[labels],
        scene.responses.changes[labels][:, genes],
        scene.responses.errors[labels][:, genes],
    )
    expected = scene.estimate()
    found = estimate_response(responses, scene.query, query_error=scene.error[genes])
    np.testing.assert_allclose(found.change, expected.change[genes], atol=1e-8)
    np.testing.assert_allclose(found.half_width, expected.half_width[genes], rtol=1e-6)
    np.testing.assert_allclose(found.weights, expected.weights[labels], atol=1e-8)
    assert found.max_training_uncertainty == pytest.approx(expected.max_training_uncertainty)


@given(seed=SEEDS, unit=st.floats(0.01, 100))
@settings(deadline=None, max_examples=15)
def test_widths_are_in_the_units_of_the_responses(seed: int, unit: float) -> None:
    scene = draw(seed, n_labels=5, n_genes=60)
    of = scene.responses
    scaled = Responses(of.points, unit * of.changes, unit**2 * of.errors)
    found = estimate_response(scaled, scene.query, query_error=unit**2 * scene.error)
    np.testing.assert_allclose(found.half_width, unit * scene.estimate().half_width, rtol=1e-6)
