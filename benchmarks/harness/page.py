"""Pages: Markdown tables, means over seeds, versions, and files that are either whole or as they were."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from deltavi.io import write_file

DASH = "–"
MARKS = ("<!-- values: begin -->", "<!-- values: end -->")


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], *, n_text: int = 1) -> str:
    """A Markdown table; its first columns are text, which begins at the left."""
    ruler = "|" + "---|" * n_text + "---:|" * (len(header) - n_text)
    shown = ["| " + " | ".join(row) + " |" for row in [header, *rows]]
    return "\n".join([shown[0], ruler, *shown[1:]])


def markdown(table: pd.DataFrame) -> str:
    """`table`, whose entries are text, as a Markdown table of numbers."""
    return grid(*_parts(table))


def words(table: pd.DataFrame) -> str:
    """`table`, whose entries are text, as a Markdown table of words."""
    return grid(*_parts(table), n_text=1 + table.shape[1])


def _parts(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    header = [str(table.index.name or ""), *map(str, table.columns)]
    return header, [[str(name), *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]


def spread(values: pd.Series, digits: int, n_seeds: int = 0) -> str:
    """Mean ± standard deviation over seeds, the mean alone for one seed, a dash for none; fewer seeds are counted."""
    values = values.dropna()
    if values.empty:
        return DASH
    mean, fewer = f"{values.mean():.{digits}f}", f" (n={len(values)})" if len(values) < n_seeds else ""
    return (mean if len(values) == 1 else f"{mean} ± {values.std():.{digits}f}") + fewer


def versions(packages: Iterable[str]) -> str:
    """Versions of the packages that are installed."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def made_by(command: str, packages: Iterable[str], threads: str = "one thread") -> str:
    """The last sentence of a page: command, versions and machine."""
    machine = f"Python {platform.python_version()}, {platform.machine()}, {threads}"
    return f"Made by `{command}` with {versions(packages)} on {machine}."


def publish(sections: Iterable[str], path: Path | None) -> None:
    """Print the page, and write it if there is a path."""
    text = "\n\n".join(sections) + "\n"
    print(f"\n{text}")
    if path is not None:
        write_text(path, text)


def publish_between_marks(sections: Iterable[str], path: Path | None) -> None:
    """Print the sections, and put them between the two marks of the page if there is one."""
    text = "\n\n".join(sections)
    print(f"\n{text}")
    if path is not None:
        before, begin, rest = path.read_text().partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        if not (begin and end) or any(mark in before + after for mark in MARKS):
            raise SystemExit(f"{path} needs one {MARKS[0]} and then one {MARKS[1]}")
        write_text(path, f"{before}{begin}\n\n{text}\n\n{end}{after}")


def write_text(path: Path, text: str) -> None:
    """Write a file that is either whole or as it was."""
    write_file(path, lambda part: part.write_text(text), what="The page")
