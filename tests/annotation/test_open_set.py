"""Novelty score: by brute force, by scikit-learn's covariance, and on planted strangers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deltavi.annotation._neighbours import N_NEIGHBOURS
from deltavi.annotation._open_set import MOST_PER_CLASS, OpenSetScorer, _kept

CENTRES = np.array([[0.0, 0.0, 0.0], [8.0, 0.0, 0.0], [0.0, 8.0, 0.0]])


def cells(codes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Three classes, stretched along the third axis, where being far off means little."""
    noise = np.random.default_rng(seed).normal(size=(len(codes), 3)) * [1.0, 1.0, 10.0]
    return CENTRES[codes] + noise


def reconstruction_errors(n: int, seed: int = 0) -> np.ndarray:
    """Negative log likelihoods that grow with depth, as those of counts do."""
    rng = np.random.default_rng(seed)
    log_total = rng.normal(7.5, 0.4, n)
    return np.stack([log_total * (40 + 10 * log_total + rng.normal(0, 2, n)), log_total], axis=1)


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return np.repeat([0, 1, 2], [300, 200, 12])


@pytest.fixture(scope="module")
def scorer(codes: np.ndarray) -> OpenSetScorer:
    return OpenSetScorer.fit(cells(codes), reconstruction_errors(len(codes)), codes)


