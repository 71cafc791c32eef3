"""Preparation of cells whose counts are in files or Dask arrays: the answer of memory, in memory that stays flat."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from anndata.experimental import read_lazy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import deltavi
from deltavi.errors import InputDataError, KeyClashError, LibrarySizeWarning, UnknownCategoryError
from deltavi.pp import concat_lazy, highly_variable_genes, log_normalise, valid_cells
from deltavi.pp._by_rows import GeneMoments, by_variance_trend
from deltavi.pp.prepare import _variable_genes
from deltavi.registry.chunks import DaskMatrix, rowwise
from deltavi.registry.joined import JoinedMatrix

pytest.importorskip("xarray")
pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data")


@pytest.fixture(scope="module")
def memory() -> AnnData:
    adata = deltavi.datasets.simulate_perturbation(n_genes=160, n_cells_per_group=40)
    del adata.uns["simulation"], adata.obs["total_counts"]
    adata.layers["counts"] = adata.X.copy()
    return adata


def in_full(x: Any) -> np.ndarray:
    x = x.compute() if hasattr(x, "compute") else x
    return np.asarray(x.toarray() if sparse.issparse(x) else x)


def chunked(x: Any, **options: Any) -> Callable[[AnnData, Path], AnnData]:
    def convert(adata: AnnData, folder: Path) -> AnnData:
        other = adata.copy()
        other.X = da.from_array(x(adata.X), **options)
        return other

    return convert


def written(adata: AnnData, folder: Path, kind: str = "h5ad") -> Path:
    path = folder / f"cells.{kind}"
    (adata.write_h5ad if kind == "h5ad" else adata.write_zarr)(path)
    return path


FORMS: dict[str, Callable[[AnnData, Path], AnnData]] = {
    "lazy h5ad": lambda adata, folder: read_lazy(written(adata, folder)),
    "lazy zarr": lambda adata, folder: read_lazy(written(adata, folder, "zarr")),
    "files": lambda adata, folder: concat_lazy([written(adata, folder)]),
    "backed": lambda adata, folder: read_h5ad(written(adata, folder), backed="r"),
    "dense chunks": chunked(lambda x: x.toarray(), chunks=(50, 70)),
    "sparse chunks": chunked(sparse.csr_matrix, chunks=(50, -1), asarray=False),
}


@pytest.mark.parametrize("condition_key", [None, "condition"])
@pytest.mark.parametrize("form", FORMS)
def test_variable_genes_are_those_of_memory(
    form: str, condition_key: str | None, memory: AnnData, tmp_path: Path
) -> None:
    stored = FORMS[form](memory, tmp_path)
    kept = stored.obs, stored.X
    expected = highly_variable_genes(memory, n_top=30, condition_key=condition_key)
    found = highly_variable_genes(stored, n_top=30, condition_key=condition_key)
    assert found.var_names.tolist() == expected.var_names.tolist()
    np.testing.assert_allclose(in_full(found.X), in_full(expected.X), rtol=1e-6)
    np.testing.assert_array_equal(in_full(found.layers["counts"]), in_full(expected.layers["counts"]))
    np.testing.assert_array_equal(found.obs["total_counts"], expected.obs["total_counts"])
    assert isinstance(found.obs, pd.DataFrame)
    assert found.uns == expected.uns
    # what is not in memory stays there, and files are read as files
    x = found.layers["counts"]
    kind = JoinedMatrix if "chunks" not in form else DaskMatrix
    assert isinstance(rowwise(x), sparse.csr_matrix if form == "backed" else kind)
    assert stored.obs is kept[0]
    assert form == "backed" or stored.X is kept[1]
    if form == "backed":
        stored.file.close()


def test_everything_else_comes_along(memory: AnnData, tmp_path: Path) -> None:
    adata = memory.copy()
    adata.obsm["X_pca"], adata.uns["note"] = np.ones((adata.n_obs, 2)), "a note"
    expected = highly_variable_genes(adata, n_top=30)
    path = written(adata, tmp_path)
    for stored in (read_lazy(path), read_h5ad(path, backed="r")):
        found = highly_variable_genes(stored, n_top=30)
        assert set(found.layers) == set(expected.layers)
        np.testing.assert_array_equal(in_full(found.obsm["X_pca"]), adata.obsm["X_pca"])
        np.testing.assert_array_equal(in_full(found.varm["response_stimulated"]), expected.varm["response_stimulated"])
        np.testing.assert_array_equal(in_full(found.layers["rate"]), in_full(expected.layers["rate"]))
        assert found.uns["note"] == "a note"


@pytest.mark.parametrize("form", FORMS)
def test_raw_counts_come_along(form: str, memory: AnnData, tmp_path: Path) -> None:
    adata = memory[:, :100].copy()
    adata.raw = memory.copy()
    (tmp_path / form).mkdir()
    if form == "files":
        pytest.skip("raw counts are not joined")
    found = highly_variable_genes(FORMS[form](adata, tmp_path), n_top=30)
    assert found.raw.shape == memory.shape
    # other genes are counted in raw, wherever it lies
    with pytest.warns(LibrarySizeWarning, match=r"adata\.raw has 160 genes and the matrix 100"):
        deltavi.model.VAE.setup_anndata(FORMS[form](adata, tmp_path / form))
    np.testing.assert_array_equal(in_full(found.raw.X), memory.X.toarray())


def test_a_model_takes_the_lazy_selection(memory: AnnData, tmp_path: Path) -> None:
    representations = []
    for adata in (memory, read_lazy(written(memory, tmp_path))):
        selected = highly_variable_genes(adata, n_top=30, condition_key="condition")
        deltavi.model.VAE.setup_anndata(selected, layer="counts")
        model = deltavi.model.VAE(selected, n_hidden=8, n_latent=2)
        model.train(max_epochs=1, batch_size=64, seed=0, logger=False, enable_progress_bar=False)
        representations.append(model.get_latent_representation())
    np.testing.assert_array_equal(*representations)


def test_genes_are_chosen_once_more_from_files(memory: AnnData, tmp_path: Path) -> None:
    first = highly_variable_genes(read_lazy(written(memory, tmp_path)), n_top=60)
    again = highly_variable_genes(first, n_top=20, layer="counts")
    expected = highly_variable_genes(highly_variable_genes(memory, n_top=60), n_top=20, layer="counts")
    assert again.var_names.tolist() == expected.var_names.tolist()
    assert isinstance(rowwise(again.layers["counts"]), JoinedMatrix)
    np.testing.assert_array_equal(in_full(again.layers["counts"]), in_full(expected.layers["counts"]))
    np.testing.assert_allclose(in_full(again.X), in_full(expected.X), rtol=1e-6)


def test_without_a_trend_counts_are_read_into_memory(
    memory: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = memory[:, :15].copy()
    with caplog.at_level(logging.INFO, "deltavi"):
        found = highly_variable_genes(read_lazy(written(few, tmp_path)), n_top=5)
    assert "Pearson residuals" in caplog.text
    assert found.var_names.tolist() == highly_variable_genes(few, n_top=5).var_names.tolist()


def test_all_genes_are_kept_when_there_are_no_more(memory: AnnData, tmp_path: Path) -> None:
    found = highly_variable_genes(read_lazy(written(memory, tmp_path)), n_top=500)
    assert found.shape == memory.shape
    assert "deltavi_total_counts" not in found.uns


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_any_counts(seed: int, n_conditions: int, n_top: int) -> None:
    rng = np.random.default_rng(seed)
    # large enough that no two genes have the same counts in a condition, whose order is left to rounding
    means = 5 + rng.gamma(0.5, 20.0, 60)
    x = sparse.csr_matrix(rng.negative_binomial(2, 2 / (2 + means), (120, 60)).astype(np.float32))
    condition = pd.Categorical(rng.choice(list("abc")[:n_conditions], 120))
    moments = GeneMoments(condition, x.shape)
    for start in range(0, 120, 32):
        moments.add(np.arange(start, min(start + 32, 120)), x[start : start + 32])
    for place, name in enumerate(condition.categories):
        own = x[np.asarray(condition == name)].toarray().astype(float)
        np.testing.assert_allclose(moments.means[place], own.mean(0), atol=1e-12)
        np.testing.assert_allclose(moments.variances[place], own.var(0, ddof=1) if len(own) > 1 else 0, atol=1e-9)
    np.testing.assert_array_equal(by_variance_trend(x, moments, n_top), _variable_genes(x, condition, n_top))


@pytest.mark.parametrize("form", ["lazy zarr", "dense chunks", "sparse chunks"])
def test_logs_of_what_is_not_in_memory(form: str, memory: AnnData, tmp_path: Path) -> None:
    stored, expected = FORMS[form](memory, tmp_path), memory.copy()
    assert valid_cells(stored).all()
    for options in ({}, {"size_factor_key": "library_size", "key_added": "by_size"}):
        log_normalise(stored, **options)
        log_normalise(expected, **options)
        key = options.get("key_added", "log1p_cp10k")
        assert hasattr(stored.layers[key], "compute")
        np.testing.assert_allclose(in_full(stored.layers[key]), in_full(expected.layers[key]), rtol=1e-6)
    with pytest.raises(KeyClashError, match="by_size"):
        log_normalise(stored, key_added="by_size")


def test_what_is_wrong_is_said_as_in_memory(memory: AnnData, tmp_path: Path) -> None:
    adata = memory.copy()
    adata.X.data[-1] = 0.5
    lazy = read_lazy(written(adata, tmp_path))
    for call in (highly_variable_genes, log_normalise):
        with pytest.raises(InputDataError, match=r"adata\.X must hold raw counts, but 0 values.*and 1 are"):
            call(lazy)
    with pytest.raises(UnknownCategoryError, match="'conditoin'"):
        highly_variable_genes(lazy, condition_key="conditoin")
    with pytest.raises(UnknownCategoryError, match="layer 'nope'"):
        highly_variable_genes(lazy, layer="nope")
    assert valid_cells(lazy).sum() == adata.n_obs - 1


# -- memory ------------------------------------------------------------------------------------------------------

MEASURE = """
import json, sys, tracemalloc, warnings
warnings.simplefilter("ignore")
import anndata, numpy, deltavi
def run(path):
    cells = anndata.experimental.read_lazy(path)
    deltavi.pp.highly_variable_genes(cells, n_top=50, condition_key="condition")
    deltavi.model.VAE.setup_anndata(cells)
