"""Scores of clusterings: against scikit-learn, all one-to-one maps, small cases by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from deltavi.errors import DeltaviError
from deltavi.metrics import ClusteringScores, clustering_scores

SEEDS = st.integers(0, 2**32 - 1)
CELLS = [f"cell{i}" for i in range(6)]


def simulated(seed: int, n_cells: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Up to four labels and up to five clusters, which follow the labels in half of the cells."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, 5), n_cells)
    clusters = np.where(rng.random(n_cells) < 0.5, labels, rng.integers(0, rng.integers(1, 6), n_cells))
    return labels, clusters


def numbers(scores: ClusteringScores) -> list[float]:
    return list(scores.as_dict().values())


def accuracy_by_trial(labels: np.ndarray, clusters: np.ndarray) -> float:
    """The best of all maps that give each cluster a label of its own, or none."""
    groups, types = np.unique(clusters), np.unique(labels)
    targets = [*types, *[-1] * len(groups)]
    maps = (dict(zip(groups, chosen, strict=True)) for chosen in itertools.permutations(targets, len(groups)))
    return max(np.mean([one[k] == label for k, label in zip(clusters, labels, strict=True)]) for one in maps)


def purity_by_loop(labels: np.ndarray, clusters: np.ndarray, fit_on: np.ndarray) -> float:
    """The definition, one cell at a time."""
    right = []
    for k, label in zip(clusters[~fit_on], labels[~fit_on], strict=True):
        values, sizes = np.unique(labels[fit_on & (clusters == k)], return_counts=True)
        most = values[sizes == sizes.max()] if len(sizes) else []
        right.append(1 / len(most) if label in most else 0.0)
    return float(np.mean(right))


class TestOracles:
    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_indexes_are_those_of_scikit_learn(self, seed):
        labels, clusters = simulated(seed)
        scores = clustering_scores(labels, clusters)
        assert scores.adjusted_rand == pytest.approx(sk.adjusted_rand_score(labels, clusters))
        expected = sk.normalized_mutual_info_score(labels, clusters)
        assert scores.normalised_mutual_information == pytest.approx(expected)

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=15)
    def test_accuracy_is_that_of_the_best_of_all_maps(self, seed):
        labels, clusters = simulated(seed, n_cells=20)
        assert clustering_scores(labels, clusters).accuracy == pytest.approx(accuracy_by_trial(labels, clusters))

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_purity_is_that_of_a_plain_loop(self, seed):
        labels, clusters = simulated(seed)
        fit_on = np.random.default_rng(seed).permutation(len(labels)) < 15
        scores = clustering_scores(labels, clusters, fit_on=fit_on)
        assert scores.purity == pytest.approx(purity_by_loop(labels, clusters, fit_on))

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_f1_is_the_best_of_scikit_learn_over_clusters(self, seed):
        labels, clusters = simulated(seed)
        found = clustering_scores(labels, clusters).found
        assert set(found) == set(labels)
        for label, f1 in found.items():
            expected = max(sk.f1_score(labels == label, clusters == k) for k in np.unique(clusters))
            assert f1 == pytest.approx(expected)


class TestByHand:
    def test_a_label_in_two_clusters(self):
        scores = clustering_scores(list("aaaabb"), [0, 0, 1, 1, 2, 2], fit_on=[True, False] * 3)
        assert scores.accuracy == pytest.approx(4 / 6)  # one half of a counts as wrong,
        assert scores.purity == 1.0  # but both are pure
        assert scores.found == pytest.approx({"a": 2 / 3, "b": 1.0})

    def test_a_rare_label_swallowed_by_a_large_cluster(self):
        scores = clustering_scores(["T"] * 98 + ["platelet"] * 2, ["all"] * 100)
        assert scores.found == pytest.approx({"T": 196 / 198, "platelet": 4 / 102})
        assert scores.accuracy == 0.98

    def test_purity_takes_the_label_of_the_fitted_cells(self):
        labels, clusters = list("aab" + "abb"), [0, 0, 0] * 2
        fit_on = np.array([True] * 3 + [False] * 3)
        assert clustering_scores(labels, clusters, fit_on=fit_on).purity == pytest.approx(1 / 3)
        assert clustering_scores(labels, clusters, fit_on=~fit_on).purity == pytest.approx(1 / 3)

    def test_a_cluster_without_fitted_cells_is_wrong(self):
        scores = clustering_scores(list("aaaa"), [0, 0, 0, 1], fit_on=[True, True, False, False])
        assert scores.purity == 0.5

    def test_labels_that_are_equally_frequent_share_the_cell(self):
        assert clustering_scores(list("abb"), [0, 0, 0], fit_on=[True, True, False]).purity == 0.5

    def test_without_a_mask_both_halves_are_judged(self):
        # one cell in either half: each label is known from the other cell only
        assert clustering_scores(list("aa"), [0, 0]).purity == 1.0
        assert clustering_scores(list("ab"), [0, 0]).purity == 0.0

    def test_the_mean_of_both_halves(self):
        labels, clusters = simulated(3)
        half = np.random.default_rng(7).permutation(40) < 20
        both = [clustering_scores(labels, clusters, fit_on=part).purity for part in (half, ~half)]
        assert clustering_scores(labels, clusters, seed=7).purity == pytest.approx(np.mean(both))
        assert len({clustering_scores(labels, clusters, seed=seed).purity for seed in range(20)}) > 1


class TestProperties:
    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_names_of_clusters_and_labels_mean_nothing(self, seed):
        labels, clusters = simulated(seed)
        rng = np.random.default_rng(seed)
        renamed = np.array(["e", "d", "c", "b", "a"])[rng.permutation(5)]
        one, other = clustering_scores(labels, clusters), clustering_scores(labels, renamed[clusters])
        assert numbers(one) == pytest.approx(numbers(other))
        again = clustering_scores(renamed[labels], clusters)
        assert {renamed[label]: f1 for label, f1 in one.found.items()} == pytest.approx(again.found)
        assert numbers(one)[:4] == pytest.approx(numbers(again)[:4])

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_order_of_cells_does_not_matter(self, seed):
        labels, clusters = simulated(seed)
        rng = np.random.default_rng(seed)
        order, fit_on = rng.permutation(len(labels)), rng.permutation(len(labels)) < 20
        one = clustering_scores(labels, clusters, fit_on=fit_on)
        assert numbers(one) == pytest.approx(
            numbers(clustering_scores(labels[order], clusters[order], fit_on=fit_on[order]))
        )

    @given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5), seed=SEEDS)
    @settings(deadline=None, max_examples=40)
    def test_perfect_clusters_have_one_everywhere(self, sizes, seed):
        labels = np.repeat(np.arange(2 * len(sizes)) // 2, np.repeat(sizes, 2))  # each in either part
        fit_on = np.concatenate([[True] * size + [False] * size for size in sizes])
        names = np.random.default_rng(seed).permutation(len(sizes))
        assert numbers(clustering_scores(labels, names[labels], fit_on=fit_on)) == pytest.approx(
            [1.0] * (4 + len(sizes))
        )

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=60)
    def test_scores_stay_within_their_bounds(self, seed):
        scores = clustering_scores(*simulated(seed), seed=seed)
        assert -1.0 <= scores.adjusted_rand <= 1.0 + 1e-12
        assert all(0.0 <= value <= 1.0 + 1e-12 for value in numbers(scores)[1:])

    @given(seed=SEEDS)
    @settings(deadline=None, max_examples=30)
    def test_a_cluster_per_cell_says_nothing_of_other_cells(self, seed):
        labels = np.random.default_rng(seed).integers(0, 3, 60)
        scores = clustering_scores(labels, np.arange(60))
        assert scores.purity == 0.0  # fitted and judged on the same cells it would be one
        assert scores.accuracy == pytest.approx(len(np.unique(labels)) / 60)

    def test_is_the_same_again_and_leaves_the_global_state_alone(self):
        before = np.random.get_state()[1].copy()
        labels, clusters = simulated(0)
        assert clustering_scores(labels, clusters) == clustering_scores(labels, clusters)
        assert (np.random.get_state()[1] == before).all()


class TestInput:
    def test_anything_hashable(self):
        plain = clustering_scores([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1])
        labels = [("B", 1), ("B", 1), "T", "T", 3.5, 3.5]
        mixed = clustering_scores(labels, pd.Categorical(["x", "x", "x", "y", "y", "y"]))
        assert numbers(mixed)[:4] == pytest.approx(numbers(plain)[:4])
        assert set(mixed.found) == {("B", 1), "T", 3.5}

    def test_series_without_a_cell_of_some_category(self):
        labels = pd.Series(pd.Categorical(["B", "B", "T"], categories=["B", "NK", "T"]), index=CELLS[:3])
        clusters = pd.Series(["1", "1", "0"], index=CELLS[:3], dtype="string")
        assert clustering_scores(labels, clusters).found == {"B": 1.0, "T": 1.0}

    def test_a_series_beside_an_array(self):
        labels = pd.Series(list("aabbcc"), index=CELLS)
        assert clustering_scores(labels, np.array([0, 0, 1, 1, 2, 2])).accuracy == 1.0

    def test_fit_on_may_be_a_series(self):
        labels = pd.Series(list("aabb"), index=CELLS[:4])
        fit_on = pd.Series([True, False, True, False], index=CELLS[:4], dtype=object)
        assert clustering_scores(labels, labels, fit_on=fit_on).purity == 1.0

    def test_one_cluster_and_one_label(self):
        assert numbers(clustering_scores(["a"] * 4, [1] * 4)) == [1.0] * 5


class TestResult:
    def test_is_immutable(self):
        scores = clustering_scores(list("ab"), [0, 1])
        with pytest.raises(dataclasses.FrozenInstanceError):
            scores.purity = 1.0

    def test_is_a_row_of_a_table(self):
        row = clustering_scores(["T", "B", "T", "B"], [0, 1, 0, 1], fit_on=[True, True, False, False]).as_dict()
        assert list(row) == [
            *("adjusted_rand", "normalised_mutual_information", "accuracy", "purity"),
            *("found B", "found T"),
        ]
        assert set(row.values()) == {1.0}
        assert all(type(value) is float for value in row.values())


class TestErrors:
    def test_lengths_differ(self):
        with pytest.raises(DeltaviError, match=r"labels has 3 cells, clusters 2\. Pass one"):
            clustering_scores(list("abc"), [0, 1])

    @pytest.mark.parametrize("n_cells", [0, 1])
    def test_too_few_cells(self, n_cells):
        with pytest.raises(DeltaviError, match=rf"hold {n_cells} cells\. Pass at least two"):
            clustering_scores(["a"] * n_cells, [0] * n_cells)

    @pytest.mark.parametrize("nothing", [None, np.nan, pd.NA, pd.NaT])
    def test_missing_label(self, nothing):
        labels = pd.Series(["a", nothing, "b", nothing], index=CELLS[:4], dtype=object)
        with pytest.raises(DeltaviError, match=r"labels is missing for 2 of 4 cells .*'cell1', 'cell3'\)\. Leave"):
            clustering_scores(labels, [0, 0, 1, 1])

    def test_missing_cluster(self):
        with pytest.raises(DeltaviError, match=r"clusters is missing for 1 of 3 cells \(for example 2\)"):
            clustering_scores(list("abc"), np.array([0.0, 1.0, np.nan]))

    @pytest.mark.parametrize("labels", [[["a"], ["b"]], 5, None], ids=["lists", "number", "nothing"])
    def test_not_hashable(self, labels):
        with pytest.raises(DeltaviError, match="labels must hold one hashable value per cell"):
            clustering_scores(labels, [0, 1])

    @pytest.mark.parametrize(
        "clusters", [np.eye(2), pd.DataFrame({"a": [0, 1]}), "01", np.array(0), {0: 0, 1: 1}, {0, 1}]
    )
    def test_not_one_per_cell(self, clusters):
        with pytest.raises(DeltaviError, match="clusters must hold one value per cell"):
            clustering_scores(["a", "b"], clusters)

    def test_other_cells(self):
        labels = pd.Series(list("aabb"), index=CELLS[:4])
        with pytest.raises(DeltaviError, match=r"1 cells only in labels \('cell0'\), 2 cells only in clusters"):
            clustering_scores(labels, pd.Series([0, 0, 1, 1, 1], index=CELLS[1:]))
        with pytest.raises(DeltaviError, match=r"4 cells only in clusters \('10', '11', .* pass arrays"):
            clustering_scores(labels, pd.Series([0, 0, 1, 1], index=range(10, 14)))

    def test_numbers_in_another_order(self):
        labels = pd.Series(list("aabb"), index=[3, 2, 1, 0])
        for pair in ((labels, pd.Series([0, 0, 1, 1])), (pd.Series([0, 0, 1, 1]), labels)):
            with pytest.raises(DeltaviError, match=r"numbered from 0, and the index of .* in another order"):
                clustering_scores(*pair)

    def test_repeated_names(self):
        labels = pd.Series(list("ab"), index=CELLS[:2])
        with pytest.raises(DeltaviError, match="the same names, but 2 and 3 cells"):
            clustering_scores(labels, pd.Series([0, 1, 1], index=["cell0", "cell1", "cell1"]))

    def test_mask_of_other_cells(self):
        labels = pd.Series(list("ab"), index=CELLS[:2])
        with pytest.raises(DeltaviError, match="labels and fit_on have different indexes"):
            clustering_scores(labels, labels, fit_on=pd.Series([True, False], index=["cell0", "cell2"]))

    @pytest.mark.parametrize(
        "fit_on", [[True, False], [1, 0, 1], ["a", "b", "c"], [0.5, 1.0, 1.0], [True, None, False]]
    )
    def test_no_mask(self, fit_on):
        with pytest.raises(DeltaviError, match=r"True or False for each of 3 cells, got shape \("):
            clustering_scores(list("abb"), [0, 1, 1], fit_on=np.array(fit_on))

    @pytest.mark.parametrize("value", [True, False])
    def test_mask_with_one_side(self, value):
        with pytest.raises(DeltaviError, match=f"fit_on is {value} for all 3 cells.*None for two random halves"):
            clustering_scores(list("abb"), [0, 1, 1], fit_on=[value] * 3)
