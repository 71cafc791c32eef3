"""Held-out responses to interferon-beta: models and their settings beside every baseline, and how sure they are.

    python benchmarks/perturbation.py --data kang_9k_genes.h5ad --runs runs/kang_9k --write docs/benchmarks/kang_9k.md

Each cell type's stimulated cells (with --hold-out donor: each donor's) are held out in turn. Genes are chosen with all
cells, a small leak that is the same for every method, so that figures can be compared with those published for the same
choice; --no-leak chooses them without the held-out cells. Finished parts are kept in the folder of --runs, and a call
goes on where another one stopped. One thread per process.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import anndata  # noqa: E402 - the thread count must be set before NumPy is loaded
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from anndata import AnnData  # noqa: E402
from perturbation_page import page  # noqa: E402
from runs import chosen  # noqa: E402

from deltavi.model import LABELVI, MIXVI, PPCA, SCGEN  # noqa: E402
from deltavi.tl import Method, PerturbationEvaluation, evaluate_perturbation  # noqa: E402

# scGen as published, on log-normalised expression: its network, loss, shift and prediction without residual.
PAPER = {
    "model_kwargs": {"gene_likelihood": "normal"},
    "train_kwargs": {"max_epochs": 60, "batch_size": 32, "kl_warmup": 0},
}
SWITCHED = {"condition_in_decoder": True, "n_latent": 20}
METHODS: dict[str, Method] = {
    "SCGEN": Method(
        SCGEN,
        predict={
            "": {},
            "model alone": {"consensus": 0.0},
            "labels alone": {"consensus": 1.0},
            "kriging in latent space": {"shift": "kriging"},
            "shift of the paper": {"shift": "scgen"},
            "expectation without residual": {"profile": "decoded"},
        },
    ),
    "scGen as published": Method(
        SCGEN,
        **PAPER,
        predict={"": {"shift": "scgen", "profile": "decoded"}, "with consensus and residual": {}},
    ),
    "conditional VAE": Method(SCGEN, model_kwargs=SWITCHED, predict={"": {"shift": "none"}, "shift and consensus": {}}),
    "conditional VAE with MMD": Method(
        SCGEN,
        model_kwargs=SWITCHED | {"condition_mmd": 30.0},
        predict={"": {"shift": "none"}, "shift and consensus": {}},
    ),
    "LABELVI": Method(LABELVI, predict={"": {}, "model alone": {"consensus": 0.0}}),
    "MIXVI": Method(
        MIXVI, model_kwargs={"conditional": True, "n_w": 4}, predict={"": {}, "model alone": {"consensus": 0.0}}
    ),
    "PPCA": Method(PPCA, predict={"": {}}),
}
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
# Too few cells to hold out.
LEFT_OUT = ("Megakaryocyte",)


def cells(options: argparse.Namespace) -> AnnData:
    """The experiment without the types that are too small."""
    adata = anndata.read_h5ad(options.data)
    return adata[~adata.obs["cell_type"].isin(LEFT_OUT)].copy()


def quiet(method: Method) -> Method:
    """The method without a progress bar of its own, on the processor."""
    if method.model_class is PPCA:
        return method
    return Method(
        method.model_class,
        model_kwargs=method.model_kwargs,
        train_kwargs={**QUIET, **method.train_kwargs},
        predict=method.predict,
    )


def evaluated(adata: AnnData, options: argparse.Namespace, methods: str, n_seeds: int) -> PerturbationEvaluation:
    """Some methods and all baselines, on every hold-out."""
    return evaluate_perturbation(
        adata,
        {name: quiet(METHODS[name]) for name in chosen(methods, METHODS)},
        control="control",
        target="stimulated",
        hold_out=options.hold_out,
        genes_from_all_cells=not options.no_leak,
        seeds=range(n_seeds),
        n_jobs=options.jobs,
        folder=options.runs,
    )


def main() -> None:
    """Evaluate what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="h5ad with obs condition, cell_type and donor")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps finished parts")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated (default: all)")
    parser.add_argument("--once", help="comma-separated methods that are trained with one seed only")
    parser.add_argument("--hold-out", help="obs column whose values are held out in turn (default: each cell type)")
    parser.add_argument("--no-leak", action="store_true", help="choose genes without the held-out cells")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each hold-out (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    options.given = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    adata = cells(options)
    parts = [evaluated(adata, options, options.methods, options.seeds)]
    if options.once:
        parts.append(evaluated(adata, options, options.once, 1))
    # baselines and ceiling stand in both
    keys = ["hold_out", "label", "seed", "method"]
    table = pd.concat([part.table for part in parts]).drop_duplicates(keys, ignore_index=True)
    text = page(PerturbationEvaluation(table, parts[0].settings), options)
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
