"""Rows read from files in runs, against the same matrix in memory."""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
from anndata.io import sparse_dataset, write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi._compat import SMALLEST_COUNT
from deltavi.errors import DeltaviError
from deltavi.registry import stored_rows as module
from deltavi.registry._resident_rows import ResidentRows
from deltavi.registry.stored_rows import CsrRows, DenseRows, runs_of, stored_rows
from deltavi.registry.streamed import StreamedCells
from tests.registry.test_batches import FORMS, N_CELLS, N_GENES, Form, canonical, counts, dense, unsorted

ROWS: dict[str, list[int]] = {
    "all": list(range(N_CELLS)),
    "none": [],
    "first and last": [0, N_CELLS - 1],
    "with gaps": [1, 2, 5, 6, 7, 15, 19],
    "one": [3],
}
KINDS = ["h5", "gzip", "lzf", "zarr"]


def stored(x: Any, folder: Path, kind: str = "h5", indices: type | None = None, **options: Any) -> Any:
    """A matrix in a file, opened again; `indices` replaces the type of its gene numbers."""
    if kind == "zarr":
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(str(folder / "x.zarr"), mode="w")
        with warnings.catch_warnings():
            # of anndata, about the format of its next release
            warnings.simplefilter("ignore")
            write_elem(group, "x", x)
        return sparse_dataset(zarr.open_group(str(folder / "x.zarr"), mode="r")["x"])
    filters = {} if kind == "h5" else {"compression": kind}
    with h5py.File(folder / "x.h5", "w") as file:
        write_elem(file, "x", x, dataset_kwargs=filters)
        if indices is not None:
            values = file["x/indices"][:].astype(indices)
            del file["x/indices"]
            file["x/indices"] = values
    found = h5py.File(folder / "x.h5", "r", **options)["x"]
    return sparse_dataset(found) if isinstance(found, h5py.Group) else found


def assert_same(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert found[key].dtype == values.dtype, key
        np.testing.assert_array_equal(found[key], values, err_msg=key)


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8, np.bool_])
@FORMS
def test_rows_are_those_of_the_matrix_in_memory(form: Form, dtype: type, rows: str, tmp_path: Path) -> None:
    x = form((counts() % 100).astype(dtype))
    chosen = np.array(ROWS[rows], dtype=int)
    found = CsrRows(stored(x, tmp_path)).read(chosen)
    expected = ResidentRows(x).matrix[chosen]
    assert found.dtype == np.float32
    assert found.has_canonical_format
    for mine, wanted in (
        (found.data, expected.data),
        (found.indices, expected.indices),
        (found.indptr, expected.indptr),
    ):
        np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_mini_batches_are_those_of_the_matrix_in_memory(kind: str, tmp_path: Path) -> None:
    x = canonical(counts().astype(np.float32))
    x.data[:3] = -0.0, 0.5, SMALLEST_COUNT / 2
    reader = stored_rows(stored(x, tmp_path, kind), where="adata.X")
    assert reader is not None
    assert reader.is_compressed == (kind != "h5")
    cells = StreamedCells(reader, {"number": np.arange(N_CELLS)[:, None]})
    chosen = [7, 3, 3, 19, 0]
    rows = ResidentRows(x)
    for _ in range(2):
        # the second time factorials are known
        assert_same(cells[chosen], {"number": np.array(chosen)[:, None], **rows.with_counts(np.array(chosen))})
    assert len(cells) == N_CELLS


@pytest.mark.parametrize("kind", ["plain", "gzip", "zarr", "sharded", "dense", "dense gzip"])
def test_blocks_are_to_be_several_pieces_long(kind: str, tmp_path: Path) -> None:
    """Ten entries a row and pieces of a hundred are ten rows each; a shard is read by the pieces in it."""
    x = sparse.csr_matrix(np.ones((400, 10), dtype=np.float32))
    options: dict[str, Any] = {"chunks": (100,)}
    if kind in ("zarr", "sharded"):
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", zarr_format=3)
        with anndata.settings.override(auto_shard_zarr_v3=False):
            write_elem(group, "x", x, dataset_kwargs=options | ({"shards": (1000,)} if kind == "sharded" else {}))
        matrix = sparse_dataset(group["x"])
    else:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            if kind.startswith("dense"):
                options = {"chunks": (10, 5)}
            filters = {"compression": "gzip"} if "gzip" in kind else {}
            write_elem(file, "x", x.toarray() if kind.startswith("dense") else x, dataset_kwargs=options | filters)
        found = h5py.File(tmp_path / "x.h5", "r")["x"]
        matrix = found if kind.startswith("dense") else sparse_dataset(found)
    reader = stored_rows(matrix, where="adata.X")
    assert reader is not None
    assert reader.n_together == (1 if kind in ("plain", "dense") else 40)


