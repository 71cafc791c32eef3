"""One pass over a file for positions and sums of its cells; later passes of a prediction read what was kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy import sparse

from deltavi._types import Rows
from deltavi.errors import DeltaviError
from deltavi.model import SCGEN
from deltavi.model._asked import positions_of, request_of
from deltavi.model._group_sums import group_means
from deltavi.model._one_pass import Start, encoded, start_of
from deltavi.model.request import Request
from deltavi.registry import checks, stored_rows
from tests.model.conftest import small_adata
from tests.models import MODELS, PERTURBATION

FORMS = ("memory", "h5ad", "gzip", "zarr")


def opened(folder: Path, form: str) -> AnnData:
    """The same cells in each form."""
    cells = small_adata(n_per_group=120)
    if form == "memory":
        return cells
    if form == "zarr":
        group = zarr.open_group(folder / "cells.zarr", mode="w", zarr_format=3)
        with anndata.settings.override(auto_shard_zarr_v3=False):
            for name, element in {"X": cells.X, "obs": cells.obs, "var": cells.var}.items():
                write_elem(group, name, element)
        return AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))
    cells.write_h5ad(folder / "cells.h5ad", compression="gzip" if form == "gzip" else None)
    return anndata.read_h5ad(folder / "cells.h5ad", backed="r")


def trained(folder: Path, form: str) -> SCGEN:
    entry = MODELS["SCGEN"]
    adata = opened(folder, form)
    SCGEN.setup_anndata(adata, **entry.setup)
    model = SCGEN(adata, **entry.init)
    model.train(max_epochs=1, seed=0)
    return model


@pytest.fixture(params=FORMS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> SCGEN:
    return trained(tmp_path, request.param)


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each read of a file: of blocks in order, and of runs."""
    found: list[int] = []
    as_block, read = checks._as_block, stored_rows.WatchedRows.read

    def block(rows: Rows) -> Rows:
        if sparse.issparse(rows):
            found.append(rows.shape[0])
        return as_block(rows)

    def run(self: Any, rows: np.ndarray, *, first: Rows | None = None) -> Rows:
        found.append(len(rows))
        return read(self, rows, first=first)

    monkeypatch.setattr(checks, "_as_block", block)
    monkeypatch.setattr(stored_rows.WatchedRows, "read", run)
    return found


def control_cells(model: SCGEN) -> Request:
    return request_of(model, None, control="control", labels=None, drop=False)


def test_positions_and_sums_are_those_of_two_passes(model: SCGEN) -> None:
    request = control_cells(model)
    start = start_of(model, request)
    np.testing.assert_array_equal(start.positions, positions_of(model, request.adata, request.cells))
    x = small_adata(n_per_group=120).X
    groups, inside = np.full(model.adata.n_obs, "", dtype=object), np.zeros(model.adata.n_obs, dtype=bool)
    groups[request.cells], inside[request.cells] = request.groups, True
    factors = np.ones(model.adata.n_obs)
    factors[request.cells] = 1e4 / request.totals
    expected = group_means(x, groups, inside, factors, log=True)
    assert start.control.labels == expected.labels
    assert start.control.n_cells == expected.n_cells
    np.testing.assert_allclose(start.control.means, expected.means, rtol=1e-12)
    np.testing.assert_allclose(start.control.errors, expected.errors, rtol=1e-9)


def test_every_cell_is_seen_once_in_order(model: SCGEN) -> None:
    seen: list[np.ndarray] = []
    x = small_adata(n_per_group=120).X

    def check(cells: np.ndarray, block: Rows) -> None:
        seen.append(cells)
        np.testing.assert_array_equal(np.asarray(block.todense()), x[cells].toarray())

    chosen = np.arange(5, model.adata.n_obs, 3)
    assert encoded(model, model.adata, chosen, check).shape == (len(chosen), model.module.n_latent)
    np.testing.assert_array_equal(np.concatenate(seen), chosen)


def test_no_cell_has_no_position(model: SCGEN) -> None:
    found = encoded(model, model.adata, np.zeros(0, dtype=int), lambda cells, block: pytest.fail("nothing to see"))
    assert found.shape == (0, model.module.n_latent)


def test_after_training_a_file_is_read_once_more(tmp_path: Path, rows_read: list[int]) -> None:
    """Before, cells are checked and read for training; a file of these few cells is kept in memory for that."""
    entry, adata = MODELS["SCGEN"], opened(tmp_path, "gzip")
    SCGEN.setup_anndata(adata, **entry.setup)
    model = SCGEN(adata, **entry.init)
    rows_read.clear()
    model.train(max_epochs=2, seed=0)
    assert sum(rows_read) <= 2 * adata.n_obs + 1024


@pytest.mark.parametrize("form", ["gzip", "zarr"])
def test_a_prediction_reads_a_compressed_file_once(form: str, tmp_path: Path, rows_read: list[int]) -> None:
    model = trained(tmp_path, form)
    n_control = len(control_cells(model).cells)
    # the first question fits the model of responses
    model.predict_perturbation(**PERTURBATION)
    rows_read.clear()
    model.predict_perturbation(**PERTURBATION)
    span = model.adata.n_obs
    assert n_control <= sum(rows_read) <= span + 1024


def test_predictions_are_those_of_cells_in_memory(tmp_path: Path) -> None:
    answers = {}
    for form in FORMS:
        (tmp_path / form).mkdir()
        answers[form] = trained(tmp_path / form, form).predict_perturbation(**PERTURBATION, n_samples=3)
    expected = answers.pop("memory")
    for form, found in answers.items():
        for layer in expected.layers:
            a, b = (x.toarray() if hasattr(x, "toarray") else x for x in (found.layers[layer], expected.layers[layer]))
            np.testing.assert_array_equal(a, b, err_msg=f"{form} {layer}")
        np.testing.assert_array_equal(found.obsm["X_deltavi"], expected.obsm["X_deltavi"])
        np.testing.assert_array_equal(found.varm["deltavi_change"], expected.varm["deltavi_change"])


def test_a_file_that_is_cut_in_the_pass_is_an_error(tmp_path: Path) -> None:
    model = trained(tmp_path, "h5ad")

    def cut(cells: np.ndarray, block: Rows) -> None:
        os.truncate(tmp_path / "cells.h5ad", 100)

    with pytest.raises(DeltaviError, match=r"adata\.X"):
        encoded(model, model.adata, np.arange(model.adata.n_obs), cut)


def test_pieces_that_are_lost_in_the_pass_are_an_error(tmp_path: Path) -> None:
    model = trained(tmp_path, "zarr")

    def lose(cells: np.ndarray, block: Rows) -> None:
        for piece in (tmp_path / "cells.zarr" / "X" / "data").rglob("*"):
            if piece.is_file() and piece.name not in ("zarr.json", ".zarray", ".zattrs"):
                piece.unlink()

    with pytest.raises(DeltaviError, match="data"):
        encoded(model, model.adata, np.arange(model.adata.n_obs), lose)


def test_a_start_gives_its_means_again(model: SCGEN) -> None:
    start: Start = start_of(model, control_cells(model))
    np.testing.assert_array_equal(start.control.means, start.control.means)
