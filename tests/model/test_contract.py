"""The contract on every model of the package."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from anndata import AnnData
from scipy import sparse

from deltavi.model import ACTINN, LABELVI, MIXVI, PPCA, SCGEN, VAE
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


class TestPPCA(CountContract):
    model_class = PPCA
    init: ClassVar[dict[str, Any]] = {"n_latent": 4}
    setup: ClassVar[dict[str, Any]] = {"condition_key": "condition", "labels_key": "cell_type"}

    # what is about epochs, seeds of training and batches does not concern a closed form
    test_same_seed_same_model_other_seed_another = None
    test_early_stopping_watches_the_objective_at_its_final_weight = None
    test_users_callbacks_are_kept = None
    test_a_senseless_number_of_epochs_is_refused = None
    test_query_mapping_learns_a_new_batch = None
    test_query_mapping_needs_a_trained_model = None
    test_an_unseen_batch_is_averaged_with_a_warning = None

    @classmethod
    def data(cls, seed: int = 0) -> AnnData:
        adata = log_normalised(super().data(seed))
        adata.X = sparse.csr_matrix(adata.X)
        return adata

    def test_training_keeps_a_history_under_scvi_names(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        assert model.is_trained
        assert model.history["train_loss"].shape == (1, 1)

    def test_a_tail_of_one_cell_trains(self) -> None:
        model = self.fitted(self.data()[:33].copy())
        assert len(model.train_indices) == 33
        assert len(model.validation_indices) == 0

    def test_the_same_cells_give_the_same_model(self) -> None:
        latents = [self.fitted(self.data(), seed=seed).get_latent_representation() for seed in (3, 4)]
        np.testing.assert_array_equal(*latents)


class TestFactorAnalysis(TestPPCA):
    init: ClassVar[dict[str, Any]] = {"n_latent": 4, "noise": "diagonal"}
    # with fewer cells than genes noise may vanish, and the fit does not settle
    test_a_tail_of_one_cell_trains = None


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
