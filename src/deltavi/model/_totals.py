"""Counts as shares of each cell's total over all genes, also where the matrix holds a selection of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._compat import SETUP_ARGS_KEY
from deltavi._types import State
from deltavi.module.settings import COUNT_LIKELIHOODS
from deltavi.registry.covariates import SizeFactorField

if TYPE_CHECKING:
    from deltavi.model._base import CountModel
    from deltavi.model._vae import VAE


def settings_of_totals(cls: type[CountModel], adata: AnnData | None, gene_likelihood: str, settings: State) -> State:
    """`settings` of the module, with those that follow from the totals of `adata`; a file keeps them."""
    if adata is None or gene_likelihood not in COUNT_LIKELIHOODS:
        return settings
    decodes_shares = settings.get("library") in (None, "size_factor")
    activation = activation_of_totals(cls, adata) if decodes_shares else {}
    return {**activation, "size_factor_unit": _size_factor_unit(cls, adata), **settings}


def activation_of_totals(cls: type[CountModel], adata: AnnData) -> State:
    """Shares of the given total, with a rest for genes outside the model; free rates for relative factors."""
    state = _size_factor_state(cls, adata)
    if state is None:
        return {}
    return {"scale_activation": "exp" if state[SizeFactorField.RELATIVE_KEY] else "softmax_rest"}


def _size_factor_unit(cls: type[CountModel], adata: AnnData) -> float:
    """Total counts that a size factor of one stands for: one, or the mean total where factors are relative."""
    state = _size_factor_state(cls, adata)
    return 1.0 if state is None else float(state[SizeFactorField.UNIT_KEY])


def _size_factor_state(cls: type[CountModel], adata: AnnData) -> State | None:
    """Findings of the registration on the size factors of `adata`; ``None`` where there are none."""
    manager = cls._get_most_recent_anndata_manager(adata, required=True)
    if manager.registry[SETUP_ARGS_KEY].get("size_factor_key") is None:
        return None
    return dict(manager.get_state_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY))


def start_at_mean_shares(model: VAE) -> None:
    """Let the decoder start at the mean share of every gene, which no step then has to be spent on."""
    start_at = ("softmax", "softmax_rest", "exp")
    if model._adata is None or model.module.scale_activation not in start_at or not model.module.bias:
        return
    assert model._adata_manager is not None
    counts = model._adata_manager.gene_sums()
    key = model._setup_argument("size_factor_key")
    library = counts.sum() if key is None else float(np.asarray(model.adata.obs[key], dtype=np.float64).sum())
    if library > 0:
        model.module.decoder.start_at(torch.from_numpy(counts / library).float())
