"""Cells that were opened by relative paths: the working folder may not change under them without an error."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import pytest
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from lightning.pytorch.callbacks import Callback

from deltavi.errors import DeltaviError
from deltavi.model import VAE
from deltavi.pp import concat_lazy, log_normalise, valid_cells
from deltavi.testing import small_adata
from tests.model.conftest import QUIET, dense

GONE = r"relative path '{}', which is not in the working folder '.*elsewhere'.*absolute"
CHANGED = r"relative path '{}', and the working folder, which was '.*here', is '.*elsewhere'. Change it back"


def in_zarr(path: str) -> AnnData:
    group = zarr.open_group(path, mode="r")
    return AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))


OPENED: dict[str, tuple[str, Callable[[str], AnnData]]] = {
    "backed": ("cells.h5ad", lambda path: anndata.read_h5ad(path, backed="r")),
    "zarr": ("cells.zarr", in_zarr),
    "lazy": ("cells.h5ad", anndata.experimental.read_lazy),
    "lazy zarr": ("cells.zarr", anndata.experimental.read_lazy),
    "dense lazy": ("dense.zarr", anndata.experimental.read_lazy),
}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder above two others, in the first of which the script begins."""
    pytest.importorskip("xarray")
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        adata = small_adata(n_per_group=60)
        adata.write_h5ad("cells.h5ad")
        adata.write_zarr("cells.zarr")
        adata.X = dense(adata.X)
        adata.write_zarr("dense.zarr")
    return tmp_path


class Leaves(Callback):
    """Goes to the other folder in the second epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            os.chdir("../elsewhere")


@pytest.mark.parametrize("storage", OPENED)
def test_a_folder_that_changes_before_cells_are_read_is_an_error(storage: str, folders: Path) -> None:
    name, read = OPENED[storage]
    adata = read(name)
    os.chdir(folders / "elsewhere")
    for ask in (VAE.setup_anndata, valid_cells, log_normalise):
        with pytest.raises(DeltaviError, match=GONE.format(name)):
            ask(adata)


@pytest.mark.parametrize("storage", OPENED)
def test_a_folder_that_changes_later_is_an_error_until_it_is_changed_back(storage: str, folders: Path) -> None:
    name, read = OPENED[storage]
    adata = read(name)
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=8, n_latent=2)
    pools = {"block_rows": 4, "buffer_rows": 128}
    with pytest.raises(DeltaviError, match=CHANGED.format(name)):
        model.train(max_epochs=3, batch_size=32, datasplitter_kwargs=pools, callbacks=[Leaves()], **QUIET)
    with pytest.raises(DeltaviError, match=CHANGED.format(name)):
        model.get_latent_representation()
    os.chdir(folders / "here")
    assert model.get_latent_representation().shape == (adata.n_obs, 2)


def test_cells_of_absolute_paths_are_read_from_any_folder(folders: Path) -> None:
    for adata in (in_zarr(os.path.abspath("cells.zarr")), concat_lazy(["cells.h5ad"])):
        VAE.setup_anndata(adata)
        model = VAE(adata, n_hidden=8, n_latent=2)
        model.train(max_epochs=2, callbacks=[Leaves()], **QUIET)
        assert model.get_latent_representation().shape == (adata.n_obs, 2)
        os.chdir(folders / "here")


def test_a_checkpoint_stays_in_the_folder_that_training_began_in(folders: Path) -> None:
    adata = small_adata()
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=3, checkpoint="kept", callbacks=[Leaves()], **QUIET)
    assert list((folders / "elsewhere").iterdir()) == []
    assert len(VAE.load(folders / "here" / "kept", adata).history["train_loss"]) == 3


def test_a_folder_that_is_gone_is_another_one(folders: Path) -> None:
    adata = OPENED["backed"][1]("cells.h5ad")
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=8, n_latent=2)
    os.chdir(folders / "elsewhere")
    (folders / "elsewhere").rmdir()
    with pytest.raises(DeltaviError, match=r"the working folder, which was '.*here', is ''"):
        model.train(max_epochs=1, **QUIET)
    os.chdir(folders / "here")
