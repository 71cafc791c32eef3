"""Other methods of cell type annotation: regression, neighbours, CellTypist and scANVI, each `peer(task, seed)`.

A peer gives a table of probabilities, cells of the task in order by types, and sees of the labels only `label_known`.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.annotation.tasks import Task
from benchmarks.harness.command import QUIET
from benchmarks.harness.data import UNKNOWN

if TYPE_CHECKING:
    from scvi.model import SCANVI, SCVI

Peer = Callable[[Task, int], pd.DataFrame]
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # values of C, compared by cross-validation
FOLDS = 5
N_COMPONENTS = 50
N_NEIGHBOURS = 15
# The settings that the scvi-tools tutorials use for atlases and for SCANVI.
SCVI_SETTINGS: dict[str, Any] = {"n_layers": 2, "n_latent": 30, "gene_likelihood": "nb"}
# The default of 400 epochs takes minutes for small data; the bound on held-out cells is flat after so many steps.
SCVI_STEPS, SCVI_BATCH = 2500, 128
SCANVI_TRAINING: dict[str, Any] = {"max_epochs": 20, "n_samples_per_label": 100}


def log1p_cp10k(task: Task) -> sp.csr_matrix:
    """log1p of counts per 10,000 of all genes of the study, `(n_cells, n_genes)`."""
    scale = sp.diags_array(1e4 / task.adata.obs["total_counts"].to_numpy(dtype=float))
    return sp.csr_matrix(scale @ task.adata.X.astype(float)).log1p()


def principal_components(task: Task, seed: int) -> np.ndarray:
    """Positions of all cells on the leading components of log1p CP10k, `(n_cells, 50)`."""
    return np.asarray(PCA(N_COMPONENTS, random_state=seed).fit_transform(log1p_cp10k(task).toarray()))


def reference_labels(task: Task) -> np.ndarray:
    """Known labels of the reference cells, in order."""
    labels: np.ndarray = task.adata.obs["label_known"].astype(str).to_numpy()[task.mask("is_reference")]
    return labels


def table(task: Task, probabilities: np.ndarray, types: np.ndarray) -> pd.DataFrame:
    """`probabilities` with the names of cells and types, in the order of the task's types."""
    return pd.DataFrame(probabilities, index=task.adata.obs_names, columns=list(types))[task.types]


