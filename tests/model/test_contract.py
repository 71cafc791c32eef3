"""The contract on every model of the package."""

from __future__ import annotations

from typing import Any, ClassVar

from anndata import AnnData
from scipy import sparse

from deltavi.model import ACTINN, LABELVI, MIXVI, SCGEN, VAE
from tests.model.conftest import SETUP, log_normalised
from tests.model.contract import ModelContract
from tests.model.count_contract import CountContract
from tests.model.predict_contract import PredictContract


class TestVAE(CountContract):
    model_class = VAE


class TestSCGEN(CountContract):
    model_class = SCGEN


class TestLearnedLibraryAndGeneBatchDispersion(CountContract):
    model_class = VAE
    init: ClassVar[dict[str, Any]] = {
        "n_hidden": 16,
        "n_latent": 4,
        "library": "learned",
        "dispersion": "gene-batch",
        "encode_covariates": True,
    }


class TestSizeFactorAndCondition(CountContract):
    model_class = SCGEN
    init: ClassVar[dict[str, Any]] = {"n_hidden": 16, "n_latent": 4, "condition_in_decoder": True}
    setup: ClassVar[dict[str, Any]] = {**SETUP, "size_factor_key": "total_counts"}


class TestGaussianSCGEN(CountContract):
    model_class = SCGEN
    init: ClassVar[dict[str, Any]] = {"n_hidden": 16, "n_latent": 4, "gene_likelihood": "normal"}

    @classmethod
    def data(cls, seed: int = 0) -> AnnData:
        adata = log_normalised(super().data(seed))
        adata.X = sparse.csr_matrix(adata.X)
        return adata


class TestACTINN(PredictContract, ModelContract):
    model_class = ACTINN
    init: ClassVar[dict[str, Any]] = {"n_hidden": (16, 8)}
    setup: ClassVar[dict[str, Any]] = {"labels_key": "cell_type"}


class TestLogisticRegression(PredictContract, ModelContract):
    model_class = ACTINN
    init: ClassVar[dict[str, Any]] = {
        "n_hidden": (),
        "scale": True,
        "filter_genes": False,
        "class_weight": "balanced",
    }
    setup: ClassVar[dict[str, Any]] = {"labels_key": "cell_type", "size_factor_key": "total_counts"}


class TestLABELVI(PredictContract, CountContract):
    model_class = LABELVI


class TestLABELVIWithEveryOption(PredictContract, CountContract):
    model_class = LABELVI
    init: ClassVar[dict[str, Any]] = {
        "n_hidden": 16,
        "n_latent": 4,
        "library": "learned",
        "dispersion": "gene-label",
        "gene_likelihood": "nb",
        "y_prior": "learned",
        "encode_covariates": True,
        "condition_in_decoder": True,
        "class_balance": 1.0,
    }


class TestMIXVI(PredictContract, CountContract):
    model_class = MIXVI
    init: ClassVar[dict[str, Any]] = {"n_hidden": 16, "n_latent": 4, "n_components": 5}


class TestConditionalMIXVI(PredictContract, CountContract):
    model_class = MIXVI
    init: ClassVar[dict[str, Any]] = {
        "n_hidden": 16,
        "n_latent": 4,
        "n_w": 2,
        "conditional": True,
        "y_prior": "dirichlet",
        "w_prior": "learned",
        "z_term": "mc",
        "classifier": "mean",
    }


class TestClustering(CountContract):
    model_class = MIXVI
    init: ClassVar[dict[str, Any]] = {"n_hidden": 16, "n_latent": 4, "n_components": 4, "y_prior": "learned"}
    setup: ClassVar[dict[str, Any]] = {key: value for key, value in SETUP.items() if key != "labels_key"}
