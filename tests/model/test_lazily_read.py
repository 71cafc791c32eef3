"""AnnData of ``anndata.experimental.read_lazy``: every model answers as for the same cells in memory."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from anndata.experimental import read_lazy
from scipy import sparse

from deltavi.errors import DeltaviError, InputDataError, UnknownCategoryError
from deltavi.model import LABELVI, VAE
from deltavi.registry import whole
from deltavi.train._streamed import StreamedLoader
from tests.models import MODELS, PERTURBATION
from tests.registry.test_batches import canonical
from tests.train.test_streamed import KEYS, SMALL, assert_same_model, fitted
from tests.train.test_streamed import cells as sorted_cells

xarray = pytest.importorskip("xarray")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Measured cells under"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data"),
]


def read_again(adata: AnnData, folder: Path, kind: str = "h5ad") -> AnnData:
    """The same cells, written and read lazily."""
    path = folder / f"cells.{kind}"
    if not path.exists():
        (adata.write_h5ad if kind == "h5ad" else adata.write_zarr)(path)
    return read_lazy(path)


def is_lazy(adata: AnnData) -> bool:
    return not isinstance(adata.obs, pd.DataFrame)


def answer(entry: Any, model: Any, adata: AnnData | None = None) -> Any:
    verb = getattr(model, entry.verb)
    given = PERTURBATION if entry.verb == "predict_perturbation" else {}
    found = verb(adata, **given)
    return in_full(found.X if isinstance(found, AnnData) else found)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_lazy_cells_is_that_of_cells_in_memory(name: str, kind: str, tmp_path: Path) -> None:
    entry = MODELS[name]
    expected = entry.trained(entry.cells())
    lazy = read_again(entry.cells(), tmp_path, kind)
    found = entry.trained(lazy)
    assert hasattr(lazy.X, "map_blocks")
    np.testing.assert_array_equal(answer(entry, found), answer(entry, expected))
    # as a query, which stays as it is
    query = read_again(entry.cells(), tmp_path, kind)
    np.testing.assert_array_equal(answer(entry, expected, query), answer(entry, expected, entry.cells()))
    chosen = np.arange(0, query.n_obs, 3)
    some = answer(entry, expected, entry.cells()[chosen])
    np.testing.assert_array_equal(answer(entry, expected, query[chosen]), some)
    assert is_lazy(query)
    assert not [key for key in query.obs if str(key).startswith("_scvi")]


def test_setup_changes_no_more_than_in_memory(tmp_path: Path) -> None:
    memory = sorted_cells()
    lazy = read_again(memory.copy(), tmp_path)
    x = lazy.X
    for adata in (memory, lazy):
        VAE.setup_anndata(adata, **KEYS)
    assert lazy.X is x
    assert set(lazy.obs) == set(memory.obs)
    assert set(lazy.obsm) == set(memory.obsm)
    for key in memory.obs:
        # text comes back from a file as categories
        np.testing.assert_array_equal(np.asarray(lazy.obs[key]), np.asarray(memory.obs[key]), err_msg=key)
    np.testing.assert_array_equal(lazy.var_names, memory.var_names)


def test_names_of_cells_that_were_not_read_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    sorted_cells().write_h5ad(path)
    lazy = read_lazy(path, load_annotation_index=False)
    VAE.setup_anndata(lazy, labels_key="label")
    np.testing.assert_array_equal(lazy.obs_names, sorted_cells().obs_names)
    np.testing.assert_array_equal(lazy.var_names, sorted_cells().var_names)


def test_a_refused_setup_leaves_lazy_tables_as_they_are(tmp_path: Path) -> None:
    adata = sorted_cells()
    adata.obsm["table"] = pd.DataFrame({"a": np.arange(adata.n_obs)}, index=adata.obs_names)
    lazy = read_again(adata, tmp_path)
    obs, var, table = lazy.obs, lazy.var, lazy.obsm["table"]
    with pytest.raises(UnknownCategoryError, match=r"'lable'.*'label'"):
        VAE.setup_anndata(lazy, labels_key="lable")
    assert (lazy.obs is obs, lazy.var is var, type(lazy.obsm["table"])) == (True, True, type(table))
    VAE.setup_anndata(lazy, labels_key="label")
    assert isinstance(lazy.obsm["table"], pd.DataFrame)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_training_reads_blocks_of_the_file(kind: str, tmp_path: Path) -> None:
    model = fitted(read_again(sorted_cells(), tmp_path, kind))
    assert isinstance(model.trainer.train_dataloader, StreamedLoader)
    assert torch.isfinite(torch.as_tensor(model.get_latent_representation())).all()
    # and what fits into a pool is kept in memory
    found = fitted(read_again(sorted_cells(), tmp_path, kind), streamed=False)
    assert_same_model(found, fitted(sorted_cells(), streamed=False))


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "dense": lambda x: da.from_array(x.toarray(), chunks=(64, 15)),
    "sparse": lambda x: da.from_array(x, chunks=(50, 40), asarray=False),
    "computed": lambda x: da.from_array(x, chunks=(50, 40), asarray=False).map_blocks(lambda chunk: chunk * 1),
    "whole numbers": lambda x: da.from_array(x.astype(np.int64), chunks=(50, 40), asarray=False),
}


@pytest.mark.parametrize("array", ARRAYS)
def test_training_from_chunks(array: str) -> None:
    def chunked() -> AnnData:
        adata = sorted_cells()
        adata.X = ARRAYS[array](sparse.csr_matrix(adata.X))
        return adata

    memory = sorted_cells(form=np.asarray if array == "dense" else canonical)
    assert_same_model(fitted(chunked(), streamed=False), fitted(memory, streamed=False))
    model = fitted(chunked())
    assert isinstance(model.trainer.train_dataloader, StreamedLoader)
    same = fitted(chunked(), datasplitter_kwargs={**SMALL, "read_ahead": False})
    assert_same_model(same, model)
    one, other = model.get_latent_representation(memory), model.get_latent_representation(chunked())
    np.testing.assert_array_equal(one, other)


def test_layers_that_are_read_lazily(tmp_path: Path) -> None:
    adata = sorted_cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.5
    found = fitted(read_again(adata, tmp_path), streamed=False, setup={"layer": "counts"})
    assert_same_model(found, fitted(adata, streamed=False, setup={"layer": "counts"}))


def test_models_of_a_file_take_lazy_cells(tmp_path: Path) -> None:
    adata = sorted_cells()
    model = fitted(adata, setup={"labels_key": "label"})
    model.save(tmp_path / "model")
    loaded = VAE.load(tmp_path / "model", adata=read_again(adata, tmp_path))
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    # in another order of genes
    other = sorted_cells()[:, ::-1].copy()
    loaded.adata = read_again(other, tmp_path, "zarr")
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    annotated = LABELVI.from_vae(model, read_again(adata, tmp_path))
    assert annotated.adata.n_obs == adata.n_obs
    mapped = fitted(sorted_cells(), setup={"batch_key": "batch"})
    query = read_again(sorted_cells(), tmp_path / "model", "zarr")
    query.obs = query.obs.to_memory().assign(batch="b7")
    assert VAE.load_query_data(query, mapped).adata is query


def test_predictions_do_not_replace_the_lazy_file(tmp_path: Path) -> None:
    entry = MODELS["SCGEN"]
    model = entry.trained(entry.cells())
    for kind in ("h5ad", "zarr"):
        query = read_again(entry.cells(), tmp_path, kind)
        for cells in (query, query[::2]):
            with pytest.raises(DeltaviError, match="holds the cells that are read, and would be replaced"):
                model.predict_perturbation(cells, **PERTURBATION, path=tmp_path / f"cells.{kind}", overwrite=True)
    path = model.predict_perturbation(query, **PERTURBATION, path=tmp_path / "answer.h5ad")
    expected = model.predict_perturbation(entry.cells(), **PERTURBATION)
    np.testing.assert_array_equal(in_full(read_lazy(path).X.compute()), in_full(expected.X))


def in_full(x: Any) -> np.ndarray:
    return np.asarray(x.toarray() if sparse.issparse(x) else x)


@pytest.mark.parametrize("array", ["file", "chunks"])
def test_groups_are_compared_without_their_statistics(array: str, tmp_path: Path) -> None:
    adata = read_again(sorted_cells(), tmp_path) if array == "file" else sorted_cells()
    if array == "chunks":
        adata.X = ARRAYS["sparse"](sparse.csr_matrix(adata.X))
    model = fitted(adata, setup={"labels_key": "label"})
    options = {"groupby": "label", "group1": "t", "group2": "u", "silent": True}
    with pytest.raises(DeltaviError, match=r"counts in memory.*all_stats=False"):
        model.differential_expression(**options)
    found = model.differential_expression(**options, all_stats=False)
    memory = fitted(sorted_cells(), setup={"labels_key": "label"}, streamed=False)
    assert set(found.index) == set(memory.differential_expression(**options).index)


def test_a_model_of_an_open_file_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(DeltaviError, match=r"cells\.h5ad, and an open file cannot be copied"):
        copy.deepcopy(fitted(read_again(sorted_cells(), tmp_path)))
    # a store is opened again
    model = fitted(read_again(sorted_cells(), tmp_path, "zarr"))
    found = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(found.get_latent_representation(), model.get_latent_representation())


# -- files that change -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_lazy_file_that_is_gone_is_an_error(kind: str, tmp_path: Path) -> None:
    lazy = read_again(sorted_cells(), tmp_path, kind)
    model = fitted(lazy)
    os.rename(tmp_path / f"cells.{kind}", tmp_path / f"elsewhere.{kind}")
    with pytest.raises(
        DeltaviError, match=r"adata\.X, registered for 300 cells.*cannot be read|changed|lacks 1 of 1 pieces"
    ):
        model.get_latent_representation()


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("reorders", [False, True])
def test_a_lazy_query_whose_file_is_gone_is_an_error(kind: str, reorders: bool, tmp_path: Path) -> None:
    adata = sorted_cells()[:, ::-1].copy() if reorders else sorted_cells()
    query, model = read_again(adata, tmp_path, kind), fitted(sorted_cells())
    os.rename(tmp_path / f"cells.{kind}", tmp_path / f"elsewhere.{kind}")
    with pytest.raises(InputDataError, match=r"A table of adata cannot be read .*gone, damaged"):
        model.get_latent_representation(query)


def test_a_lazy_file_that_was_written_to_is_an_error(tmp_path: Path) -> None:
    import h5py

    lazy = read_again(sorted_cells(), tmp_path)
    model = fitted(lazy)
    shutil.copy(tmp_path / "cells.h5ad", tmp_path / "other.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "r+") as file:
        file["X/data"][:] = file["X/data"][:] + 1
    # written by another process beside the one that reads, as editors and most programs do
    os.replace(tmp_path / "other.h5ad", tmp_path / "cells.h5ad")
    with pytest.raises(DeltaviError, match=r"adata\.X changed after setup_anndata"):
        model.get_latent_representation()


def test_a_store_that_is_half_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cells.zarr"
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        sorted_cells().write_zarr(path)
    chunk = next(file for file in (path / "X" / "data").rglob("*") if file.is_file() and file.name[0] not in ".z")
    chunk.write_bytes(chunk.read_bytes()[:20])
    model = fitted(sorted_cells())
    for use in (VAE.setup_anndata, model.get_latent_representation):
        with pytest.raises(InputDataError, match=r"adata\.X cannot be read.*not written to the end"):
            use(read_lazy(path))
    chunk.unlink()
    for use in (VAE.setup_anndata, model.get_latent_representation):
        with pytest.raises(InputDataError, match=r"adata\.X lacks 1 of \d+ pieces of its data.*read as zeros"):
            use(read_lazy(path))


def test_cells_of_one_gene_in_a_store(tmp_path: Path) -> None:
    path = tmp_path / "cells.zarr"
    x = sparse.csr_matrix(np.arange(1, 31, dtype=np.float32)[:, None])
    AnnData(x).write_zarr(path)
    VAE.setup_anndata(found := read_lazy(path))
    np.testing.assert_array_equal(in_full(found.X.compute()), x.toarray())
    chunk = next(file for file in (path / "X" / "data").rglob("*") if file.is_file() and file.name[0] not in ".z")
    chunk.unlink()
    with pytest.raises(InputDataError, match=r"adata\.X lacks 1 of \d+ pieces of its data"):
        VAE.setup_anndata(read_lazy(path))


def test_pieces_of_a_store_are_counted_once_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cells.zarr"
    sorted_cells().write_zarr(path)
    listed, plain = [], whole.is_listed_whole
    monkeypatch.setattr(whole, "is_listed_whole", lambda array: listed.append(array.basename) or plain(array))
    VAE.setup_anndata(read_lazy(path))
    # of all cells, and of the sample that is compared later
    assert [name for name in listed if name in ("indices", "data", "indptr")] == ["indices", "data", "indptr"] * 2