def regression_on(features: Any, task: Task, seed: int) -> pd.DataFrame:
    """Multinomial regression with the penalty that predicts labels of held-out folds with the highest likelihood."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(max_iter=5000), {"C": PENALTIES}, scoring="neg_log_loss", cv=folds)
    search.fit(features[task.mask("is_reference")], reference_labels(task))
    return table(task, search.predict_proba(features), search.classes_)


def logistic(task: Task, seed: int) -> pd.DataFrame:
    """Multinomial logistic regression on log1p CP10k of the chosen genes; scaled genes had a lower macro-F1."""
    return regression_on(log1p_cp10k(task), task, seed)


def logistic_pca(task: Task, seed: int) -> pd.DataFrame:
    """Multinomial logistic regression on principal components of all cells."""
    return regression_on(principal_components(task, seed), task, seed)


def knn(task: Task, seed: int) -> pd.DataFrame:
    """Share of each type among the nearest reference cells on principal components of all cells."""
    features = principal_components(task, seed)
    model = KNeighborsClassifier(N_NEIGHBOURS).fit(features[task.mask("is_reference")], reference_labels(task))
    return table(task, model.predict_proba(features), model.classes_)


def celltypist(task: Task, seed: int) -> pd.DataFrame:
    """CellTypist trained on the reference with its defaults; a sigmoid per type, so that rows do not sum to one."""
    os.environ.setdefault("CELLTYPIST_FOLDER", str(Path(tempfile.gettempdir(), "celltypist")))
    import celltypist as package

    package.logger.set_level(logging.ERROR)
    adata = AnnData(log1p_cp10k(task), obs=task.adata.obs[[]], var=task.adata.var[[]])
    reference = adata[task.mask("is_reference")]
    package.train.__globals__["_LRClassifier"] = one_vs_rest
    model = package.train(reference, reference_labels(task), check_expression=False)
    found = package.annotate(adata, model=model).probability_matrix
    return table(task, found.to_numpy(), found.columns.to_numpy())


def one_vs_rest(indata: Any, labels: Any, C: float, solver: str | None, max_iter: int, **_: Any) -> LogisticRegression:
    """The regression that CellTypist asks for with an argument that scikit-learn 1.8 dropped (multi_class="ovr")."""
    model = LogisticRegression(C=C, solver=solver or "lbfgs", max_iter=max_iter)
    fitted = OneVsRestClassifier(model).fit(indata, labels)
    model.classes_, model.n_features_in_ = fitted.classes_, indata.shape[1]
    model.coef_ = np.vstack([one.coef_ for one in fitted.estimators_])
    model.intercept_ = np.concatenate([one.intercept_ for one in fitted.estimators_])
    return model


def scanvi(task: Task, seed: int) -> pd.DataFrame:
    """SCANVI from an SCVI model of all cells of the task, as in the tutorials of scvi-tools."""
    import scvi

    base, seconds = pretrained_scvi(task, seed)
    scvi.settings.seed = seed
    try:
        model = trained_scanvi(base, task, batch_size=128)
    except ValueError as error:  # a tail of one cell, which its batch normalisation cannot take
        if "more than 1 value per channel" not in str(error):
            raise
        model = trained_scanvi(base, task, batch_size=120)
    found = model.predict(soft=True)
    probabilities = table(task, found.to_numpy(), found.columns.to_numpy())
    probabilities.attrs["seconds_before"] = seconds
    return probabilities


def trained_scanvi(base: SCVI, task: Task, batch_size: int) -> SCANVI:
    """SCANVI model from `base`."""
    import scvi

    model = scvi.model.SCANVI.from_scvi_model(base, UNKNOWN, labels_key="label_known", adata=cells_for_scvi(task))
    model.train(**SCANVI_TRAINING, batch_size=batch_size, **QUIET)
    return model


def cells_for_scvi(task: Task) -> AnnData:
    """A copy of the cells that scvi-tools may write into."""
    return AnnData(task.adata.X.copy(), obs=task.adata.obs[["batch", "label_known"]].copy(), var=task.adata.var[[]])


_latest_scvi: dict[str, tuple[SCVI, float]] = {}


def pretrained_scvi(task: Task, seed: int) -> tuple[SCVI, float]:
    """SCVI model of the cells and the processor seconds it took; the latest one is kept for tasks with the same cells.

    The seconds are 0.0 where the model is new, since the caller's clock has them.
    """
    import scvi

    names = "\n".join([*task.adata.obs_names, *task.adata.var_names])
    key = f"{sha256(names.encode()).hexdigest()} {seed}"
    if key in _latest_scvi:
        return _latest_scvi[key]
    started = time.process_time()
    scvi.settings.seed = seed
    adata = cells_for_scvi(task)
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, **SCVI_SETTINGS)
    model.train(**scvi_training(task.adata.n_obs), **QUIET)
    _latest_scvi.clear()
    _latest_scvi[key] = (model, time.process_time() - started)
    return model, 0.0


def scvi_training(n_cells: int) -> dict[str, Any]:
    """Epochs for the wanted number of steps, and the divergence's weight rising until the last one, as by default."""
    epochs = round(SCVI_STEPS / np.ceil(0.9 * n_cells / SCVI_BATCH))
    return {"max_epochs": epochs, "plan_kwargs": {"n_epochs_kl_warmup": epochs}}


PEERS: dict[str, Peer] = {
    "logistic": logistic,
    "logistic_pca": logistic_pca,
    "knn": knn,
    "celltypist": celltypist,
    "scanvi": scanvi,
}
