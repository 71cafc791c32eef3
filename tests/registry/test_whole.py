"""Pieces of a Zarr store that are lost after the cells were registered are an error, not zeros."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from deltavi.errors import DeltaviError, InputDataError
from deltavi.model import VAE
from deltavi.pp import highly_variable_genes, valid_cells
from deltavi.registry.totals import cell_totals
from deltavi.registry.whole import _is_listed_whole
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
    assert not _is_listed_whole(array)
    array[:] = 1
    assert _is_listed_whole(array)
    (tmp_path / "data" / ("c" if zarr_format == 3 else "") / "2").unlink()
    assert not _is_listed_whole(array)
