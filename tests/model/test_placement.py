"""Where components of a mixture begin: on labels, on clusters, and across conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from deltavi.model import _placement
from deltavi.model._placement import Placement, Positions, placed


def blobs(n_blobs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, the blob of each, and the centres, far apart."""
    rng = np.random.default_rng(seed)
    centres = 20 * np.eye(n_blobs, 6)
    codes = np.repeat(np.arange(n_blobs), 40)
    return centres[codes] + rng.normal(0, [1, 2, 1, 1, 0.5, 1], (len(codes), 6)), codes, centres


def place(z: np.ndarray, codes: np.ndarray, groups: np.ndarray | None = None, **options: Any) -> Placement:
    groups = np.ones((len(z), 1)) if groups is None else groups
    return placed(Positions(z, np.zeros_like(z), codes, groups), **options)


def test_without_labels_components_are_placed_on_clusters() -> None:
    z, codes, _ = blobs(4)
    placement = place(z, np.full(len(z), -1), n_labels=0, n_components=4, seed=0)
    centres = placement.means
    variances = placement.variances
    order = ((centres[:, None] - np.stack([z[codes == k].mean(0) for k in range(4)])) ** 2).sum(-1).argmin(0)
    for k, component in enumerate(order):
        np.testing.assert_allclose(centres[component], z[codes == k].mean(0), rtol=1e-6)
        np.testing.assert_allclose(variances[component], z[codes == k].var(0), rtol=1e-6)


def test_named_components_lie_on_their_labels_and_free_ones_on_what_is_left() -> None:
    z, codes, truth = blobs(5)
    known = np.where(np.isin(codes, [0, 1, 2]) & (np.arange(len(z)) % 4 == 0), codes, -1)
    placement = place(z, known, n_labels=3, n_components=5, seed=0)
    centres = placement.means
    variances = placement.variances
    # the other cells of a label are found to be of it
    for k in range(3):
        np.testing.assert_allclose(centres[k], z[codes == k].mean(0), atol=1e-3)
    found = {int(((truth - centre) ** 2).sum(1).argmin()) for centre in centres[3:]}
    assert found == {3, 4}
    assert (variances > 0).all()


def test_a_label_without_training_cells_takes_those_of_no_other() -> None:
    """As where cells for training are named and none of them has it."""
    z, codes, truth = blobs(4)
    known = np.where(np.isin(codes, [0, 1]) & (np.arange(len(z)) % 4 == 0), codes, -1)
    placement = place(z, known, n_labels=3, n_components=5, seed=0)
    assert np.isfinite(placement.means).all()
    assert np.isfinite(placement.variances).all()
    for k in range(2):
        np.testing.assert_allclose(placement.means[k], z[codes == k].mean(0), atol=1e-3)
    found = {int(((truth - centre) ** 2).sum(1).argmin()) for centre in placement.means[3:]}
    assert found == {2, 3}


