"""Rank of the true condition: a plain count over conditions, cases by hand, chance."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine, euclidean

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.metrics import perturbation_discrimination

SEEDS = st.integers(0, 2**32 - 1)
METRICS = {"cosine": cosine, "euclidean": euclidean}
CONTROL = np.zeros((2, 2))
# changes: a (1, 0), b (0, 1), c (3, 3), d (-1, 0)
REAL = {
    name: np.array([change, change]) for name, change in zip("abcd", [[1, 0], [0, 1], [3, 3], [-1, 0]], strict=True)
}


def scene(seed, n_conditions=6, n_genes=10):
    rng = np.random.default_rng(seed)
    control = rng.gamma(2, 1, (15, n_genes))
    real = {f"c{i}": rng.gamma(2, 1, (12, n_genes)) + rng.normal(0, 1, n_genes) for i in range(n_conditions)}
    return rng.gamma(2, 1, (9, n_genes)) + rng.normal(0, 1, n_genes), real, control


@pytest.mark.parametrize(
    ("change", "metric", "ranks"),
    [
        ([2.0, 0.1], "cosine", {"a": 0.0, "c": 1 / 3, "b": 2 / 3, "d": 1.0}),
        ([2.0, 0.1], "euclidean", {"a": 0.0, "b": 1 / 3, "d": 2 / 3, "c": 1.0}),
        ([0.0, 0.0], "cosine", dict.fromkeys("abcd", 0.5)),
        ([0.0, 0.0], "euclidean", {"a": 1 / 3, "b": 1 / 3, "d": 1 / 3, "c": 1.0}),
    ],
)
def test_by_hand(change, metric, ranks):
    for perturbation, rank in ranks.items():
        found = perturbation_discrimination(
            np.array([change]), REAL, perturbation=perturbation, control=CONTROL, metric=metric
        )
        assert found == pytest.approx(rank)


@given(seed=SEEDS, metric=st.sampled_from(list(METRICS)))
@settings(deadline=None)
def test_it_is_the_share_of_other_conditions_that_are_closer(seed, metric):
    predicted, real, control = scene(seed)
    start = control.mean(axis=0)
    guess = predicted.mean(axis=0) - start
    distances = {name: METRICS[metric](guess, cells.mean(axis=0) - start) for name, cells in real.items()}
    for perturbation in real:
        closer = sum(distances[other] < distances[perturbation] for other in real if other != perturbation)
        found = perturbation_discrimination(predicted, real, perturbation=perturbation, control=control, metric=metric)
        assert found == pytest.approx(closer / 5)


@given(seed=SEEDS, metric=st.sampled_from(list(METRICS)))
@settings(deadline=None)
def test_form_and_order_of_genes_cells_and_conditions_do_not_matter(seed, metric):
    predicted, real, control = scene(seed)
    genes, rng = np.random.default_rng(seed).permutation(10), np.random.default_rng(seed)
    expected = perturbation_discrimination(predicted, real, perturbation="c2", control=control, metric=metric)
    moved = {name: sp.csr_matrix(rng.permutation(real[name])[:, genes]) for name in reversed(real)}
    found = perturbation_discrimination(
        predicted[:, genes], moved, perturbation="c2", control=sp.csc_matrix(control[:, genes]), metric=metric
    )
    assert found == expected


@given(seed=SEEDS, factor=st.floats(0.1, 10))
@settings(deadline=None)
def test_cosine_is_blind_to_size(seed, factor):
    predicted, real, control = scene(seed)
    start = control.mean(axis=0)
    scaled = (start + factor * (predicted.mean(axis=0) - start))[None]
    for perturbation in real:
        ranks = [
            perturbation_discrimination(x, real, perturbation=perturbation, control=control)
            for x in (predicted, scaled)
        ]
        assert ranks[0] == ranks[1]


@pytest.mark.parametrize("metric", METRICS)
def test_the_right_cells_rank_first_and_ranks_of_all_targets_fill_the_scale(metric):
    predicted, real, control = scene(3)
    for perturbation, cells in real.items():
        assert (
            perturbation_discrimination(cells, real, perturbation=perturbation, control=control, metric=metric) == 0.0
        )
    ranks = [perturbation_discrimination(predicted, real, perturbation=t, control=control, metric=metric) for t in real]
    assert sorted(ranks) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize("metric", METRICS)
def test_random_predictions_rank_in_the_middle(metric):
    found = []
    for seed in range(300):
        predicted, real, control = scene(seed)
        found.append(perturbation_discrimination(predicted, real, perturbation="c0", control=control, metric=metric))
    assert np.mean(found) == pytest.approx(0.5, abs=4 * 0.34 / np.sqrt(300))


def test_conditions_with_the_same_cells_share_the_rank():
    _, real, control = scene(1)
    real["twin"] = real["c0"]
    assert perturbation_discrimination(real["c0"], real, perturbation="c0", control=control) == pytest.approx(0.5 / 6)


def test_mapping_is_left_untouched():
    predicted, real, control = scene(0)
    kept = {name: cells.copy() for name, cells in real.items()}
    perturbation_discrimination(predicted, real, perturbation="c1", control=control)
    assert list(real) == list(kept)
    for name, cells in kept.items():
        np.testing.assert_array_equal(real[name], cells)


def test_bad_input():
    predicted, real, control = scene(0)
    with pytest.raises(UnknownCategoryError, match=r"perturbation 'cc1' is not in the data\. Did you mean 'c1'"):
        perturbation_discrimination(predicted, real, perturbation="cc1", control=control)
    with pytest.raises(UnknownCategoryError, match="metric 'l2' is not in those on offer"):
        perturbation_discrimination(predicted, real, perturbation="c1", control=control, metric="l2")
    with pytest.raises(DeltaviError, match="no condition but the perturbation"):
        perturbation_discrimination(predicted, {"c1": real["c1"]}, perturbation="c1", control=control)
    with pytest.raises(GeneMatchError, match="predicted has 4"):
        perturbation_discrimination(predicted[:, :4], real, perturbation="c1", control=control)
    for bad, message in ((np.full((3, 10), np.nan), r"\['c2'\] holds NaN"), (np.zeros((0, 10)), r"\['c2'\] is empty")):
        with pytest.raises(InputDataError, match=message):
            perturbation_discrimination(predicted, real | {"c2": bad}, perturbation="c1", control=control)


def test_a_single_cell_is_enough():
    predicted, real, control = scene(0)
    one = {name: cells[:1] for name, cells in real.items()}
    assert 0 <= perturbation_discrimination(predicted[:1], one, perturbation="c1", control=control[:1]) <= 1
