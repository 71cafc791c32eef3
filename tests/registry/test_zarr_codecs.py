"""Decoding of Zarr by zarrs: set where arrays are opened for reading, and nowhere else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from anndata.io import sparse_dataset, write_elem
from scipy import sparse
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline

from deltavi.registry import zarr_codecs
from deltavi.registry.stored_rows import CsrRows
from deltavi.registry.zarr_codecs import fast_codecs
from tests.registry.test_batches import counts

# of anndata, about its next release
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding", "ignore:Writing zarr v2 data")


class OtherPipeline(BatchedCodecPipeline):
    """A pipeline that stands for that of zarrs."""


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codecs of a package that is there."""
    register_pipeline(OtherPipeline)
    monkeypatch.setattr(zarr_codecs, "PACKAGE", "pytest")
    monkeypatch.setattr(zarr_codecs, "PIPELINE", f"{__name__}.OtherPipeline")


def stored(store: Any, zarr_format: Any = 3, **options: Any) -> Any:
    group = zarr.open_group(store, mode="w", zarr_format=zarr_format)
    write_elem(group, "x", sparse.csr_matrix(counts().astype(np.float32)), dataset_kwargs=options)
    return sparse_dataset(group["x"])


def setting() -> str:
    return str(zarr.config.get("codec_pipeline.path"))


def pipelines(reader: CsrRows) -> set[str]:
    return {type(x.async_array.codec_pipeline).__name__ for x in (reader._data, reader._indices)}


@pytest.mark.usefixtures("other")
def test_arrays_that_are_read_are_decoded_otherwise(tmp_path: Path) -> None:
    x, before = stored(str(tmp_path / "x.zarr")), setting()
    reader = CsrRows(x)
    assert pipelines(reader) == {"OtherPipeline"}
    assert setting() == before
    # those of the user are decoded as before
    assert type(x.group["data"].async_array.codec_pipeline).__name__ == "BatchedCodecPipeline"
    np.testing.assert_array_equal(reader.read(np.arange(len(counts()))).toarray(), counts())


@pytest.mark.usefixtures("other")
def test_other_stores_are_decoded_as_before() -> None:
    assert pipelines(CsrRows(stored(zarr.storage.MemoryStore()))) == {"BatchedCodecPipeline"}


@pytest.mark.usefixtures("other")
def test_the_setting_is_that_of_before_after_errors_and_in_threads(tmp_path: Path) -> None:
    x, before = stored(str(tmp_path / "x.zarr")), setting()
    with pytest.raises(KeyError), fast_codecs(x.group):
        assert setting() != before
        raise KeyError
    threads = [threading.Thread(target=lambda: [CsrRows(x) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert setting() == before


def test_without_the_package_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_codecs, "PACKAGE", "no_such_package")
    assert pipelines(CsrRows(stored(str(tmp_path / "x.zarr")))) == {"BatchedCodecPipeline"}


@pytest.mark.parametrize("form", ["v2", "v3", "sharded"])
def test_zarrs_reads_the_same(form: str, tmp_path: Path) -> None:
    pytest.importorskip("zarrs")
    options = {"chunks": (10,), "shards": (40,)} if form == "sharded" else {}
    reader = CsrRows(stored(str(tmp_path / "x.zarr"), zarr_format=2 if form == "v2" else 3, **options))
    assert pipelines(reader) == {"ZarrsCodecPipeline"}
    rows = np.array([0, 3, 4, 11])
    np.testing.assert_array_equal(reader.read(rows).toarray(), counts()[rows])
