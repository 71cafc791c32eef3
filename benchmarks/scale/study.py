"""Large data: seconds, cells a second and peak memory of every step, in memory and from disk.

    python -m benchmarks scale --write docs/benchmarks/scale.md

Cells are drawn and written block by block, once for each size, into a folder that is kept. Every way is a process of
its own; ways that are compared run one after the other, and pairs are repeated. Runs are kept in a table beside the
page: one that is made again replaces its own lines, and with --pairs 0 the page is written from the table alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir

import pandas as pd

from benchmarks.harness.command import add_names, parsed, parser, settle
from benchmarks.harness.page import publish
from benchmarks.harness.runs import read, save
from benchmarks.scale.cells import STORAGE, Screen
from benchmarks.scale.one import Way, in_fresh_process
from benchmarks.scale.page import page

STEPS = ("labelled", "rows", "epoch", "latent", "prediction")
# Packages and where the cells lie; the first one is what the others of the package are compared with.
WAYS = {
    "memory": ("deltavi", "h5ad", True),
    "h5ad": ("deltavi", "h5ad", False),
    "h5ad-gzip": ("deltavi", "h5ad gzip", False),
    "zarr": ("deltavi", "zarr", False),
    "scvi-memory": ("scvi-tools", "h5ad", True),
    "scvi-h5ad": ("scvi-tools", "h5ad", False),
    "scvi-h5ad-gzip": ("scvi-tools", "h5ad gzip", False),
    # needs annbatch, and with it Python 3.12
    "scvi-annbatch": ("annbatch", "zarr", False),
}
KEY = ["cells", "way", "pair"]


def rows(options: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """The steps of each run, printed."""
    for n_cells in options.cells:
        paths = Screen(n_cells, options.genes).write(options.folder)
        for pair in range(options.pairs):
            for name in options.ways:
                package, storage, in_memory = WAYS[name]
                way = Way(
                    package, storage, paths[storage], in_memory, options.predicted, tuple(options.steps), options.folder
                )
                found = pd.DataFrame(in_fresh_process(way)).T.rename_axis("step").reset_index()
                print(f"{n_cells} cells, {name}, pair {pair}\n{found.to_string(index=False)}", flush=True)
                yield found.assign(cells=n_cells, genes=options.genes, way=name, pair=pair)


def measured(table: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """`table` with the runs asked for, saved after each."""
    for lines in rows(options):
        if not table.empty:
            table = table[~table[KEY].eq(lines[KEY].iloc[0]).all(axis=1)]
        table = pd.concat([table, lines], ignore_index=True)
        save(table, options.csv)
    return table


def main(study: str, arguments: list[str]) -> None:
    """Draw the cells that are missing, measure, and write table and page."""
    made = parser(study, __doc__)
    made.add_argument("--cells", type=sizes, default=[100_000, 300_000, 1_000_000], metavar="N,N")
    made.add_argument("--genes", type=int, default=2000)
    made.add_argument("--predicted", type=int, default=50_000, help="control cells whose response is predicted")
    made.add_argument("--pairs", type=int, default=3, help="runs of every way; with 0 nothing is run")
    made.add_argument("--folder", type=Path, default=Path(gettempdir()) / "deltavi-scale", help="of the cells")
    made.add_argument("--csv", type=Path, help="table of all runs, if not beside the page")
    add_names(made, "--ways", WAYS)
    add_names(made, "--steps", STEPS)
    options = parsed(made, arguments, {"cells": [3000], "genes": 100, "predicted": 1000, "pairs": 1})
    options.csv = options.csv or (options.write and options.write.with_suffix(".csv"))
    settle()
    table = measured(read(options.csv), options)
    publish(page(table), options.write)


def sizes(text: str) -> list[int]:
    """Numbers of cells."""
    return [int(number) for number in text.split(",")]


assert {storage for _, storage, _ in WAYS.values()} <= STORAGE.keys()
