"""Speed beside scvi-tools on a GPU: epochs of train() and latent positions, by the wall clock.

    python -m benchmarks speed-gpu --write docs/benchmarks/speed_gpu.md

Without a CUDA device it says so and does nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pandas as pd
import torch

from benchmarks.harness.command import parsed, settle
from benchmarks.harness.page import grid, publish
from benchmarks.harness.runs import save
from benchmarks.speed.page import made_with, ratio, seconds
from benchmarks.speed.pairs import Data, Line, timings
from benchmarks.speed.rows import LIKELIHOODS, latent, training_case
from benchmarks.speed.study import QUICK, sized, told


def epochs(data: Data, options: argparse.Namespace) -> Iterator[list[Line]]:
    """Whole trainings, with both likelihoods."""
    for kind, title in LIKELIHOODS.items():
        yield from timings(training_case(f"train(), {title}", data.simulated, options, kind), options)


def page(table: pd.DataFrame, options: argparse.Namespace) -> Iterator[str]:
    """The page: seconds of an epoch, or of all positions."""
    rows = []
    for (row, case), lines in table[table["measure"] == "wall"].groupby(["row", "case"], sort=False):
        n_runs = options.epochs if row == "train" else 1
        medians = [seconds(lines[side].median() / n_runs) for side in ("ours", "peer")]
        what = f"{case}, one epoch of {n_runs}" if row == "train" else case
        rows.append([what, lines["about"].iloc[0], *medians, ratio(lines)])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    yield (
        "# Speed on a GPU\n\nMini-batches of 128, simulated counts of which about 10 % are not zero. Both run in one "
        f"process in turn, {options.pairs} pairs; *times as fast* is what scvi-tools takes divided by what deltavi "
        "takes, the median over pairs with the lowest and the highest, by the wall clock once the device has finished."
    )
    yield grid(["", "", "deltavi", "scvi-tools", "times as fast"], rows, n_text=2)
    yield f"Made by `{options.command}` on {device} with {made_with()}."


def main(study: str, arguments: list[str]) -> None:
    """Measure, print and write."""
    made = sized(study, __doc__)
    made.add_argument("--accelerator", default="gpu", help="cpu, to see that everything runs")
    made.set_defaults(epochs=5)
    options = parsed(made, arguments, QUICK)
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        print("There is no CUDA device: nothing to measure.")
        return
    settle(options.threads)
    data = Data(options)
    rows = {"train": epochs(data, options), "latent": latent(data, options)}
    table = pd.concat([lines for name, pairs in rows.items() for lines in told(name, pairs)], ignore_index=True)
    save(table, options.csv)
    publish(page(table, options), options.write)
