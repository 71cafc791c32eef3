"""What the scripts share: names on a command line, and a table of runs that is never half written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from deltavi.io import write_file


def save(table: pd.DataFrame, path: Path) -> None:
    """Write the table, so that the file is either whole or as it was."""
    write_file(path, lambda part: table.to_csv(part, index=False, float_format="%.6g"), what="The table")


def chosen(text: str, known: Iterable[str]) -> list[str]:
    """The comma-separated names of an argument, or an error that lists what there is."""
    names = text.split(",")
    if unknown := set(names) - set(known):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return names