def test_it_equals_a_loop_over_classes(scorer: OpenSetScorer, codes: np.ndarray) -> None:
    query = cells(np.repeat([0, 1, 2], 5), seed=1)
    reference, whitened = cells(codes) @ scorer.whitening, query @ scorer.whitening
    least = []
    for cell in whitened:
        reach = []
        for code in range(3):
            distances = np.sort(np.linalg.norm(reference[codes == code] - cell, axis=1))
            reach.append(distances[min(N_NEIGHBOURS, -(-len(distances) // 2)) - 1])
        least.append(np.log(min(reach)))
    expected = (np.array(least) - scorer.distance.centre) / scorer.distance.unit
    np.testing.assert_allclose(scorer.score(query, None), expected, atol=1e-4)


def test_within_classes_the_coordinates_are_white(scorer: OpenSetScorer, codes: np.ndarray) -> None:
    white = cells(codes) @ scorer.whitening
    deviations = white - np.stack([white[codes == code].mean(0) for code in range(3)])[codes]
    # shrunk towards equal variances, so short axes come out a little short
    np.testing.assert_allclose(np.cov(deviations.T), np.eye(3), atol=0.25)


def test_a_training_cell_is_ordinary_where_another_is(scorer: OpenSetScorer, codes: np.ndarray) -> None:
    """Its own distance of zero is left out: fresh cells of the same classes are no stranger."""
    fresh = scorer.score(cells(codes, seed=5), None)
    assert abs(np.median(fresh)) < 0.3
    assert abs(np.quantile(fresh, 0.9) - 1) < 0.4


def test_strangers_are_found_and_the_harmless_axis_is_forgiven(scorer: OpenSetScorer, codes: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    strangers = np.array([5.0, 5.0, 0.0]) + rng.normal(size=(100, 3))
    ordinary = cells(codes, seed=3)
    scores = scorer.score(np.vstack([ordinary, strangers]), None)
    is_new = np.repeat([False, True], [len(ordinary), 100])
    euclidean = np.linalg.norm(np.vstack([ordinary, strangers])[:, None] - CENTRES, axis=2).min(1)
    assert roc_auc_score(is_new, scores) > max(0.95, roc_auc_score(is_new, euclidean) + 0.1)


def test_cells_of_a_rare_class_are_not_strange(scorer: OpenSetScorer) -> None:
    rare = scorer.score(cells(np.full(200, 2), seed=7), None)
    # a dozen cells tell less well where the class is dense, but they are no outliers either
    assert np.quantile(rare, 0.5) < 2


def test_bad_reconstruction_is_strange_whatever_the_position(scorer: OpenSetScorer, codes: np.ndarray) -> None:
    query, ordinary = cells(codes, seed=4), reconstruction_errors(len(codes), seed=4)
    as_they_are = scorer.score(query, ordinary)
    np.testing.assert_array_equal(np.maximum(as_they_are, scorer.score(query, None)), as_they_are)
    garbled = ordinary * [1.5, 1.0]
    assert (scorer.score(query, garbled) > as_they_are.max()).mean() > 0.95
    # a deep cell has a larger negative log likelihood, and that is no reconstruction error
    deep = np.stack([9.0 * (40 + 90.0) * np.ones(5), np.full(5, 9.0)], axis=1)
    np.testing.assert_allclose(scorer.score(query[:5], deep), scorer.score(query[:5], None))


def test_saved_and_read_it_is_the_same(scorer: OpenSetScorer, codes: np.ndarray) -> None:
    again = OpenSetScorer.from_dict(scorer.as_dict())
    query, reconstruction_error = cells(codes, seed=6), reconstruction_errors(len(codes), seed=6)
    np.testing.assert_array_equal(again.score(query, reconstruction_error), scorer.score(query, reconstruction_error))
    without = OpenSetScorer.fit(cells(codes), None, codes)
    assert OpenSetScorer.from_dict(without.as_dict()).reconstruction_error is None


def test_a_large_class_is_kept_in_part_and_says_the_same() -> None:
    codes = np.repeat([0, 1], [MOST_PER_CLASS + 1500, 50])
    scorer = OpenSetScorer.fit(cells(codes), None, codes)
    assert (scorer.codes == 0).sum() == MOST_PER_CLASS
    assert abs(np.median(scorer.score(cells(codes, seed=9), None))) < 0.3


@pytest.mark.parametrize("constant", [True, False])
def test_features_that_never_vary_and_classes_of_one_cell(constant: bool) -> None:
    codes = np.array([0] * 20 + [1])
    features = np.zeros((21, 2)) if constant else cells(codes)
    reconstruction_error = np.ones((21, 2))
    scores = OpenSetScorer.fit(features, reconstruction_error, codes).score(features, reconstruction_error)
    assert np.isfinite(scores).all()


def test_the_ordinary_is_by_brute_force_without_the_cell_itself(codes: np.ndarray) -> None:
    reconstruction_error = reconstruction_errors(len(codes))
    reconstruction_error[:, 0] += 300 * (reconstruction_error[:, 1] - 7.5) ** 2
    scorer = OpenSetScorer.fit(cells(codes), reconstruction_error, codes)
    white, own = cells(codes) @ scorer.whitening, []
    for i, cell in enumerate(white):
        reach = []
        for code in range(3):
            members = codes == code
            k = min(N_NEIGHBOURS, -(-members.sum() // 2))
            members[i] = False
            reach.append(np.sort(np.linalg.norm(white[members] - cell, axis=1))[k - 1])
        own.append(np.log(min(reach)))
    centre, ninth = np.quantile(own, [0.5, 0.9])
    assert scorer.distance.centre == pytest.approx(centre, abs=1e-4)
    assert scorer.distance.unit == pytest.approx(ninth - centre, abs=1e-4)
    relative = reconstruction_error[:, 0] / reconstruction_error[:, 1]
    excess = relative - np.polyval(np.polyfit(reconstruction_error[:, 1], relative, 2), reconstruction_error[:, 1])
    centre, ninth = np.quantile(excess, [0.5, 0.9])
    bad = reconstruction_error + np.outer(10 * (ninth - centre) * reconstruction_error[:, 1], [1, 0])
    expected = np.maximum(scorer.score(cells(codes), None), (excess - centre) / (ninth - centre) + 10 - 2.0)
    np.testing.assert_allclose(scorer.score(cells(codes), bad), expected, rtol=1e-6)


def test_the_kept_cells_of_a_class_are_evenly_spaced() -> None:
    kept = _kept(np.zeros(2 * MOST_PER_CLASS, dtype=int))
    assert kept[0] == 0
    assert kept[-1] == 2 * MOST_PER_CLASS - 1
    assert set(np.diff(kept)) <= {1, 2, 3}


def test_classes_of_one_cell_do_not_set_the_scale() -> None:
    features = np.random.default_rng(0).normal(size=(14, 3)) * 5
    for codes in (np.array([0] * 6 + list(range(1, 9))), np.arange(14)):
        scorer = OpenSetScorer.fit(features, None, codes)
        assert scorer.distance.centre > -5
        assert np.isfinite(scorer.score(features, None)).all()
