"""Entry of a model for the shared tests: its class, keywords of setup and training, and what it can do."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from anndata import AnnData
from scipy import sparse

from deltavi.testing._cells import QUIET, SETUP, log_normalised, small_adata

SMALL = {"n_hidden": 16, "n_latent": 4}
PERTURBATION = {"control": "control", "perturbation": "stimulated"}
Verb = Literal["get_latent_representation", "predict_perturbation", "predict"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SmallModel:
    """A model that trains in a moment on the cells of :func:`small_adata`.

    Parameters
    ----------
    name
        Name of the entry.
    model_class
        Class of the model.
    setup, init, training
        Keywords of ``setup_anndata``, of the class, and of ``train`` beyond epochs, size of mini-batches and device.
    verb
        Method that the model is for; a suite that asks each model one thing asks this.
    reads
        Raw counts, or log1p CP10k.
    decodes
        Whether it has expected expression of each cell, as ``impute`` gives it.
    predicts
        Whether it answers ``predict_perturbation``; its setup then names a condition.
    annotates
        Whether it learns labels and predicts them; some may be missing.
    clusters
        Whether it has components, with responsibilities.
    exports
        Whether scvi-tools has a counterpart that answers alike.
    by_epochs
        Whether it is trained step by step; otherwise in closed form, without random numbers.
    """

    name: str
    model_class: Any
    setup: Mapping[str, Any] = field(default_factory=lambda: SETUP)
    init: Mapping[str, Any] = field(default_factory=lambda: SMALL)
    training: Mapping[str, Any] = field(default_factory=dict)
    verb: Verb = "get_latent_representation"
    reads: Literal["counts", "logs"] = "counts"
    decodes: bool = True
    predicts: bool = True
    annotates: bool = False
    clusters: bool = False
    exports: bool = False
    by_epochs: bool = True

    @property
    def has_conditions(self) -> bool:
        """True where its setup names a column of conditions."""
        return "condition_key" in self.setup

    @property
    def has_labels(self) -> bool:
        """True where its setup names a column of labels."""
        return "labels_key" in self.setup

    @property
    def has_batches(self) -> bool:
        """True where its setup names a column of batches."""
        return "batch_key" in self.setup

    def cells(self, seed: int = 0) -> AnnData:
        """144 cells and 40 genes on the scale that the model reads, as CSR."""
        return _cells(self.reads, seed).copy()

    def on_its_scale(self, counts: AnnData) -> AnnData:
        """A copy of `counts` on the scale that the model reads, as CSR."""
        adata = log_normalised(counts) if self.reads == "logs" else counts.copy()
        adata.X = sparse.csr_matrix(adata.X)
        return adata

    def untrained(self, adata: AnnData | None = None, **init: Any) -> Any:
        """A model of `adata`, which is set up for it; settings may be replaced."""
        adata = self.cells() if adata is None else adata
        self.model_class.setup_anndata(adata, **self.setup)
        return self.model_class(adata, **{**self.init, **init})

    def train(self, model: Any, **options: Any) -> None:
        """Train a model of this entry for one epoch on the CPU, unless told otherwise."""
        model.train(**{"max_epochs": 1, "batch_size": 32, **self.training, **QUIET, **options})

    def trained(self, adata: AnnData | None = None, *, epochs: int = 1, **init: Any) -> Any:
        """A model after `epochs`."""
        model = self.untrained(adata, **init)
        self.train(model, max_epochs=epochs)
        return model

    def but(self, *, setup: Mapping[str, Any] | None = None, **init: Any) -> SmallModel:
        """The same entry with further keywords of setup and of the class."""
        return replace(self, setup={**self.setup, **(setup or {})}, init={**self.init, **init})


@functools.cache
def _cells(reads: str, seed: int) -> AnnData:
    counts = small_adata(seed=seed)
    adata = log_normalised(counts) if reads == "logs" else counts
    adata.X = sparse.csr_matrix(adata.X)
    return adata
