"""Pieces of a Zarr store that are lost after the cells were registered are an error, not zeros."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from deltavi.errors import DeltaviError, InputDataError
from deltavi.model import LABELVI, VAE
from deltavi.pp import highly_variable_genes, valid_cells
from deltavi.registry.tables import in_memory
from deltavi.registry.totals import cell_totals
from deltavi.registry.whole import is_listed_whole, missing_pieces
from tests.model.conftest import QUIET

N_CELLS, N_GENES = 3000, 30
LOST = "lacks 1 of .* pieces of its data"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(2, (N_CELLS, N_GENES)).astype(np.float32))
    path = tmp_path / "cells.zarr"
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        group = zarr.open_group(path, mode="w", zarr_format=2)
        write_elem(group, "/", AnnData(counts), dataset_kwargs={"chunks": 1000})
        zarr.consolidate_metadata(group.store)
    return path


def opened(store: Path) -> AnnData:
    group = zarr.open_group(store, mode="r")
    return AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))


def lose(store: Path) -> None:
    """Remove a piece that is not among those that are compared."""
    (store / "X" / "data" / "15").unlink()


class Loses(Callback):
    """Removes a piece in the second epoch."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            lose(self.store)


def test_a_piece_that_is_lost_while_a_model_trains_ends_the_training(store: Path) -> None:
    adata = opened(store)
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=8, n_latent=2)
    sizes = {"block_rows": 4, "buffer_rows": 128}
    with pytest.raises(DeltaviError, match=LOST):
        model.train(max_epochs=4, batch_size=32, datasplitter_kwargs=sizes, callbacks=Loses(store), **QUIET)
    assert len(model.history["train_loss"]) == 1


def test_a_piece_that_is_lost_before_a_question_is_an_error(store: Path) -> None:
    adata = opened(store)
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, batch_size=64, **QUIET)
    lose(store)
    with pytest.raises(DeltaviError, match=LOST):
        model.get_latent_representation()


@pytest.mark.parametrize("read", [cell_totals, lambda x: valid_cells(AnnData(x))])
def test_passes_over_rows_do_not_take_a_lost_piece_for_zeros(read: Any, store: Path) -> None:
    x = opened(store).X
    read(x)
    lose(store)
    with pytest.raises(InputDataError, match=LOST):
        read(x)


def test_variable_genes_of_a_store_that_is_not_whole_are_an_error(store: Path) -> None:
    lazy = pytest.importorskip("xarray") and anndata.experimental.read_lazy(store)
    lose(store)
    with pytest.raises(InputDataError, match=LOST):
        highly_variable_genes(lazy, n_top=5)


@pytest.mark.parametrize(("zarr_format", "shards"), [(2, None), (3, None), (3, (40,))])
def test_files_are_listed_instead_of_counted_by_zarr(zarr_format: Any, shards: Any, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=zarr_format)
    array = group.create_array("data", shape=(205,), chunks=(10,), shards=shards, dtype="f4")
    assert not is_listed_whole(array)
    array[:] = 1
    assert is_listed_whole(array)
    (tmp_path / "data" / ("c" if zarr_format == 3 else "") / "2").unlink()
    assert not is_listed_whole(array)


# -- pieces that Zarr does not write ---------------------------------------------------------------------------------


def written(path: Path, adata: AnnData, *, zarr_format: Any = 3, rows: int = 500) -> AnnData:
    """Cells that are written to a store, in pieces of so many values or rows."""
    # in files of their own, not in shards
    with warnings.catch_warnings(), anndata.settings.override(auto_shard_zarr_v3=False):
        warnings.simplefilter("ignore")
        group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        write_elem(group, "/", adata, dataset_kwargs={"chunks": rows} if sparse.issparse(adata.X) else {})
        if not sparse.issparse(adata.X):
            del group["X"]
            write_elem(group, "X", adata.X, dataset_kwargs={"chunks": (rows, 10)})
        zarr.consolidate_metadata(group.store)
    return reopened(path)


def reopened(path: Path) -> AnnData:
    """Cells of a store with their matrix in it."""
    group = zarr.open_group(path, mode="r")
    if isinstance(group["X"], zarr.Array):
        return anndata.experimental.read_lazy(path)
    return AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))


def cells(counts: Any, **obs: Any) -> AnnData:
    return AnnData(counts, obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(len(counts.indptr) - 1)]))


def drawn(n_cells: int = 2000, n_genes: int = 30) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.random.default_rng(0).poisson(1, (n_cells, n_genes)).astype(np.float32))


