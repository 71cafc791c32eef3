"""Every row of bad input and faults, on every model it concerns."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input.bench import CASES, Bench
from tests.bad_input.registry import LAST_ROW, Row, all_rows

ROWS = all_rows()


@pytest.fixture(autouse=True)
def _at_a_keyboard() -> Iterator[None]:
    """A shell starts what runs in its background deaf to interrupts; listen to them all the same."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("row", "name"),
    [pytest.param(row, name, id=f"row{row.number}-{name}") for row in ROWS for name in row.models],
)
def test_row(
    row: Row, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row.check(Bench(CASES[name], tmp_path, monkeypatch, caplog))


def test_no_row_is_missing() -> None:
    assert [row.number for row in ROWS] == list(range(1, LAST_ROW + 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row{row.number}")
def test_a_row_says_whom_it_does_not_concern_and_why(row: Row) -> None:
    assert row.models, "a row that concerns no model is none"
    assert set(row.without) <= set(CASES)
    assert all(len(reason.split()) > 2 for reason in row.without.values())
    assert row.given
    assert row.must
