"""A split of the user's own: positions and masks, in every form that training takes them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deltavi.errors import DeltaviError, LabelWarning
from deltavi.model import ACTINN, LABELVI, PPCA, VAE
from deltavi.train import given_split, whole_batches
from tests.model.conftest import QUIET, small_adata
from tests.models import classes_of, entry_of

N = 144
TRAIN, VALIDATION = np.arange(0, 96), np.arange(96, 130)
MASKS = {"train_indices": np.arange(N) < 96, "validation_indices": np.isin(np.arange(N), VALIDATION)}
POSITIONS = {"train_indices": TRAIN, "validation_indices": VALIDATION}


def untrained(cls: Any) -> Any:
    # cells of all types and conditions anywhere
    adata = small_adata()[np.random.default_rng(0).permutation(N)].copy()
    adata.obs_names = [f"cell {i}" for i in range(N)]
    entry = entry_of(cls)
    return entry.untrained(entry.on_its_scale(adata))


def split_of(model: Any) -> list[list[int]]:
    return [sorted(part) for part in (model.train_indices, model.validation_indices, model.test_indices)]


EXPECTED = [TRAIN.tolist(), VALIDATION.tolist(), list(range(130, N))]


@pytest.mark.filterwarnings("ignore::deltavi.errors.MixtureWarning")
@pytest.mark.parametrize("cls", classes_of())
def test_every_model_trains_on_the_cells_that_are_named(cls: Any) -> None:
    model = untrained(cls)
    model.train(1, batch_size=32, **POSITIONS, **QUIET)
    assert split_of(model) == EXPECTED
    model.train(1, batch_size=32, datasplitter_kwargs={"external_indexing": [TRAIN, VALIDATION]}, **QUIET)
    assert split_of(model) == EXPECTED


def test_only_the_named_cells_teach() -> None:
    """Cells for testing are changed beyond recognition, and the trained weights are the same."""
    weights = []
    for factor in (1, 50):
        adata = small_adata()[np.random.default_rng(0).permutation(N)].copy()
        adata.X = adata.X.multiply(np.where(np.arange(N) >= 130, factor, 1)[:, None]).tocsr()
        VAE.setup_anndata(adata)
        model = VAE(adata, n_latent=3, n_hidden=8)
        model.train(1, batch_size=32, early_stopping=True, **POSITIONS, **QUIET)
        weights.append(model.module.z_encoder.mean_encoder.weight.detach().numpy().copy())
    np.testing.assert_array_equal(weights[0], weights[1])


def test_ppca_is_fitted_to_the_named_cells() -> None:
    part, alone = untrained(PPCA), untrained(PPCA)
    part.train(**POSITIONS)
    cells = alone.adata[TRAIN].copy()
    PPCA.setup_anndata(cells, labels_key="cell_type")
    other = PPCA(cells, **entry_of(PPCA).init)
    other.train()
    np.testing.assert_allclose(part.get_loadings(), other.get_loadings(), rtol=1e-4, atol=1e-5)
    everything = untrained(PPCA)
    everything.train()
    assert split_of(everything) == [list(range(N)), [], []]
    half = untrained(PPCA)
    half.train(train_size=0.5)
    assert [len(cells) for cells in split_of(half)] == [72, 72, 0]


@pytest.mark.parametrize(
    "given",
    [
        MASKS,
        {name: mask.tolist() for name, mask in MASKS.items()},
        {name: pd.array(mask.tolist(), dtype="boolean") for name, mask in MASKS.items()},
        {name: torch.from_numpy(cells) for name, cells in POSITIONS.items()},
        {"datasplitter_kwargs": {"external_indexing": [MASKS["train_indices"], VALIDATION, None]}},
        {"datasplitter_kwargs": {"external_indexing": (TRAIN, VALIDATION, np.arange(130, N))}},
        {"datasplitter_kwargs": {"external_indexing": [TRAIN, VALIDATION, np.array([], int)]}},
    ],
)
def test_a_split_may_come_in_any_form(given: dict[str, Any]) -> None:
    model = untrained(VAE)
    model.train(1, batch_size=32, **given, **QUIET)
    assert split_of(model) == EXPECTED


def test_one_part_of_a_split_is_enough() -> None:
    split = given_split(N, train_indices=None, validation_indices=VALIDATION)
    assert sorted(split.train) == sorted(set(range(N)) - set(VALIDATION))
    assert (len(split.validation), len(split.test)) == (34, 0)
    split = given_split(N, train_indices=TRAIN, validation_indices=None)
    assert (len(split.train), len(split.validation), len(split.test)) == (96, 0, 48)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"train_indices": TRAIN, "validation_indices": [0, 1, 100]}, "2 cells are in both train_indices and valid"),
        ({"train_indices": []}, "train_indices leaves 0 cells to train on; at least 3"),
        ({"train_indices": [1, 2, 3, 3]}, r"train_indices holds 1 cells more than once \(for example 3\)"),
        ({"train_indices": [1, 2, N]}, f"outside 0..{N - 1}"),
        ({"validation_indices": np.ones(3, bool)}, f"The mask validation_indices has 3 entries for {N}"),
        ({"train_indices": TRAIN, "train_size": 0.5}, "'train_size', 'train_indices' are several ways to split"),
        ({"train_indices": TRAIN, "datasplitter_kwargs": {"external_indexing": [TRAIN]}}, "several ways"),
        ({"datasplitter_kwargs": {"external_indexing": "all"}}, "a list of one to three arrays"),
        ({"datasplitter_kwargs": {"external_indexing": [TRAIN, VALIDATION, [140]]}}, "13 cells are in no part"),
        ({"validation_indices": np.ones(N, bool)}, "leaves 0 cells to train on"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    model = untrained(VAE)
    with pytest.raises(DeltaviError, match=words):
        model.train(1, **given, **QUIET)
    assert not model.is_trained


@pytest.mark.parametrize("cls", classes_of(annotates=True))
def test_training_cells_need_labels(cls: Any) -> None:
    model = untrained(cls)
    names = model.adata.obs["cell_type"].astype(str).to_numpy()
    first, second, third = sorted(set(names))
    alike = np.flatnonzero(names == first)
    with pytest.raises(DeltaviError, match=f"The {len(alike)} training cells of the split hold 1 labels, of 3"):
        model.train(1, train_indices=alike, **QUIET)
    two, held_out = np.flatnonzero(names != third)[:60], np.flatnonzero(names != third)[60:]
    with pytest.warns(LabelWarning, match=f"no cell of '{third}'"):
        model.train(1, batch_size=16, train_indices=two, validation_indices=held_out, **QUIET)
    assert model.is_trained
    assert second in set(model.label_names)


def test_unlabelled_cells_of_a_split_are_for_testing_where_nothing_is_learned_from_them() -> None:
    adata = small_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    adata.obs.iloc[::5, adata.obs.columns.get_loc("cell_type")] = "unknown"
    ACTINN.setup_anndata(adata, labels_key="cell_type", unlabeled_category="unknown")
    model = ACTINN(adata, n_hidden=8, n_networks=1)
    model.train(1, batch_size=32, train_indices=np.arange(0, N, 2), validation_indices=np.arange(1, N, 2), **QUIET)
    assert set(model.test_indices) == set(range(0, N, 5))
    assert set(model.train_indices) == set(range(0, N, 2)) - set(range(0, N, 5))


def test_mini_batches_of_a_split_grow_rather_than_leave_a_cell_alone(caplog: pytest.LogCaptureFixture) -> None:
    model = untrained(VAE)
    with caplog.at_level(logging.INFO, logger="deltavi"):
        model.train(1, batch_size=32, train_indices=np.arange(97), **QUIET)
    assert model.is_trained
    assert "batch_size=33" in caplog.text
    for n_train in range(3, 70):
        for size in range(3, 40):
            fitting = whole_batches(n_train, size)
            assert n_train % fitting not in (1, 2) or fitting >= n_train
            assert fitting >= size


@pytest.mark.parametrize("given", [{"shuffle_set_split": False}, {"datasplitter_kwargs": {"shuffle_set_split": False}}])
def test_a_split_in_the_order_of_the_cells(given: dict[str, Any]) -> None:
    model = untrained(VAE)
    model.train(1, batch_size=32, train_size=0.75, **given, **QUIET)
    # as in scvi-tools: validation cells come first
    assert split_of(model) == [list(range(36, N)), list(range(36)), []]
    labelled = untrained(LABELVI)
    labelled.train(1, batch_size=32, train_size=0.75, **given, **QUIET)
    names = labelled.adata.obs["cell_type"].to_numpy()
    for name in set(names):
        cells = np.flatnonzero(names == name)
        assert max(set(cells) & set(labelled.train_indices)) < min(set(cells) & set(labelled.validation_indices))


def test_a_split_in_the_arguments_of_the_splitter() -> None:
    model = untrained(VAE)
    model.train(1, datasplitter_kwargs={"train_size": 0.5, "validation_size": 0.25, "batch_size": 24}, **QUIET)
    assert [len(part) for part in split_of(model)] == [72, 36, 36]
    assert model.trainer.num_training_batches == 3
