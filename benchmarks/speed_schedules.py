"""Schedules of training: how far a VAE comes with each learning rate, number of epochs and batch size, and how soon.

    python benchmarks/speed_schedules.py --write docs/benchmarks/schedules.md

All schedules train and validate on the same cells of a data set, those of SCVI too, which is trained once as
scvi-tools does by itself. Every run is kept in a table beside the page, and what the table has is not run again; with
--seeds 0 nothing is run and the page is written from the table. One process, one thread; the page is in
speed_schedules_page.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 - the thread count must be set before NumPy is loaded
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from anndata import AnnData  # noqa: E402
from annotation_peers import quiet  # noqa: E402
from annotation_tasks import default_folder  # noqa: E402
from clustering_tasks import build  # noqa: E402
from runs import chosen, save  # noqa: E402
from speed_page import made_with  # noqa: E402
from speed_pairs import BATCH_SIZE, Data, bounds, peer_vae, same_matrix, size  # noqa: E402
from speed_rows import watched  # noqa: E402
from speed_schedules_page import REFERENCE, page  # noqa: E402

from deltavi.data import simulate_perturbation  # noqa: E402
from deltavi.model import VAE  # noqa: E402
from deltavi.train import CellSplit, split_cells  # noqa: E402

RUN = ["data", "schedule", "seed"]
# Cell types times conditions times batches of the simulator.
GROUPS = 24


@dataclass(frozen=True)
class Schedule:
    """Arguments of `train` that differ from the defaults, and the default number of epochs times `stretch`."""

    training: dict[str, Any] = field(default_factory=dict)
    stretch: float | None = None


def rate(lr: float, lr_schedule: str) -> Schedule:
    """One learning rate, and how it changes."""
    return Schedule({"plan_kwargs": {"lr": lr, "lr_schedule": lr_schedule}})


SCHEDULES: dict[str, Schedule] = {
    "default": Schedule(),
    "one cycle to 0.004": rate(4e-3, "one_cycle"),
    "one cycle to 0.016": rate(1.6e-2, "one_cycle"),
    "constant 0.004": rate(4e-3, "constant"),
    "half of the epochs": Schedule(stretch=0.5),
    "twice the epochs": Schedule(stretch=2),
    "batches of 256": Schedule({"batch_size": 256}),
    "warm-up over all epochs": Schedule({"kl_warmup": 1.0}),
    "warm-up over a quarter": Schedule({"kl_warmup": 0.25}),
    "one cycle to 0.002": rate(2e-3, "one_cycle"),
    "constant 0.001": rate(1e-3, "constant"),
    "batches of 512": Schedule({"batch_size": 512}),
    "stopped early": Schedule({"early_stopping": True, "early_stopping_patience": 5}, stretch=2),
    "plan of scvi-tools": Schedule({"max_epochs": 400, "plan_kwargs": VAE.scvi_plan}),
}


class Sets(Data):
    """The data sets; those of speed.py, another study, and the simulator."""

    @cached_property
    def pancreas(self) -> AnnData:
        """Pancreas by two technologies."""
        return self._of_size(build("pancreas", self.options.data))

    @cached_property
    def simulator(self) -> AnnData:
        """Counts of `deltavi.data.simulate_perturbation`."""
        each = max(1, self.options.cells // GROUPS)
        return self._of_size(simulate_perturbation(n_genes=self.options.genes, n_cells_per_group=each))


SETS: dict[str, Callable[[Sets], AnnData]] = {
    "pbmc3k": lambda sets: sets.pbmc,
    "pancreas": lambda sets: sets.pancreas,
    "simulator": lambda sets: sets.simulator,
    "kang_9k": lambda sets: sets.kang,
}


def split(n_cells: int) -> CellSplit:
    """The cells that everybody trains and validates on: other validation cells have another bound."""
    shares: dict[str, Any] = {"train_size": 0.9, "validation_size": None, "batch_size": BATCH_SIZE}
    return split_cells(n_cells, **shares, generator=np.random.default_rng(0))


class SameSplit(VAE):  # type: ignore[misc]
    """A VAE whose seed does not choose its cells."""

    def _split_cells(self, **options: Any) -> CellSplit:
        return split(self.adata.n_obs)


def ours(adata: AnnData, schedule: Schedule, seed: int, options: argparse.Namespace) -> tuple[Any, np.ndarray]:
    """A trained VAE, and its seconds."""
    cells, training = same_matrix(adata), dict(schedule.training)
    SameSplit.setup_anndata(cells)
    model = SameSplit(cells, seed=seed)
    epochs = training.pop("max_epochs", None)
    if schedule.stretch is not None:
        epochs = round(schedule.stretch * model._default_epochs(BATCH_SIZE))
    return watched(model, options, 2 if options.quick else epochs, **training)


def reference(adata: AnnData, seed: int, options: argparse.Namespace) -> tuple[Any, np.ndarray]:
    """SCVI, trained with its own defaults, and its seconds."""
    cells = split(adata.n_obs)
    indexing = {"datasplitter_kwargs": {"external_indexing": [cells.train, cells.validation]}}
    return watched(peer_vae(adata, seed), options, 4 if options.quick else None, **indexing)


def run(adata: AnnData, schedule: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Bound on the validation cells and processor seconds of training so far, for every epoch."""
    torch.set_num_threads(1)
    known = schedule != REFERENCE
    model, times = ours(adata, SCHEDULES[schedule], seed, options) if known else reference(adata, seed, options)
    found = bounds(model, "validation")
    return {
        "about": size(adata),
        "epochs": len(found),
        "last": found[-1],
        "lowest": found.min(),
        "bounds": json.dumps(found.round(3).tolist()),
        "seconds": json.dumps(times[:, 0].round(2).tolist()),
    }


