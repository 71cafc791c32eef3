"""Merging of components: what is confused goes together, and labels stay apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from deltavi.annotation import merged_components
from deltavi.errors import DeltaviError


def mixture(means: list[float], n_cells: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Responsibilities of unit Gaussians for cells drawn from them, and the component of each cell."""
    rng, codes = np.random.default_rng(seed), np.repeat(np.arange(len(means)), n_cells)
    x = rng.normal(np.asarray(means)[codes])
    density = norm.pdf(x[:, None], np.asarray(means))
    return density / density.sum(1, keepdims=True), codes


def test_components_that_overlap_most_are_merged_first() -> None:
    shares, _ = mixture([0.0, 10.0, 0.8, 13.5, 30.0])
    assert merged_components(shares, 5).tolist() == [0, 1, 2, 3, 4]
    assert merged_components(shares, 4).tolist() == [0, 1, 0, 2, 3]
    assert merged_components(shares, 3).tolist() == [0, 1, 0, 1, 2]
    assert merged_components(shares, 1).tolist() == [0] * 5


def test_the_estimate_is_the_share_of_the_other_in_a_components_cells() -> None:
    """Three cells by hand: 1 is taken for 2 with 0.9 / 1.1, and 0 for 1 with 0.3 / 0.7."""
    shares = np.array([[0.7, 0.3, 0.0], [0.0, 0.55, 0.45], [0.0, 0.55, 0.45], [0.0, 0.0, 1.0]])
    assert merged_components(shares, 2).tolist() == [0, 1, 1]
    shares = np.array([[0.51, 0.49, 0.0], [0.0, 0.55, 0.45], [0.0, 0.55, 0.45], [0.0, 0.0, 1.0]])
    assert merged_components(shares, 2).tolist() == [0, 0, 1]


def test_components_without_cells_join_the_largest() -> None:
    shares = np.zeros((30, 4))
    shares[:20, 2], shares[20:, 0] = 1, 1
    assert merged_components(shares, 2).tolist() == [0, 1, 1, 1]


def test_labels_stay_apart() -> None:
    shares, _ = mixture([0.0, 0.1, 0.4, 9.0])
    groups = merged_components(shares, 2, n_apart=2)
    assert groups[0] != groups[1]
    assert groups[2] in groups[:2]
    with pytest.raises(DeltaviError, match="between 2 and"):
        merged_components(shares, 1, n_apart=2)


@given(n_groups=st.integers(1, 6), seed=st.integers(0, 20), n_apart=st.integers(0, 6))
def test_groups_are_numbered_as_they_appear_and_nested(n_groups: int, seed: int, n_apart: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(6, 0.3), size=25)
    n_groups = max(n_groups, n_apart)
    groups = merged_components(shares, n_groups, n_apart=n_apart)
    _, first = np.unique(groups, return_index=True)
    assert len(first) == n_groups
    assert (np.diff(first) > 0).all()
    assert len(set(groups[:n_apart])) == n_apart
    if n_groups < 6:
        finer = merged_components(shares, n_groups + 1, n_apart=n_apart)
        assert all(len(set(groups[finer == k])) == 1 for k in range(n_groups + 1))


@pytest.mark.parametrize("n_groups", [0, 5])
def test_numbers_of_groups_that_cannot_be(n_groups: int) -> None:
    with pytest.raises(DeltaviError, match="between 1 and the number of components, 4"):
        merged_components(np.full((3, 4), 0.25), n_groups)
