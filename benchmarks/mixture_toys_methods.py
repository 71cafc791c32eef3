"""Methods for the toy data: MIXVI, and what it has to beat.

A method, `method(toy)`, gives the cluster of every row, or where some are labelled the class of every row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anndata import AnnData
from annotation_peers import quiet
from mixture_toys_tasks import UNKNOWN, Kind, Toy
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neural_network import MLPClassifier

if TYPE_CHECKING:
    from deltavi.model import MIXVI

N_STARTS, N_STARTS_OF_MIXTURE, N_PRINCIPAL = 10, 3, 50
MLP_UNITS, MAX_ITERATIONS = (256,), 1000
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}

# One setting for both kinds of blobs, one for every number of clusters of digits, one for few labels. On blobs encoder
# and decoder are linear: a network could fold one condition onto the other in many ways, all of them equally likely.
DEEP: dict[str, Any] = {"gene_likelihood": "bernoulli", "n_hidden": 256, "n_layers": 2}
SETTINGS: dict[Kind, dict[str, Any]] = {
    "blobs": {
        "gene_likelihood": "normal",
        "dispersion": "fixed",
        "noise_variance": 0.25,
        "conditional": True,
        "n_layers": 0,
        "n_latent": 5,
        "dropout_rate": 0.0,
        "use_batch_norm": "none",
        "check_input": False,
    },
    "clusters of digits": {**DEEP, "n_latent": 10, "dropout_rate": 0.2, "warmup": 0.75},
    "few labels": {**DEEP, "n_latent": 16, "dropout_rate": 0.3, "classification_weight": 20.0},
}
OF_DIGITS: dict[str, Any] = {"max_epochs": 40, "batch_size": 256, "train_size": 1.0, "plan_kwargs": {"lr": 3e-3}}
TRAINING: dict[Kind, dict[str, Any]] = {
    "blobs": {
        "max_epochs": 60,
        "batch_size": 350,
        "train_size": 1.0,
        # the standard normal prior lays the conditions over one another, so that it must count from the beginning
        "kl_warmup": 0.0,
        "plan_kwargs": {"lr": 0.03},
    },
    "clusters of digits": {**OF_DIGITS, "kl_warmup": 0.3},
    "few labels": OF_DIGITS,
}

Method = Callable[[Toy], np.ndarray]


@lru_cache(maxsize=2)
def trained(toy: Toy, n_components: int) -> tuple[MIXVI, AnnData]:
    """MIXVI that has learned from the rows it may learn from, and all rows; kept for the methods that ask for it."""
    from deltavi.model import MIXVI

    adata = toy.annotated()
    seen = adata[toy.is_learned].copy()
    keys: dict[str, Any] = {"condition_key": "condition"} if toy.kind == "blobs" else {}
    if toy.is_labelled.any():
        keys |= {"labels_key": "label", "unlabeled_category": UNKNOWN}
    with quiet():
        MIXVI.setup_anndata(seen, **keys)
        model = MIXVI(seen, n_components=n_components, seed=toy.seed, **SETTINGS[toy.kind])
        torch.set_num_threads(1)  # other libraries set it anew
        model.train(**TRAINING[toy.kind], **QUIET)
    return model, adata


def mixvi(toy: Toy, n_components: int | None = None) -> np.ndarray:
    """Component of every row, or its label."""
    model, adata = trained(toy, n_components or toy.n_clusters)
    with quiet():
        return model.predict(adata).to_numpy().astype(str)


def mixvi_twenty(toy: Toy) -> np.ndarray:
    """The same with components beyond the labels."""
    return mixvi(toy, 20)


def kmeans_mixvi(toy: Toy) -> np.ndarray:
    """k-means on z of MIXVI, to see what the mixture adds."""
    model, adata = trained(toy, toy.n_clusters)
    with quiet():
        positions = model.get_latent_representation(adata)
    return nearest_centres(toy, positions)


def features(toy: Toy) -> np.ndarray:
    """The features, or the leading principal components of the rows that may be learned from."""
    if toy.kind == "blobs":
        return toy.x
    return np.asarray(PCA(N_PRINCIPAL, random_state=toy.seed).fit(toy.x[toy.is_learned]).transform(toy.x))


def nearest_centres(toy: Toy, positions: np.ndarray) -> np.ndarray:
    """k-means of the rows that may be learned from, and the nearest centre of every row."""
    model = KMeans(toy.n_clusters, n_init=N_STARTS, random_state=toy.seed).fit(positions[toy.is_learned])
    return model.predict(positions).astype(str)


def kmeans(toy: Toy) -> np.ndarray:
    """k-means."""
    return nearest_centres(toy, features(toy))


def kmeans_regressed(toy: Toy) -> np.ndarray:
    """k-means after the mean of each condition is subtracted."""
    means = {name: toy.x[toy.condition == name].mean(0) for name in np.unique(toy.condition)}
    return nearest_centres(toy, toy.x - np.stack([means[name] for name in toy.condition]))


def gaussian_mixture(toy: Toy) -> np.ndarray:
    """Gaussian mixture; its covariances are full for the few features of blobs, and one for all digits."""
    shape = "full" if toy.kind == "blobs" else "tied"
    positions = features(toy)
    model = GaussianMixture(toy.n_clusters, covariance_type=shape, n_init=N_STARTS_OF_MIXTURE, random_state=toy.seed)
    return model.fit(positions[toy.is_learned]).predict(positions).astype(str)


def classified(toy: Toy, model: Any) -> np.ndarray:
    """Class of every row by a scikit-learn classifier of the labelled ones."""
    return np.asarray(model.fit(toy.x[toy.is_labelled], toy.truth[toy.is_labelled].astype(str)).predict(toy.x))


def logistic(toy: Toy) -> np.ndarray:
    """Logistic regression on the labelled rows."""
    return classified(toy, LogisticRegression(max_iter=MAX_ITERATIONS))


def mlp(toy: Toy) -> np.ndarray:
    """A network of one hidden layer on the labelled rows."""
    return classified(toy, MLPClassifier(MLP_UNITS, alpha=1e-2, max_iter=MAX_ITERATIONS, random_state=toy.seed))


def mlp_all_labels(toy: Toy) -> np.ndarray:
    """The same network where every row to learn from has its label: what the labels that are hidden are worth."""
    return mlp(Toy(**{**vars(toy), "is_labelled": toy.is_learned}))


METHODS: dict[str, Method] = {
    "kmeans": kmeans,
    "kmeans_regressed": kmeans_regressed,
    "gaussian_mixture": gaussian_mixture,
    "logistic": logistic,
    "mlp": mlp,
    "mlp_all_labels": mlp_all_labels,
    "mixvi": mixvi,
    "mixvi_20": mixvi_twenty,
    # after MIXVI, whose seconds are those of training
    "kmeans_mixvi": kmeans_mixvi,
}
# Which of them a kind of task has.
METHODS_OF: dict[Kind, tuple[str, ...]] = {
    "blobs": ("kmeans", "kmeans_regressed", "gaussian_mixture", "mixvi", "kmeans_mixvi"),
    "clusters of digits": ("kmeans", "gaussian_mixture", "mixvi", "kmeans_mixvi"),
    "few labels": ("logistic", "mlp", "mlp_all_labels", "mixvi", "mixvi_20"),
}
