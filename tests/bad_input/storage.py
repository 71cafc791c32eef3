"""Rows 44 to 50, and 72: how matrices and columns are stored."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi._errors import InputDataError, InputDataWarning
from deltavi.registry import checks, matrix, totals
from deltavi.registry.matrix import loadable
from tests.bad_input.bench import N_CELLS, Bench, Case, assert_same, refused, untouched, warned
from tests.bad_input.registry import row
from tests.model.conftest import dense, small_adata

FORMATS: dict[str, Callable[[Any], Any]] = {"dense": dense, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
# another order of the same sums in single precision
SUMS = 1e-4


def whole(x: np.ndarray) -> np.ndarray:
    """Whole numbers of eight bits, which any kind of number holds exactly."""
    return np.floor(np.minimum(x, 200.0))


def works(case: Case, *kinds: Callable[[Any], Any], atol: float = SUMS, of: Callable[[Any], Any] = np.asarray) -> None:
    """Learned from and asked about in a form of storage, the answers are those of CSR."""
    expected = case.fitted(case.cells(lambda x: sparse.csr_matrix(of(x), dtype=np.float32)))
    for kind in kinds:
        adata, query = (case.cells(lambda x, kind=kind: kind(of(x))) for _ in range(2))
        form = type(adata.X)
        with untouched(adata, registered=True), untouched(query):
            model = case.fitted(adata)
            assert_same(case.ask(model), case.ask(expected), atol=atol)
            assert_same(case.ask(expected, query), case.ask(expected), atol=SUMS)
        assert type(adata.X) is form


@row(44, "a CSC matrix", "works, and gives the same as CSR")
def csc_matrix(bench: Bench) -> None:
    # cut from a row-wise copy, so that not even the order of sums differs
    works(bench.case, sparse.csc_matrix, atol=0.0)


@row(45, "a COO matrix", "converted beside it, which is logged, where anndata lets one in")
def coo_matrix(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    stored = sparse.coo_matrix(adata.X)
    before = stored.copy()
    converted, said = bench.logged(lambda: loadable(stored, where="adata.X"))
    assert "adata.X is a COO matrix" in said
    assert (stored != before).nnz == 0
    adata.X = converted
    assert_same(case.ask(case.trained, adata), case.ask(case.trained), atol=SUMS)
    # anndata takes none at present; a model would otherwise have to read it
    with pytest.raises(ValueError, match="CSR and CSC"):
        AnnData(stored)


@row(46, "a SciPy sparse array in place of a matrix", "works, and gives the same")
def sparse_arrays(bench: Bench) -> None:
    works(bench.case, sparse.csr_array, sparse.csc_array, atol=0.0)


NUMBERS: dict[str, Callable[[np.ndarray], Any]] = {
    "int64": lambda x: x.astype(np.int64),
    "uint8, sparse": lambda x: sparse.csr_matrix(x.astype(np.uint8)),
    "float16": lambda x: x.astype(np.float16),
    "Fortran order": np.asfortranarray,
    "read-only": lambda x: np.broadcast_to(x, x.shape),
}


@row(47, "integers, half precision, Fortran order; truth values; Python objects", "exact; a warning; an error")
def kinds_of_numbers(bench: Bench) -> None:
    case = bench.case
    # logarithms are no whole numbers: of these half precision holds some exactly
    of = (lambda x: x.astype(np.float16).astype(np.float64)) if case.reads_logs else whole
    works(case, *(kind for name, kind in NUMBERS.items() if not (case.reads_logs and "int" in name)), of=of)
    detected = case.cells(lambda x: sparse.csr_matrix(x > 0))
    with untouched(detected, registered=True):
        warned(lambda: case.set_up(detected), InputDataWarning, "adata.X is bool", "one and zero")
    objects = case.cells()
    objects.X = np.asarray(dense(objects.X), dtype=object)
    words = ("adata.X has dtype object", "astype('float32')")
    refused(lambda: case.set_up(objects), InputDataError, *words, of=objects)
    refused(lambda: case.ask(case.trained, objects), InputDataError, *words, of=objects)


def in_zarr(path: Path, adata: AnnData, kind: str) -> Any:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path / f"{kind}.zarr"), mode="w")
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        ad.io.write_elem(group, "x", FORMATS[kind](adata.X))
    return zarr.open_group(str(path / f"{kind}.zarr"), mode="r")["x"]


@row(48, "matrices that are read when asked for: dask, Zarr", "read in blocks of rows; a bare Zarr array is an error")
def lazy_matrices(bench: Bench) -> None:
    case = bench.case
    expected = case.fitted(case.cells())

    def answers(stored: Callable[[], Any]) -> None:
        lazy, query = (case.cells(lambda _: stored()) for _ in range(2))
        model = case.fitted(lazy)
        assert_same(case.ask(model), case.ask(expected), atol=SUMS)
        assert_same(case.ask(expected, query), case.ask(expected), atol=SUMS)

    for kind in ("csr", "csc"):
        answers(lambda kind=kind: ad.io.sparse_dataset(in_zarr(bench.folder, case.cells(), kind)))
    bare = case.cells()
    bare.X = in_zarr(bench.folder, case.cells(), "dense")
    for call in (lambda: case.set_up(bare), lambda: case.ask(case.trained, bare)):
        with pytest.raises(InputDataError, match=r"adata.X is a Zarr array.*dask.array.from_zarr"):
            call()
    dask_array = pytest.importorskip("dask.array")
    answers(lambda: dask_array.from_zarr(in_zarr(bench.folder, case.cells(), "dense")))
    chunks = {"chunks": (50, 40), "asarray": False}
    answers(lambda: dask_array.from_array(sparse.csr_matrix(case.cells().X), **chunks))


@row(49, "backed files: dense, CSR and CSC", "work, without the matrix ever being in memory whole")
def backed_files(bench: Bench) -> None:
    case = bench.case
    expected = case.fitted(case.cells())
    for kind, convert in FORMATS.items():
        path = bench.folder / f"{kind}.h5ad"
        case.cells(lambda x, convert=convert: convert(x.astype(np.float32))).write_h5ad(path)
        content = path.read_bytes()
        backed, query = (ad.read_h5ad(path, backed="r") for _ in range(2))
        model = case.fitted(backed)
        assert_same(case.ask(model), case.ask(expected), atol=SUMS)
        assert_same(case.ask(expected, query), case.ask(expected), atol=SUMS)
        assert backed.isbacked
        assert query.isbacked
        for cells in (backed, query):
            cells.file.close()
        assert path.read_bytes() == content
    bounded_memory(bench)


def bounded_memory(bench: Bench) -> None:
    """Of a large file little is read at a time, in setup, training and answers; nor is it kept while it is scanned."""
    case, rng = bench.case, np.random.default_rng(0)
    for module in (checks, matrix, totals):
        bench.monkeypatch.setattr(module, "ENTRIES_PER_PASS", 50_000)
    n_cells, n_genes = 24_000, 200
    x = sparse.random(n_cells, n_genes, density=0.3, format="csr", dtype=np.float32, random_state=rng)
    x.data[:] = np.ceil(9 * x.data)
    x.data = np.log1p(x.data / 10).astype(np.float32) if case.reads_logs else x.data
    times = n_cells // N_CELLS + 1
    obs = pd.concat([case.cells().obs] * times)[:n_cells].set_axis([f"c{i}" for i in range(n_cells)])
    largest = watched_reads(bench.monkeypatch)
    for kind, convert in FORMATS.items():
        size = 4 * n_cells * n_genes if kind == "dense" else x.data.nbytes + x.indices.nbytes
        path = bench.folder / "large.h5ad"
        AnnData(convert(x), obs=obs).write_h5ad(path)
        backed = ad.read_h5ad(path, backed="r")
        largest.clear()
        tracemalloc.start()
        model = case.untrained(backed)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        case.train(model, **({"train_size": 0.01, "validation_size": 0.005} if case.has_epochs else {}))
        assert np.isfinite(np.asarray(model.get_latent_representation(indices=[3, 2]))).all()
        assert peak < size, kind
        assert 0 < max(largest) < size / 4, kind
        backed.file.close()
        path.unlink()


def watched_reads(patch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every array that is read from an HDF5 file from now on."""
    import h5py

    read, seen = h5py.Dataset.__getitem__, []

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        found = read(self, *arguments, **options)
        seen.append(getattr(found, "nbytes", 0))
        return found

    patch.setattr(h5py.Dataset, "__getitem__", watched)
    return seen


