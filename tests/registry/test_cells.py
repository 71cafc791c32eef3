"""Cells in mini-batches: what a loader of scvi-tools gives, in the order asked for and without a draw."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from anndata import AnnData

from deltavi.model import VAE
from deltavi.registry import _batches
from deltavi.registry.cells import Cells
from deltavi.registry.stored_rows import CsrRows
from tests.model.conftest import SETUP, dense, small_adata

CHOSEN = np.array([7, 3, 3, 60, 0, 12])


def stored(kind: str, tmp_path: Path) -> AnnData:
    adata = small_adata()
    if kind == "dense":
        adata.X = dense(adata.X)
    if kind == "backed":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    return adata


@pytest.fixture(params=["sparse", "dense", "backed"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> VAE:
    adata = stored(request.param, tmp_path)
    VAE.setup_anndata(adata, **SETUP)
    return VAE(adata, n_hidden=8, n_latent=2)


def test_a_mini_batch_is_that_of_a_loader(model: VAE) -> None:
    cells = model._cells(model.adata)
    (expected,) = model._make_data_loader(adata=model.adata, indices=CHOSEN, batch_size=len(CHOSEN))
    found = cells.take(CHOSEN)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("size", [1, 4, 6, 100])
def test_mini_batches_hold_the_chosen_cells_in_order(model: VAE, size: int) -> None:
    parts = [batch["X"] for batch in model._cells(model.adata).batches(CHOSEN, size)]
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    np.testing.assert_array_equal(torch.cat(parts).numpy(), dense(small_adata().X)[CHOSEN])


def test_rows_of_each_cell_and_none_of_no_cell(model: VAE) -> None:
    cells, calls = model._cells(model.adata), []

    def first_two(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(len(batch["X"]))
        return batch["X"][:, :2]

    found = cells.each(first_two, CHOSEN, width=2, size=4)
    np.testing.assert_array_equal(found, dense(small_adata().X)[CHOSEN, :2])
    assert found.dtype == np.float64
    assert calls == [4, 2]
    assert cells.each(first_two, CHOSEN[:0], width=2, size=4).shape == (0, 2)
    assert calls == [4, 2]


@pytest.mark.parametrize(("n_pooled", "n_reads"), [(64, 1), (16, 4), (1, 8)])
def test_cells_of_a_file_in_any_order_are_read_in_pools(
    n_pooled: int, n_reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = stored("backed", tmp_path)
    VAE.setup_anndata(adata, **SETUP)
    cells = VAE(adata, n_hidden=8, n_latent=2)._cells(adata)
    monkeypatch.setattr(_batches, "MOST_POOLED", n_pooled)
    asked: list[list[int]] = []
    read = CsrRows.read

    def noted(self: CsrRows, rows: np.ndarray, **options: Any) -> Any:
        asked.append(rows.tolist())
        return read(self, rows, **options)

    monkeypatch.setattr(CsrRows, "read", noted)
    chosen = np.random.default_rng(0).permutation(64)
    parts = [batch["X"] for batch in cells.batches(chosen, 8)]
    assert [len(part) for part in parts] == [8] * 8
    np.testing.assert_array_equal(torch.cat(parts).numpy(), dense(small_adata().X)[chosen])
    # none twice, and as few times as the pool allows; a pool holds at least one mini-batch
    assert len(asked) == n_reads
    assert sorted(itertools.chain(*asked)) == list(range(64))
    assert all(rows == sorted(rows) for rows in asked)


def test_nothing_is_drawn(model: VAE) -> None:
    def state() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    before = state()
    list(model._cells(model.adata).batches(CHOSEN, 2))
    assert state() == before


def test_one_prediction_reads_its_cells_three_times_whatever_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """For groups and positions by a model of labels, and once for all that is decoded."""
    from deltavi.model import LABELVI

    adata = small_adata()
    LABELVI.setup_anndata(adata, **SETUP)
    model = LABELVI(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, batch_size=32, enable_progress_bar=False, logger=False)
    query = small_adata(seed=1)
    query.obs_names = "query-" + query.obs_names
    read, aligned = [], []
    make, align = type(model.adata_manager).dataset, model._align
    monkeypatch.setattr(
        "deltavi.registry.manager.DataManager.dataset",
        lambda self, *args, **kwargs: read.append(1) or make(self, *args, **kwargs),
    )
    monkeypatch.setattr(model, "_align", lambda cells: aligned.append(1) or align(cells))
    for labels in (None, ["type_1"]):
        read.clear(), aligned.clear()
        model.predict_perturbation(query, control="control", perturbation="stimulated", labels=labels)
        assert (len(read), len(aligned)) == (3, 1)


def test_cells_are_read_before_they_can_change() -> None:
    adata = small_adata()
    VAE.setup_anndata(adata, **SETUP)
    model = VAE(adata, n_hidden=8, n_latent=2)
    cells = Cells(model.adata_manager)
    expected = cells.take(CHOSEN)["batch"].clone()
    adata.obs["_scvi_batch"] = 0
    assert torch.equal(cells.take(CHOSEN)["batch"], expected)
    assert len(torch.unique(expected)) > 1
