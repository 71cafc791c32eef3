"""One small model of every kind, and every verb that it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from deltavi.model import MIXVI, PPCA, SCGEN
from tests.model.conftest import dense, log_normalised, small_adata
from tests.models import EVERY, MODELS, PERTURBATION, SmallModel

Verb = Callable[..., Any]


def counts(seed: int = 0) -> AnnData:
    """72 cells of three types, two conditions and two batches, 40 genes; in one column some types are hidden.

    Cells of another seed are others, and are called so.
    """
    adata = small_adata(seed=seed, n_per_group=6)
    adata.obs_names = f"{seed}-" + adata.obs_names
    labels = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    labels[::9] = "unknown"
    adata.obs["partly"] = pd.Categorical(labels)
    return adata


def logs(seed: int = 0) -> AnnData:
    """The same, log1p CP10k."""
    adata = log_normalised(counts(seed))
    adata.X = sparse.csr_matrix(adata.X)
    return adata


@dataclass(frozen=True)
class Case:
    """A model to train for a moment; where it learns labels, some are missing."""

    entry: SmallModel

    @property
    def model_class(self) -> Any:
        return self.entry.model_class

    @property
    def setup(self) -> dict[str, Any]:
        partly = {"labels_key": "partly", "unlabeled_category": "unknown"}
        return {**self.entry.setup, **(partly if self.entry.annotates else {})}

    @property
    def init(self) -> dict[str, Any]:
        return dict(self.entry.init)

    @property
    def training(self) -> dict[str, Any]:
        return dict(self.entry.training)

    @property
    def data(self) -> Callable[..., AnnData]:
        return logs if self.entry.reads == "logs" else counts

    @property
    def conditional(self) -> bool:
        """True where its components move with a condition."""
        return bool(self.init.get("conditional"))

    @property
    def predicts(self) -> bool:
        """Whether it is asked how cells would respond."""
        return self.entry.predicts

    @property
    def names(self) -> bool:
        """True where it names cells, by labels or by components."""
        return self.entry.annotates or self.entry.clusters

    @property
    def draws(self) -> bool:
        """Whether its weights depend on a seed."""
        return self.entry.by_epochs

    def made(self, adata: AnnData, **init: Any) -> Any:
        """A model that is not trained."""
        return self.entry.but(setup=self.setup).untrained(adata, **init)

    def trained(self, adata: AnnData | None = None, *, epochs: int = 1, **init: Any) -> Any:
        """A model after `epochs`."""
        model = self.made(self.data() if adata is None else adata, **init)
        self.entry.train(model, max_epochs=epochs)
        return model


# settings with state or randomness of their own
FURTHER = ("LearnedLibraryAndGeneBatchDispersion", "Clustering", "ConditionalMIXVI")
CASES = {name: Case(EVERY[name]) for name in (*MODELS, *FURTHER)}


# -- verbs that answer for every cell, a row each --------------------------------------------------------------------


def _latent(model: Any, adata: AnnData | None, **how: Any) -> np.ndarray:
    return np.asarray(model.get_latent_representation(adata, **how))


def _soft(model: Any, adata: AnnData | None, **how: Any) -> np.ndarray:
    return np.asarray(model.predict(adata, soft=True, **how))


def _hard(model: Any, adata: AnnData | None, **how: Any) -> np.ndarray:
    return np.asarray(model.predict(adata, **how))


def _scores(model: Any, adata: AnnData | None, **how: Any) -> np.ndarray:
    return np.asarray(model.get_novelty_scores(adata, **how)[["novelty_score", "p_value", "confidence"]])


def _attributions(model: Any, adata: AnnData | None, **how: Any) -> np.ndarray:
    return dense(model.get_attributions(adata, n_steps=5, **how).X)


def _imputed(model: Any, adata: AnnData | None, **how: Any) -> np.ndarray:
    return np.asarray(model.impute(adata, **how))


def _responsibilities(model: Any, adata: AnnData | None, **how: Any) -> np.ndarray:
    return np.asarray(model.get_responsibilities(adata, **how))


def _w(model: Any, adata: AnnData | None) -> np.ndarray:
    return np.asarray(model.get_latent_representation(adata, of="w"))


def _log_likelihood(model: Any, adata: AnnData | None) -> np.ndarray:
    return np.asarray(model.log_likelihood(adata))


def per_cell(case: Case) -> dict[str, Verb]:
    """Verbs with a row for every cell asked about; ``batch_size`` may be given to those in `BATCHED`."""
    verbs: dict[str, Verb] = {"latent": _latent}
    if case.entry.decodes:
        verbs["impute"] = _imputed
    if case.names:
        verbs["hard"] = _hard
        verbs["soft"] = _soft
    if case.entry.annotates:
        verbs |= {"scores": _scores, "attributions": _attributions}
    if case.entry.clusters:
        verbs["responsibilities"] = _responsibilities
    if case.conditional:
        verbs["w"] = _w
    if case.model_class is PPCA:
        verbs["log_likelihood"] = _log_likelihood
    return verbs


BATCHED = ("latent", "impute", "hard", "soft", "scores", "attributions", "responsibilities")


# -- verbs that answer for cells together, or without any ------------------------------------------------------------


def _predicted(model: Any, adata: AnnData | None, **how: Any) -> np.ndarray:
    cells = model.predict_perturbation(adata, **PERTURBATION, **how)
    return np.hstack([dense(cells.X), dense(cells.layers["rate"]), cells.obsm["X_deltavi"]])


def _corrected(model: Any, adata: AnnData | None) -> np.ndarray:
    return dense(model.batch_removal(adata).X)


def _nats(model: Any, adata: AnnData | None) -> np.ndarray:
    return np.asarray(model.get_kl_per_dimension(adata))


def _sample(model: Any, _: AnnData | None) -> np.ndarray:
    cells = model.sample(6, seed=3)
    return np.hstack([dense(cells.X), dense(cells.layers["rate"])])


def together(case: Case) -> dict[str, Verb]:
    """The other verbs of this package; their answers depend on no global generator either."""
    verbs: dict[str, Verb] = {}
    if case.predicts:
        verbs["predict_perturbation"] = partial(_predicted, empirical_weight=0.0)
        # matching the measured response takes the most time, and an interval draws
        verbs["usual"] = lambda model, adata: dense(
            model.predict_perturbation(adata, **PERTURBATION, n_samples=3).layers["upper"]
        )
    if case.conditional:
        verbs["by z"] = partial(_predicted, shift="z", empirical_weight=0.0)
        verbs["by w"] = partial(_predicted, shift="w", empirical_weight=0.0)
    if case.model_class is SCGEN:
        verbs["batch_removal"] = _corrected
    if case.model_class is MIXVI:
        verbs["nats"] = _nats
    if case.model_class in (MIXVI, PPCA):
        verbs["sample"] = _sample
    if case.model_class is PPCA:
        verbs["loadings"] = lambda model, _: np.asarray(model.get_loadings())
        verbs["noise"] = lambda model, _: np.asarray(model.get_noise())
    return verbs


# asked once where others are asked often
SLOW = ("usual",)


def own_verbs(case: Case) -> dict[str, Verb]:
    """All verbs that this package promises the same answer of."""
    return {**per_cell(case), **together(case)}


def inherited(case: Case) -> dict[str, Verb]:
    """Verbs of scvi-tools, which draw from torch's and NumPy's global generators."""
    if not case.entry.decodes:
        return {}
    by_type = {"groupby": "cell_type", "group1": "type_1", "group2": "type_2", "silent": True}
    return {
        "elbo": lambda model, adata: float(model.get_elbo(adata)),
        "marginal_ll": lambda model, adata: model.get_marginal_ll(adata, n_mc_samples=3),
        "reconstruction": lambda model, adata: float(model.get_reconstruction_error(adata)["reconstruction_loss"]),
        "normalized": lambda model, adata: np.asarray(model.get_normalized_expression(adata, n_samples=2)),
        "expression": lambda model, adata: np.asarray(
            model.differential_expression(adata, mode="change", **by_type)["lfc_mean"]
        ),
    }
