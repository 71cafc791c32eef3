"""Held-out responses to interferon-beta: models and their settings beside every baseline, and how sure they are.

    python -m benchmarks perturbation --runs runs/kang_9k --write docs/benchmarks/kang_9k.md

Each cell type's stimulated cells (with --hold-out donor: each donor's) are held out in turn. Genes are chosen with all
cells, a small leak that is the same for every method, so that figures can be compared with those published for the same
choice; --no-leak chooses them without the held-out cells. Finished parts are kept in the folder of --runs, and a call
goes on where another one stopped. One thread per process.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from benchmarks.harness.command import QUIET, add_names, parsed, parser, settle
from benchmarks.harness.data import KANG, kang_cells
from benchmarks.harness.page import publish
from benchmarks.perturbation.page import page
from deltavi.model import LABELVI, MIXVI, PPCA, SCGEN
from deltavi.tl import Method, PerturbationEvaluation, evaluate_perturbation

# scGen as published, on log-normalised expression: its network, loss, shift and prediction without residual.
PAPER: dict[str, dict[str, Any]] = {
    "model_kwargs": {"gene_likelihood": "normal"},
    "train_kwargs": {"max_epochs": 60, "batch_size": 32, "kl_warmup": 0},
}
SWITCHED = {"condition_in_decoder": True, "n_latent": 20}
METHODS: dict[str, Method] = {
    "SCGEN": Method(
        SCGEN,
        predict={
            "": {},
            "model alone": {"empirical_weight": 0.0},
            "labels alone": {"empirical_weight": 1.0},
            "GP in latent space": {"shift": "gp"},
            "shift of the paper": {"shift": "scgen"},
            "expectation without residual": {"output": "mean"},
        },
    ),
    "scGen as published": Method(
        SCGEN,
        **PAPER,
        predict={"": {"shift": "scgen", "output": "mean"}, "with empirical weight and residual": {}},
    ),
    "conditional VAE": Method(
        SCGEN, model_kwargs=SWITCHED, predict={"": {"shift": "none"}, "shift and empirical weight": {}}
    ),
    "conditional VAE with MMD": Method(
        SCGEN,
        model_kwargs=SWITCHED | {"condition_mmd": 30.0},
        predict={"": {"shift": "none"}, "shift and empirical weight": {}},
    ),
    "LABELVI": Method(LABELVI, predict={"": {}, "model alone": {"empirical_weight": 0.0}}),
    "MIXVI": Method(
        MIXVI, model_kwargs={"conditional": True, "n_w": 4}, predict={"": {}, "model alone": {"empirical_weight": 0.0}}
    ),
    "PPCA": Method(PPCA, predict={"": {}}),
}


def quiet(method: Method) -> Method:
    """The method without a progress bar of its own, on the processor."""
    return method if method.model_class is PPCA else replace(method, train_kwargs={**QUIET, **method.train_kwargs})


def evaluated(adata: AnnData, options: argparse.Namespace, methods: list[str], n_seeds: int) -> PerturbationEvaluation:
    """Some methods and all baselines, on every hold-out."""
    return evaluate_perturbation(
        adata,
        {name: quiet(METHODS[name]) for name in methods},
        control="control",
        perturbation="stimulated",
        hold_out=options.hold_out,
        genes_from_all_cells=not options.no_leak,
        seeds=range(n_seeds),
        n_jobs=options.jobs,
        folder=options.runs,
    )


def add_options(made: argparse.ArgumentParser, file: str) -> None:
    """Add what both studies of responses are asked for."""
    made.add_argument("--file", default=file, help="h5ad with obs condition and cell_type (default: %(default)s)")
    made.add_argument("--runs", type=Path, help="folder that keeps finished parts (default: none does)")
    made.add_argument("--seeds", type=int, default=1, help="trainings of each hold-out (default: %(default)s)")
    made.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")


def arguments_of(study: str, arguments: list[str]) -> argparse.Namespace:
    """Parsed command line."""
    made = parser(study, __doc__)
    add_options(made, KANG)
    add_names(made, "--methods", METHODS)
    add_names(made, "--once", METHODS, [])
    made.add_argument("--hold-out", help="obs column whose values are held out in turn (default: each cell type)")
    made.add_argument("--no-leak", action="store_true", help="choose genes without the held-out cells")
    return parsed(made, arguments, {"methods": ["PPCA"]})


def main(study: str, arguments: list[str]) -> None:
    """Evaluate what is missing, and write the page."""
    options = arguments_of(study, arguments)
    settle()
    adata = kang_cells(options.data / options.file)
    parts = [evaluated(adata, options, options.methods, options.seeds)]
    if options.once:  # these are trained with one seed only
        parts.append(evaluated(adata, options, options.once, 1))
    # baselines and ceiling stand in both
    keys = ["hold_out", "label", "seed", "method"]
    table = pd.concat([part.table for part in parts]).drop_duplicates(keys, ignore_index=True)
    publish(page(PerturbationEvaluation(table, parts[0].settings), options), options.write)
