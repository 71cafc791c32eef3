"""What each row gives to SCVI or SCANVI, and the words that name its cause."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi.model import SCANVI, SCVI

from benchmarks.trust.peer import (
    UNKNOWN,
    Peer,
    Spoil,
    ask,
    asked,
    at,
    backed,
    break_weight,
    cells,
    cut,
    damaged,
    edited,
    explosive,
    fitted,
    flip,
    interrupted,
    labelled,
    logs,
    named_oddly,
    nullable,
    obs,
    of_view,
    one_in_a_thousand,
    queried,
    renamed,
    repeated,
    same,
    seeded,
    spoil_weight,
    swapped_on_loading,
    taken,
    trained_on,
    untrained,
    untrained_reference,
    without_counts,
    without_labels,
)
from tests.model.conftest import QUIET

SCANVI_CASE: dict[str, Any] = {"model": "SCANVI"}
COUNTS = "count|integer|negative|positive|normali"
# words for the matrix, rather than for what became of it further on
MATRIX = "adata|matrix|expression|counts"
GENES = "var_names|genes|variables|vars"
PEERS: dict[int, Peer] = {
    1: Peer(trained_on(at(np.nan)), MATRIX),
    2: Peer(queried(lambda query: cells(at(np.nan))), MATRIX),
    3: Peer(trained_on(at(np.inf)), MATRIX),
    4: Peer(trained_on(at(-1.0)), COUNTS),
    5: Peer(trained_on(lambda x: np.where(np.random.default_rng(0).random(x.shape) < 0.05, -1.0, x)), COUNTS),
    6: Peer(trained_on(one_in_a_thousand), COUNTS),
    7: Peer(trained_on(logs), COUNTS),
    9: Peer(trained_on(lambda x: 1e4 * x / x.sum(1, keepdims=True)), COUNTS),
    10: Peer(trained_on(lambda x: without_counts(x, [3, 9])), "zero|empty|no counts"),
    11: Peer(trained_on(lambda x: without_counts(x, (slice(None), 7))), "^$"),
    12: Peer(trained_on(at(1e12)), "large|precision|2\\^24"),
    14: Peer(lambda: ask(fitted(repeated(cells()))), "unique|duplicate"),
    15: Peer(queried(repeated), "unique|duplicate|var_names"),
    16: Peer(lambda: ask(fitted(_repeated_cells())), "unique|duplicate"),
    17: Peer(queried(lambda query: query[:, ::-1].copy()), GENES, asked()),
    18: Peer(queried(renamed(lambda name: f"OTHER{name}")), GENES),
    19: Peer(queried(lambda query: query[:, :26].copy()), GENES),
    20: Peer(queried(lambda query: query[:, :4].copy()), GENES),
    21: Peer(queried(lambda query: renamed(lambda name: f"X{name}")(query) or query[:, :3].copy()), GENES),
    22: Peer(queried(lambda query: _with_further_genes(query)), GENES, asked()),
    23: Peer(queried(renamed(str.lower)), "case|rename|Ensembl"),
    24: Peer(lambda: _loaded(cells()[:, ::-1].copy()), GENES, lambda: _loaded(cells())),
    25: Peer(lambda: _unused_batch(), "^$"),
    26: Peer(labelled({2: np.nan, 9: np.nan}), "nan|missing|unlabel|cell_type", **SCANVI_CASE),
    27: Peer(lambda: _batches({2: np.nan, 9: np.nan}), "nan|missing|batch"),
    28: Peer(labelled({0: "Type_1 ", 1: "Type_1 "}), "case|spaces|similar|duplicate", **SCANVI_CASE),
    29: Peer(
        labelled(dict.fromkeys(range(44), UNKNOWN), unlabeled_category="Unknwon"), "Unknwon|unlabel", **SCANVI_CASE
    ),
    30: Peer(labelled({}), "unlabel", **SCANVI_CASE),
    31: Peer(labelled(UNKNOWN), "unlabel|label", **SCANVI_CASE),
    32: Peer(labelled("B"), "label|class", **SCANVI_CASE),
    33: Peer(labelled({5: "rare"}), "rare|single|few", **SCANVI_CASE),
    35: Peer(lambda: _numbers(), "unlabel|-1|type", **SCANVI_CASE),
    36: Peer(labelled({0: 7, 1: 7}), "type|mixed|str", **SCANVI_CASE),
    37: Peer(queried(obs("cell_type", "neuron"), model=SCANVI), "label|categor", asked(SCANVI), **SCANVI_CASE),
    38: Peer(queried(lambda query: without_labels(query), model=SCANVI), "cell_type|label", **SCANVI_CASE),
    39: Peer(queried(obs("batch", "elsewhere")), "batch|categor"),
    40: Peer(queried(obs("batch", 0)), "batch|categor"),
    41: Peer(lambda: _batches([f"barcode {i}" for i in range(144)]), "batch|cells per"),
    42: Peer(edited(SCANVI, "cell_type"), "edit|changed|cell_type", **SCANVI_CASE),
    43: Peer(swapped_on_loading, "label|cell_type|swap", **SCANVI_CASE),
    44: same(sparse.csc_matrix),
    46: same(sparse.csr_array),
    47: same(lambda x: x.astype(np.int64)),
    49: Peer(lambda: backed(sparse.csr_matrix), "backed", asked()),
    50: Peer(of_view, "view|copy"),
    51: Peer(queried(lambda query: query[:0].copy()), "empty|no cells|0 cells"),
    52: Peer(lambda: ask(fitted(cells()[:1].copy())), "cells|few|observations"),
    53: Peer(lambda: _left_over(), "batch|per channel|size"),
    54: Peer(queried(lambda query: query[[7]].copy()), "^$", lambda: asked()()[[7]]),
    55: Peer(untrained, "train"),
    56: Peer(untrained_reference, "train"),
    57: Peer(lambda: ask(fitted(cells(), epochs=0)), "epoch|train"),
    58: Peer(lambda: ask(fitted(cells(), epochs=3, callbacks=[Spoil(spoil_weight)])), "nan"),
    59: Peer(interrupted, "interrupt"),
    61: Peer(damaged(cut), "truncat|size|bytes|corrupt|archive"),
    62: Peer(damaged(flip), "crc|checksum|corrupt|sha", asked()),
    63: Peer(explosive, "pickle|weights_only|unsafe"),
    66: Peer(damaged(break_weight), "weight|file"),
    70: Peer(lambda: _on_missing_device(), "gpu|cuda|device"),
    71: Peer(lambda: seeded(named_oddly), "^$", lambda: seeded(lambda: ask(fitted(cells())))),
    72: Peer(lambda: seeded(nullable), "^$", lambda: seeded(lambda: ask(fitted(cells())))),
    73: Peer(taken, "_scvi_batch|overwrit|exists"),
    76: Peer(lambda: _saved_over(), "overwrite|exists"),
    79: Peer(lambda: _changed_matrix(), "changed|setup|counts"),
    80: Peer(lambda: _in_another_storage(), "^$", lambda: seeded(lambda: ask(fitted(cells())))),
    83: Peer(lambda: fitted(cells()).get_latent_representation(indeces=[0]), "indeces"),
    85: Peer(lambda: _without_validation(), "validation|early"),
    86: Peer(lambda: _dates(), "date|timestamp|type"),
    87: Peer(lambda: _copied(), "copy|pickle", lambda: seeded(lambda: ask(fitted(cells())))),
    88: Peer(lambda: fitted(cells()).get_latent_representation(batch_size="32"), "batch_size|batch size"),
    89: Peer(lambda: _masked(list), "mask|indices", lambda: _masked(np.flatnonzero)),
    90: Peer(lambda: SCVI.setup_anndata("cells.h5ad"), "AnnData"),
    91: Peer(lambda: _years(0.0, 1.0), "covariate|scale", lambda: _years(2021.0, 2.0**0.5)),
    95: Peer(lambda: ask(fitted(cells()[:, :20].copy())), "total|library|size factor"),
    96: Peer(lambda: _counts_in_raw(), f"raw|{COUNTS}"),
    97: Peer(queried(renamed(lambda name: f"GRCh38_{name}")), "prefix|GRCh38|genome"),
}


def _repeated_cells() -> AnnData:
    adata = cells()
    adata.obs_names = [*adata.obs_names[:-2], *adata.obs_names[:2]]
    return adata


def _with_further_genes(query: AnnData) -> AnnData:
    further = AnnData(sparse.csr_matrix(np.ones((query.n_obs, 5), np.float32)), obs=query.obs[[]].copy())
    further.var_names = [f"OTHER{i}" for i in range(5)]
    wide = ad.concat([query, further], axis=1, merge="first")
    wide.obs = query.obs
    return wide


def _loaded(adata: AnnData) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        seeded(lambda: fitted(cells())).save(f"{folder}/model")
        return ask(SCVI.load(f"{folder}/model", adata, accelerator="cpu"))


def _unused_batch() -> str:
    adata = cells()
    adata.obs["batch"] = adata.obs["batch"].astype("category").cat.add_categories(["never"])
    model = fitted(adata)
    return "works" if model.summary_stats.n_batch == 2 else "silent, the category is kept"


def _batches(values: Any) -> np.ndarray:
    adata = cells()
    obs("batch", values)(adata)
    return ask(fitted(adata))


def _numbers() -> np.ndarray:
    adata = cells()
    codes = adata.obs["cell_type"].astype(str).str[-1].astype(int).replace(3, -1)
    adata.obs["cell_type"] = pd.Series(codes, adata.obs_names)
    return ask(fitted(adata, model=SCANVI, unlabeled_category="-1"))


def _left_over() -> np.ndarray:
    adata = cells()[:33].copy()
    SCVI.setup_anndata(adata, batch_key="batch")
    model = SCVI(adata, n_hidden=16, n_latent=4)
    model.train(max_epochs=1, batch_size=32, train_size=1.0, **QUIET)
    return ask(model)


def _on_missing_device() -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        fitted(cells()).save(f"{folder}/model")
        return ask(SCVI.load(f"{folder}/model", cells(), accelerator="gpu"))


def _saved_over() -> str:
    with tempfile.TemporaryDirectory() as folder:
        mine = Path(folder) / "thesis.txt"
        mine.write_text("mine")
        fitted(cells()).save(folder, overwrite=True)
        return "works" if mine.exists() and mine.read_text() == "mine" else "silent, files of others were removed"


def _changed_matrix() -> np.ndarray:
    adata = cells()
    model = fitted(adata)
    adata.X = adata.X * 2
    return ask(model)


def _in_another_storage() -> np.ndarray:
    adata = cells()
    model = seeded(lambda: fitted(adata))
    adata.X = sparse.csc_matrix(adata.X)
    return ask(model)


def _without_validation() -> np.ndarray:
    adata = cells()
    SCVI.setup_anndata(adata, batch_key="batch")
    model = SCVI(adata, n_hidden=16, n_latent=4)
    model.train(max_epochs=2, batch_size=32, train_size=1.0, early_stopping=True, **QUIET)
    return ask(model)


def _dates() -> np.ndarray:
    adata = cells()
    adata.obs["batch"] = pd.to_datetime(np.where(np.arange(adata.n_obs) % 2, "2023-01-05", "2023-02-07"))
    with tempfile.TemporaryDirectory() as folder:
        fitted(adata).save(f"{folder}/model", save_anndata=True)
        return ask(SCVI.load(f"{folder}/model", accelerator="cpu"))


def _copied() -> np.ndarray:
    return ask(copy.deepcopy(seeded(lambda: fitted(cells()))))


def _masked(form: Callable[[np.ndarray], Any]) -> np.ndarray:
    model = seeded(lambda: fitted(cells()))
    chosen = form(np.asarray(model.adata.obs["cell_type"] == "type_2"))
    return np.asarray(model.get_latent_representation(indices=chosen))


def _years(mean: float, deviation: float) -> np.ndarray:
    adata = cells()
    adata.obs["year"] = (2019.0 + np.arange(adata.n_obs) % 5 - mean) / deviation
    model = seeded(lambda: fitted(adata, continuous_covariate_keys=["year"]))
    return np.asarray(model.get_normalized_expression(return_numpy=True))


def _counts_in_raw() -> np.ndarray:
    adata = cells(logs)
    adata.raw = cells()
    return ask(fitted(adata))
