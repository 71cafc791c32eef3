"""Rows of Dask arrays: those of the files behind them, or of their chunks."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from anndata.experimental import read_lazy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi.errors import DeltaviError, InputDataError
from deltavi.registry.checks import row_blocks, scan_matrix, wanted_blocks
from deltavi.registry.chunks import DaskMatrix, files_in, rowwise
from deltavi.registry.joined import JoinedMatrix, Part, last_written
from deltavi.registry.matrix import loadable
from deltavi.registry.stored_rows import places_of, stored_rows
from deltavi.registry.totals import cell_totals
from deltavi.train._block_order import FEWEST_BLOCKS, PoolSize
from tests.registry.test_batches import counts, doubled, unsorted

pytest.importorskip("xarray")
N_CELLS, N_GENES = counts().shape
ROWS = {
    "all": np.arange(N_CELLS),
    "none": np.zeros(0, dtype=int),
    "gaps": np.array([1, 2, 5, 6, 7, 15, 19]),
    "one": np.array([3]),
}


def written(folder: Path, kind: str = "h5ad", x: Any = None, name: str = "a") -> Path:
    """A file with counts as X and in two layers."""
    x = sparse.csr_matrix(counts().astype(np.float32)) if x is None else x
    adata = AnnData(x, layers={"dense": counts().astype(np.float32), "csc": sparse.csc_matrix(counts())})
    adata.obs_names = [f"{name}{i}" for i in range(N_CELLS)]
    path = folder / f"{name}.{kind}"
    if kind == "h5ad":
        adata.write_h5ad(path)
        return path
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        adata.write_zarr(path)
    return path


def in_full(x: Any) -> np.ndarray:
    return np.asarray(x.toarray() if sparse.issparse(x) else x)


# -- files behind arrays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_lazy_file_is_read_by_the_reader_of_files(kind: str, tmp_path: Path) -> None:
    adata = read_lazy(written(tmp_path, kind))
    found = rowwise(adata.X)
    assert isinstance(found, CSRDataset)
    np.testing.assert_array_equal(in_full(found[:]), counts())
    assert isinstance(rowwise(adata.layers["csc"]), CSCDataset)
    np.testing.assert_array_equal(in_full(loadable(adata.layers["csc"], where="x")), counts())
    np.testing.assert_array_equal(in_full(rowwise(adata.layers["dense"])[:]), counts())


CHANGES: dict[str, Callable[[Any], Any]] = {
    "product": lambda x: x * 2,
    "head": lambda x: x[:7],
    "other rows": lambda x: x[::-1],
    "other genes": lambda x: x[:, ::-1],
    "other chunks": lambda x: x.rechunk((4, N_GENES)),
    "a function": lambda x: x.map_blocks(lambda chunk: chunk * 3, dtype=x.dtype),
    "in memory": lambda x: x.persist(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("is_fused", [False, True])
def test_what_is_done_to_a_file_is_not_left_out(change: str, is_fused: bool, tmp_path: Path) -> None:
    import dask

    x = CHANGES[change](read_lazy(written(tmp_path)).X)
    expected = in_full(x.compute())
    (x,) = dask.optimize(x) if is_fused else (x,)
    found = rowwise(x)
    assert isinstance(found, DaskMatrix)
    np.testing.assert_array_equal(in_full(found[:]), expected)


def test_files_below_each_other_are_read_as_files(tmp_path: Path) -> None:
    one, two = written(tmp_path), written(tmp_path, "zarr", name="b")
    joined = ad.concat([read_lazy(one), read_lazy(two)])
    found = rowwise(joined.X)
    assert isinstance(found, JoinedMatrix)
    expected = np.concatenate([counts(), counts()])
    np.testing.assert_array_equal(in_full(found[:]), expected)
    np.testing.assert_array_equal(in_full(found[np.array([0, 19, 20, 33])]), expected[[0, 19, 20, 33]])
    assert places_of(joined) == {one, two}
    # the same file twice, a part of one, other genes: what is not the whole of files is read chunk by chunk
    a, b = (lambda: read_lazy(one)), (lambda: read_lazy(two))
    for parts in ([a(), a()], [a()[:9], b()], [a(), b()[:, ::-1]]):
        joined = ad.concat(parts, index_unique="-")
        assert isinstance(rowwise(joined.X), DaskMatrix)
        np.testing.assert_array_equal(in_full(rowwise(joined.X)[:]), in_full(joined.X.compute()))


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_files_of_views_and_functions_are_known(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    adata = read_lazy(path)
    bare = AnnData(adata.X * 2)
    assert places_of(adata[::2]) == places_of(bare) == places_of(bare[:3]) == {path}
    assert not [part for part in files_in(da.ones((3, 2))) if isinstance(part, Path)]


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x[::2] + 1])
def test_files_of_a_fused_graph_are_known(change: Callable[[Any], Any], tmp_path: Path) -> None:
    import dask

    paths = [written(tmp_path, kind, name=name) for kind, name in (("h5ad", "a"), ("zarr", "b"), ("h5ad", "c"))]
    joined = ad.concat([read_lazy(path) for path in paths])
    assert places_of(AnnData(dask.optimize(change(joined.X))[0])) == set(paths)


# -- chunks ------------------------------------------------------------------------------------------------------

ARRAYS: dict[str, Callable[[Any], Any]] = {
    "dense": lambda x: da.from_array(x, chunks=(7, 5)),
    "sparse": lambda x: da.from_array(sparse.csr_matrix(x), chunks=(6, 7), asarray=False),
    "sparse rows": lambda x: da.from_array(unsorted(x), chunks=(6, N_GENES), asarray=False),
    "several in a place": lambda x: da.from_array(doubled(x), chunks=(9, N_GENES), asarray=False),
    "one": lambda x: da.from_array(x, chunks=-1),
    "no cells": lambda x: da.from_array(x[:0], chunks=-1),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("array", ARRAYS)
def test_rows_are_those_of_the_array(array: str, rows: str) -> None:
    x = ARRAYS[array](counts().astype(np.float32))
    chosen = ROWS[rows][ROWS[rows] < x.shape[0]]
    expected = in_full(x.compute())
    found = DaskMatrix(x)
    assert found.shape == x.shape
    np.testing.assert_array_equal(in_full(found[chosen]), expected[chosen])
    reader = stored_rows(found, where="adata.X")
    assert reader is not None
    read = reader.read(chosen)
    assert read.dtype == np.float32
    assert isinstance(read, np.ndarray) or read.has_canonical_format
    np.testing.assert_array_equal(in_full(read), expected[chosen])
    np.testing.assert_array_equal(in_full(reader.read(chosen, first=read)), expected[np.tile(chosen, 2)])
    np.testing.assert_array_equal(np.asarray(found), expected)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
@settings(max_examples=40, deadline=None)
def test_any_chunks_and_any_rows(sizes: list[int], data: Any) -> None:
    n_cells = sum(sizes)
    x = np.random.default_rng(n_cells).poisson(1.0, (n_cells, 3))
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, n_cells - 1)))), dtype=int)
    found = DaskMatrix(da.from_array(x, chunks=(tuple(sizes), -1)))
    np.testing.assert_array_equal(found[rows], x[rows])
    np.testing.assert_array_equal(found[2:5], x[2:5])


def counted(x: np.ndarray, rows: int, computed: list[int]) -> Any:
    """An array of chunks of so many rows, which are written down when they are computed."""

    def chunk(values: np.ndarray) -> np.ndarray:
        computed.append(len(values))
        return values

    return da.from_array(x, chunks=(rows, -1)).map_blocks(chunk, dtype=x.dtype, meta=np.zeros((0, 0)))


@pytest.mark.parametrize("rows", [3, 7, N_CELLS])
def test_a_pass_computes_each_chunk_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltavi.registry.checks.BLOCK_ROWS", 4)
    computed: list[int] = []
    x = counted(counts(), rows, computed)
    passes: tuple[Callable[[], Any], ...] = (
        lambda: [*row_blocks(x, size=4)],
        lambda: scan_matrix(loadable(x, where="x")),
        lambda: cell_totals(x),
        lambda: [*wanted_blocks(x, np.ones(N_CELLS, dtype=bool))],
    )
    for one in passes:
        computed.clear()
        one()
        assert sum(computed) == N_CELLS


def test_threads_that_read_at_once_get_their_own_rows() -> None:
    x = np.arange(4000).reshape(400, 10)
    found = DaskMatrix(da.from_array(x, chunks=(7, -1)))
    wrong: list[int] = []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, 390, 60).tolist():
            if not np.array_equal(found[start : start + 9], x[start : start + 9]):
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_blocks_are_those_of_memory() -> None:
    x = da.from_array(counts(), chunks=(7, 5))
    for (rows, found), (numbers, expected) in zip(row_blocks(x, size=4), row_blocks(counts(), size=4), strict=True):
        np.testing.assert_array_equal(rows, numbers)
        np.testing.assert_array_equal(found, expected)
    assert scan_matrix(x) == scan_matrix(counts())


def test_a_pool_mixes_many_chunks_within_its_memory() -> None:
    sizes = [PoolSize.of(is_compressed=True, n_bytes=n, n_together=1000) for n in (10.0, 4000.0, 1e6)]
    assert sizes[0] == PoolSize(block=1000, pool=32 * 1000)
    assert all(size.pool // size.block >= FEWEST_BLOCKS for size in sizes)
    assert sizes[1].pool * 4000 <= 64 * 2**20


def test_an_array_of_unknown_size_is_an_error() -> None:
    x = da.from_array(counts(), chunks=(7, -1))
    with pytest.raises(InputDataError, match=r"adata\.X is a Dask array of unknown size.*compute_chunk_sizes"):
        loadable(x[x[:, 0] > 0], where="adata.X")


def test_a_chunk_that_cannot_be_computed_is_an_error() -> None:
    def fails(chunk: np.ndarray) -> np.ndarray:
        if np.array_equal(chunk, counts()[14:]):
            raise OSError("disk gone")
        return chunk

    x = da.from_array(counts(), chunks=(7, -1)).map_blocks(fails, dtype=int, meta=np.zeros((0, 0)))
    reader = stored_rows(DaskMatrix(x), where="adata.X")
    assert reader is not None
    with pytest.raises(DeltaviError, match=r"adata\.X can no longer be read \(OSError: disk gone\)"):
        reader.read(np.array([15]))


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_file_that_is_written_again_while_its_chunks_are_read_is_an_error(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    reader = stored_rows(DaskMatrix(read_lazy(path).X * 2), where="adata.X")
    assert reader is not None
    np.testing.assert_array_equal(in_full(reader.read(np.arange(3))), 2 * counts()[:3])
    np.testing.assert_array_equal(in_full(reader.read(np.arange(3, 5))), 2 * counts()[3:5])
    written(tmp_path, kind, sparse.csr_matrix(counts() + np.float32(1)))
    with pytest.raises(DeltaviError, match=rf"adata\.X changed while it was read: '.*a\.{kind}' was written to"):
        reader.read(np.array([1]))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("element", ["X", "layers/counts"])
def test_pieces_of_a_store_that_are_written_in_place_are_seen(
    zarr_format: Literal[2, 3], element: str, tmp_path: Path
) -> None:
    import zarr
    from anndata.io import write_elem

    path = tmp_path / "store.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    with warnings.catch_warnings():
        # of anndata, about the format of its next release
        warnings.simplefilter("ignore")
        *folders, key = element.split("/")
        write_elem(root.require_group(folders[0]) if folders else root, key, sparse.csr_matrix(counts()))
    before = last_written(path)
    assert last_written(path) == before
    root[element]["data"][:3] = 7
    assert last_written(path) != before


# -- several files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_genes_of_parts_are_placed(convert: Callable[[Any], Any]) -> None:
    x = convert(counts())
    genes = np.full(N_GENES, -1)
    genes[[4, 1, 2]] = [0, 3, 1]
    expected = np.zeros((N_CELLS, 5), dtype=int)
    expected[:, [0, 3, 1]] = counts()[:, [4, 1, 2]]
    found = Part(x, genes).placed(x, 5)
    np.testing.assert_array_equal(in_full(found), expected)
    assert isinstance(found, np.ndarray) or found.has_sorted_indices
    assert Part(x).placed(x, N_GENES) is x


def test_a_joined_array_can_be_sent_to_another_process(tmp_path: Path) -> None:
    from deltavi.registry.joined import Place, Places, joined_chunk

    parts = Place(written(tmp_path), "X", N_CELLS), Place(written(tmp_path, name="b"), "layers/dense", N_CELLS)
    places = Places(parts, N_GENES)
    places = pickle.loads(pickle.dumps(places))
    np.testing.assert_array_equal(in_full(places.opened()[N_CELLS - 1 : N_CELLS + 1]), counts()[[-1, 0]])
    chunk = joined_chunk(places, block_info={None: {"array-location": [(N_CELLS, N_CELLS + 2), (0, N_GENES)]}})
    np.testing.assert_array_equal(in_full(chunk), counts()[:2])


@pytest.mark.parametrize("genes", [None, (4, 1, 2, -1, 0)])
def test_parts_stored_by_genes_are_cut_by_rows(genes: tuple[int, ...] | None, tmp_path: Path) -> None:
    from deltavi.registry.joined import Place, Places

    path = written(tmp_path, name="square")
    n_genes = N_GENES if genes is None else 5
    to = None if genes is None else (*genes, *[-1] * (N_GENES - 5))
    places = Places((Place(path, "layers/csc", N_CELLS, to), Place(path, "X", N_CELLS, to)), n_genes)
    wanted = Places((Place(path, "X", N_CELLS, to),) * 2, n_genes)
    np.testing.assert_array_equal(in_full(places.opened()[3:30]), in_full(wanted.opened()[3:30]))
    np.testing.assert_array_equal(in_full(places.opened()[np.array([1, 7])]), in_full(wanted.opened()[[1, 7]]))
    x = places.as_array(np.dtype(np.float32))
    assert isinstance(rowwise(x), DaskMatrix)
    np.testing.assert_array_equal(in_full(rowwise(x)[:]), in_full(wanted.opened()[:]))
    one = rowwise(Places(places.places[:1], n_genes).as_array(np.dtype(np.float32)))
    assert isinstance(one, CSCDataset if genes is None else DaskMatrix)
    np.testing.assert_array_equal(in_full(one[:]), in_full(wanted.opened()[:N_CELLS]))
