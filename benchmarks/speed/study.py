"""Speed beside scvi-tools: likelihoods, training steps and whole trainings, ours and theirs in turn.

    python -m benchmarks speed --write docs/benchmarks/speed.md

Every pair is kept in a table beside the page; a case that is measured again replaces its own lines. With --pairs 0
nothing is measured and the page is written from the table. Everything runs in one process. The rows are in rows.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from benchmarks.harness.command import add_names, parsed, parser, settle
from benchmarks.harness.page import publish
from benchmarks.harness.runs import read, save
from benchmarks.speed.page import made_with, page
from benchmarks.speed.pairs import Data, Line
from benchmarks.speed.rows import ROWS

# Options that change what is measured: default, that with --quick, and help.
SIZES = {
    "pairs": (5, 1, "of each timing; with 0 nothing is run"),
    "threads": (1, 1, "rows of another number stay in the table"),
    "cells": (20_000, 600, "of the simulated counts"),
    "genes": (2000, 200, "of the simulated counts"),
    "repeats": (50, 3, "likelihoods or steps that are timed as one"),
    "epochs": (3, 2, "of the timed trainings"),
    "elbo-epochs": (20, 2, "of row elbo"),
    "elbo-seeds": (3, 1, "of row elbo"),
    "target-epochs": (None, 4, "of SCVI in row target (default: its own)"),
    "target-pairs": (3, 1, "seeds of row target"),
}
QUICK = {name.replace("-", "_"): small for name, (_, small, _) in SIZES.items()}


def sized(study: str, about: str | None) -> argparse.ArgumentParser:
    """A command line with the sizes, for studies of speed."""
    made = parser(study, about)
    for name, (default, _, told) in SIZES.items():
        made.add_argument(f"--{name}", type=int, default=default, help=told)
    made.add_argument("--density", type=float, default=0.1, help="share of simulated counts that is not zero")
    made.add_argument("--only", default="", help="timed cases whose name holds this text, such as: zero-inflated")
    made.add_argument("--csv", type=Path, help="table of all pairs, if not beside the page")
    return made


def told(row: str, pairs: Iterable[list[Line]]) -> Iterator[pd.DataFrame]:
    """The lines of each pair as a table, printed."""
    for pair in pairs:
        shown = [f"{line['measure']} {line['ours']:.4g} {line.get('peer', float('nan')):.4g}" for line in pair]
        print(f"{row}: {pair[0]['case']}, pair {pair[0]['pair']}", *shown, sep="; ", flush=True)
        yield pd.DataFrame([{"row": row, **line} for line in pair])


def measured(table: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """`table` with the rows asked for, saved after every pair."""
    data, about = Data(options), {"threads": options.threads, "made_with": made_with(), "command": command(options)}
    fresh: set[tuple[str, str]] = set()
    for name in options.rows:
        for lines in told(name, ROWS[name](data, options)):
            key = name, lines["case"].iloc[0]
            if key not in fresh and not table.empty:
                table = table[~table[["row", "case", "threads"]].eq([*key, options.threads]).all(axis=1)]
            fresh.add(key)
            table = pd.concat([table, lines.assign(**about)], ignore_index=True)
            save(table, options.csv)
    return table


def command(options: argparse.Namespace) -> str:
    """The command line, without the choice of rows: a page is made by several calls."""
    parts = ["python -m benchmarks speed", *(["--quick"] if options.quick else [])]
    for name, (default, small, _) in SIZES.items():
        value = getattr(options, name.replace("-", "_"))
        parts += [] if value == (small if options.quick else default) else [f"--{name} {value}"]
    return " ".join([*parts, "--write docs/benchmarks/speed.md"])


def main(study: str, arguments: list[str]) -> None:
    """Measure the rows, write every pair to the table, and the page of the whole table."""
    made = sized(study, __doc__)
    add_names(made, "--rows", ROWS)
    made.set_defaults(accelerator="cpu")
    options = parsed(made, arguments, QUICK)
    options.csv = options.csv or (options.write and options.write.with_suffix(".csv"))
    if options.csv is None and not options.quick:
        made.error("--write or --csv must say where the pairs are to be kept")
    settle(options.threads)
    table = read(options.csv)
    publish(page(measured(table, options) if options.pairs else table), options.write)
