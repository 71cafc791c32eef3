"""Fingerprints of matrices: whatever changes is seen, whatever means the same is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.registry import _fingerprint
from deltavi.registry._fingerprint import WORDS, MatrixPrint, cell_sums, checksum, stored

da = pytest.importorskip("dask.array")
N_WORDS = 3 * WORDS + 17


@pytest.fixture
def words() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**63, N_WORDS, dtype=np.uint64)


def counts(n_cells: int = 40, n_genes: int = 12) -> np.ndarray:
    return np.random.default_rng(1).poisson(1.0, (n_cells, n_genes)).astype(np.float32)


# -- bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 7, WORDS - 1, WORDS, 2 * WORDS + 5, 3 * WORDS, N_WORDS - 1])
@pytest.mark.parametrize("bit", [0, 31, 63])
def test_any_bit_counts(words: np.ndarray, place: int, bit: int) -> None:
    before = checksum(words)
    words[place] ^= np.uint64(1) << np.uint64(bit)
    assert checksum(words) != before


@pytest.mark.parametrize("n_bytes", range(1, 9))
def test_bytes_beyond_the_last_word_count(n_bytes: int) -> None:
    values = np.arange(16 + n_bytes, dtype=np.uint8)
    before = checksum(values)
    for place in range(len(values)):
        changed = values.copy()
        changed[place] += 1
        assert checksum(changed) != before


def test_places_count(words: np.ndarray) -> None:
    before = checksum(words)
    for one, other in ((0, 1), (5, WORDS + 5), (WORDS - 1, WORDS), (3, N_WORDS - 1)):
        swapped = words.copy()
        swapped[[one, other]] = words[[other, one]]
        assert checksum(swapped) != before
    blocks = words[: 3 * WORDS].reshape(3, WORDS)
    assert len({checksum(blocks[list(order)]) for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1))}) == 4


# -- values ----------------------------------------------------------------------------------------------------

STORAGES: dict[str, Any] = {
    "Fortran": np.asfortranarray,
    "double": lambda x: x.astype(np.float64),
    "whole": lambda x: x.astype(np.int32),
    "CSR": sparse.csr_matrix,
    "CSC": sparse.csc_matrix,
    "COO": sparse.coo_matrix,
    "array": sparse.csr_array,
    "dask": lambda x: da.from_array(x, chunks=(7, 12)),
}


@pytest.mark.parametrize("kind", STORAGES)
def test_sums_of_cells_do_not_depend_on_storage(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fingerprint, "BLOCK_COLUMNS", 5)
    x = counts()
    np.testing.assert_allclose(cell_sums(STORAGES[kind](x)), cell_sums(x), rtol=1e-12)
    rows = np.array([1, 3, 39])
    np.testing.assert_allclose(cell_sums(STORAGES[kind](x), rows), np.stack(cell_sums(x))[:, rows], rtol=1e-12)
    print_ = MatrixPrint(x)
    assert print_.is_same(STORAGES[kind](x))
    changed = x.copy()
    changed[5, 4] += 1
    assert not print_.is_same(STORAGES[kind](changed))
    np.testing.assert_array_equal(np.flatnonzero(print_.differs(STORAGES[kind](changed))), [5])


def test_what_is_no_number_is_no_value_of_before() -> None:
    x = counts()
    print_ = MatrixPrint(x)
    x[2, 3] = np.nan
    assert not print_.is_same(x)
    np.testing.assert_array_equal(np.flatnonzero(print_.differs(x)), [2])


def test_rows_of_other_cells() -> None:
    x = counts()
    print_ = MatrixPrint(x)
    assert print_.is_reordered(x[::-1])
    assert not print_.is_reordered(2 * x)


# -- on disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def backed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnnData:
    """Cells in a file, of which a check reads one row in ten, and each row once it was written to."""
    monkeypatch.setattr(_fingerprint, "ROWS_OF_RUN", 1)
    AnnData(counts()).write_h5ad(tmp_path / "cells.h5ad")
    return anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r+")


def test_a_file_that_was_written_to_is_read_at_more_places(backed: AnnData) -> None:
    file = Path(backed.filename)
    print_ = MatrixPrint(backed.X, file)
    before = stored(backed.X)
    backed.X[7, 2] += 1
    backed.file._file.flush()
    os.utime(file)
    assert stored(backed.X) == before
    assert not print_.is_same(backed.X)
    backed.X[7, 2] -= 1
    backed.file._file.flush()
    os.utime(file)
    assert print_.is_same(backed.X)


def test_what_is_read_into_memory_is_compared_in_full_from_then_on() -> None:
    print_ = MatrixPrint(da.from_array(counts(2000), chunks=(500, 12)))
    assert len(print_.sums) < 2000
    assert print_.is_same(counts(2000))
    changed = counts(2000)
    changed[20, 0] += 1
    assert not print_.is_same(changed)
    assert len(print_.sums) == 2000
