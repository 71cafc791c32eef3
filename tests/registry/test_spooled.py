"""Rows of a compressed file in temporary files: those that were kept, and others from where they come from."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi._types import Rows
from deltavi.registry import spooled
from deltavi.registry.spooled import SpooledRows

N_CELLS, N_GENES = 200, 9
COUNTS = sparse.random(N_CELLS, N_GENES, 0.4, format="csr", dtype=np.float32, random_state=1)


class Source:
    """Reader of the rows, which notes what is asked of it."""

    shape, is_compressed, n_bytes, n_together = COUNTS.shape, True, 10.0, 1

    def __init__(self) -> None:
        self.asked: list[np.ndarray] = []

    def read(self, rows: np.ndarray, *, first: Rows | None = None) -> Rows:
        self.asked.append(rows)
        return COUNTS[rows]


def kept(cells: np.ndarray, source: Source, size: int = 16) -> SpooledRows:
    rows = SpooledRows(source)
    for start in range(0, len(cells), size):
        rows.add(cells[start : start + size], COUNTS[cells[start : start + size]])
    return rows


def chosen_cells(seed: int, share: float) -> np.ndarray:
    return np.flatnonzero(np.random.default_rng(seed).random(N_CELLS) < share)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.02, 1), st.floats(0.02, 1), st.integers(1, 70))
def test_kept_rows_are_those_that_were_read(seed: int, share: float, wanted: float, size: int) -> None:
    cells, source = chosen_cells(seed, share), Source()
    rows = kept(cells, source, size)
    asked = cells[np.random.default_rng(seed + 1).random(len(cells)) < wanted]
    if len(asked):
        found = rows.take(asked)
        expected = COUNTS[asked]
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
        assert found.dtype == np.float32
        assert found.has_canonical_format
    assert source.asked == []


@pytest.mark.parametrize("others", [[0], [199], [0, 10], [10, 11, 199]])
def test_rows_that_were_not_kept_are_read(others: list[int]) -> None:
    cells, source = np.arange(10, 150), Source()
    rows = kept(cells, source)
    np.testing.assert_array_equal(rows.take(np.array(others)).toarray(), COUNTS[others].toarray())
    assert len(source.asked) == 1


def test_nothing_kept_is_all_read() -> None:
    source = Source()
    np.testing.assert_array_equal(SpooledRows(source).take(np.array([3])).toarray(), COUNTS[3].toarray())
    assert len(source.asked) == 1


def test_no_more_is_kept_than_there_is_space_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "MOST_BYTES", 8 * int(COUNTS.indptr[40]))
    source = Source()
    rows = kept(np.arange(N_CELLS), source, 20)
    for cells in (np.arange(40), np.arange(41)):
        np.testing.assert_array_equal(rows.take(cells).toarray(), COUNTS[cells].toarray())
    assert [len(asked) for asked in source.asked] == [41]


def test_a_full_disk_keeps_what_was_written_before(monkeypatch: pytest.MonkeyPatch) -> None:
    source, rows = Source(), SpooledRows(Source())
    rows = SpooledRows(source)
    rows.add(np.arange(30), COUNTS[:30])
    limited = os.pwrite

    def full(file: int, values: memoryview, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    rows.add(np.arange(30, 60), COUNTS[30:60])
    monkeypatch.setattr(os, "pwrite", limited)
    # what comes later would not be behind what is missing
    rows.add(np.arange(60, 90), COUNTS[60:90])
    for cells in (np.arange(30), np.arange(60, 70)):
        np.testing.assert_array_equal(rows.take(cells).toarray(), COUNTS[cells].toarray())
    assert [asked.tolist() for asked in source.asked] == [list(range(60, 70))]


def test_writes_that_end_early_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite

    def short(file: int, values: memoryview, offset: int) -> int:
        return whole(file, values[:7], offset)

    monkeypatch.setattr(os, "pwrite", short)
    source = Source()
    rows = kept(np.arange(50), source)
    np.testing.assert_array_equal(rows.take(np.arange(50)).toarray(), COUNTS[:50].toarray())
    assert source.asked == []


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nothing_is_left_behind(scratch: Path) -> None:
    rows = kept(np.arange(50), Source())
    # without a name even while it is in use
    assert list(scratch.iterdir()) == []
    del rows
    assert list(scratch.iterdir()) == []
