"""Speed beside scvi-tools: likelihoods, training steps, whole trainings, memory and imports, ours and theirs in turn.

    python benchmarks/speed.py --write docs/benchmarks/speed.md

Every pair is kept in a table beside the page; a case that is measured again replaces its own lines. With --pairs 0
nothing is measured and the page is written from the table; --quick is a smoke test of tiny sizes. Everything runs in
one process but for memory and imports, which need fresh ones. The rows are in speed_rows.py, speed_profile.py and
speed_processes.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 - the thread count must be set before NumPy is loaded
import pandas as pd  # noqa: E402
from annotation_peers import quiet  # noqa: E402
from annotation_tasks import default_folder  # noqa: E402
from runs import chosen, save  # noqa: E402
from speed_page import made_with, page  # noqa: E402
from speed_pairs import Data  # noqa: E402
from speed_processes import peak_of_training  # noqa: E402
from speed_profile import profile  # noqa: E402
from speed_rows import ROWS as COMPARISONS  # noqa: E402

ROWS = {**COMPARISONS, "profile": profile}

# What --quick makes of the sizes.
QUICK = {"cells": 600, "genes": 200, "pairs": 1, "repeats": 3, "epochs": 2, "elbo_epochs": 2, "elbo_seeds": 1}
QUICK |= {"target_epochs": 4, "target_pairs": 1}
# Options that change what is measured.
SETTINGS = (
    *("pairs", "threads", "cells", "genes", "density", "repeats", "epochs"),
    *("elbo_epochs", "elbo_seeds", "target_epochs", "target_pairs"),
)
NAMES = {"target_epochs": "--elbo-target-epochs"}


def measured(table: pd.DataFrame, data: Data, options: argparse.Namespace, about_run: dict[str, Any]) -> pd.DataFrame:
    """`table` with the rows asked for, saved after every pair."""
    for name in options.rows:
        fresh: set[str] = set()
        for found in ROWS[name](data, options):
            rows = pd.DataFrame([{"row": name, **line, **about_run} for line in found])
            case = rows["case"].iloc[0]
            show(rows)
            if case not in fresh and not table.empty:
                old = table[["row", "case", "threads"]].eq([name, case, options.threads]).all(axis=1)
                table = table[~old]
            fresh.add(case)
            table = pd.concat([table, rows], ignore_index=True)
            save(table, options.csv)
    return table


def show(rows: pd.DataFrame) -> None:
    """Print the lines of one pair: each measure of ours, and the peer's."""
    numbers = [f"{line.measure} {line.ours:.4g} {getattr(line, 'peer', np.nan):.4g}" for line in rows.itertuples()]
    about = f"{rows['row'].iloc[0]}: {rows['case'].iloc[0]}, pair {rows['pair'].iloc[0]}"
    print(about, *numbers, sep="; ", flush=True)


def command(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The command line, without the choice of rows and without folders of this machine."""
    parts = ["python benchmarks/speed.py", *(["--quick"] if options.quick else [])]
    for name in SETTINGS if not options.quick else ("threads",):
        if (value := getattr(options, name)) != parser.get_default(name):
            parts.append(f"{NAMES.get(name, '--' + name.replace('_', '-'))} {value}")
    return " ".join([*parts, "--write docs/benchmarks/speed.md"])


def arguments() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """Parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of the h5ad files")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"comma-separated (default: all): {', '.join(ROWS)}")
    parser.add_argument("--pairs", type=int, default=5, help="of each timing; with 0 nothing is run")
    parser.add_argument("--threads", type=int, default=1, help="rows of another number stay in the table")
    parser.add_argument("--only", default="", help="timed cases whose name holds this text, such as: zero-inflated")
    parser.add_argument("--cells", type=int, default=20_000, help="of the simulated counts")
    parser.add_argument("--genes", type=int, default=2000, help="of the simulated counts")
    parser.add_argument("--density", type=float, default=0.1, help="share of simulated counts that is not zero")
    parser.add_argument("--repeats", type=int, default=50, help="likelihoods or steps that are timed as one")
    parser.add_argument("--epochs", type=int, default=3, help="of the timed trainings")
    parser.add_argument("--elbo-epochs", type=int, default=20, help="of row elbo")
    parser.add_argument("--elbo-seeds", type=int, default=3, help="of row elbo")
    parser.add_argument(
        "--elbo-target-epochs", dest="target_epochs", type=int, help="of SCVI in row target (default: its own)"
    )
    parser.add_argument("--target-pairs", type=int, default=3, help="seeds of row target")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one pair, to see that everything runs")
    parser.add_argument("--csv", type=Path, help="table of all pairs, if not beside the page")
    parser.add_argument("--write", type=Path, help="Markdown file to write, and the table beside it")
    parser.add_argument("--peak", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(accelerator="cpu")
    options = parser.parse_args()
    options.rows = chosen(options.rows, ROWS)
    if options.quick and options.pairs:
        vars(options).update(QUICK)
    options.csv = options.csv or (options.write and options.write.with_suffix(".csv"))
    if options.csv is None and options.peak is None:
        parser.error("--write or --csv must say where the pairs are to be kept")
    return options, parser


def main() -> None:
    """Measure the rows, write every pair to the table, and the page of the whole table."""
    options, parser = arguments()
    for name in ("lightning.fabric", "deltavi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with quiet():
        if options.peak:
            print(json.dumps(peak_of_training(options.peak, options.file, options)))
            return
        table = pd.read_csv(options.csv) if options.csv.exists() else pd.DataFrame()
        about_run = {"threads": options.threads, "made_with": made_with(), "command": command(options, parser)}
        if options.pairs:
            table = measured(table, Data(options), options, about_run)
    text = page(table)
    if options.write:
        options.write.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