@row(50, "a view, to learn from or to predict", "works; its parent stays as it is")
def views(bench: Bench) -> None:
    case = bench.case
    parent = case.cells()
    some = np.random.default_rng(0).permutation(N_CELLS)[:100]
    view = parent[some]
    with untouched(parent):
        model = case.fitted(view)
        assert not view.is_view
        assert_same(case.ask(model), case.ask(case.fitted(case.cells()[some].copy())))
        query = parent[some[::-1], np.arange(parent.n_vars)[::-1]]
        found = case.ask(model, query)
        assert query.is_view
    assert_same(found.loc[case.ask(model).index], case.ask(model), atol=1e-5)


@row(72, "text in pandas' nullable or Arrow types", "works, from memory and from a file")
def nullable_text(bench: Bench) -> None:
    case = bench.case
    expected = case.ask(case.fitted(case.cells()))
    columns = ["condition", "cell_type", "batch"]
    path = bench.folder / "cells.h5ad"
    kinds = ["string[python]", *(["string[pyarrow]"] if _has_arrow() else [])]
    for kind in kinds:
        adata = case.cells()
        for key in columns:
            adata.obs[key] = adata.obs[key].astype(str).astype(kind)
        with ad.settings.override(allow_write_nullable_strings=True):
            adata.write_h5ad(path)
        read = ad.read_h5ad(path)
        assert all(isinstance(read.obs[key].dtype, pd.StringDtype | pd.CategoricalDtype) for key in columns)
        for cells in (adata, read):
            with untouched(cells, registered=True):
                assert_same(case.ask(case.fitted(cells)), expected)
    table = small_adata().obs[columns].astype(str)
    if _has_arrow():
        table.to_parquet(bench.folder / "obs.parquet")
        adata = case.cells()
        adata.obs[columns] = pd.read_parquet(bench.folder / "obs.parquet", dtype_backend="pyarrow")[columns]
        assert isinstance(adata.obs["batch"].dtype, pd.ArrowDtype)
        assert_same(case.ask(case.fitted(adata)), expected)
    # missing values of such columns are missing
    adata = case.cells()
    adata.obs[case.setup["labels_key"]] = table["cell_type"].where(np.arange(N_CELLS) > 3).astype(kinds[-1])
    if case.annotates:
        _, said = bench.logged(lambda: case.set_up(adata))
        assert "missing for 4 of 144" in said
    else:
        refused(lambda: case.set_up(adata), InputDataError, "missing for 4 of 144", of=adata)


def _has_arrow() -> bool:
    try:
        import pyarrow
    except ImportError:
        return False
    return bool(pyarrow.__version__)
