"""The answer for one perturbation written to a file as it is decoded: the bits of the one in memory, or no file."""

from __future__ import annotations

import errno
import functools
import gc
import io
import os
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from scipy import sparse

from deltavi import get
from deltavi.errors import DeltaviError, FileWriteError, NotHeldOutWarning, UnknownCategoryError
from deltavi.io import BlockFile
from deltavi.model import SCGEN
from deltavi.tl import Method
from tests.model.conftest import small_adata
from tests.model.screens import read
from tests.models import MODELS, PERTURBATION, VARIANTS

SUFFIXES = ("h5ad", "zarr")
LAYERS = {"rate", "counts", "lower", "upper"}


@functools.cache
def fitted(name: str) -> Any:
    """Trained for an epoch; tests must not change it."""
    return {**MODELS, **VARIANTS}[name].trained()


def cells(n: int = 60, *, seed: int = 3, n_genes: int = 40) -> AnnData:
    """Control cells of all labels under names that no training cell has."""
    found = small_adata(seed=seed, n_genes=n_genes, n_per_group=12)
    rows = np.resize(np.flatnonzero(found.obs["condition"] == "control"), n)
    obs = found.obs.iloc[rows].set_axis([f"query {i}" for i in range(n)])
    return AnnData(found.X[rows], obs=obs, var=found.var)


def treated() -> AnnData:
    found = small_adata(seed=5)
    found = found[(found.obs["condition"] == "stimulated") & (found.obs["cell_type"] == "type_1")][:5].copy()
    found.obs_names = [f"treated {i}" for i in range(found.n_obs)]
    return found


def assert_bits(found: Any, expected: Any, where: str) -> None:
    """The same numbers in the same type and form."""
    assert found.dtype == expected.dtype, where
    assert sparse.issparse(found) == sparse.issparse(expected), where
    for part in ("data", "indices", "indptr") if sparse.issparse(expected) else ():
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part), err_msg=f"{where} {part}")
    if not sparse.issparse(expected):
        np.testing.assert_array_equal(found, expected, err_msg=where)


