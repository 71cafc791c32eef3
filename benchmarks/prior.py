"""Priors of the latent position, judged by the likelihood of cells that were left out.

    python -m benchmarks prior --seeds 2 --write docs/benchmarks/prior.md

A fifth of the cells is left out. Their bound, and the importance-weighted estimate of their likelihood, say how well
the model as a whole describes cells that it was not fitted to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from benchmarks.harness import runs
from benchmarks.harness.command import QUIET
from benchmarks.harness.data import SETS, build
from benchmarks.harness.page import made_by, markdown, spread
from benchmarks.harness.runs import Rows, Run, Study
from deltavi.model import VAE

PACKAGES = ("deltavi", "scvi-tools", "torch")
# Draws of the posterior for the likelihood of a cell, and cells that it is estimated for.
N_DRAWS, N_CELLS = 200, 300
# Name on the page, and settings of the VAE.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "normal": ("N(0, I)", {}),
    "vamp_50": ("VampPrior, 50 pseudo-inputs", {"prior": "vamp", "n_pseudo_inputs": 50}),
    "vamp_200": ("VampPrior, 200 pseudo-inputs", {"prior": "vamp", "n_pseudo_inputs": 200}),
}


@lru_cache(maxsize=1)
def cells_of(task: str, data: Path) -> AnnData:
    """Counts of a data set, set up."""
    cells = build(task, data)
    VAE.setup_anndata(cells)
    return cells


def work(run: Run, data: Path) -> Rows:
    """The row of one run."""
    cells = cells_of(run.task, data)
    model = VAE(cells, gene_likelihood="nb", seed=run.seed, **METHODS[run.method][1])
    started = time.process_time()
    model.train(train_size=0.8, **QUIET)
    seconds = time.process_time() - started
    left_out = model.validation_indices
    return [
        {
            "bound": -float(model.get_elbo(indices=left_out)),
            "likelihood": -float(model.get_marginal_ll(indices=left_out[:N_CELLS], n_mc_samples=N_DRAWS)),
            "seen": -float(model.get_elbo(indices=model.train_indices)),
            "seconds": seconds,
        }
    ]


def page(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Sections of the page; `records` has one row per task, method and seed."""
    methods, tasks = list(records["method"].unique()), list(records["task"].unique())
    titles = {name: title for name, (title, _) in METHODS.items()}
    yield (
        "# Priors\n\nThe prior of a VAE may be a standard normal, or a mixture of the posteriors of learned "
        "pseudo-inputs (Tomczak and Welling 2018): `VAE(prior='vamp')`. A fifth of the cells is left out of training, "
        "and the model is judged by how probable they are: nats per cell, lower is better. 2,000 genes, negative "
        "binomial, the schedule of the VAE."
    )
    for column, title in (
        ("bound", "## Negative bound of cells that were left out"),
        ("likelihood", f"## Negative log-likelihood of {N_CELLS} of them, {N_DRAWS} draws"),
        ("seen", "## Negative bound of the cells that were learned from"),
    ):
        by_run = records.groupby(["method", "task"], sort=False)[column]
        table = by_run.apply(spread, digits=1).unstack().loc[methods, tasks]
        if column == "bound":
            table["seconds"] = records.groupby("method")["seconds"].mean().map("{:.0f}".format)
        yield f"{title}\n\n{markdown(table.rename(titles).rename_axis('prior'))}"
    yield (
        f"Mean ± standard deviation over seeds (n = {records['seed'].nunique()}), of the cells left out and of "
        "training, the same cells for every prior of a seed; processor seconds of training. "
        f"{made_by(command, PACKAGES)}"
    )


QUICK = {"tasks": ["pbmc3k"], "methods": ["normal", "vamp_50"]}
STUDY = Study("prior", __doc__, list(SETS), list(METHODS), work, page, quick=QUICK)


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDY, arguments)
