"""Genes that a network does not model, moved by the responses that were measured: their means, zeros and variances.

    python -m benchmarks all-genes --seeds 1 --write docs/benchmarks/all_genes.md

Each type's stimulated cells are left out of the network and of the responses. One half of its control cells is
predicted, and the measured change is taken from the other half.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks.harness import runs
from benchmarks.harness.command import QUIET
from benchmarks.harness.data import TOO_SMALL
from benchmarks.harness.page import made_by, markdown
from benchmarks.harness.runs import Rows, Run, Study
from deltavi.metrics import SquaredError
from deltavi.model import SCGEN
from deltavi.perturbation import ResponseModel
from deltavi.pp import highly_variable_genes
from deltavi.tl import responses

PACKAGES = ("deltavi", "scvi-tools", "torch")
FILE, TYPES = "kang_full_genes.h5ad", ("B", "CD14+Mono", "FCGR3A+Mono")
CONTROL, STIMULATED = "control", "stimulated"
ALONE = "responses alone"
DRAWS = {"network and responses": "matched", "the same drawn independently": "independent"}
METHODS = [*DRAWS, ALONE, "control cells"]
N_GENES, N_TOP, EPOCHS = 2000, 100, 60
NAMES = {"condition_key": "condition", "control": CONTROL, "context_keys": "cell_type"}


@lru_cache(maxsize=1)
def cells_of(data: Path) -> tuple[AnnData, AnnData]:
    """Raw counts of all genes, and of the most variable ones, of the types that are large enough."""
    cells = anndata.read_h5ad(data / FILE)
    cells = cells[~cells.obs["cell_type"].isin(TOO_SMALL)].copy()
    cells.layers["counts"] = cells.X.copy()
    cells.obs["total_counts"] = np.asarray(cells.X.sum(1)).ravel()
    return cells, highly_variable_genes(cells, n_top=N_GENES, condition_key="condition")


@lru_cache(maxsize=1)
def learned(data: Path, label: str, seed: int) -> tuple[SCGEN, ResponseModel, np.ndarray, np.ndarray, np.ndarray]:
    """Network and responses without the stimulated cells of a type; positions of its cells and control halves."""
    cells, chosen = cells_of(data)
    own = (cells.obs["cell_type"] == label).to_numpy()
    control = own & (cells.obs["condition"] == CONTROL).to_numpy()
    treated = np.flatnonzero(own & ~control)
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(control))
    seen, apart = np.array_split(shuffled, 2)
    kept = np.ones(cells.n_obs, dtype=bool)
    kept[np.concatenate([treated, apart])] = False
    train = chosen[kept].copy()
    keys = {"condition_key": "condition", "labels_key": "cell_type", "size_factor_key": "total_counts"}
    SCGEN.setup_anndata(train, layer="counts", **keys)
    model = SCGEN(train, seed=seed)
    model.train(max_epochs=EPOCHS, **QUIET)
    return model, ResponseModel.fit(responses(cells[kept].copy(), **NAMES)), treated, seen, apart


def work(run: Run, data: Path) -> Rows:
    """The row of one run."""
    cells, _ = cells_of(data)
    model, measured, treated, seen, apart = learned(data, run.task, run.seed)
    query = cells[np.sort(seen)].copy()
    held = responses(cells[np.concatenate([apart, treated])].copy(), **NAMES)
    real = held.changes[0]
    in_model = cells.var_names.isin(model.gene_names)
    top = np.flatnonzero(~in_model)[np.argsort(-np.abs(real[~in_model]))[:N_TOP]]
    change, counts = predicted(run, model, measured, query)
    row = {}
    for name, genes in {"all": np.ones_like(in_model), "in_model": in_model, "others": ~in_model}.items():
        error = SquaredError.of_changes(change[genes], real[genes], noise=held.squared_errors[0][genes])
        row[f"explained_{name}"] = 1 - error.squared_error / error.squared_size
    if counts is not None:
        after = cells[treated]
        zeros, found = ((m.X[:, top] == 0).mean(0) for m in (after.to_memory(), counts))
        row["zeros"] = float(np.abs(np.asarray(zeros) - np.asarray(found)).mean())
        row["variance"] = float(logs(counts[:, top]).var(0).mean() / logs(after[:, top]).var(0).mean())
    return [row]


def predicted(run: Run, model: SCGEN, measured: ResponseModel, query: AnnData) -> tuple[np.ndarray, AnnData | None]:
    """Change of each gene, and counts of the predicted cells where there are some, genes in the order of the query."""
    if run.method == ALONE:
        return measured.predict(STIMULATED, context=run.task).change[0], None
    if run.method not in DRAWS:
        return np.zeros(query.n_vars), query
    options = {"control": CONTROL, "perturbations": STIMULATED, "progress": False}
    found = model.predict_perturbations(query, responses=measured, draws=DRAWS[run.method], **options)
    before = logs(query).mean(0)
    found = found[:, query.var_names].copy()
    change = np.asarray(found.X.mean(0)).ravel() - before
    found.X = found.layers["counts"]
    return change, found


def logs(cells: AnnData) -> np.ndarray:
    """Log1p of counts per ten thousand of all genes, ``(n_cells, n_genes)``."""
    totals = cells.obs["total_counts"].to_numpy()
    return np.asarray(np.log1p(cells.X.toarray() * (1e4 / totals)[:, None]))


def page(records: pd.DataFrame, command: str) -> Iterator[str]:
    """Sections of the page; `records` has one row per type, method and seed."""
    columns = {
        "explained_all": "explained, all genes",
        "explained_in_model": "of the network",
        "explained_others": "others",
        "zeros": f"error of zeros, top {N_TOP} others",
        "variance": "their variance",
    }
    yield (
        "# Genes beyond the network\n\nA network models some thousand genes; `predict_perturbations(..., "
        "responses=...)` moves the counts of all others by the change that the table of responses predicts, at the "
        "depth of each cell."
    )
    for task, rows in records.groupby("task", sort=False):
        means = rows.groupby("method", sort=False)[list(columns)].mean().rename(columns=columns)
        shown = means.map(lambda value: "–" if np.isnan(value) else f"{value:.3f}").rename_axis("method")
        yield f"## {task}\n\n{markdown(shown)}"
    yield (
        "Share explained of the change of means, the noise of the measurement taken off, with halves of the control "
        f"cells. Zeros: mean absolute error of the share of cells without a count, of the {N_TOP} genes outside of the "
        "network that change most; variance of their log1p CP10k relative to that of the treated cells. "
        "Independent draws have the noise of their own cells in their means. "
        f"{N_GENES:,} genes in the network, chosen with all cells, {EPOCHS} epochs; seeds: "
        f"{records['seed'].nunique()}. {made_by(command, PACKAGES)}"
    )


def same_network(run: Run) -> tuple[str, int]:
    """Runs that one training serves."""
    return run.task, run.seed


QUICK = {"tasks": ["FCGR3A+Mono"], "methods": [ALONE]}
STUDY = Study("all-genes", __doc__, list(TYPES), METHODS, work, page, together=same_network, quick=QUICK)


def main(study: str, arguments: list[str]) -> None:
    """Do the runs that are asked for, and write the page."""
    runs.main(STUDY, arguments)
