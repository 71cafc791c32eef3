"""Responses of groups of cells by what was measured: coverage, uncertainty, own cells, lengths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from deltavi.perturbation import GroupMeans, ResponseModel, ResponseTable
from deltavi.perturbation.crossed_estimate import SPREADS, USUAL_SPREAD, MeasuredResponses
from tests.perturbation import plain_kriging as plain
from tests.perturbation.crossed_scenes import replaced

N_LABELS, N_GENES, N_CELLS = 8, 200, 100


def draw(seed: int, *, far: float = 1.0, n_labels: int = N_LABELS) -> tuple[ResponseTable, np.ndarray, np.ndarray]:
    """Responses that differ smoothly with where control cells lie, but for the last label; its profile and response."""
    rng = np.random.default_rng(seed)
    points = np.zeros((n_labels + 1, N_GENES))
    points[:, :2] = rng.normal(size=(n_labels + 1, 2)) * np.append(np.ones(n_labels), far)[:, None]
    distances = ((points[:, None] - points) ** 2).sum(-1)
    scale = 2 * distances[:-1, :-1][np.triu_indices(n_labels, 1)].mean()
    root = np.linalg.cholesky(np.exp(-distances / scale) + 1e-9 * np.eye(n_labels + 1))
    spread = np.sqrt(rng.gamma(1.0, 1.0, N_GENES))
    true = spread * (rng.normal(size=N_GENES) + root @ rng.normal(size=(n_labels + 1, N_GENES)))
    measured = true + np.sqrt(2 / N_CELLS) * rng.normal(size=true.shape)
    # profiles are not negative
    profiles = points - points.min()
    table = plain.table_of(measured[:-1], np.full((2, n_labels), N_CELLS), np.ones(N_GENES))
    return replaced(table, control_means=profiles[:-1]), profiles[-1], measured[-1]


def group(profile: np.ndarray, name: str = "new", n_cells: int = N_CELLS) -> GroupMeans:
    return GroupMeans((name,), profile[None], (n_cells,))


@pytest.fixture(scope="module")
def scenes() -> list[tuple[MeasuredResponses, np.ndarray, np.ndarray]]:
    drawn = [draw(seed, far=far) for seed in range(7) for far in (0.3, 1.0, 3.0)]
    return [(MeasuredResponses(ResponseModel.fit(table)), *rest) for table, *rest in drawn]


def test_intervals_hold_measured_changes(scenes: list[tuple[MeasuredResponses, np.ndarray, np.ndarray]]) -> None:
    inside = []
    for measured, profile, observed in scenes:
        found = measured.at("drug", "new", group(profile))
        inside.append((np.abs(observed - found.change) <= found.half_width).mean())
    assert 0.85 <= np.mean(inside) <= 0.98


def test_uncertainty_ranks_errors(scenes: list[tuple[MeasuredResponses, np.ndarray, np.ndarray]]) -> None:
    doubts, errors = [], []
    for measured, profile, observed in scenes:
        found = measured.at("drug", "new", group(profile))
        doubts.append(found.uncertainty)
        errors.append(((observed - found.change) ** 2).sum() / (observed**2).sum())
        assert found.expected_skill == measured.model.expected_skill["context"]
        assert (found.own_weight, found.flags) == (0.0, ("new_context",))
    assert stats.spearmanr(doubts, errors).statistic > 0.5


def test_far_queries_are_extrapolated_and_near_ones_are_not() -> None:
    table, _, _ = draw(1)
    measured = MeasuredResponses(ResponseModel.fit(table, kernel="similarity"))
    far, near = table.control_means[0] + 50, table.control_means[0] + 1e-3
    found, close = (measured.at("drug", "new", group(p)) for p in (far, near))
    assert found.uncertainty > found.max_training_uncertainty == close.max_training_uncertainty > close.uncertainty


def test_a_measured_group_knows_its_own_response_unless_its_cells_are_others() -> None:
    table, _, _ = draw(2)
    measured = MeasuredResponses(ResponseModel.fit(table))
    name, profile = table.contexts[3], table.control_means[3]
    own = measured.at("drug", name, group(profile, name))
    np.testing.assert_array_equal(own.change, measured.model.predict("drug", context=name).change[0])
    assert own.own_weight > 0.5
    assert "new_context" not in own.flags
    other = measured.at("drug", name, group(profile + 50, name))
    assert other.own_weight == 0
    assert "new_context" in other.flags


def test_few_cells_of_its_own_bring_a_group_nearer() -> None:
    """As an observation of its own, however few, and no further from the truth on the mean."""
    without, with_five, alone = [], [], []
    for seed in range(12):
        table, profile, observed = draw(seed, far=2.0)
        rng = np.random.default_rng(seed)
        five = observed + np.sqrt(1 / 5 + 1 / N_CELLS) * rng.normal(size=N_GENES)
        few = plain.table_of(five[None], np.array([[5], [N_CELLS]]), np.ones(N_GENES))
        few = replaced(few, control_means=profile[None], contexts=("new",), levels=(("new",),))
        for own, errors in ((table, without), (table.joined(few), with_five)):
            found = MeasuredResponses(ResponseModel.fit(own)).at("drug", "new", group(profile))
            errors.append(((found.change - observed) ** 2).sum())
        alone.append(((five - observed) ** 2).sum())
    assert np.mean(with_five) < 0.8 * min(np.mean(without), np.mean(alone))


def test_a_scaled_effect_has_scaled_intervals() -> None:
    table, profile, _ = draw(3)
    measured = MeasuredResponses(ResponseModel.fit(table))
    once, twice = (measured.at("drug", "new", group(profile), scale) for scale in (1.0, -2.0))
    np.testing.assert_allclose(twice.change, -2 * once.change)
    np.testing.assert_allclose(twice.half_width, 2 * once.half_width)
    np.testing.assert_allclose(twice.expected_error, 4 * once.expected_error)


def test_spread_of_lengths_is_that_of_contexts_left_out() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=N_GENES)

    def measured(lengths: np.ndarray) -> MeasuredResponses:
        n = len(lengths)
        table = plain.table_of(lengths[:, None] * direction, np.full((2, n), 1000), np.ones(N_GENES))
        table = replaced(table, control_means=rng.uniform(0, 1, (n, N_GENES)))
        return MeasuredResponses(ResponseModel.fit(table, kernel="identity"))

    narrow, wide = (measured(1 + s * rng.normal(size=20)).length_spread("drug") for s in (0.2, 0.5))
    assert narrow == pytest.approx(0.2, abs=0.1)
    assert wide > 1.5 * narrow
    assert measured(np.ones(8)).length_spread("drug") == SPREADS[0]
    assert measured(np.ones(2)).length_spread("drug") == USUAL_SPREAD


@pytest.mark.parametrize("n_labels", [1, 2])
def test_fewer_than_three_contexts_promise_no_interval(n_labels: int) -> None:
    table, profile, _ = draw(4, n_labels=max(n_labels, 2))
    table = table.of_pairs(np.arange(n_labels))
    found = MeasuredResponses(ResponseModel.fit(table)).at("drug", "new", group(profile))
    assert np.isnan(found.half_width).all()
    assert np.isnan(found.max_training_uncertainty)
    assert np.isfinite(found.change).all()
    assert "shrunken_mean" in found.flags


def test_combinations_are_sums_of_their_parts() -> None:
    rng = np.random.default_rng(5)
    both = rng.normal(size=(2, N_GENES))
    rows = np.array([[1, 0], [0, 1]] * 4)
    table = plain.table_of(rows @ both, np.full((2, 8), 1000), np.ones(N_GENES))
    table = replaced(
        table, parts=rows, perturbations=("x", "y"), context_of=np.repeat(np.arange(4), 2),
        contexts=table.contexts[:4], levels=table.levels[:4], n_control=np.full(4, 1000.0),
        control_means=rng.uniform(0, 1, (4, N_GENES)), variances=np.ones((4, N_GENES)),
    )  # fmt: skip
    measured = MeasuredResponses(ResponseModel.fit(table))
    assert [measured.has_measured(name) for name in ("x", "y+x", "x+z")] == [True, True, False]
    profile = rng.uniform(0, 1, N_GENES)
    single = [measured.at(name, "new", group(profile)).change for name in ("x", "y")]
    joined = measured.at("x+y", "new", group(profile)).change
    np.testing.assert_allclose(joined, np.sum(single, axis=0), atol=0.02)
    assert np.corrcoef(joined, both.sum(0))[0, 1] > 0.99
