"""Speed beside scvi-tools on a GPU: epochs of train() and latent positions, by the wall clock.

    python benchmarks/speed_gpu.py --write docs/benchmarks/speed_gpu.md

Without a CUDA device it says so and does nothing.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from annotation_peers import quiet
from annotation_tasks import default_folder
from runs import save
from speed_page import made_with, markdown, ratio, seconds
from speed_pairs import Data, Line, timings
from speed_rows import LIKELIHOODS, latent, training_case


def epochs(data: Data, options: argparse.Namespace) -> Iterator[list[Line]]:
    """Whole trainings, with both likelihoods."""
    for kind, title in LIKELIHOODS.items():
        yield from timings(training_case(f"train(), {title}", data.simulated, options, kind), options)


def measured(options: argparse.Namespace) -> pd.DataFrame:
    """A line per measure of every pair."""
    data, found = Data(options), []
    for name, row in (("train", epochs), ("latent", latent)):
        for pair in row(data, options):
            found += [{"row": name, **line} for line in pair]
            print(
                *(f"{line['case']} {line['measure']} {line['ours']:.4g} {line['peer']:.4g}" for line in pair), sep="; "
            )
    return pd.DataFrame(found)


def page(table: pd.DataFrame, options: argparse.Namespace) -> str:
    """The page: seconds of an epoch, or of all positions."""
    rows = []
    for (row, case), lines in table[table["measure"] == "wall"].groupby(["row", "case"], sort=False):
        runs = options.epochs if row == "train" else 1
        medians = [seconds(lines[side].median() / runs) for side in ("ours", "peer")]
        what = f"{case}, one epoch of {runs}" if row == "train" else case
        rows.append([what, lines["about"].iloc[0], *medians, ratio(lines)])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        "# Speed on a GPU\n\nMini-batches of 128, simulated counts of which about 10 % are not zero. Both run in one "
        f"process in turn, {options.pairs} pairs; *times as fast* is what scvi-tools takes divided by what deltavi "
        "takes, the median over pairs with the lowest and the highest, by the wall clock once the device has "
        f"finished.\n\n{markdown(['', '', 'deltavi', 'scvi-tools', 'times as fast'], rows)}\n\nMade by `python "
        f"benchmarks/speed_gpu.py --pairs {options.pairs} --epochs {options.epochs} --cells {options.cells} --genes "
        f"{options.genes} --write docs/benchmarks/speed_gpu.md` on {device} with {made_with()}.\n"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--accelerator", default="gpu", help="cpu, to see that everything runs")
    parser.add_argument("--csv", type=Path, help="table of all pairs")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    parser.set_defaults(data=default_folder(), quick=False, only="")
    options = parser.parse_args()
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        print("There is no CUDA device: nothing to measure.")
        return
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    with quiet():
        table = measured(options)
    if options.csv:
        save(table, options.csv)
    text = page(table, options)
    if options.write:
        options.write.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
