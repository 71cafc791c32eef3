"""What the golden models are: one of each class, the cells they learned from, and what they say of some of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from deltavi import model as models
from deltavi.pp import log_normalise

HERE = Path(__file__).parent
OBS = ["condition", "cell_type", "batch"]
# of every cell type and condition there are some among the first
ASKED = slice(24)


def read_cells() -> AnnData:
    """Raw counts of ``cells.csv``, log1p CP10k in a layer; a file, so that no change of the simulator reaches them."""
    table = pd.read_csv(HERE / "cells.csv", index_col=0)
    counts = table.drop(columns=OBS)
    obs, var = table[OBS], pd.DataFrame(index=counts.columns)
    adata = AnnData(X=sparse.csr_matrix(counts.to_numpy(np.float32)), obs=obs, var=var)
    log_normalise(adata)
    return adata


def _latent(model: Any, cells: AnnData) -> dict[str, Any]:
    return {"latent": model.get_latent_representation(cells)}


def _decoded(model: Any, cells: AnnData) -> dict[str, Any]:
    return {**_latent(model, cells), "expected": model.impute(cells)}


def _moved(model: Any, cells: AnnData) -> dict[str, Any]:
    # settings spelled out: a file must keep its meaning, defaults may change
    how = {
        "shift": "similarity",
        "shift_scale": "match",
        "bandwidth": 0.2,
        "similarity_space": "expression",
        "empirical_weight": 0.0,
    }
    moved = model.predict_perturbation(cells, control="control", perturbation="stimulated", **how)
    return {**_decoded(model, cells), "rate": moved.layers["rate"]}


def _named(model: Any, cells: AnnData) -> dict[str, Any]:
    return {
        "probabilities": model.predict(cells, soft=True).to_numpy(),
        "strangeness": model.get_novelty_scores(cells)["novelty_score"].to_numpy(),
    }


def _clustered(model: Any, cells: AnnData) -> dict[str, Any]:
    shares = model.get_responsibilities(cells).to_numpy()
    return {**_decoded(model, cells), **_named(model, cells), "responsibilities": shares}


def _grouped(model: Any, cells: AnnData) -> dict[str, Any]:
    return {**_decoded(model, cells), "responsibilities": model.get_responsibilities(cells).to_numpy()}


@dataclass(frozen=True)
class Golden:
    """A model to keep, and what to ask it."""

    answers: Callable[[Any, AnnData], dict[str, Any]]
    setup: dict[str, Any]
    init: dict[str, Any]


SMALL = {"n_hidden": 4, "n_latent": 2}
GROUPS = {"condition_key": "condition", "labels_key": "cell_type"}
LABELS = {"labels_key": "cell_type", "unlabeled_category": "unknown"}
GOLDEN = {
    "ACTINN": Golden(_named, LABELS, {"n_hidden": 4, "n_networks": 2}),
    "LABELVI": Golden(lambda m, c: {**_decoded(m, c), **_named(m, c)}, {**LABELS, "batch_key": "batch"}, SMALL),
    "MIXVI": Golden(_clustered, {**LABELS, "batch_key": "batch"}, {**SMALL, "n_components": 4}),
    "MIXVI-clusters": Golden(_grouped, {"batch_key": "batch"}, {**SMALL, "n_components": 4}),
    "PPCA": Golden(_decoded, {**GROUPS, "layer": "log1p_cp10k"}, {"n_latent": 2}),
    "SCGEN": Golden(_moved, {**GROUPS, "batch_key": "batch"}, SMALL),
    "VAE": Golden(_decoded, {"batch_key": "batch"}, SMALL),
}


def model_class(folder: Path) -> Any:
    """Class of a golden folder, which is called after it; what follows a hyphen says what is special."""
    return getattr(models, folder.name.split("-")[0])


def asked() -> AnnData:
    """Cells that golden models are asked about."""
    return read_cells()[ASKED].copy()


def answers(model: Any, cells: AnnData) -> dict[str, np.ndarray]:
    """What a golden model says of `cells`, by verb."""
    name = "MIXVI-clusters" if getattr(model, "has_labels", True) is False else type(model).__name__
    found = GOLDEN[name].answers(model, cells)
    return {verb: np.asarray(values, dtype=np.float64) for verb, values in found.items()}
