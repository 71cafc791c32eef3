"""AnnData files that take their place once they are complete: nothing is lost, and nothing half written is left."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.errors import DeltaviError, FileWriteError
from deltavi.io import BlockFile, require_store, write_store
from tests.io.test_write_faults import POSIX, short_files

SUFFIXES = (".h5ad", ".zarr")


def cells(n: int, seed: int = 0) -> AnnData:
    """Sparse counts with a dense layer and positions."""
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(0.4, (n, 7)).astype(np.float32))
    obs = pd.DataFrame({"type": pd.Categorical(rng.choice(["a", "b"], n))}, index=[f"{seed}-{i}" for i in range(n)])
    found = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(7)]))
    found.layers["rate"] = rng.random((n, 7)).astype(np.float32)
    found.obsm["X_z"] = rng.random((n, 2)).astype(np.float32)
    return found


def read(path: Path) -> AnnData:
    return anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)


def write_blocks(part: Path, blocks: list[AnnData]) -> None:
    with BlockFile(part, sum(block.n_obs for block in blocks)) as file:
        for place, block in enumerate(blocks):
            file.add(block)
            if place:
                file.add_column("change", np.full(7, float(place)), place=place, n_columns=len(blocks))
        file.finish(obs=pd.concat([block.obs for block in blocks]), var=blocks[0].var, uns={"deltavi": {"seed": 3}})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_blocks_are_one_file(tmp_path: Path, suffix: str) -> None:
    blocks = [cells(n, seed) for seed, n in enumerate((5, 1, 600))]
    target = tmp_path / f"all{suffix}"
    write_store(target, lambda part: write_blocks(part, blocks))
    found, expected = read(target), anndata.concat(blocks)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(found.layers["rate"], expected.layers["rate"])
    np.testing.assert_array_equal(found.obsm["X_z"], expected.obsm["X_z"])
    assert list(found.obs["type"]) == list(expected.obs["type"])
    assert list(found.obs_names) == list(expected.obs_names)
    assert found.uns["deltavi"]["seed"] == 3
    # a column that was never written is unknown
    assert np.isnan(found.varm["change"][:, 0]).all()
    np.testing.assert_array_equal(found.varm["change"][:, 1:], np.tile([1.0, 2.0], (7, 1)))
    assert [one.name for one in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("sizes", [(1,) * 30, (512, 512, 1), (700, 3, 600), (0,)])
def test_blocks_of_any_size_are_one_matrix(
    tmp_path: Path, suffix: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltavi.io._blocks.CHUNK_ENTRIES", 500)
    blocks = [cells(n, seed) for seed, n in enumerate(sizes)]
    target = tmp_path / f"all{suffix}"
    write_store(target, lambda part: write_blocks(part, blocks))
    found = read(target)
    x, rate = sparse.vstack([block.X for block in blocks]), np.concatenate([b.layers["rate"] for b in blocks])
    assert sparse.isspmatrix_csr(found.X) or isinstance(found.X, sparse.csr_array)
    assert found.X.dtype == np.float32
    np.testing.assert_array_equal(found.X.toarray(), x.toarray())
    np.testing.assert_array_equal(found.layers["rate"], rate)
    assert found.layers["rate"].dtype == np.float32
    assert found.shape == (sum(sizes), 7)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_may_be_missing_in_some_rows(tmp_path: Path, suffix: str) -> None:
    block = cells(4)
    block.obs["note"] = np.array(["a", None, "b", np.nan], dtype=object)
    block.obs["nullable"] = pd.array(["x", "y", "x", "x"], dtype="string")
    block.var["symbol"] = np.array([None, *"bcdefg"], dtype=object)
    before = block.obs["note"].dtype
    write_blocks(tmp_path / f"part{suffix}", [block])
    found = read(tmp_path / f"part{suffix}")
    assert found.obs["note"].isna().tolist() == [False, True, False, True]
    assert found.obs["nullable"].astype(str).tolist() == ["x", "y", "x", "x"]
    assert found.obs["note"].dropna().tolist() == ["a", "b"]
    assert found.var["symbol"].tolist()[1:] == list("bcdefg")
    assert block.obs["note"].dtype == before


@POSIX
@pytest.mark.parametrize("n_bytes", [100, 20_000, 80_000, 120_000, 190_000])
def test_a_disk_that_is_full_while_hdf5_writes(tmp_path: Path, n_bytes: int) -> None:
    target = tmp_path / "all.h5ad"
    blocks = [cells(3000, seed) for seed in range(2)]
    write_store(target, lambda part: write_blocks(part, [cells(4)]))
    with pytest.raises(FileWriteError, match="File too large"), short_files(n_bytes):
        write_store(target, lambda part: write_blocks(part, blocks))
    assert read(target).n_obs == 4
    assert [one.name for one in tmp_path.iterdir()] == [target.name]


def test_matrices_are_packed_where_most_is_zero(tmp_path: Path) -> None:
    few, many = np.zeros((600, 9), dtype=np.float32), np.ones((600, 9), dtype=np.float32)
    few[:, 0] = 1
    with BlockFile(tmp_path / "part.h5ad", 600) as file:
        file.add_rows(few, {"many": many})
        file.finish(obs=pd.DataFrame(index=map(str, range(600))), var=pd.DataFrame(index=list("abcdefghi")), uns={})
    with h5py.File(tmp_path / "part.h5ad") as root:
        assert root["X"].compression == "gzip"
        assert root["layers/many"].compression is None
        np.testing.assert_array_equal(root["X"][:], few)
        np.testing.assert_array_equal(root["layers/many"][:], many)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_there_outlives_a_failure(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"all{suffix}"
    write_store(target, lambda part: write_blocks(part, [cells(4)]))

    def fails(part: Path) -> None:
        with BlockFile(part, 9) as file:
            file.add(cells(5, 1))
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_store(target, fails)
    assert read(target).n_obs == 4
    assert [one.name for one in tmp_path.iterdir()] == [target.name]
    write_store(target, lambda part: write_blocks(part, [cells(6, 2)]))
    assert read(target).n_obs == 6
    assert [one.name for one in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failing_disk_is_said(tmp_path: Path, suffix: str) -> None:
    def full(part: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FileWriteError, match=r"full|No space left"):
        write_store(tmp_path / f"all{suffix}", full)
    assert list(tmp_path.iterdir()) == []


def test_paths_are_checked_before_work(tmp_path: Path) -> None:
    with pytest.raises(DeltaviError, match=r"must end in \.h5ad or \.zarr"):
        require_store(tmp_path / "cells.loom", overwrite=True)
    for suffix in SUFFIXES:
        target = tmp_path / f"all{suffix}"
        write_store(target, lambda part: write_blocks(part, [cells(3)]))
        with pytest.raises(DeltaviError, match="pass overwrite=True"):
            require_store(target, overwrite=False)
        assert require_store(target, overwrite=True) == target
    folder = tmp_path / "notes.zarr"
    folder.mkdir()
    (folder / "text.txt").write_text("mine")
    with pytest.raises(DeltaviError, match="is no Zarr store and would be replaced"):
        require_store(folder, overwrite=True)
    assert (folder / "text.txt").read_text() == "mine"
    with pytest.raises((DeltaviError, FileWriteError)):
        require_store(tmp_path / "nowhere" / "all.h5ad", overwrite=False)
