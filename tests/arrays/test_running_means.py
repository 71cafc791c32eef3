"""Means of groups of cells that come block by block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi.arrays.matrix import RunningMeans, gene_means
from deltavi.errors import InputDataError

GROUPS = np.array(["a", "b", "c"], dtype=object)


def expression(n_cells: int, n_genes: int, seed: int) -> np.ndarray:
    """Values of very different size, of which many are zero: the order of their sum shows."""
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(0, 12, (n_cells, n_genes))) * (rng.random((n_cells, n_genes)) < 0.6)
    return values.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n_genes=st.integers(1, 9),
    cuts=st.lists(st.integers(1, 59), unique=True),
    as_csr=st.booleans(),
)
def test_blocks_give_the_bits_of_one_pass(seed: int, n_genes: int, cuts: list[int], as_csr: bool) -> None:
    x = expression(60, n_genes, seed)
    groups = GROUPS[np.random.default_rng(seed).integers(0, 3, 60)]
    rows = sparse.csr_matrix(x) if as_csr else x
    whole, split = RunningMeans(), RunningMeans()
    whole.add(rows, groups, "x")
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        split.add(rows[start:end], groups[start:end], "x")
    for group in set(groups):
        np.testing.assert_array_equal(split.of(group), whole.of(group))
        if as_csr or n_genes > 1:  # NumPy sums one column in pairs
            np.testing.assert_array_equal(whole.of(group), gene_means(rows[groups == group]))
        exact = x[groups == group].astype(np.float64).mean(0)
        np.testing.assert_allclose(whole.of(group), exact, rtol=1e-12)


@pytest.mark.parametrize("as_csr", [True, False])
def test_values_that_are_not_finite_are_refused(as_csr: bool) -> None:
    x = expression(4, 3, 0)
    x[2, 1] = np.nan
    with pytest.raises(InputDataError, match="predicted holds NaN or infinite values in 1 of 4 cells"):
        RunningMeans().add(sparse.csr_matrix(x) if as_csr else x, np.full(4, "a", dtype=object), "predicted")
