"""The contract on every model of the package."""

from __future__ import annotations

from typing import Any, ClassVar

from anndata import AnnData
from scipy import sparse

from deltavi.model import SCGEN, VAE
from tests.model.conftest import SETUP, log_normalised
from tests.model.contract import ModelContract


class TestVAE(ModelContract):
    model_class = VAE


class TestSCGEN(ModelContract):
    model_class = SCGEN


class TestLearnedLibraryAndGeneBatchDispersion(ModelContract):
    model_class = VAE
    init: ClassVar[dict[str, Any]] = {
        "n_hidden": 16,
        "n_latent": 4,
        "library": "learned",
        "dispersion": "gene-batch",
        "encode_covariates": True,
    }


class TestSizeFactorAndCondition(ModelContract):
    model_class = SCGEN
    init: ClassVar[dict[str, Any]] = {"n_hidden": 16, "n_latent": 4, "condition_in_decoder": True}
    setup: ClassVar[dict[str, Any]] = {**SETUP, "size_factor_key": "total_counts"}


class TestGaussianSCGEN(ModelContract):
    model_class = SCGEN
    init: ClassVar[dict[str, Any]] = {"n_hidden": 16, "n_latent": 4, "gene_likelihood": "normal"}

    @classmethod
    def data(cls, seed: int = 0) -> AnnData:
        adata = log_normalised(super().data(seed))
        adata.X = sparse.csr_matrix(adata.X)
        return adata
