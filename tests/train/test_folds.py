"""Folds of a committee: dealt out label by label, and handed to the module with every mini-batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scvi
from hypothesis import given
from hypothesis import strategies as st

from deltavi.train import FoldSplitter, assign_folds
from tests.model.conftest import dense, small_adata


@given(codes=st.lists(st.integers(-1, 4), max_size=60), n_folds=st.integers(1, 7), seed=st.integers(0, 5))
def test_folds_are_even_within_labels_and_overall(codes: list[int], n_folds: int, seed: int) -> None:
    labels = np.array(codes, dtype=int)
    folds = assign_folds(labels, n_folds, np.random.default_rng(seed))
    assert folds.shape == labels.shape
    counts = np.bincount(labels[labels >= 0], minlength=5)
    in_none = (labels < 0) | (counts[labels] == 1) | (n_folds == 1)
    np.testing.assert_array_equal(folds == -1, in_none)
    dealt = [np.bincount(folds[(labels == k) & ~in_none], minlength=n_folds) for k in range(5)]
    assert all(np.ptp(sizes) <= 1 for sizes in dealt)
    assert np.ptp(np.sum(dealt, axis=0)) <= 1
    # no network is without a label that has cells
    for k in range(5):
        for fold in range(n_folds):
            assert counts[k] == 0 or ((labels == k) & (folds != fold)).any()


def test_training_cells_are_dealt_out_first() -> None:
    codes = np.repeat([0, 1, 2], [20, 20, 3])
    training = np.r_[:20, 20:33, 40]
    folds = assign_folds(codes, 5, np.random.default_rng(0), training=training)
    assert folds[40] == -1
    assert (np.delete(folds, 40) >= 0).all()
    assert np.ptp(np.bincount(np.delete(folds[training], -1), minlength=5)) <= 1
    assert np.ptp(np.bincount(folds[20:33], minlength=5)) <= 1


def test_the_seed_decides_the_folds() -> None:
    codes = np.repeat([0, 1], 50)
    first, again, other = (assign_folds(codes, 5, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("batch_size", [16, 1000])
def test_every_training_cell_comes_once_with_its_fold(batch_size: int) -> None:
    adata = small_adata()
    scvi.model.SCVI.setup_anndata(adata)
    manager = scvi.model.SCVI(adata).adata_manager
    folds = np.arange(adata.n_obs) % 3 - 1
    train = np.random.default_rng(0).permutation(adata.n_obs)[:52]

    def splitter(seed: int) -> FoldSplitter:
        made = FoldSplitter(
            manager,
            folds=folds,
            sampling_seed=seed,
            batch_size=batch_size,
            external_indexing=[train, np.setdiff1d(np.arange(adata.n_obs), train), np.array([], dtype=int)],
        )
        made.setup()
        return made

    x = dense(adata.X)
    loader = splitter(0).train_dataloader()
    epochs = [list(loader) for _ in range(2)]

    def cells(batches: list[dict[str, Any]]) -> list[int]:
        rows = np.concatenate([batch["X"].numpy() for batch in batches])
        return [int(np.flatnonzero((x == row).all(1))[0]) for row in rows]

    orders = [cells(batches) for batches in epochs]
    for batches, order in zip(epochs, orders, strict=True):
        assert sorted(order) == sorted(train.tolist())
        given_folds = np.concatenate([batch["fold"].numpy() for batch in batches])
        np.testing.assert_array_equal(given_folds, folds[order][:, None])
        assert max(len(batch["X"]) for batch in batches) == min(batch_size, 52)
    assert orders[0] != orders[1]
    assert cells(list(splitter(0).train_dataloader())) == orders[0]
    assert cells(list(splitter(1).train_dataloader())) != orders[0]
    assert "fold" not in next(iter(splitter(0).val_dataloader()))