run(sys.argv[1])
peaks = []
for path in sys.argv[1:]:
    tracemalloc.start()
    run(path)
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_the_matrix(tmp_path: Path) -> None:
    rng, paths, sizes = np.random.default_rng(0), [], (6_000, 24_000)
    part = sparse.csr_matrix(rng.poisson(rng.gamma(0.4, 2.0, 300), (3_000, 300)).astype(np.float32))
    for n_cells in sizes:
        adata = AnnData(sparse.csr_matrix(sparse.vstack([part] * (n_cells // 3_000))))
        adata.obs["condition"] = pd.Categorical(np.where(np.arange(n_cells) % 2, "a", "b"))
        paths.append(tmp_path / f"{n_cells}.h5ad")
        adata.write_h5ad(paths[-1])
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True
    )
    peaks = json.loads(found.stdout.splitlines()[-1])
    per_cell = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    of_matrix = 8 * part.nnz / part.shape[0]
    print(f"{per_cell:.0f} bytes a cell, {of_matrix:.0f} in the matrix", peaks)
    # names, codes and totals of cells
    assert per_cell < of_matrix / 4


LOGS: dict[str, Callable[[AnnData, Path], AnnData]] = {
    "csr": lambda adata, folder: read_h5ad(written(adata, folder), backed="r"),
    "csc": lambda adata, folder: read_h5ad(
        written(AnnData(sparse.csc_matrix(adata.X), obs=adata.obs), folder), backed="r"
    ),
    "dense": lambda adata, folder: read_h5ad(written(AnnData(adata.X.toarray(), obs=adata.obs), folder), backed="r"),
}


# rows of CSC are made in single precision
@pytest.mark.parametrize(
    ("form", "largest"), [*((form, 50) for form in LOGS), ("csr", 2**24 + 1), ("dense", 2**24 + 1)]
)
def test_logs_of_a_backed_file_are_those_in_memory(form: str, largest: int, memory: AnnData, tmp_path: Path) -> None:
    memory = memory.copy()
    # beyond single precision logarithms are in double
    memory.X = memory.X.astype(np.float64)
    memory.X.data[5] = largest
    stored, expected = LOGS[form](memory, tmp_path), memory.copy()
    log_normalise(stored)
    log_normalise(expected)
    found, logs = stored.layers["log1p_cp10k"], expected.layers["log1p_cp10k"]
    assert found.dtype == logs.dtype
    assert found.indices.dtype == logs.indices.dtype
    assert (found != logs).nnz == 0
    assert found.has_canonical_format


def test_logs_of_a_backed_file_take_the_memory_of_the_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    part = sparse.csr_matrix(rng.poisson(rng.gamma(0.4, 2.0, 300), (3_000, 300)).astype(np.float32))
    adata = read_h5ad(written(AnnData(sparse.csr_matrix(sparse.vstack([part] * 8))), tmp_path), backed="r")
    tracemalloc.start()
    log_normalise(adata)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 8 * 8 * part.nnz, f"{peak / 8 / 8 / part.nnz:.2f} times the answer"


# -- values that are not as they look ----------------------------------------------------------------------------


def twice(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same counts, where each of several molecules has an entry of one of them beside the rest."""
    several = counts.data > 1
    places = np.repeat(np.arange(counts.nnz), 1 + several)
    second = np.diff(places, prepend=-1) == 0
    data = np.where(second, 1, counts.data[places] - several[places])
    starts = np.concatenate([[0], np.cumsum(1 + several)])[counts.indptr]
    return sparse.csr_matrix((data, counts.indices[places], starts), shape=counts.shape)


STORED: dict[str, Callable[[sparse.csr_matrix, Path], AnnData]] = {
    "backed": lambda x, folder: read_h5ad(written(AnnData(x), folder), backed="r"),
    "lazy": lambda x, folder: read_lazy(written(AnnData(x), folder)),
    "dask": lambda x, folder: AnnData(da.from_array(x, chunks=(50, -1), asarray=False)),
    "files": lambda x, folder: concat_lazy([written(AnnData(x), folder)]),
}


@pytest.mark.parametrize("storage", STORED)
def test_logs_are_of_the_sum_of_entries_in_one_place(storage: str, memory: AnnData, tmp_path: Path) -> None:
    counts = sparse.csr_matrix(memory.X)
    split = twice(counts)
    assert split.nnz > counts.nnz
    assert (split.toarray() == counts.toarray()).all()
    expected, found = AnnData(counts), STORED[storage](split, tmp_path)
    log_normalise(expected)
    log_normalise(found)
    np.testing.assert_array_equal(in_full(found.layers["log1p_cp10k"]), in_full(expected.layers["log1p_cp10k"]))
    chosen, as_chosen = highly_variable_genes(found, n_top=20), highly_variable_genes(AnnData(counts), n_top=20)
    assert list(chosen.var_names) == list(as_chosen.var_names)
    np.testing.assert_array_equal(in_full(chosen.X), in_full(as_chosen.X))


@pytest.mark.parametrize("dense", [False, True])
def test_dask_counts_that_are_whole_but_for_rounding_become_whole(dense: bool, memory: AnnData) -> None:
    counts = sparse.csr_matrix(memory.X, dtype=np.float32)
    nearly = counts.copy()
    nearly.data *= np.float32(1 + 1e-6)
    assert (nearly.data != counts.data).any()
    x = nearly.toarray() if dense else nearly
    adata = AnnData(da.from_array(x, chunks=(50, -1), asarray=dense))
    chosen = highly_variable_genes(adata, n_top=20)
    kept = chosen.var_names.astype(int)
    np.testing.assert_array_equal(in_full(chosen.layers["counts"]), counts[:, kept].toarray())
    log_normalise(adata)
    expected = AnnData(counts)
    log_normalise(expected)
    np.testing.assert_allclose(in_full(adata.layers["log1p_cp10k"]), in_full(expected.layers["log1p_cp10k"]), rtol=1e-6)