def test_labelled_cells_stay_with_their_component() -> None:
    """Two labels for one cloud, cut across where no mixture would cut it."""
    z, codes, _ = blobs(2)
    known = np.where(codes == 1, 2, np.arange(len(z)) % 2)
    placement = place(z, known, n_labels=3, n_components=3, seed=0)
    centres = placement.means
    variances = placement.variances
    np.testing.assert_allclose(centres, [z[known == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(variances, [z[known == k].var(0) for k in range(3)])


def test_a_long_population_is_not_cut() -> None:
    """Two clouds, ten times as long as they lie apart: k-means cuts across them, one covariance for all does not."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1], 400)
    z = rng.normal(0, [10, 0.5, 0.5], (800, 3)) + 4 * codes[:, None] * np.eye(3)[1]
    by_k_means = KMeans(2, n_init=10, random_state=0).fit_predict(z)
    assert adjusted_rand_score(codes, by_k_means) < 0.1
    placement = place(z, np.full(800, -1), n_labels=0, n_components=2, seed=0)
    centres = placement.means
    np.testing.assert_allclose(np.sort(centres[:, 1]), [0, 4], atol=0.2)


def test_components_hold_the_posteriors_of_their_cells() -> None:
    z, codes, _ = blobs(3)
    spread = np.random.default_rng(1).uniform(0.5, 2, z.shape)
    wide = placed(Positions(z, spread, codes, np.ones((len(z), 1))), n_labels=3, n_components=3, seed=0)
    narrow = place(z, codes, n_labels=3, n_components=3, seed=0)
    np.testing.assert_array_equal(wide.means, narrow.means)
    for k in range(3):
        expected = z[codes == k].var(0) + spread[codes == k].mean(0)
        np.testing.assert_allclose(wide.variances[k], expected)


@pytest.mark.parametrize("known", [0, 1, 2])
def test_conditions_lie_apart_by_an_offset_whatever_types_they_hold(known: int) -> None:
    """In one condition a type is six times as frequent: the difference of the means is not the offset."""
    z, codes, _ = blobs(3)
    keep = (codes > 0) | (np.arange(len(z)) % 6 == 0)
    offset = np.array([0, 1, -2, 3, 0.5, -1.0])
    both = np.concatenate([z, z[keep] + offset])
    truth, condition = np.concatenate([codes, codes[keep]]), np.repeat([0, 1], [len(z), keep.sum()])
    labels = np.where(truth < known, truth, -1)
    placement = place(both, labels, np.eye(2)[condition], n_labels=known, n_components=3, seed=0)
    np.testing.assert_allclose(placement.offsets[1] - placement.offsets[0], offset, atol=0.3)
    here = placement.means + placement.offsets[0]
    expected = np.stack([z[codes == k].mean(0) for k in range(3)])
    gaps = np.abs(here[:, None] - expected).max(-1).min(0)
    assert (gaps < 0.25).all()


def test_very_many_cells_are_placed_by_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_placement, "MOST_CELLS", 60)
    monkeypatch.setattr(_placement, "CELLS_OF_A_LABEL", 3)
    z, _, truth = blobs(4)
    known = np.where(np.arange(len(z)) >= 155, 0, -1)  # five cells of the last blob
    placement = place(z, known, n_labels=1, n_components=4, seed=0)
    centres = placement.means
    nearest = ((truth[:, None] - centres) ** 2).sum(-1)
    np.testing.assert_allclose(nearest.min(1), 0, atol=3)
    assert nearest[3].argmin() == 0


def test_a_component_without_cells_still_has_a_variance() -> None:
    z, codes, _ = blobs(2)
    known = np.where(codes == 0, 0, np.where(np.arange(len(z)) == 50, 1, -1))
    placement = place(z, known, n_labels=2, n_components=8, seed=0)
    variances = placement.variances
    assert np.isfinite(variances).all()
    assert (variances > 0).all()


@pytest.mark.parametrize("flat", [0, 1])
def test_dimensions_without_variance_do_no_harm(flat: int) -> None:
    z, _, _ = blobs(3)
    z[:, 6 - flat :] = 1.5
    placement = place(z, np.full(len(z), -1), n_labels=0, n_components=3, seed=0)
    centres = placement.means
    variances = placement.variances
    assert np.isfinite(centres).all()
    assert np.isfinite(variances).all()
    assert len(np.unique(centres.round(1), axis=0)) == 3


@pytest.mark.parametrize("n_distinct", [1, 3])
def test_cells_that_lie_on_one_another_are_one_component(n_distinct: int) -> None:
    z = np.repeat(np.random.default_rng(0).normal(size=(n_distinct, 4)), 20, axis=0)
    placement = place(z, np.full(len(z), -1), n_labels=0, n_components=5, seed=0)
    assert placement.has_cells.sum() == n_distinct
    found = placement.means[placement.has_cells]
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(np.unique(z, axis=0), axis=0), atol=1e-3)
