"""Counts as shares of each cell's total over all genes, also where the matrix holds a selection of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from deltavi._compat import SETUP_ARGS_KEY
from deltavi.model._vae_base import VAEBase
from deltavi.module.settings import COUNT_LIKELIHOODS
from deltavi.registry.checks import row_blocks
from deltavi.registry.covariates import SizeFactorField


class TotalCountsMixin(VAEBase):
    """Carries how a decoder starts, and what its activation is, where totals are given."""

    def _settings_of_totals(
        self, adata: AnnData | None, gene_likelihood: str, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """`settings` of the module, with what the totals of `adata` decide; to be among the arguments a file keeps."""
        if adata is None or gene_likelihood not in COUNT_LIKELIHOODS:
            return settings
        decodes_shares = settings.get("library") in (None, "size_factor")
        activation = self._activation(adata) if decodes_shares else {}
        return {**activation, "size_factor_unit": self._size_factor_unit(adata), **settings}

    def _activation(self, adata: AnnData) -> dict[str, Any]:
        """Shares of the given total, with a rest for genes outside the model; free rates for relative factors."""
        state = self._size_factor_state(adata)
        if state is None:
            return {}
        return {"scale_activation": "exp" if state[SizeFactorField.RELATIVE_KEY] else "softmax_rest"}

    def _size_factor_unit(self, adata: AnnData) -> float:
        """Total counts that a size factor of one stands for: one, or the mean total where factors are relative."""
        state = self._size_factor_state(adata)
        return 1.0 if state is None else float(state[SizeFactorField.UNIT_KEY])

    def _size_factor_state(self, adata: AnnData) -> dict[str, Any] | None:
        """Findings of the registration on the size factors of `adata`; ``None`` where there are none."""
        manager = self._get_most_recent_anndata_manager(adata, required=True)
        if manager.registry[SETUP_ARGS_KEY].get("size_factor_key") is None:
            return None
        return dict(manager.get_state_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY))

    def _start_module(self) -> None:
        """Let the decoder start at the mean share of every gene, which no step then has to be spent on."""
        super()._start_module()
        start_at = ("softmax", "softmax_rest", "exp")
        if self._adata is None or self.module.scale_activation not in start_at or not self.module.bias:
            return
        matrix = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        sums = [np.asarray(block.sum(0), dtype=np.float64).ravel() for _, block in row_blocks(matrix)]
        counts = np.sum(sums, axis=0)
        key = self._setup_argument("size_factor_key")
        library = counts.sum() if key is None else float(np.asarray(self.adata.obs[key], dtype=np.float64).sum())
        if library > 0:
            self.module.decoder.start_at(torch.from_numpy(counts / library).float())
