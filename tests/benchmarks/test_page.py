"""Pages of the benchmarks: tables, means over seeds, and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.harness.page import MARKS, grid, made_by, markdown, publish, publish_between_marks, spread, words

TABLE = pd.DataFrame({"score": ["0.1", "0.2"], 2: ["a", "b"]}, index=pd.Index(["one", "two"], name="method"))


def test_tables_of_numbers_and_of_words() -> None:
    assert markdown(TABLE) == "| method | score | 2 |\n|---|---:|---:|\n| one | 0.1 | a |\n| two | 0.2 | b |"
    assert words(TABLE) == markdown(TABLE).replace("---:", "---")
    assert grid(["", "", "x"], [["a", "b", "1"]], n_text=2) == "|  |  | x |\n|---|---|---:|\n| a | b | 1 |"


def test_a_spread_counts_the_seeds_that_are_missing() -> None:
    values = pd.Series([1.0, 2.0, np.nan])
    assert spread(values, 2) == "1.50 ± 0.71"
    assert spread(values, 2, n_seeds=3) == "1.50 ± 0.71 (n=2)"
    assert spread(values[:1], 1) == "1.0"
    assert spread(values[2:], 1) == "–"


def test_a_page_says_what_made_it() -> None:
    text = made_by("python -m benchmarks probe", ("deltavi", "there-is-no-such-package"), "two threads")
    assert text.startswith("Made by `python -m benchmarks probe` with deltavi ")
    assert text.endswith(", two threads.")
    assert "no-such" not in text


def test_a_page_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    publish(["# Title", "Text ±."], page)
    assert page.read_text() == "# Title\n\nText ±.\n"
    assert "Text ±." in capsys.readouterr().out
    publish(["# Other"], None)
    assert page.read_text() == "# Title\n\nText ±.\n"


def test_a_page_that_fails_half_way_leaves_the_former(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("former")

    def sections():
        yield "# Title"
        raise ValueError("no table")

    with pytest.raises(ValueError, match="no table"):
        publish(sections(), page)
    assert page.read_text() == "former"
    assert list(tmp_path.iterdir()) == [page]


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{MARKS[0]}\n\nold\n\n{MARKS[1]}\n\nafter\n")
    for _ in range(2):
        publish_between_marks(["new", "text"], page)
        assert page.read_text() == f"before\n\n{MARKS[0]}\n\nnew\n\ntext\n\n{MARKS[1]}\n\nafter\n"


@pytest.mark.parametrize(
    "text", ["no marks", MARKS[0], MARKS[1], f"{MARKS[0]}{MARKS[1]}{MARKS[0]}", f"{MARKS[1]} {MARKS[0]} {MARKS[1]}"]
)
def test_a_page_without_its_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(SystemExit, match="values: begin"):
        publish_between_marks(["new"], page)
    assert page.read_text() == text
