"""Calibration: what it learns of labelled cells, and what it says of others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from deltavi.annotation import Calibration, ClassifiedCells, conformal_p_values, fit_temperature, softmax
from deltavi.io._format import decode, encode

CENTRES = 6 * np.eye(4)


def classified(kinds: np.ndarray, *, seed: int, codes: np.ndarray | None = None) -> ClassifiedCells:
    """Cells about the centre of their kind, by a classifier that knows the first three only."""
    rng = np.random.default_rng(seed)
    features = CENTRES[kinds] + rng.normal(size=(len(kinds), 4))
    logits = -((features[:, None] - CENTRES[None, :3]) ** 2).sum(2) / 2
    return ClassifiedCells(
        logits=3 * logits,
        features=features,
        reconstruction_error=None,
        codes=np.where(kinds < 3, kinds, -1) if codes is None else codes,
        empty=np.zeros(len(kinds), dtype=bool),
    )


def known(n_cells: int, seed: int) -> ClassifiedCells:
    return classified(np.random.default_rng(seed).integers(0, 3, n_cells), seed=seed)


def fitted(n_held_out: int = 300) -> Calibration:
    return Calibration.fit(known(600, 1), known(n_held_out, 2))


def test_its_parts_are_the_functions_by_themselves() -> None:
    calibration, held_out, query = fitted(), known(300, 2), known(200, 3)
    assert calibration.temperature == fit_temperature(held_out.logits, held_out.codes)
    probabilities = calibration.probabilities(query)
    np.testing.assert_array_equal(probabilities, softmax(query.logits, calibration.temperature))
    novelty_score = calibration.novelty_score(query)
    np.testing.assert_array_equal(novelty_score, calibration.scorer.score(query.features, None))
    expected = conformal_p_values(
        novelty_score,
        calibration.novelty_score(held_out),
        groups=query.logits.argmax(1),
        calibration_groups=held_out.logits.argmax(1),
    )
    np.testing.assert_array_equal(calibration.p_values(query, novelty_score), expected)


def test_known_cells_are_rejected_as_often_as_asked_and_strangers_more_often() -> None:
    rejected = np.zeros(2, dtype=int)
    for seed in range(20):
        calibration = Calibration.fit(known(300, 10 + seed), known(99, 100 + seed))
        kinds = (known(50, 200 + seed), classified(np.full(50, 3), seed=300 + seed))
        for i, query in enumerate(kinds):
            rejected[i] += (calibration.p_values(query, calibration.novelty_score(query)) <= 0.1).sum()
    # cells that share calibration cells are not independent: their number counts for about half
    assert stats.binomtest(int(rejected[0] / 2), 500, 0.1).pvalue > 0.01
    assert rejected[1] > 900


def test_cells_without_counts_and_without_labels_are_left_out() -> None:
    calibration, held_out = fitted(), known(300, 2)
    more = classified(np.zeros(320, dtype=int), seed=9, codes=np.r_[np.full(10, -1), np.zeros(310, dtype=int)])
    spoiled = ClassifiedCells(
        logits=np.concatenate([held_out.logits, more.logits]),
        features=np.concatenate([held_out.features, more.features]),
        reconstruction_error=None,
        codes=np.concatenate([held_out.codes, more.codes]),
        empty=np.r_[np.zeros(310, dtype=bool), np.ones(310, dtype=bool)],
    )
    again = Calibration.fit(known(600, 1), spoiled)
    assert again.temperature == calibration.temperature
    np.testing.assert_array_equal(again.scores, calibration.scores)
    judged = calibration.novelty_score(spoiled)
    np.testing.assert_array_equal(np.isnan(judged), spoiled.empty)
    np.testing.assert_array_equal(np.isnan(calibration.p_values(spoiled, judged)), spoiled.empty)
    np.testing.assert_array_equal(calibration.probabilities(spoiled)[spoiled.empty], 1 / 3)


def test_without_held_out_cells() -> None:
    calibration = Calibration.fit(known(100, 1), known(10, 2)[np.zeros(10, dtype=bool)])
    assert (calibration.temperature, calibration.n_held_out) == (1, 0)
    query = known(20, 3)
    novelty_score = calibration.novelty_score(query)
    assert np.isfinite(novelty_score).all()
    assert np.isnan(calibration.p_values(query, novelty_score)).all()


def test_a_label_without_training_cells_does_no_harm() -> None:
    training = classified(np.random.default_rng(0).integers(0, 2, 200), seed=1)
    calibration, query = Calibration.fit(training, known(60, 2)), known(50, 3)
    novelty_score = calibration.novelty_score(query)
    assert np.isfinite(novelty_score).all()
    assert novelty_score[query.codes == 2].min() > np.median(novelty_score[query.codes < 2])


def test_it_comes_back_from_a_file() -> None:
    calibration, query = fitted(), known(50, 3)
    again = Calibration.from_dict(decode(encode(calibration.as_dict())))
    np.testing.assert_array_equal(again.probabilities(query), calibration.probabilities(query))
    novelty_score = again.novelty_score(query)
    np.testing.assert_array_equal(novelty_score, calibration.novelty_score(query))
    np.testing.assert_array_equal(again.p_values(query, novelty_score), calibration.p_values(query, novelty_score))


@pytest.mark.parametrize("min_group", [1, 1000])
def test_the_smallest_group_can_be_chosen(min_group: int) -> None:
    calibration, query = fitted(), known(50, 3)
    novelty_score = calibration.novelty_score(query)
    pooled = conformal_p_values(novelty_score, calibration.scores)
    found = calibration.p_values(query, novelty_score, min_group=min_group)
    assert np.array_equal(found, pooled) == (min_group == 1000)


def hard(n_cells: int, seed: int) -> ClassifiedCells:
    """Classes that overlap, logits three times too sure, and a reconstruction error."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, n_cells)
    features = CENTRES[kinds] / 4 + rng.normal(size=(n_cells, 4))
    logits = -3 * ((features[:, None] - CENTRES[None, :3] / 4) ** 2).sum(2) / 2
    depth = rng.normal(7.5, 0.4, n_cells)
    reconstruction_error = np.stack([depth * (100 + rng.normal(0, 2, n_cells)), depth], axis=1)
    return ClassifiedCells(logits, features, reconstruction_error, kinds, np.zeros(n_cells, dtype=bool))


def test_mistakes_temperature_and_surprise_reach_the_answers() -> None:
    training, held_out, query = hard(600, 1), hard(300, 2), hard(200, 3)
    calibration = Calibration.fit(training, held_out)
    assert calibration.temperature > 1.5
    np.testing.assert_array_equal(calibration.probabilities(query), softmax(query.logits, calibration.temperature))
    assert (held_out.logits.argmax(1) != held_out.codes).any()
    np.testing.assert_array_equal(calibration.predicted, held_out.logits.argmax(1))
    expected = calibration.scorer.score(query.features, query.reconstruction_error)
    np.testing.assert_array_equal(calibration.novelty_score(query), expected)
    garbled = replace(query, reconstruction_error=query.reconstruction_error * [2.0, 1.0])
    assert (calibration.novelty_score(garbled) > calibration.novelty_score(query)).all()


def test_training_cells_without_counts_or_labels_are_left_out() -> None:
    training, held_out = hard(600, 1), hard(300, 2)
    codes, empty = training.codes.copy(), np.zeros(600, dtype=bool)
    codes[:50], empty[50:100] = -1, True
    spoiled = Calibration.fit(replace(training, codes=codes, empty=empty), held_out)
    clean = Calibration.fit(training[np.arange(100, 600)], held_out)
    np.testing.assert_array_equal(spoiled.scores, clean.scores)