def missing(table: pd.DataFrame, options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Runs to do: seeds outermost, so that an interrupted benchmark has all data sets; SCVI, which takes longest, last.

    Of SCVI there is one seed.
    """
    done = set() if table.empty else set(table[RUN].itertuples(index=False, name=None))
    runs = [(data, name, seed) for seed in range(options.seeds) for data in options.sets for name in options.schedules]
    runs += [(data, REFERENCE, 0) for data in options.sets if options.seeds]
    return [run for run in runs if run not in done]


def command(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The command line, without folders of this machine."""
    parts = ["python benchmarks/speed_schedules.py"]
    for name in ("seeds", "cells", "genes", "sets", "schedules"):
        value = getattr(options, name)
        text = ",".join(value) if isinstance(value, list) else value
        if text != parser.get_default(name):
            parts.append(f'--{name} "{text}"' if isinstance(text, str) else f"--{name} {text}")
    return " ".join([*parts, "--write docs/benchmarks/schedules.md"])


def arguments() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """Parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of the h5ad files")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated data sets (default: all)")
    parser.add_argument("--schedules", default=",".join(SCHEDULES), help="comma-separated (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0; with 0 nothing is run")
    parser.add_argument("--cells", type=int, default=5000, help="of the simulator, about")
    parser.add_argument("--genes", type=int, default=2000, help="of the simulator")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--csv", type=Path, help="table of all runs, if not beside the page")
    parser.add_argument("--write", type=Path, help="Markdown file to write, and the table of all runs beside it")
    parser.set_defaults(accelerator="cpu")
    options = parser.parse_args()
    options.sets, options.schedules = chosen(options.sets, SETS), chosen(options.schedules, SCHEDULES)
    options.csv = options.csv or (options.write and options.write.with_suffix(".csv"))
    if options.csv is None:
        parser.error("--write or --csv must say where the runs are to be kept")
    return options, parser


def main() -> None:
    """Do the runs that the table lacks, write each to it, and the page."""
    options, parser = arguments()
    for name in ("lightning.fabric", "deltavi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    table = pd.read_csv(options.csv) if options.csv.exists() else pd.DataFrame()
    sets, about_run = Sets(options), {"made_with": made_with(), "command": command(options, parser)}
    with quiet():
        for data, schedule, seed in missing(table, options):
            numbers = run(SETS[data](sets), schedule, seed, options)
            row = {"data": data, "schedule": schedule, "seed": seed, **numbers, **about_run}
            shown = f"{numbers['epochs']} epochs, {numbers['last']:.2f}, lowest {numbers['lowest']:.2f}"
            print(data, schedule, seed, shown, numbers["seconds"].rsplit(",")[-1], flush=True)
            table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
            save(table, options.csv)
    text = page(table)
    if options.write:
        options.write.write_text(text)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
