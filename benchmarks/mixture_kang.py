"""One mixture on the interferon experiment: its types named, and held-out responses by every route.

    python benchmarks/mixture_kang.py --write docs/benchmarks/mixture_kang.md

Part "types": a fifth of the cells of both conditions is hidden; MIXVI, supervised and conditional, beside logistic
regression. Part "responses": the stimulated cells of one type are held out and predicted from its control cells, by
MIXVI's routes, by SCGEN and by simple baselines. Every run is kept in a table beside the page; with --keep what it
holds is not run again. One process, one thread.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import anndata  # noqa: E402 - the thread count must be set before NumPy is loaded
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import torch  # noqa: E402
from anndata import AnnData  # noqa: E402
from annotation_tasks import choose_genes, default_folder  # noqa: E402
from mixture_kang_page import page  # noqa: E402
from sklearn.metrics import accuracy_score, f1_score  # noqa: E402

from deltavi.metrics import calibration, principal_axes  # noqa: E402
from deltavi.model import ACTINN, MIXVI  # noqa: E402
from deltavi.perturbation import compare  # noqa: E402
from deltavi.tl import predict_held_out  # noqa: E402

FILE = "kang_9k_genes.h5ad"
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
ASK = {"control": "control", "target": "stimulated"}
ALONE: dict[str, Any] = {"consensus": 0.0}
TEST_SHARE, UNKNOWN = 0.2, "unknown"
CONDITIONAL: dict[str, Any] = {"conditional": True, "n_w": 4}
ROUTES: dict[str, dict[str, Any]] = {
    "MIXVI, route z": {"shift": "z"},
    "MIXVI, route w": {"shift": "w"},
    "MIXVI, route w, no residual": {"shift": "w", "profile": "decoded"},
}


def cells(folder: Path) -> AnnData:
    """All cells but the megakaryocytes, of which there are too few."""
    adata = anndata.read_h5ad(folder / FILE)
    return adata[adata.obs["cell_type"] != "Megakaryocyte"].copy()


def hidden(adata: AnnData, seed: int) -> tuple[AnnData, np.ndarray]:
    """Cells with a label column in which a random fifth is unknown, and which those are."""
    adata.obs["batch"] = "one study"
    adata.obs["total_counts"] = np.asarray(adata.X.sum(1)).ravel()
    chosen = choose_genes(adata)
    chosen.X = sp.csr_matrix(chosen.X, dtype=np.float32)
    is_test = np.random.default_rng(seed).random(chosen.n_obs) < TEST_SHARE
    chosen.obs["label"] = np.where(is_test, UNKNOWN, chosen.obs["cell_type"].astype(str))
    return chosen, is_test


def types(adata: AnnData, seed: int) -> pd.DataFrame:
    """Scores of both methods on hidden cells."""
    data, is_test = hidden(adata.copy(), seed)
    truth = data.obs["cell_type"].astype(str).to_numpy()[is_test]
    shared = {"labels_key": "label", "unlabeled_category": UNKNOWN, "size_factor_key": "total_counts"}
    n_types = len(set(truth))
    runs = {
        "MIXVI, supervised and conditional": (
            MIXVI,
            {**shared, "condition_key": "condition"},
            {**CONDITIONAL, "n_components": n_types},
        ),
        "MIXVI, supervised": (MIXVI, shared, {"n_components": n_types}),
        "logistic regression": (ACTINN, shared, {"n_hidden": ()}),
    }
    rows = []
    for method, (model_class, setup, settings) in runs.items():
        torch.set_num_threads(1)
        started, copied = time.process_time(), data.copy()
        model_class.setup_anndata(copied, **setup)
        model = model_class(copied, seed=seed, **settings)
        model.train(**QUIET)
        probabilities = model.predict(soft=True).iloc[np.flatnonzero(is_test)]
        seconds = time.process_time() - started
        rows.append({"part": "types", "label": "", "method": method, "seed": seed, "seconds": seconds})
        rows[-1] |= named(probabilities, truth)
    return pd.DataFrame(rows)


def named(probabilities: pd.DataFrame, truth: np.ndarray) -> dict[str, float]:
    """Accuracy, macro-F1 and calibration error."""
    predicted = probabilities.idxmax(axis=1).to_numpy()
    return {
        "accuracy": accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, average="macro"),
        "ece": calibration(probabilities, truth).ece,
    }


def responses(adata: AnnData, label: str, seed: int) -> pd.DataFrame:
    """Scores of every route, of SCGEN and of the baselines for one held-out type."""
    torch.set_num_threads(1)
    started = time.process_time()
    # routes are compared as they are, without what the training labels would add to each
    shared: dict[str, Any] = {
        **ASK,
        "label": label,
        "genes_from_all_cells": True,
        "seed": seed,
        "train_kwargs": QUIET,
        "predict_kwargs": ALONE,
    }
    found = predict_held_out(adata, **shared, model_class=MIXVI, model_kwargs=CONDITIONAL)
    seconds = time.process_time() - started
    model: Any = found.model
    others = {
        name: model.predict_perturbation(found.control_cells, **ASK, **ALONE, **how) for name, how in ROUTES.items()
    }
    scgen = predict_held_out(adata, **shared).predicted
    axes = principal_axes(sp.vstack([model.adata.X, found.real.X]))
    more = compare({**others, "SCGEN": scgen}, found.real, found.control_cells, components=axes, ceiling=False)
    table = pd.concat([found.table.rename(index={"MIXVI": "MIXVI, latent shift"}), more])
    table = table.rename_axis("method").reset_index()
    nats = model.get_nats()
    about = {"part": "responses", "label": label, "seed": seed, "seconds": seconds}
    return table.assign(**about, w_nats=float(nats.filter(like="w ").sum()), z_nats=float(nats.filter(like="z ").sum()))


def jobs(options: argparse.Namespace, labels: list[str], done: pd.DataFrame) -> Iterator[tuple[str, str, int]]:
    """Part, held-out type and seed of every run that is to be done; seeds outermost."""
    known = set()
    if options.keep and not done.empty:
        known = set(done[["part", "label", "seed"]].fillna("").itertuples(index=False, name=None))
    for seed in range(options.seeds):
        for part, label in [("types", ""), *(("responses", label) for label in labels)]:
            if part in options.parts and (part, label, seed) not in known:
                yield part, label, seed


def replaced(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """`table` with `rows` in place of those of the same run."""
    if table.empty:
        return rows
    keys = ["part", "label", "seed"]
    again = pd.MultiIndex.from_frame(table[keys].fillna("")).isin(pd.MultiIndex.from_frame(rows[keys]))
    return pd.concat([table[~again], rows], ignore_index=True)


def main() -> None:
    """Run what is missing, write every run to the table, and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder(), help="folder of the h5ad files")
    parser.add_argument("--parts", default="types,responses", help="comma-separated (default: both)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0; with 0 nothing is run")
    parser.add_argument("--keep", action="store_true", help="do not repeat runs that the table has")
    parser.add_argument("--csv", type=Path, help="table of all runs, if not beside the page")
    parser.add_argument("--write", type=Path, help="Markdown file to write, and the table of all runs beside it")
    options = parser.parse_args()
    options.csv = options.csv or (options.write and options.write.with_suffix(".csv"))
    if options.csv is None:
        parser.error("--write or --csv must say where the runs are to be kept")
    warnings.filterwarnings("ignore")
    adata = cells(options.data)
    table = pd.read_csv(options.csv) if options.csv.exists() else pd.DataFrame()
    labels = sorted(set(adata.obs["cell_type"].astype(str)))
    for part, label, seed in list(jobs(options, labels, table)):
        rows = types(adata, seed) if part == "types" else responses(adata, label, seed)
        print(part, label, seed, rows.round(3).to_string(), flush=True)
        table = replaced(table, rows)
        table.to_csv(options.csv, index=False, float_format="%.6g")
    text = page(table)
    if options.write:
        options.write.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
