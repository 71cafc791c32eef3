"""Zarr stores written as files: those that anndata writes by way of zarr, entry by entry."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from scipy import sparse

from deltavi.io import BlockFile
from deltavi.io._blocks import MAPPINGS, ROOT
from deltavi.io._cells import _entries
from deltavi.io._zarr_folder import ZarrArray, ZarrFolder
from tests.io.test_cells import cells

ODD: dict[str, Any] = {
    "none": None,
    "text": "naïve 試験",
    "number": 3,
    "share": 2.5,
    "flag": True,
    "list": [1, 2],
    "empty": [],
    "empty text": np.array([], dtype=object),
    "texts": np.array(["a", "", "試"], dtype=object),
    "bytes": np.array([b"a", b"", b"bcd"]),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "nullable": pd.array([1, None, 3], dtype="Int64"),
    "missing": pd.Categorical(["a", None, "b"], categories=["b", "a"], ordered=True),
    "records": np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "nested": {"deep": {"x": np.eye(3), "csc": sparse.eye(4, format="csc")}, "nothing": {}},
    "frame": pd.DataFrame({"a": [1, 2], "b c": ["x", "y"]}, index=["i", "j"]),
}


def contents(folder: Path) -> dict[str, Any]:
    """Type, shape, attributes and values of all that a store holds."""
    found: dict[str, Any] = {}

    def look(name: str, item: Any) -> None:
        found[name] = dict(sorted(item.attrs.asdict().items()))
        if hasattr(item, "shape"):
            values = np.asarray(item[()])
            found[name]["array"] = item.shape, str(item.dtype), item.fill_value, values.tolist()
            return
        for key in item:
            look(f"{name}/{key}", item[key])

    look("", zarr.open_group(str(folder), mode="r"))
    return found


def test_the_store_is_that_of_anndata(tmp_path: Path) -> None:
    found, odd = cells(), dict(ODD)
    options: dict[str, Any] = {} if zarr.__version__.startswith("2.") else {"zarr_format": 2}
    theirs = zarr.open_group(str(tmp_path / "theirs.zarr"), mode="w", **options)
    ours = ZarrFolder(tmp_path / "ours.zarr", ROOT)
    theirs.attrs.update(ROOT)
    for name, entry in {**_entries(found), "odd": odd}.items():
        write_elem(theirs, name, entry)
        ours.write(name, entry)
    ours.close()
    expected = contents(tmp_path / "theirs.zarr")
    assert len(expected) >= 80
    mine = contents(tmp_path / "ours.zarr")
    assert mine.keys() == expected.keys()
    for name in expected:
        assert repr(mine[name]) == repr(expected[name]), name


def test_anndata_and_consolidated_metadata_read_the_store(tmp_path: Path) -> None:
    found = cells()
    del found.raw
    folder = ZarrFolder(tmp_path / "ours.zarr", ROOT)
    for name in MAPPINGS:
        folder.write(name, {})
    for name, entry in _entries(found).items():
        folder.write(name, entry)
    folder.close()
    read = ad.read_zarr(tmp_path / "ours.zarr")
    np.testing.assert_array_equal(read.X.toarray(), found.X.toarray())
    np.testing.assert_array_equal(read.layers["csc"].toarray(), found.layers["csc"].toarray())
    pd.testing.assert_frame_equal(read.obs, read.obs[list(found.obs)])
    assert list(read.obs["text"]) == list(found.obs["text"])
    root = zarr.open_consolidated(str(tmp_path / "ours.zarr"))
    assert root["obs/number"].shape == (found.n_obs,)
    described = json.loads((tmp_path / "ours.zarr" / ".zmetadata").read_text())["metadata"]
    assert len(described) == len(list((tmp_path / "ours.zarr").rglob(".z*"))) - 1


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(("shape", "chunks"), [((7, 5), (3, 2)), ((6, 4), (3, 2)), ((1, 1), (4, 4)), ((0, 3), (2, 3))])
def test_chunks_of_any_size(tmp_path: Path, shape: tuple[int, int], chunks: tuple[int, int], is_packed: bool) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    folder = tmp_path / "x"
    folder.mkdir()
    array = ZarrArray(folder, (0, shape[1]), values.dtype, chunks=chunks, is_packed=is_packed)
    array.resize(shape)
    for start in range(0, shape[0], chunks[0]):
        array[start : start + chunks[0]] = values[start : start + chunks[0]]
    np.testing.assert_array_equal(zarr.open_array(str(folder), mode="r")[:], values)


def test_columns_are_chunks_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    array = ZarrArray(folder, (5, 3), np.dtype(np.float64), chunks=(5, 1))
    for place in (2, 0):
        array[:, place] = np.arange(5.0) + 10 * place
    read = zarr.open_array(str(folder), mode="r")[:]
    np.testing.assert_array_equal(read, np.stack([np.arange(5.0), np.zeros(5), np.arange(5.0) + 20], axis=1))


def test_a_large_array_is_cut_into_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltavi.io._zarr_folder.CHUNK_BYTES", 1000)
    values, folder = np.random.default_rng(0).random((100, 7)), ZarrFolder(tmp_path / "store.zarr")
    folder.write("x", values)
    folder.write("text", np.array([f"cell {i}" for i in range(300)], dtype=object))
    root = zarr.open_group(str(tmp_path / "store.zarr"), mode="r")
    assert root["x"].chunks == (17, 7)
    assert root["text"].chunks == (125,)
    np.testing.assert_array_equal(root["x"][:], values)
    assert list(root["text"][:]) == [f"cell {i}" for i in range(300)]
    assert root["x"].attrs["encoding-type"] == "array"


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_bytes_are_written_block_by_block(suffix: str, tmp_path: Path) -> None:
    path, texts = tmp_path / f"cells.{suffix}", np.array([b"a", b"", b"b\xffd"])
    tables = {"obs": pd.DataFrame(index=["a", "b"]), "var": pd.DataFrame(index=["x", "y", "z"])}
    with BlockFile(path, 2) as file:
        file.add(ad.AnnData(np.ones((2, 3), dtype=np.float32)))
        file.finish(**tables, uns={"texts": texts, "nested": {"texts": texts}})
    found = (ad.read_zarr if suffix == "zarr" else ad.read_h5ad)(path).uns
    for read in (found["texts"], found["nested"]["texts"]):
        assert read.dtype == texts.dtype
        np.testing.assert_array_equal(read, texts)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_rows_may_begin_beyond_two_billion_entries(suffix: str, tmp_path: Path) -> None:
    path, x = tmp_path / f"cells.{suffix}", sparse.eye(3, format="csr", dtype=np.float32)
    assert x.indptr.dtype == np.int32
    with BlockFile(path, 6) as file:
        for _ in range(2):
            file.add(ad.AnnData(x, layers={"counts": x}))
        file.finish(obs=pd.DataFrame(index=[*"abcdef"]), var=pd.DataFrame(index=[*"xyz"]), uns={})
    with warnings.catch_warnings():
        # of zarr, about consolidated metadata
        warnings.simplefilter("ignore")
        root: Any = zarr.open_group(str(path), mode="r") if suffix == "zarr" else h5py.File(path)
    for name in ("X", "layers/counts"):
        assert root[name]["indptr"].dtype == np.int64
        np.testing.assert_array_equal(root[name]["indptr"][:], np.arange(7))
