"""Rows of a file that are asked for in order are read in stretches; every row is that of the file."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData
from anndata.io import sparse_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi._types import Rows
from deltavi.model import VAE
from deltavi.registry import _read_on
from deltavi.registry._read_on import ReadOn
from deltavi.registry.stored_rows import CsrRows

N_CELLS, N_GENES = 300, 7


class Noted:
    """Reader of rows in memory that keeps what it was asked for."""

    def __init__(self, rows: sparse.csr_matrix, n_bytes: float = 1.0) -> None:
        self.shape, self.is_compressed, self.n_bytes = rows.shape, False, n_bytes
        self._rows = rows
        self.asked: list[tuple[int, int]] = []

    def read(self, rows: np.ndarray, *, first: Rows | None = None) -> Rows:
        self.asked.append((int(rows[0]), int(rows[-1]) + 1))
        return self._rows[rows]


@pytest.fixture
def counts() -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    return sparse.csr_matrix(rng.poisson(2, (N_CELLS, N_GENES)).astype(np.float32))


def test_batches_in_order_are_read_in_stretches(counts: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_read_on, "MOST_ROWS", 100)
    noted = Noted(counts)
    rows = ReadOn(noted)
    for start in range(0, N_CELLS, 10):
        chosen = np.arange(start, start + 10)
        np.testing.assert_array_equal(rows.take(chosen).toarray(), counts[chosen].toarray())
    assert noted.asked == [(0, 100), (100, 200), (200, 300)]


def test_half_of_the_rows_in_order_are_read_in_stretches_too(
    counts: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_read_on, "MOST_ROWS", 100)
    noted = Noted(counts)
    rows = ReadOn(noted)
    for start in range(0, N_CELLS, 20):
        rows.take(np.arange(start, start + 20, 2))
    assert len(noted.asked) <= 4


@pytest.mark.parametrize("start", [0, 3])
def test_requests_across_the_end_of_a_stretch(
    counts: sparse.csr_matrix, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_read_on, "MOST_ROWS", 10)
    noted = Noted(counts)
    rows = ReadOn(noted)
    for first in range(start, 40, 4):
        chosen = np.arange(first, first + 4)
        np.testing.assert_array_equal(rows.take(chosen).toarray(), counts[chosen].toarray())
    # the request that crosses the end begins the next stretch
    assert noted.asked[:3] == [(start + n, start + n + 10) for n in (0, 8, 16)]


def test_rows_that_end_with_the_stretch_and_those_behind_it(
    counts: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_read_on, "MOST_ROWS", 10)
    noted = Noted(counts)
    rows = ReadOn(noted)
    for chosen in (np.arange(4), np.arange(4, 10), np.array([10]), np.arange(7, 11), np.arange(8, 14)):
        np.testing.assert_array_equal(rows.take(chosen).toarray(), counts[chosen].toarray())
    assert noted.asked == [(0, 10), (10, 20), (7, 11), (8, 14)]


def test_a_single_request_reads_no_more_than_itself(counts: sparse.csr_matrix) -> None:
    noted = Noted(counts)
    ReadOn(noted).take(np.array([50, 51, 250]))
    assert noted.asked == [(50, 251)]


def test_a_stretch_takes_no_more_bytes_than_it_may(counts: sparse.csr_matrix) -> None:
    noted = Noted(counts, n_bytes=_read_on.MOST_BYTES / 5)
    ReadOn(noted).take(np.arange(3))
    assert noted.asked == [(0, 5)]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, N_CELLS - 1), min_size=1, max_size=40, unique=True), max_size=12))
def test_rows_in_any_order_of_requests_are_those_of_the_matrix(requests: list[list[int]]) -> None:
    counts = sparse.csr_matrix(np.random.default_rng(1).poisson(0.5, (N_CELLS, N_GENES)).astype(np.float32))
    rows = ReadOn(Noted(counts))
    for one in requests:
        chosen = np.sort(one)
        np.testing.assert_array_equal(rows.take(chosen).toarray(), counts[chosen].toarray())


def test_rows_of_a_real_file_are_those_of_the_matrix(counts: sparse.csr_matrix, tmp_path: Path) -> None:
    AnnData(counts).write_h5ad(tmp_path / "counts.h5ad")
    with h5py.File(tmp_path / "counts.h5ad") as file:
        rows = ReadOn(CsrRows(sparse_dataset(file["X"])))
        for start in range(0, N_CELLS, 70):
            chosen = np.arange(start, min(start + 70, N_CELLS))
            np.testing.assert_array_equal(rows.take(chosen).toarray(), counts[chosen].toarray())


def test_positions_from_a_file_are_those_from_memory_in_any_order(tmp_path: Path, counts: sparse.csr_matrix) -> None:
    adata = AnnData(counts)
    VAE.setup_anndata(adata)
    model = VAE(adata, n_latent=3, n_hidden=8, seed=0)
    model.train(max_epochs=1, accelerator="cpu")
    AnnData(counts).write_h5ad(tmp_path / "counts.h5ad")
    backed = anndata.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    np.testing.assert_array_equal(model.get_latent_representation(backed), model.get_latent_representation(adata))
    order = np.random.default_rng(2).permutation(N_CELLS)
    np.testing.assert_array_equal(
        model.get_latent_representation(backed, indices=order), model.get_latent_representation(adata, indices=order)
    )
    backed.file.close()
