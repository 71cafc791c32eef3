"""Tests that a model that decodes expression must pass: predictions, query mapping and the verbs of scvi-tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData

from deltavi.errors import NotTrainedError, UnseenCategoryWarning
from deltavi.testing._cells import QUIET, dense
from deltavi.testing._contract import ModelContract


class CountContract(ModelContract):
    """Tests of what a model that decodes can do, beyond those of every model.

    Predictions of a perturbation, query mapping, imputation and the verbs of scvi-tools.

    Attributes
    ----------
    verbs
        Methods that an untrained model refuses.
    """

    verbs: ClassVar[tuple[str, ...]] = (*ModelContract.verbs, "predict_perturbation", "predict_perturbations")

    @classmethod
    def answers(cls, model: Any, adata: AnnData | None = None) -> dict[str, np.ndarray]:
        """Latent positions, and predicted expression."""
        predicted = model.predict_perturbation(adata, control="control", perturbation="stimulated")
        return {**super().answers(model, adata), "prediction": dense(predicted.X)}

    def test_query_mapping_needs_a_trained_model(self) -> None:
        with pytest.raises(NotTrainedError, match="train"):
            self.entry.model_class.load_query_data(self.data(), self.untrained(self.data()))

    def test_one_cell_and_no_cells(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        fresh = self.data()
        first = np.flatnonzero(fresh.obs["condition"] == "control")[:1]
        ask = {"control": "control", "perturbation": "stimulated", "shift": np.full(model.module.n_latent, 0.2)}
        one = model.predict_perturbation(fresh[first].copy(), **ask)
        every = model.predict_perturbation(fresh, **ask)
        np.testing.assert_allclose(one.layers["rate"], every[one.obs_names].layers["rate"], rtol=1e-4)
        none = model.predict_perturbation(fresh[:0].copy(), **ask)
        assert none.shape == (0, fresh.n_vars)
        assert list(none.obs) == list(every.obs)
        assert list(none.layers) == list(every.layers)
        assert model.get_latent_representation(fresh[:0].copy()).shape == (0, model.module.n_latent)
        assert model.get_latent_representation(indices=first).shape == (1, model.module.n_latent)

    def test_scvi_methods_work(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        assert np.isfinite(float(model.get_elbo()))
        assert np.isfinite(float(model.get_elbo(self.data())))
        # the importance-weighted bound lies above the evidence lower bound, which is known up to its sampling error
        bounds = [float(model.get_elbo()) for _ in range(12)]
        error = np.std(bounds) / np.sqrt(len(bounds))
        marginal = float(model.get_marginal_ll(n_mc_samples=200))
        assert np.mean(bounds) - 4 * error < marginal
        # a density may be larger than one, a probability of counts may not
        assert marginal < 0 or not model.module.of_counts
        assert np.isfinite(float(model.get_reconstruction_error()["reconstruction_loss"]))
        expression = model.get_normalized_expression(n_samples=2)
        assert expression.shape == adata.shape
        assert list(expression.columns) == list(adata.var_names)
        drawn = model.posterior_predictive_sample(n_samples=2)
        assert drawn.shape == (*adata.shape, 2)
        assert model.posterior_predictive_sample().shape == adata.shape

    def test_differential_expression(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        table = model.differential_expression(
            groupby="condition", group1="stimulated", group2="control", mode="change", silent=True
        )
        assert set(table.index) == set(adata.var_names)
        assert table["proba_de"].between(0, 1).all()

    # -- prediction ------------------------------------------------------------------------------------------

    def test_prediction_is_an_anndata_scanpy_can_use(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, adata = fit
        predicted = model.predict_perturbation(control="control", perturbation="stimulated")
        control = adata[adata.obs["condition"] == "control"]
        assert list(predicted.obs["deltavi_source_cell"]) == list(control.obs_names)
        assert (predicted.obs["condition"] == "stimulated").all()
        assert (predicted.obs["deltavi_source_condition"] == "control").all()
        x = dense(predicted.X)
        assert (x >= 0).all()
        assert np.isfinite(x).all()
        joined = ad.concat([control, predicted], join="inner")
        joined.obs["which"] = joined.obs["condition"].astype("category")
        sc.pp.pca(joined, n_comps=5)
        sc.tl.rank_genes_groups(joined, "which", method="t-test")
        predicted.write_h5ad(tmp_path / "predicted.h5ad")
        read = ad.read_h5ad(tmp_path / "predicted.h5ad")
        np.testing.assert_array_equal(dense(read.X), x)
        assert read.uns["deltavi"]["perturbation"] == "stimulated"

    def test_an_answer_in_a_file_is_the_one_in_memory(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, _ = fit
        ask = {"control": "control", "perturbation": "stimulated", "n_samples": 2, "batch_size": 50}
        expected = model.predict_perturbation(**ask)
        found = ad.read_h5ad(model.predict_perturbation(**ask, path=tmp_path / "predicted.h5ad"))
        np.testing.assert_array_equal(dense(found.X), dense(expected.X))
        assert set(found.layers) == set(expected.layers)
        for mapping in ("layers", "obsm", "varm"):
            for name, values in getattr(expected, mapping).items():
                np.testing.assert_array_equal(dense(getattr(found, mapping)[name]), dense(values))
        assert list(found.obs_names) == list(expected.obs_names)
        some = model.predict_perturbation(**ask, layers="rate")
        assert [name for name in some.layers if name] == ["rate"]
        np.testing.assert_array_equal(dense(some.X), dense(expected.X))

    def test_many_perturbations_are_answered_as_each(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        one = model.predict_perturbation(control="control", perturbation="stimulated")
        every = model.predict_perturbations(control="control", controls=True)
        np.testing.assert_allclose(dense(every[one.obs_names].X), dense(one.X), atol=1e-4)
        assert every.n_obs == 2 * one.n_obs

    def test_prediction_does_not_depend_on_batches_order_or_other_cells(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        ask = {"control": "control", "perturbation": "stimulated", "shift": np.ones(model.module.n_latent) * 0.1}
        fresh = self.data()
        whole = model.predict_perturbation(fresh, **ask)
        split = model.predict_perturbation(fresh, batch_size=5, **ask)
        np.testing.assert_allclose(dense(whole.X), dense(split.X), atol=1e-4)
        backwards = model.predict_perturbation(fresh[::-1].copy(), **ask)
        np.testing.assert_allclose(dense(backwards[whole.obs_names].X), dense(whole.X), atol=1e-4)
        some = model.predict_perturbation(fresh[::3].copy(), **ask)
        np.testing.assert_allclose(dense(some.X), dense(whole[some.obs_names].X), atol=1e-4)

    def test_intervals_come_with_several_samples(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        predicted = model.predict_perturbation(control="control", perturbation="stimulated", n_samples=8)
        assert {"lower", "upper"} <= set(predicted.layers)
        assert (predicted.layers["lower"] <= predicted.layers["upper"]).all()
        again = model.predict_perturbation(control="control", perturbation="stimulated", n_samples=8)
        np.testing.assert_array_equal(predicted.layers["upper"], again.layers["upper"])

    # -- query mapping ---------------------------------------------------------------------------------------

    def test_query_mapping_learns_a_new_batch(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, _ = fit
        model.save(tmp_path / "model")
        for reference in (model, tmp_path / "model", str(tmp_path / "model")):
            query = self.data(seed=1)
            query.obs["batch"] = "new"
            mapped = self.entry.model_class.load_query_data(query, reference)
            mapped.train(max_epochs=1, batch_size=32, **QUIET)
            assert mapped.summary_stats.n_batch == model.summary_stats.n_batch + 1
            assert mapped.get_latent_representation().shape == (query.n_obs, model.module.n_latent)

    def test_an_unseen_batch_is_averaged_with_a_warning(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        for name in ("new", "", "0"):
            query = self.data()
            query.obs["batch"] = name
            with pytest.warns(UnseenCategoryWarning, match="average"):
                predicted = model.predict_perturbation(query, control="control", perturbation="stimulated")
            assert np.isfinite(dense(predicted.layers["rate"])).all()

    def test_imputed_expression_is_expected_at_the_posterior_mean(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        tensors = next(iter(model._make_data_loader(adata=adata, batch_size=adata.n_obs)))
        with torch.inference_mode():
            inferred = model.module.inference(**model.module._get_inference_input(tensors))
            inferred["z"] = inferred["qz"].loc
            if inferred["ql"] is not None:
                inferred["library"] = inferred["ql"].loc
            likelihood = model.module.generative(**model.module._get_generative_input(tensors, inferred))["likelihood"]
        expected = likelihood.mean.numpy()
        imputed = model.impute()
        np.testing.assert_allclose(imputed, expected, rtol=1e-4, atol=1e-5)
        chosen = np.array([7, 2, 11])
        np.testing.assert_allclose(model.impute(indices=chosen, batch_size=2), imputed[chosen], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.impute(self.data()), imputed, rtol=1e-4, atol=1e-5)
        assert model.impute(indices=[]).shape == (0, adata.n_vars)
        with pytest.raises(NotTrainedError, match="impute"):
            self.untrained(self.data()).impute()
