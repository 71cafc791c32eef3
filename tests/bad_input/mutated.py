"""A check taken out of the source, and the test that has to fail without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "deltavi"


@dataclass(frozen=True)
class Mutation:
    """A check to take out, which a row misses.

    Parameters
    ----------
    row, model
        Row that must fail without it, and a model on which.
    file
        File under ``src/deltavi``.
    old, new
        Text that stands in it once, and what takes its place.
    """

    row: int
    model: str
    file: str
    old: str
    new: str

    @property
    def name(self) -> str:
        """How it is chosen on the command line."""
        return str(self.row)

    @property
    def test(self) -> str:
        """Test that must fail, as pytest calls it."""
        return f"tests/bad_input/test_rows.py::test_row[row{self.row}-{self.model}]"

    def count(self, source: Path = SOURCE) -> int:
        """How often the text to replace is found."""
        return (source / self.file).read_text().count(self.old)

    def apply(self, source: Path) -> None:
        """Take the check out."""
        path = source / self.file
        path.write_text(path.read_text().replace(self.old, self.new))


@dataclass(frozen=True)
class OwnTest:
    """A check to take out, which a test misses.

    Parameters
    ----------
    test
        Test that must fail without it, as pytest calls it from the root of the repository.
    file, old, new
        As in :class:`Mutation`.
    """

    test: str
    file: str
    old: str
    new: str

    name = "-"
    count = Mutation.count
    apply = Mutation.apply