def assert_same_entry(found: Any, expected: Any, where: str) -> None:
    """The same entry of uns, as files give it back."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for name in expected:
            assert_same_entry(found[name], expected[name], f"{where} {name}")
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_exact=True, check_index_type=False)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=where)


def assert_same_answer(found: AnnData, expected: AnnData) -> None:
    """The same AnnData, bit for bit."""
    assert_bits(found.X, expected.X, "X")
    for mapping in ("layers", "obsm"):
        left, right = getattr(found, mapping), getattr(expected, mapping)
        assert set(left) == set(right)
        for name in filter(None, right):
            assert_bits(left[name], right[name], f"{mapping} {name}")
    assert set(found.varm) == set(expected.varm)
    for name, table in expected.varm.items():
        pd.testing.assert_frame_equal(found.varm[name], table, check_exact=True, check_index_type=False)
    for name in ("obs", "var"):
        tables = getattr(found, name), getattr(expected, name)
        pd.testing.assert_frame_equal(*tables, check_exact=True, check_index_type=False, check_column_type=False)
    assert_same_entry(dict(found.uns), dict(expected.uns), "uns")


# -- the same as in memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "name", "asked"),
    [
        ("zarr", "SCGEN", {}),
        ("h5ad", "SCGEN", {"n_samples": 3, "batch_size": 7, "labels": ["type_1", "type_3"]}),
        ("zarr", "SCGEN", {"n_samples": 3, "batch_size": 7, "labels": ["type_1", "type_3"]}),
        ("h5ad", "SCGEN", {"output": "mean", "layers": "rate"}),
        ("h5ad", "SCGEN", {"treated": treated, "effect_scale": 0.5, "layers": ["counts", "upper"], "n_samples": 2}),
        ("zarr", "SCGEN", {"treated": treated, "output": "mean", "layers": "rate"}),
        ("h5ad", "SCGEN", {"draws": "independent", "layers": []}),
        ("h5ad", "VAE", {"shift": "none", "output": "mean", "n_samples": 2}),
        ("h5ad", "GaussianSCGEN", {"n_samples": 2}),
        ("h5ad", "LABELVI", {"shift": "global"}),
        ("h5ad", "ConditionalMIXVI", {"shift": "w"}),
        ("zarr", "ConditionalMIXVI", {"shift": "z", "n_samples": 2}),
        ("h5ad", "PPCA", {"batch_size": 11}),
        ("zarr", "PPCA", {"n_samples": 2}),
    ],
)
def test_a_file_holds_the_bits_of_memory(tmp_path: Path, suffix: str, name: str, asked: dict[str, Any]) -> None:
    model, path = fitted(name), tmp_path / f"predicted.{suffix}"
    options = {**PERTURBATION, **{key: value() if callable(value) else value for key, value in asked.items()}}
    query = {**MODELS, **VARIANTS}[name].on_its_scale(cells())
    expected = model.predict_perturbation(query, **options)
    assert model.predict_perturbation(query, path=path, **options) == path
    assert_same_answer(read(path), expected)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_more_cells_than_a_chunk_holds(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltavi.io._blocks.CHUNK_ENTRIES", 3000)
    model, query = fitted("SCGEN"), cells(1300)
    expected = model.predict_perturbation(query, batch_size=200, **PERTURBATION)
    path = model.predict_perturbation(query, batch_size=200, path=tmp_path / f"many.{suffix}", **PERTURBATION)
    assert_same_answer(read(path), expected)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_cells_are_a_file_too(tmp_path: Path, suffix: str) -> None:
    model, none = fitted("SCGEN"), cells()[:0].copy()
    expected = model.predict_perturbation(none, n_samples=2, **PERTURBATION)
    path = model.predict_perturbation(none, n_samples=2, path=tmp_path / f"none.{suffix}", **PERTURBATION)
    found = read(path)
    assert found.shape == (0, 40)
    assert set(filter(None, found.layers)) == LAYERS
    assert_bits(found.X, expected.X, "X")
    assert list(found.obs) == list(expected.obs)


def test_the_file_is_the_one_that_anndata_writes(tmp_path: Path) -> None:
    """Names, types and encodings of all that is in it."""
    model = fitted("SCGEN")
    model.predict_perturbation(cells(), n_samples=2, **PERTURBATION).write_h5ad(tmp_path / "plain.h5ad")
    path = model.predict_perturbation(cells(), n_samples=2, path=tmp_path / "own.h5ad", **PERTURBATION)
    assert_same_answer(read(path), read(tmp_path / "plain.h5ad"))


def test_tables_read_a_file_that_is_backed(tmp_path: Path) -> None:
    model, asked = fitted("SCGEN"), {**PERTURBATION, "layers": []}
    expected = model.predict_perturbation(cells(), **asked)
    path = model.predict_perturbation(cells(), path=tmp_path / "predicted.h5ad", **asked)
    backed = ad.read_h5ad(path, backed="r")
    for table in (get.predictions, get.weights, get.uncertainty, get.changes):
        pd.testing.assert_frame_equal(table(backed), table(expected), check_dtype=False)
    np.testing.assert_array_equal(backed.X[:5].toarray(), expected.X[:5].toarray())
    backed.file.close()


def test_a_query_in_a_file_is_answered_to_another(tmp_path: Path) -> None:
    model, query = fitted("SCGEN"), cells()
    query.write_h5ad(tmp_path / "query.h5ad")
    backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
    path = model.predict_perturbation(backed, path=tmp_path / "predicted.h5ad", **PERTURBATION)
    assert backed.isbacked
    backed.file.close()
    assert_same_answer(read(path), model.predict_perturbation(query, **PERTURBATION))


@pytest.mark.filterwarnings("default:Measured cells under")
def test_training_cells_are_warned_of_and_written(tmp_path: Path) -> None:
    model, path = fitted("SCGEN"), tmp_path / "predicted.h5ad"
    with pytest.warns(NotHeldOutWarning, match="labels asked for were among the training cells"):
        model.predict_perturbation(path=path, labels="type_1", **PERTURBATION)
    assert set(read(path).obs["cell_type"]) == {"type_1"}


# -- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [["rate"], ["counts", "lower"], ["upper"], []])
def test_layers_that_are_left_out_change_nothing_else(kept: list[str]) -> None:
    model, asked = fitted("SCGEN"), {**PERTURBATION, "n_samples": 2}
    whole, some = (model.predict_perturbation(cells(), layers=one, **asked) for one in (None, kept))
    assert set(filter(None, whole.layers)) == LAYERS
    for name in LAYERS - set(kept):
        del whole.layers[name]
    assert_same_answer(some, whole)


def test_many_perturbations_refuse_layers_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(DeltaviError, match="'lower', and this prediction has 'rate', 'counts': pass n_samples"):
        fitted("SCGEN").predict_perturbations(cells(), control="control", layers="lower", path=tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


# -- what makes no sense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "asked", "error", "message"),
    [
        ("SCGEN", {"path": "answer.csv"}, DeltaviError, r"path must end in \.h5ad or \.zarr"),
        ("SCGEN", {"path": ""}, DeltaviError, "path is '', which names nothing"),
        ("SCGEN", {"path": 3}, DeltaviError, "path must be a path"),
        ("SCGEN", {"path": "no such folder/answer.h5ad"}, DeltaviError, "no folder"),
        ("SCGEN", {"path": "answer.h5ad", "overwrite": "yes"}, DeltaviError, "overwrite must be True or False"),
        ("SCGEN", {"progress": "yes"}, DeltaviError, "progress must be True or False"),
        ("SCGEN", {"layers": "count"}, DeltaviError, "'rate', 'counts', 'lower', 'upper'.*Did you mean 'counts'"),
        ("SCGEN", {"layers": ["rate", "X"]}, DeltaviError, "layers must be one of 'rate'"),
        ("SCGEN", {"layers": ["rate", "rate"]}, DeltaviError, "more than once"),
        ("SCGEN", {"layers": 3}, DeltaviError, "layers must be one of"),
        ("SCGEN", {"layers": "upper"}, DeltaviError, "'upper', and this prediction has 'rate', 'counts'.*n_samples"),
        ("PPCA", {"layers": "counts"}, DeltaviError, "'counts', and this prediction has 'rate'.*not of counts"),
        ("SCGEN", {"path": "answer.h5ad", "labels": "type_9"}, UnknownCategoryError, "'type_9'"),
        ("ConditionalMIXVI", {"path": "answer.h5ad", "shift": "z", "shift_scale": 2.0}, DeltaviError, "takes none"),
    ],
)
def test_questions_that_make_no_sense(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    asked: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    query = MODELS.get(name, VARIANTS.get(name)).on_its_scale(cells())  # type: ignore[union-attr]
    with pytest.raises(error, match=message):
        fitted(name).predict_perturbation(query, **{**PERTURBATION, **asked})
    assert not list(tmp_path.iterdir())


def test_an_evaluation_scores_in_memory() -> None:
    with pytest.raises(DeltaviError, match="predict holds 'path': predictions are scored in memory"):
        Method(SCGEN, predict={"": {"path": "answer.h5ad"}})
    assert Method(SCGEN, predict={"": {"path": None, "layers": []}}).rows("SCGEN") == ["SCGEN"]


# -- files that cannot be written ----------------------------------------------------------------------------


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_exists_is_kept_until_the_new_one_is_complete(tmp_path: Path, suffix: str) -> None:
    model, asked = fitted("SCGEN"), {**PERTURBATION, "path": tmp_path / f"predicted.{suffix}"}
    model.predict_perturbation(cells(), **asked)
    before = files(tmp_path)
    with pytest.raises(DeltaviError, match="exists; pass overwrite=True to replace it"):
        model.predict_perturbation(cells(), **asked)
    assert files(tmp_path) == before
    model.predict_perturbation(cells(), overwrite=True, labels="type_1", **asked)
    assert set(read(asked["path"]).obs["cell_type"]) == {"type_1"}
    assert [one.name for one in tmp_path.iterdir()] == [f"predicted.{suffix}"]


def in_place(path: Path) -> AnnData:
    """Cells whose matrix stays in the file or store that they are written to."""
    found = cells()
    if path.suffix == ".h5ad":
        found.write_h5ad(path)
        return ad.read_h5ad(path, backed="r")
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        found.write_zarr(path)
    return AnnData(ad.io.sparse_dataset(zarr.open(path, mode="r")["X"]), obs=found.obs, var=found.var)


@pytest.mark.parametrize("named", ["itself", "link"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("verb", ["predict_perturbation", "predict_perturbations"])
def test_cells_that_are_read_are_not_replaced(tmp_path: Path, verb: str, suffix: str, named: str) -> None:
    model, source = fitted("SCGEN"), tmp_path / f"cells.{suffix}"
    query = in_place(source)
    path = source
    if named == "link":
        path = tmp_path / f"other.{suffix}"
        path.symlink_to(source, target_is_directory=source.is_dir())
    before, asked = files(tmp_path), {"control": PERTURBATION["control"], "path": path, "overwrite": True}
    asked |= {"perturbation": PERTURBATION["perturbation"]} if verb == "predict_perturbation" else {}
    with pytest.raises(DeltaviError, match="holds the cells that are read, and would be replaced"):
        getattr(model, verb)(query, **asked)
    assert files(tmp_path) == before
    if query.isbacked:
        query.file.close()


@pytest.mark.parametrize(
    ("suffix", "exists", "fault"),
    [
        ("h5ad", False, "full"),
        ("h5ad", True, "interrupted"),
        ("zarr", True, "full"),
        ("zarr", False, "interrupted"),
    ],
)
def test_a_failure_half_way_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, exists: bool, fault: str
) -> None:
    model, path = fitted("SCGEN"), tmp_path / f"predicted.{suffix}"
    asked: dict[str, Any] = {**PERTURBATION, "path": path, "overwrite": True, "batch_size": 20}
    if exists:
        model.predict_perturbation(cells(), labels="type_1", **asked)
    before, plain, blocks = files(tmp_path), BlockFile.add_rows, []

    def add_rows(self: BlockFile, *rows: Any) -> None:
        blocks.append(rows)
        if len(blocks) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if fault == "full" else KeyboardInterrupt
        plain(self, *rows)

    state = np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    monkeypatch.setattr(BlockFile, "add_rows", add_rows)
    with pytest.raises(FileWriteError if fault == "full" else KeyboardInterrupt) as caught:
        model.predict_perturbation(cells(), **asked)
    if fault == "full":
        assert f"could not be written to {path}: No space left on device. Make room" in str(caught.value)
    assert len(blocks) == 3
    assert files(tmp_path) == before
    assert set(tmp_path.iterdir()) == ({path} if exists else set())
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]
    monkeypatch.setattr(BlockFile, "add_rows", plain)
    model.predict_perturbation(cells(), **asked)
    assert read(path).n_obs == 60


def test_a_folder_that_cannot_be_written_to_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    asked: list[object] = []
    monkeypatch.setattr("deltavi.io._stores.require_writable", refuse)
    monkeypatch.setattr(SCGEN, "_validate_anndata", lambda self, adata=None: asked.append(adata))
    with pytest.raises(FileWriteError, match="Read-only file system"):
        fitted("SCGEN").predict_perturbation(cells(), path=tmp_path / "predicted.h5ad", **PERTURBATION)
    assert not asked


# -- memory and progress -------------------------------------------------------------------------------------

MANY_GENES = 400


@pytest.fixture(scope="module")
def wide() -> SCGEN:
    """Model of so many genes that a row of expected counts is the most there is of a cell."""
    adata = small_adata(n_genes=MANY_GENES)
    entry: SCGEN = MODELS["SCGEN"].trained(adata)
    return entry


def peak(model: SCGEN, query: AnnData, **asked: Any) -> int:
    """Bytes at the peak of a prediction beyond what there was before."""
    # what is measured of labels is not per cell, and slow to trace
    still = np.zeros(model.module.n_latent)
    gc.collect()
    tracemalloc.start()
    try:
        model.predict_perturbation(query, batch_size=100, shift=still, **PERTURBATION, **asked)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_by_the_matrices(wide: SCGEN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # so that both fill what waits to be written
    monkeypatch.setattr("deltavi.io._blocks.CHUNK_ROWS", 64)
    monkeypatch.setattr("deltavi.io._blocks.CHUNK_ENTRIES", 4096)
    queries = []
    # more than the rows that are read at a time
    for n in (1100, 2200):
        cells(n, n_genes=MANY_GENES).write_h5ad(tmp_path / f"{n}.h5ad")
        queries.append(ad.read_h5ad(tmp_path / f"{n}.h5ad", backed="r"))
    wide.predict_perturbation(cells(50, n_genes=MANY_GENES), path=tmp_path / "warm.h5ad", **PERTURBATION)
    few, many = (peak(wide, query, path=tmp_path / f"{query.n_obs} predicted.h5ad") for query in queries)
    one_matrix = 1100 * MANY_GENES * 4
    assert many - few < one_matrix
    # in memory all of them are held
    assert peak(wide, queries[1]) - many > one_matrix
    for query in queries:
        query.file.close()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("asked", "is_drawn"), [({"progress": True}, True), ({}, False)])
def test_a_bar_counts_cells_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: dict[str, Any], is_drawn: bool
) -> None:
    model = fitted("SCGEN")
    for path in (None, tmp_path / "predicted.h5ad"):
        monkeypatch.setattr(sys, "stderr", screen := Screen())
        model.predict_perturbation(cells(), path=path, batch_size=25, **PERTURBATION, **asked)
        assert ("predicting" in screen.getvalue()) == is_drawn
        assert ("60/60" in screen.getvalue()) == is_drawn
