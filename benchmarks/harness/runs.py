"""Runs of methods on tasks: those that a table lacks are done, by processes if asked, and the table kept meanwhile."""

from __future__ import annotations

import argparse
import shlex
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from joblib import Parallel, delayed

from benchmarks.harness.command import add_names, parsed, parser, settle
from benchmarks.harness.page import publish
from deltavi.io import write_file


class Run(NamedTuple):
    """One method on one task with one seed."""

    task: str
    method: str
    seed: int


KEYS = list(Run._fields)
Rows = list[dict[str, Any]]
# From a run and the folder of the data to its rows, without the run's own columns.
Work = Callable[[Run, Path], Rows]


@dataclass(frozen=True)
class Study:
    """A study whose runs stand in a table beside its page.

    Parameters
    ----------
    name
        As on the command line, and that of the page.
    about
        Text of the help.
    tasks, methods
        Known names, in the order of the page.
    work
        Does one run; a function that processes can import.
    page
        From the whole table and the command that makes it to the sections of the page.
    usual
        Methods that are run by default, if not all.
    together
        Runs with the same value are done by one process in a row, and may share what they learn.
    quick
        Defaults with `--quick`.
    """

    name: str
    about: str | None
    tasks: Sequence[str]
    methods: Sequence[str]
    work: Work
    page: Callable[[pd.DataFrame, str], Iterable[str]]
    usual: Sequence[str] | None = None
    together: Callable[[Run], Hashable] = tuple
    quick: Mapping[str, Any] = field(default_factory=dict)


def main(study: Study, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page of the whole table."""
    options = arguments_of(study, arguments)
    settle()
    runs = [Run(t, m, s) for s in range(options.seeds) for t in options.tasks for m in options.methods]
    table = collected(study, runs, options)
    publish(study.page(table, command(study, table)), options.write)


def arguments_of(study: Study, arguments: list[str]) -> argparse.Namespace:
    """Parsed command line."""
    made = parser(study.name, study.about)
    add_names(made, "--tasks", study.tasks)
    add_names(made, "--methods", study.methods, study.usual)
    made.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0; with 0 nothing is run")
    made.add_argument("--jobs", type=int, default=1, help="processes, each of one thread")
    made.add_argument("--keep", action="store_true", help="do not repeat runs that the table has")
    made.add_argument("--csv", type=Path, help="table of all runs, if not beside the page")
    options = parsed(made, arguments, {"seeds": 1, **study.quick})
    options.csv = options.csv or (options.write and options.write.with_suffix(".csv"))
    if options.csv is None and not options.quick:
        made.error("--write or --csv must say where the runs are to be kept")
    return options


def collected(study: Study, runs: Iterable[Run], options: argparse.Namespace) -> pd.DataFrame:
    """The table with the rows of these runs, kept whenever a process has done those that belong together.

    A run that fails leaves the others alone; they are kept, and the failures end the program.
    """
    table, failed = read(options.csv), {}
    for run, rows in done(study, missing(table, runs) if options.keep else runs, options):
        if isinstance(rows, str):
            failed[run] = rows
            continue
        table = in_order(replaced(table, pd.DataFrame([run._asdict() | row for row in rows]), KEYS), study)
        save(table, options.csv)
        print(*run, *({k: round(v, 3) for k, v in row.items() if isinstance(v, float)} for row in rows), flush=True)
    if failed:
        told = "\n".join(f"{' '.join(map(str, run))}: {error}" for run, error in failed.items())
        raise SystemExit(f"{len(failed)} runs failed, and no page was written:\n{told}")
    return in_order(table, study)


def done(study: Study, runs: Iterable[Run], options: argparse.Namespace) -> Iterator[tuple[Run, Rows | str]]:
    """Every run with its rows or its error, as processes come to their end."""
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(study.together(run), []).append(run)
    parallel = Parallel(options.jobs, return_as="generator_unordered", batch_size=1)
    for part in parallel(delayed(outcomes)(study.work, group, options.data) for group in groups.values()):
        yield from part


def outcomes(work: Work, runs: list[Run], data: Path) -> list[tuple[Run, Rows | str]]:
    """Rows or error of runs that belong together; this is what a process does."""
    found: list[tuple[Run, Rows | str]] = []
    for run in runs:
        settle()
        try:
            found.append((run, work(run, data)))
        except Exception:
            found.append((run, traceback.format_exc()))
    return found


def missing(table: pd.DataFrame, runs: Iterable[Run]) -> list[Run]:
    """Runs that the table lacks."""
    known = set() if table.empty else set(table[KEYS].itertuples(index=False, name=None))
    return [run for run in runs if tuple(run) not in known]


def replaced(table: pd.DataFrame, rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """`table` with `rows` in place of those with the same keys."""
    if table.empty:
        return rows
    again = pd.MultiIndex.from_frame(table[keys]).isin(pd.MultiIndex.from_frame(rows[keys]))
    return pd.concat([table[~again], rows], ignore_index=True)


def in_order(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows by tasks, methods and seeds, in the order of the study."""
    if table.empty:
        return table
    places = {name: place for names in (study.tasks, study.methods) for place, name in enumerate(names)}

    def by_place(column: pd.Series) -> pd.Series:
        # methods that a study no longer has come last
        return column if column.name == "seed" else column.map(lambda name: places.get(name, len(places)))

    # stable, so that the rows of one run stay in their order
    return table.sort_values(KEYS, key=by_place, kind="stable", ignore_index=True)


def read(path: Path | None) -> pd.DataFrame:
    """The table, or an empty one."""
    return pd.read_csv(path) if path is not None and path.exists() else pd.DataFrame()


def save(table: pd.DataFrame, path: Path | None) -> None:
    """Write the table, so that the file is either whole or as it was."""
    if path is not None:
        write_file(path, lambda part: table.to_csv(part, index=False, float_format="%.6g"), what="The table")


def command(study: Study, table: pd.DataFrame) -> str:
    """The command that makes the page of this table."""
    if table.empty:
        return f"python -m benchmarks {study.name}"
    parts = [f"python -m benchmarks {study.name}"]
    for key, known in (("task", study.tasks), ("method", study.methods)):
        names = list(table[key].unique())
        parts += [] if names == list(known) else [f"--{key}s {shlex.quote(','.join(names))}"]
    page = study.name.replace("-", "_")
    return " ".join([*parts, f"--seeds {table['seed'].nunique()}", f"--write docs/benchmarks/{page}.md"])