@pytest.mark.parametrize("indices", [np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_gene_numbers_of_any_type(indices: type, tmp_path: Path) -> None:
    x = unsorted(counts().astype(np.float32))
    found = CsrRows(stored(x, tmp_path, indices=indices)).read(np.arange(N_CELLS))
    assert found.indices.dtype == found.indptr.dtype == np.int32
    np.testing.assert_array_equal(found.toarray(), dense(x))


def test_numbers_beyond_32_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = canonical(counts().astype(np.float32))
    reader = CsrRows(stored(x, tmp_path))
    # more genes than 32 bits can count
    reader.shape = (N_CELLS, 2**31 + 1)
    found = reader.read(np.array([4, 9]))
    assert found.indices.dtype == found.indptr.dtype == np.int64
    np.testing.assert_array_equal(found.data, x[[4, 9]].data)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ">f8", np.int64, np.uint8])
def test_rows_of_dense_matrices(dtype: Any, rows: str, tmp_path: Path) -> None:
    x = (counts() % 100).astype(dtype)
    found = DenseRows(stored(x, tmp_path)).read(np.array(ROWS[rows], dtype=int))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x[ROWS[rows]].astype(np.float32))


def test_half_precision_in_two_parts(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write_elem(file, "x", sparse.csr_matrix(np.eye(3, 4, dtype=np.float32)))
        for name, values in {"data": np.float16([1, 2, 4]), "indices": [1, 1, 0], "indptr": [0, 2, 2, 3]}.items():
            del file[f"x/{name}"]
            file[f"x/{name}"] = values
        found = CsrRows(sparse_dataset(file["x"])).read(np.arange(3))
    np.testing.assert_array_equal(found.toarray(), [[0, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]])


@pytest.mark.parametrize("convert", [canonical, lambda x: x])
def test_other_rows_may_come_first(convert: Any, tmp_path: Path) -> None:
    x = convert(counts().astype(np.float32))
    reader = stored_rows(stored(x, tmp_path), where="adata.X")
    assert reader is not None
    first = reader.read(np.array([2, 5]))
    found = reader.read(np.array([1, 3, 9]), first=first)
    np.testing.assert_array_equal(found.toarray() if sparse.issparse(found) else found, dense(x)[[2, 5, 1, 3, 9]])


def test_what_lies_in_memory_has_no_reader(tmp_path: Path) -> None:
    x = canonical(counts().astype(np.float32))
    for other in (x, dense(x), stored(sparse.csc_matrix(x), tmp_path)):
        assert stored_rows(other, where="adata.X") is None


# -- runs --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(rows=st.sets(st.integers(0, 20_000), max_size=200), gap=st.integers(0, 300))
def test_runs_are_of_neighbours(rows: set[int], gap: int) -> None:
    chosen = np.array(sorted(rows), dtype=int)
    runs = runs_of(chosen, gap)
    np.testing.assert_array_equal(np.concatenate([chosen[:0], *(chosen[run] for run in runs)]), chosen)
    for run in runs:
        assert (np.diff(chosen[run]) <= gap + 1).all()
        assert chosen[run.stop - 1] - chosen[run.start] < module.LONGEST_RUN
    for left, right in itertools.pairwise(runs):
        before, after = chosen[left.stop - 1], chosen[right.start]
        assert after - before > gap + 1 or after // module.LONGEST_RUN > before // module.LONGEST_RUN


def test_few_reads_are_made(tmp_path: Path) -> None:
    """A block of which some rows are not wanted is read at once."""

    class Counting:
        def __init__(self, values: Any) -> None:
            self.values, self.reads, self.dtype, self.shape = values, 0, values.dtype, values.shape

        def __getitem__(self, chosen: slice) -> np.ndarray:
            self.reads += 1
            return np.asarray(self.values[chosen])

    x = sparse.random(3000, 10, density=0.2, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
    reader = CsrRows(stored(x, tmp_path))
    reader._data = watched = Counting(reader._data)
    wanted = np.concatenate([np.arange(100, 164, 2), np.arange(1000, 1064)])
    np.testing.assert_array_equal(reader.read(wanted).toarray(), x[wanted].toarray())
    assert watched.reads == 2


# -- files that change -------------------------------------------------------------------------------------------


# a file that is open cannot be changed there
CHANGES = pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files as they are")


def large(folder: Path) -> Any:
    """A reader whose file is not kept in a cache by HDF5."""
    x = sparse.random(2000, 50, density=0.4, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))
    return stored_rows(stored(x, folder, rdcc_nbytes=0), where="adata.X")


def written_to(reader: Any) -> None:
    """Change every stored value, by hand: HDF5 locks the file."""
    data = reader._x.group["data"].id
    with Path(reader._x.group.file.filename).open("r+b") as opened:
        for piece in map(data.get_chunk_info, range(data.get_num_chunks())):
            opened.seek(piece.byte_offset)
            opened.write(b"\1" * piece.size)


@CHANGES
def test_a_file_that_was_written_to(tmp_path: Path) -> None:
    reader = large(tmp_path)
    os.utime(tmp_path / "x.h5", (1, 1))
    # the time alone is no change
    assert reader.read(np.arange(5)).shape == (5, 50)
    written_to(reader)
    with pytest.raises(DeltaviError, match=r"adata\.X changed while it was read from .*x\.h5\. Put the file back"):
        reader.read(np.arange(5))


@CHANGES
def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    reader = large(tmp_path)
    os.truncate(tmp_path / "x.h5", 20_000)
    # HDF5 may hand out zeros in place of what is missing
    said = r"adata\.X (changed while it was read|can no longer be read) from .*x\.h5.*Put the file back"
    with pytest.raises(DeltaviError, match=said):
        reader.read(np.arange(1500, 1600))


@CHANGES
def test_a_file_that_is_gone(tmp_path: Path) -> None:
    reader = large(tmp_path)
    (tmp_path / "x.h5").unlink()
    with pytest.raises(DeltaviError, match=r"adata\.X can no longer be read.*FileNotFoundError"):
        reader.read(np.arange(5))


def test_a_file_that_was_closed(tmp_path: Path) -> None:
    matrix = stored(canonical(counts().astype(np.float32)), tmp_path)
    reader = stored_rows(matrix, where="adata.layers['counts']")
    assert reader is not None
    matrix.group.file.close()
    with pytest.raises(DeltaviError, match=r"adata\.layers\['counts'\] can no longer be read"):
        reader.read(np.arange(5))


def damaged(folder: Path, name: str, values: Any) -> Any:
    with h5py.File(folder / "x.h5", "w") as file:
        write_elem(file, "x", canonical(counts().astype(np.float32)))
        found = file[f"x/{name}"][:]
        del file[f"x/{name}"]
        file[f"x/{name}"] = values(found)
    return sparse_dataset(h5py.File(folder / "x.h5", "r")["x"])


@pytest.mark.parametrize("gene", [-1, N_GENES, 2**40])
def test_genes_that_do_not_exist(gene: int, tmp_path: Path) -> None:
    """They would be written outside of a mini-batch."""
    matrix = damaged(tmp_path, "indices", lambda x: np.where(np.arange(len(x)) == 5, gene, x.astype(np.int64)))
    with pytest.raises(ValueError, match=f"entries belong to genes .*of {N_GENES}"):
        CsrRows(matrix).read(np.arange(N_CELLS))


@pytest.mark.parametrize(
    "values", [lambda x: x[:-1], lambda x: x[::-1].copy(), lambda x: x + 10**6, lambda x: x - 1], ids=range(4)
)
def test_rows_that_do_not_exist(values: Any, tmp_path: Path) -> None:
    with pytest.raises(DeltaviError, match=f"CSR matrix of {N_CELLS} cells has no valid indptr.*write it again"):
        CsrRows(damaged(tmp_path, "indptr", values))