def unlink(path: Path, array: str, number: str) -> None:
    """Remove a piece of an array, in either version of Zarr."""
    found = [place for place in (path / array / "c" / number, path / array / number) if place.exists()]
    found[0].unlink()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_lost_piece_of_the_starts_of_rows_is_an_error(number: int, zarr_format: Any, tmp_path: Path) -> None:
    written(tmp_path, AnnData(drawn()), zarr_format=zarr_format)
    unlink(tmp_path, "X/indptr", str(number))
    with pytest.raises(DeltaviError, match="indptr"):
        VAE.setup_anndata(reopened(tmp_path))


def test_all_starts_of_rows_that_are_lost_are_an_error(tmp_path: Path) -> None:
    written(tmp_path, AnnData(drawn()), rows=100_000)
    unlink(tmp_path, "X/indptr", "0")
    with pytest.raises(InputDataError, match="lacks 1 pieces of its indptr"):
        VAE.setup_anndata(reopened(tmp_path))


def test_pieces_of_cells_without_counts_may_be_missing(tmp_path: Path) -> None:
    counts = drawn()
    counts = sparse.csr_matrix(sparse.vstack([0 * counts[:1000], counts[1000:]]))
    counts.eliminate_zeros()
    adata = written(tmp_path, AnnData(counts))
    assert missing_pieces(adata.X.group["indptr"]) == [(0,), (1,)]
    with pytest.warns(match="1000 cells have no counts at all"):
        VAE.setup_anndata(adata)


def test_a_lost_piece_of_a_dense_matrix_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    counts = drawn().toarray()
    # genes that no cell of the first pieces has, and some that no cell has at all
    counts[:, 20:] = 0
    counts[1990, 20] = 1
    adata = written(tmp_path, AnnData(counts))
    VAE.setup_anndata(adata)
    unlink(tmp_path, "X", "2/1" if (tmp_path / "X" / "c").exists() else "2.1")
    with pytest.raises(InputDataError, match=r"adata\.X lacks 1 of 12 pieces, the first of them of cell 1000"):
        VAE.setup_anndata(reopened(tmp_path))


def test_a_dense_matrix_without_any_piece_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    written(tmp_path, AnnData(drawn().toarray()))
    shutil.rmtree(tmp_path / "X" / "c")
    with pytest.raises(InputDataError, match="lacks 12 of 12 pieces"):
        VAE.setup_anndata(reopened(tmp_path))


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("table", ["obs", "var"])
def test_lost_names_are_an_error(table: str, is_lazy: bool, tmp_path: Path) -> None:
    written(tmp_path, cells(drawn()))
    names = f"{table}/_index"
    # nullable text, as anndata writes it from 0.13 on
    unlink(tmp_path, f"{names}/values" if (tmp_path / names / "values").is_dir() else names, "0")
    if is_lazy:
        pytest.importorskip("xarray")
    with warnings.catch_warnings():
        # of anndata, about names that are not unique
        warnings.simplefilter("ignore")
        opened = anndata.experimental.read_lazy(tmp_path) if is_lazy else reopened(tmp_path)
        with pytest.raises(InputDataError, match=f"names of {table} are empty: their pieces are missing"):
            VAE.setup_anndata(opened)


@pytest.mark.parametrize(("model", "key"), [(VAE, "batch_key"), (LABELVI, "labels_key")])
def test_a_lost_piece_of_a_column_is_an_error_where_a_category_has_no_cell_left(
    model: Any, key: str, tmp_path: Path
) -> None:
    # of three labels, for models that need two
    batches = pd.Categorical(np.repeat(["a", "b", "c"], [1500, 500, 20]))
    adata = written(tmp_path, cells(drawn(2020), batch=batches))
    # the first three pieces are those of the first category, which Zarr need not write
    assert len(missing_pieces(zarr.open_group(tmp_path)["obs/batch/codes"])) == 3
    model.setup_anndata(adata, **{key: "batch"})
    unlink(tmp_path, "obs/batch/codes", "3")
    lost = reopened(tmp_path)
    with pytest.raises(InputDataError, match=r"'a' of 2000 cells, .* no cell has the category 'b'"):
        model.setup_anndata(lost, **{key: "batch"})
    lost.obs["batch"] = lost.obs["batch"].cat.remove_unused_categories()
    model.setup_anndata(lost, **{key: "batch"})


def test_cells_that_are_read_into_memory_are_whole(store: Path) -> None:
    adata = opened(store)
    assert isinstance(in_memory(adata).X, sparse.csr_matrix)
    lose(store)
    with pytest.raises(InputDataError, match=LOST):
        in_memory(adata)
