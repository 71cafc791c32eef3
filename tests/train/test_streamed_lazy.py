"""Training in blocks of rows from several files, from lazily read ones and from Dask arrays."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import dask.array as da
import numpy as np
import pytest
import zarr
from anndata import AnnData
from anndata.experimental import read_lazy
from scipy import sparse

from deltavi.errors import DeltaviError
from deltavi.pp import concat_lazy
from deltavi.registry.stored_rows import ChunkRows, JoinedRows, WatchedRows, stored_rows
from tests.registry.test_batches import canonical, doubled, unsorted
from tests.train.test_streamed import (
    N_CELLS,
    SMALL,
    At,
    assert_mini_batches_are_those_of_memory,
    bound,
    cells,
    fitted,
    splitter_of,
)

pytest.importorskip("xarray")
# the first file ends within a block and within a pool
CUT = 117


def named(adata: AnnData) -> AnnData:
    """Genes and cells with names that no other file has."""
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    return adata


def written(adata: AnnData, path: Path) -> Path:
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    return path


def in_two(adata: AnnData, folder: Path, second: str = "b.zarr", *, reorders: bool = False) -> AnnData:
    """The cells in two files, in the second with other genes beside them and in another order."""
    parts = adata[:CUT].copy(), adata[CUT:].copy()
    if reorders:
        extra = AnnData(sparse.csr_matrix(np.ones((parts[1].n_obs, 2), np.float32)), obs=parts[1].obs)
        extra.var_names = ["more", "genes"]
        parts = parts[0], anndata.concat([parts[1][:, ::-1], extra], axis=1, merge="first")
    return concat_lazy([written(parts[0], folder / "a.h5ad"), written(parts[1], folder / second)])


FORMS: dict[str, Callable[[AnnData, Path], AnnData]] = {
    "lazy h5ad": lambda adata, folder: read_lazy(written(adata, folder / "a.h5ad")),
    "lazy zarr": lambda adata, folder: read_lazy(written(adata, folder / "a.zarr")),
    "two files": in_two,
    "two h5ad files": lambda adata, folder: in_two(adata, folder, "b.h5ad"),
    "other genes": lambda adata, folder: in_two(adata, folder, reorders=True),
    "chunks": lambda adata, folder: chunked(adata, 50),
    "large chunks": lambda adata, folder: chunked(adata, N_CELLS),
}


def chunked(adata: AnnData, n_rows: int) -> AnnData:
    adata.X = da.from_array(adata.X, chunks=(n_rows, -1), asarray=False)
    return adata


@pytest.mark.parametrize("read_ahead", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_mini_batches_are_those_cut_from_memory(form: str, read_ahead: bool, tmp_path: Path) -> None:
    stored = FORMS[form](named(cells()), tmp_path)
    assert_mini_batches_are_those_of_memory(splitter_of(stored, read_ahead=read_ahead), named(cells()))


@pytest.mark.parametrize("convert", [unsorted, doubled, np.asarray])
@pytest.mark.parametrize("form", ["two files", "other genes", "chunks"])
def test_mini_batches_of_other_matrices(form: str, convert: Callable[[Any], Any], tmp_path: Path) -> None:
    if convert is np.asarray and form == "other genes":
        pytest.skip("anndata joins genes of sparse matrices")
    stored = FORMS[form](named(cells(form=convert)), tmp_path)
    memory = named(cells(form=convert))
    assert_mini_batches_are_those_of_memory(splitter_of(stored), memory)


def test_readers_know_what_a_row_takes(tmp_path: Path) -> None:
    adata = named(cells())
    per_cell = 8 * sparse.csr_matrix(adata.X).nnz / N_CELLS
    for form, kind in (("lazy h5ad", WatchedRows), ("two files", JoinedRows), ("chunks", ChunkRows)):
        folder = tmp_path / form.replace(" ", "")
        folder.mkdir()
        manager = splitter_of(FORMS[form](named(cells()), folder)).adata_manager
        reader = stored_rows(manager.get_from_registry("X"), where="adata.X")
        assert isinstance(reader, kind)
        assert reader.n_bytes == pytest.approx(per_cell, rel=0.3)
        # the piece of a small Zarr store is all of its cells
        assert reader.n_together == {"chunks": 50, "two files": 4 * (N_CELLS - CUT)}.get(form, 1)
        assert reader.is_compressed == (form != "lazy h5ad")


def test_a_read_of_dense_zarr_reads_no_more_than_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = splitter_of(in_two(named(cells(1200, form=np.asarray)), tmp_path)).adata_manager
    reader = stored_rows(manager.get_from_registry("X"), where="adata.X")
    assert reader is not None
    read: list[int] = []
    take = zarr.Array.__getitem__

    def noted(x: Any, chosen: Any) -> Any:
        found = take(x, chosen)
        read.append(len(found))
        return found

    monkeypatch.setattr(zarr.Array, "__getitem__", noted)
    reader.read(np.arange(900, 910))
    # and four runs of rows that are compared
    assert sum(read) == 10 + 4 * 16


# -- order -------------------------------------------------------------------------------------------------------


def test_files_that_are_sorted_by_label_are_mixed(tmp_path: Path) -> None:
    """Each file holds two of four types; mini-batches of all epochs hold cells of both."""
    loader = splitter_of(in_two(named(cells()), tmp_path, "b.h5ad")).train_dataloader()
    for _ in range(3):
        for batch in loader:
            assert 0 < (batch["labels"] < 2).float().mean() < 1


def test_a_model_of_sorted_files_is_as_good_as_one_of_cells_in_memory(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 8, "batch_size": 32, "kl_warmup": 0.2}
    options["validation_indices"] = np.arange(0, N_CELLS, 6)
    memory = [bound(fitted(named(cells()), streamed=False, seed=seed, **options)) for seed in range(3)]
    spread = max(memory) - min(memory)
    stored = in_two(named(cells()), tmp_path, "b.h5ad")
    assert min(memory) - 2 * spread < bound(fitted(stored, **options)) < max(memory) + 2 * spread


def test_a_seed_gives_one_model(tmp_path: Path) -> None:
    stored = in_two(named(cells()), tmp_path)
    one, same, other = (fitted(stored, seed=seed).get_latent_representation() for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


# -- files that go away ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files as they are")
@pytest.mark.parametrize("form", ["lazy h5ad", "lazy zarr", "two files"])
def test_a_file_that_disappears_while_a_model_trains(form: str, tmp_path: Path) -> None:
    def remove() -> None:
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    at = At(remove)
    with pytest.raises(DeltaviError, match=r"adata\.X (changed|can no longer be read)") as caught:
        fitted(FORMS[form](named(cells(form=canonical)), tmp_path), callbacks=[at])
    assert any("The model is that of the end of epoch 1" in note for note in caught.value.__notes__)
    assert at.loader._epoch is None


def test_chunks_that_cannot_be_computed_any_longer(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(cells(form=np.asarray).X))
    adata = cells()
    adata.X = da.map_blocks(
        lambda block_info: np.load(path)[slice(*block_info[None]["array-location"][0])],
        chunks=((50,) * 6, (adata.n_vars,)),
        dtype=np.float32,
        meta=np.zeros((0, 0), np.float32),
    )
    at = At(path.unlink)
    with pytest.raises(DeltaviError, match=r"adata\.X can no longer be read \(FileNotFoundError"):
        fitted(adata, callbacks=[at], datasplitter_kwargs={**SMALL, "read_ahead": False})
    assert at.loader._epoch is None
