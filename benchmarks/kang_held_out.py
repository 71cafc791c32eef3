"""Held-out responses to interferon-beta: SCGEN and its settings beside simple baselines, one type at a time.

    python benchmarks/kang_held_out.py --data kang_9k_genes.h5ad --write docs/benchmarks/kang_9k.md

Each cell type's stimulated cells are held out in turn. Genes are chosen with all cells, a small leak that is the same
for every method, so that the figures can be compared with those published for the same choice; ``--no-leak``
chooses them without the held-out cells. One thread per process.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pandas as pd  # noqa: E402 - the thread count must be set before NumPy is loaded

# Settings of predict_perturbation on one fitted model.
SETTINGS: dict[str, dict[str, Any]] = {
    "SCGEN": {},
    "SCGEN, shift as it is (magnitude 1)": {"magnitude": 1.0},
    "SCGEN, paired shift": {"shift": "paired"},
    "SCGEN, nearest shift": {"shift": "nearest"},
    "SCGEN, the paper's shift": {"shift": "scgen"},
    "SCGEN, expectation without residual": {"profile": "decoded"},
}
PAPER = "model of the paper (normal likelihood)"
PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    f"{PAPER}, its shift, no residual": {"shift": "scgen", "profile": "decoded"},
    f"{PAPER}, paired shift, residual": {"shift": "paired", "magnitude": 1.0},
    f"{PAPER}, similarity shift, residual": {"magnitude": 1.0},
}
COLUMNS = {
    "correlation_of_changes": "correlation of changes",
    "correlation_of_changes_top": "top 100",
    "r2_of_means_top": "R2 of means, top 100",
    "e_distance": "E-distance",
    "variance_ratio": "variance ratio",
    "zero_fraction": "zeros",
}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def evaluate(task: tuple[Path, str, bool, int, bool]) -> tuple[str, pd.DataFrame, float]:
    """Scores of every method and setting for one held-out type, and the processor seconds of the main job."""
    import anndata
    import torch

    from deltavi.metrics import principal_axes
    from deltavi.model import SCGEN
    from deltavi.perturbation import compare
    from deltavi.tl import predict_held_out

    path, label, leak, seed, paper = task
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    adata = anndata.read_h5ad(path)
    adata = adata[adata.obs["cell_type"] != "Megakaryocyte"].copy()
    started = time.process_time()  # of this process: other programs on the machine do not count
    found = predict_held_out(
        adata,
        label=label,
        control="control",
        target="stimulated",
        genes_from_all_cells=leak,
        seed=seed,
        train_kwargs=QUIET,
    )
    seconds = time.process_time() - started
    ask = {"control": "control", "target": "stimulated"}
    cells = found.control_cells
    more = {
        name: found.model.predict_perturbation(cells, **ask, **setting) for name, setting in SETTINGS.items() if setting
    }
    train = found.model.adata
    if paper:
        logs = train[:, :].copy()
        del logs.uns["_scvi_uuid"], logs.uns["_scvi_manager_uuid"]
        logs.obs = logs.obs.drop(columns=[c for c in logs.obs if c.startswith("_scvi")])
        SCGEN.setup_anndata(logs, condition_key="condition", labels_key="cell_type")
        model = SCGEN(logs, gene_likelihood="normal", seed=seed)
        model.train(60, batch_size=32, kl_warmup=0.0, **QUIET)
        more |= {name: model.predict_perturbation(cells, **ask, **setting) for name, setting in PAPER_SETTINGS.items()}
    # the axes of all real cells, as in the first table
    import scipy.sparse as sp

    components = principal_axes(sp.vstack([train.X, found.real.X]))
    extra = compare(more, found.real, cells, components=components, ceiling=False)
    table = pd.concat([found.table, extra])
    table["label"], table["seconds"] = label, seconds
    return label, table, seconds


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """`table` as a Markdown table."""
    header = f"| {table.index.name or ''} | " + " | ".join(map(str, table.columns)) + " |"
    rule = "|---|" + "---:|" * table.shape[1]
    rows = [
        f"| {name} | " + " | ".join(f"{v:.{digits}f}" for v in row) + " |"
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join([header, rule, *rows])


def report(tables: pd.DataFrame, options: argparse.Namespace, seconds: float) -> Iterator[str]:
    """Sections of the page."""
    from deltavi.perturbation import CEILING

    names = [n for n in tables.index.unique() if n != CEILING] + [CEILING]
    mean = tables.groupby(level=0)[list(COLUMNS)].mean().loc[names].rename(columns=COLUMNS).rename_axis("method")
    yield f"# Held-out responses: {options.data.stem}"
    yield (
        f"Each of {tables['label'].nunique()} cell types in turn is left without its stimulated cells, which are then "
        f"predicted from its control cells. {'Genes chosen without' if options.no_leak else 'Genes chosen with'} the "
        "held-out cells; 2,000 genes, log1p CP10k. Higher is better but for the E-distance; variance ratio and zeros "
        "should be those of the two halves."
    )
    yield f"## Mean over cell types\n\n{markdown(mean)}"
    for column in ("correlation_of_changes", "r2_of_means_top", "e_distance", "variance_ratio"):
        wide = tables.pivot_table(index=tables.index, columns="label", values=column).loc[names].rename_axis("method")
        digits = 1 if column == "e_distance" else 3
        yield f"## {COLUMNS[column][0].upper()}{COLUMNS[column][1:]}\n\n{markdown(wide, digits)}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("deltavi", "scvi-tools", "torch", "anndata"))
    yield (
        f"Made by `python benchmarks/kang_held_out.py {' '.join(options.given)}` with {packages} on Python "
        f"{platform.python_version()}, {platform.machine()}, {options.jobs} one-thread processes, seed {options.seed}; "
        f"{seconds:.0f} processor seconds per type to choose genes, train, predict and run the baselines."
    )


def main() -> None:
    """Run every held-out type and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="h5ad with obs condition and cell_type")
    parser.add_argument("--types", help="comma-separated cell types (default: all but Megakaryocyte)")
    parser.add_argument("--no-leak", action="store_true", help="choose genes without the held-out cells")
    parser.add_argument("--paper", action="store_true", help="also train the model of the scGen paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each of one thread")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    options.given = [a if not Path(a).exists() else Path(a).name for a in sys.argv[1:]]
    import anndata

    known = sorted(set(anndata.read_h5ad(options.data, backed="r").obs["cell_type"].astype(str)) - {"Megakaryocyte"})
    types = options.types.split(",") if options.types else known
    tasks = [(options.data, label, not options.no_leak, options.seed, options.paper) for label in types]
    results = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for label, table, seconds in pool.map(evaluate, tasks):
            print(f"\n{label} ({seconds:.0f} s)\n{table[list(COLUMNS)].round(3).to_string()}", flush=True)
            results.append(table)
    tables = pd.concat(results)
    page = "\n\n".join(report(tables, options, tables["seconds"].mean())) + "\n"
    print(f"\n{page}")
    if options.write:
        options.write.write_text(page)


if __name__ == "__main__":
    main()
