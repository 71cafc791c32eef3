"""Methods that networks are compared with on the same hold-outs, and what is left of the cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.perturbation.networks import CONTROL, held_out, kriging, low_rank, mean, scores
from benchmarks.perturbation.responses import Case, Split
from deltavi.datasets import simulate_screen
from deltavi.perturbation import ResponseTable
from tests.perturbation.crossed_scenes import scene


def case_of(table: ResponseTable) -> Case:
    """The first context held out of a complete table."""
    held = table.context_of == 0
    return Case(table.of_pairs(~held), table.of_pairs(held), table.contexts[0])


def test_low_rank_keeps_what_few_programmes_make() -> None:
    table = scene(0, 5, 60, 200, complete=True)
    rng = np.random.default_rng(1)
    programmes = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 200))
    common = replace(table, changes=programmes[table.parts.argmax(1)])
    np.testing.assert_allclose(low_rank(case_of(common)), programmes, atol=1e-8)
    noisy = replace(table, changes=common.changes + rng.normal(size=common.changes.shape))
    case = case_of(noisy)
    # ten directions of 200 hold little of the noise, though they are chosen with it
    assert ((low_rank(case) - programmes) ** 2).sum() < 0.8 * ((mean(case) - programmes) ** 2).sum()


def test_kriging_follows_control_cells_and_falls_back_to_the_mean() -> None:
    table = scene(2, 9, 1, 30, complete=True)
    places = np.linspace(0, 1, 9)[:, None]
    rng = np.random.default_rng(0)
    smooth = replace(
        table,
        control_means=places * rng.uniform(1, 2, 30),
        changes=np.sin(3 * places) * rng.normal(size=30),
        n_perturbed=np.full(9, 1e6),
        n_control=np.full(9, 1e6),
    )
    case = Case(smooth.of_pairs(np.arange(9) != 4), smooth.of_pairs(np.arange(9) == 4), smooth.contexts[4])
    error = ((kriging(case) - case.held.changes) ** 2).sum()
    assert error < 0.05 * ((mean(case) - case.held.changes) ** 2).sum()
    few = scene(2, 3, 1, 30, complete=True)
    np.testing.assert_allclose(kriging(case_of(few)), mean(case_of(few)))


@pytest.fixture(scope="module")
def found():
    cells = simulate_screen(n_genes=80, n_contexts=3, n_perturbations=3, n_batches=1, n_cells_per_group=30, seed=0)
    cells.obs["total_counts"] = np.asarray(cells.X.sum(1)).ravel()
    left_out = ((cells.obs["context"] == "context_1") & (cells.obs["condition"] != CONTROL)).to_numpy()
    return cells, held_out(Split(cells, ("context",), left_out), seed=0)


def test_halves_of_control_cells_are_apart(found) -> None:
    cells, one = found
    (case,) = one.cases
    n_control = int(((cells.obs["context"] == "context_1") & (cells.obs["condition"] == CONTROL)).sum())
    query = one.query("context_1")
    assert query.n_obs + case.held.n_control[0] == n_control
    assert set(query.obs["condition"]) == {CONTROL}
    assert case.seen.n_control[case.seen.position_of("context_1")] == query.n_obs
    assert "context_1" not in {context for context, _ in case.seen.pairs}
    assert {context for context, _ in case.held.pairs} == {"context_1"}
    assert case.seen.genes == case.held.genes == tuple(one.learned.var_names)


def test_an_answer_that_cannot_be_given_has_no_scores(found) -> None:
    _, one = found
    (case,) = one.cases
    assert all(np.isnan(list(scores(case, 0, np.full(len(case.held.genes), np.nan)).values())))


def test_scores_are_exact_for_the_truth(found) -> None:
    _, one = found
    (case,) = one.cases
    for row, change in enumerate(case.held.changes):
        exact, nothing = scores(case, row, change), scores(case, row, np.zeros_like(change))
        assert exact["squared_error"] == pytest.approx(-case.held.squared_errors[row].sum())
        assert exact["pearson"] == pytest.approx(1)
        assert nothing["squared_error"] == pytest.approx(nothing["squared_size"])
        assert np.isnan(nothing["pearson"])
