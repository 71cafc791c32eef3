"""What every model must do; a test class per model inherits it and writes one factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from scipy import sparse

from deltavi._errors import DeltaviError, ModelFileError, NotTrainedError, UnseenCategoryWarning
from tests.model.conftest import QUIET, SETUP, dense, small_adata


class ModelContract:
    """Inherit, and set `model_class` and, where wished, `init` and `setup`."""

    model_class: ClassVar[Any]
    init: ClassVar[dict[str, Any]] = {"n_hidden": 16, "n_latent": 4}
    setup: ClassVar[dict[str, Any]] = SETUP

    @classmethod
    def data(cls, seed: int = 0) -> AnnData:
        return small_adata(seed=seed)

    @classmethod
    def untrained(cls, adata: AnnData, **kwargs: Any) -> Any:
        cls.model_class.setup_anndata(adata, **cls.setup)
        return cls.model_class(adata, **{**cls.init, **kwargs})

    @classmethod
    def fitted(cls, adata: AnnData, **kwargs: Any) -> Any:
        model = cls.untrained(adata, **kwargs)
        model.train(max_epochs=2, batch_size=32, **QUIET)
        return model

    @pytest.fixture(scope="class")
    @classmethod
    def fit(cls) -> tuple[Any, AnnData]:
        """A model and its data; tests must leave both as they are."""
        adata = cls.data()
        return cls.fitted(adata), adata

    # -- training --------------------------------------------------------------------------------------------

    def test_training_keeps_a_history_under_scvi_names(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        assert model.is_trained
        assert {"train_loss", "elbo_train", "reconstruction_loss_train", "kl_local_train"} <= set(model.history)
        assert len(model.history["train_loss"]) == 2
        assert np.isfinite(model.history["train_loss"].to_numpy(dtype=float)).all()

    def test_same_seed_same_model_other_seed_another(self) -> None:
        latents = [self.fitted(self.data(), seed=seed).get_latent_representation() for seed in (3, 3, 4)]
        np.testing.assert_array_equal(latents[0], latents[1])
        assert not np.allclose(latents[0], latents[2])

    def test_global_random_state_is_untouched(self) -> None:
        adata = self.data()
        numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
        self.fitted(adata).get_latent_representation()
        assert np.array_equal(numpy_before, np.random.get_state()[1])
        assert torch.equal(torch_before, torch.random.get_rng_state())

    def test_adata_is_untouched_but_for_the_documented_keys(self) -> None:
        adata = self.data()
        adata.layers["other"] = adata.X.copy()
        adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
        before = adata.copy()
        model = self.fitted(adata)
        model.get_latent_representation()
        model.predict_perturbation(control="control", target="stimulated")
        assert (adata.X != before.X).nnz == 0
        assert (adata.layers["other"] != before.layers["other"]).nnz == 0
        assert list(adata.obs_names) == list(before.obs_names)
        for column in before.obs:
            assert adata.obs[column].equals(before.obs[column])
        added = (set(adata.obs) - set(before.obs)) | (set(adata.obsm) - set(before.obsm)) | set(adata.uns)
        assert all(key.startswith("_scvi") for key in added)

    def test_early_stopping_watches_the_objective_at_its_final_weight(self) -> None:
        model = self.untrained(self.data())
        model.train(max_epochs=4, batch_size=32, early_stopping=True, early_stopping_patience=1, kl_warmup=0.5, **QUIET)
        assert model.trainer.early_stopping_callback.monitor == "validation_loss"
        assert len(model.history["validation_loss"]) >= 1

    def test_users_callbacks_are_kept(self) -> None:
        from lightning.pytorch.callbacks import Callback

        class Counter(Callback):
            epochs = 0

            def on_train_epoch_end(self, *_: Any) -> None:
                self.epochs += 1

        counter, given = Counter(), []
        given.append(counter)
        model = self.untrained(self.data())
        model.train(max_epochs=3, batch_size=32, callbacks=given, **QUIET)
        assert counter.epochs == 3
        assert given == [counter]

    @pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
    def test_a_senseless_number_of_epochs_is_refused(self, epochs: Any) -> None:
        with pytest.raises(DeltaviError, match="max_epochs"):
            self.untrained(self.data()).train(max_epochs=epochs)

    def test_a_tail_of_one_cell_trains(self) -> None:
        adata = self.data()[:33].copy()
        model = self.untrained(adata)
        model.train(max_epochs=1, train_size=1.0, batch_size=32, **QUIET)
        assert len(model.train_indices) + len(model.validation_indices) == 33

    # -- answers ---------------------------------------------------------------------------------------------

    def test_latent_representation(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        latent = model.get_latent_representation()
        assert latent.shape == (adata.n_obs, model.module.n_latent)
        chosen = np.array([5, 2, 9])
        np.testing.assert_allclose(model.get_latent_representation(indices=chosen), latent[chosen], atol=1e-5)
        for size in (1, 7, 512):
            np.testing.assert_allclose(model.get_latent_representation(batch_size=size), latent, atol=1e-5)

    def test_fresh_view_shuffled_dense_and_csc_queries_agree(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        latent = model.get_latent_representation()
        fresh = self.data()
        genes = np.random.default_rng(0).permutation(adata.n_vars)
        as_dense, as_csc = self.data(), self.data()
        as_dense.X, as_csc.X = dense(as_dense.X), sparse.csc_matrix(as_csc.X)
        for query in (fresh, fresh[:, genes].copy(), fresh[:, genes], as_dense, as_csc):
            was_view = query.is_view
            np.testing.assert_allclose(model.get_latent_representation(query), latent, atol=1e-5)
            assert query.is_view == was_view
            assert "_scvi_uuid" not in query.uns
        np.testing.assert_allclose(model.get_latent_representation(fresh[3:9]), latent[3:9], atol=1e-5)

    def test_one_cell_and_no_cells(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        fresh = self.data()
        first = np.flatnonzero(fresh.obs["condition"] == "control")[:1]
        ask = {"control": "control", "target": "stimulated", "shift": np.full(model.module.n_latent, 0.2)}
        one = model.predict_perturbation(fresh[first].copy(), **ask)
        every = model.predict_perturbation(fresh, **ask)
        np.testing.assert_allclose(one.layers["rate"], every[one.obs_names].layers["rate"], rtol=1e-4)
        none = model.predict_perturbation(fresh[:0].copy(), **ask)
        assert none.shape == (0, fresh.n_vars)
        assert list(none.obs) == list(every.obs)
        assert model.get_latent_representation(indices=first).shape == (1, model.module.n_latent)

    def test_scvi_methods_work(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        assert np.isfinite(float(model.get_elbo()))
        assert np.isfinite(float(model.get_elbo(self.data())))
        # the importance-weighted bound lies above the evidence lower bound, which is known up to its sampling error
        bounds = [float(model.get_elbo()) for _ in range(12)]
        error = np.std(bounds) / np.sqrt(len(bounds))
        assert np.mean(bounds) - 4 * error < float(model.get_marginal_ll(n_mc_samples=200)) < 0
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

    def test_untrained_models_give_no_answers(self, tmp_path: Path) -> None:
        model = self.untrained(self.data())
        with pytest.raises(NotTrainedError, match="train"):
            model.get_latent_representation()
        with pytest.raises(NotTrainedError, match="train"):
            model.predict_perturbation(control="control", target="stimulated")
        with pytest.raises(NotTrainedError, match="train"):
            self.model_class.load_query_data(self.data(), model)

    # -- prediction ------------------------------------------------------------------------------------------

    def test_prediction_is_an_anndata_scanpy_can_use(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, adata = fit
        predicted = model.predict_perturbation(control="control", target="stimulated")
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
        assert read.uns["deltavi"]["target"] == "stimulated"

    def test_prediction_does_not_depend_on_batches_order_or_other_cells(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        ask = {"control": "control", "target": "stimulated", "shift": np.ones(model.module.n_latent) * 0.1}
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
        predicted = model.predict_perturbation(control="control", target="stimulated", n_samples=8)
        assert {"lower", "upper"} <= set(predicted.layers)
        assert (predicted.layers["lower"] <= predicted.layers["upper"]).all()
        again = model.predict_perturbation(control="control", target="stimulated", n_samples=8)
        np.testing.assert_array_equal(predicted.layers["upper"], again.layers["upper"])

    # -- files -----------------------------------------------------------------------------------------------

    def test_save_and_load_give_the_same_answers(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, adata = fit
        model.save(tmp_path / "model")
        predicted = model.predict_perturbation(control="control", target="stimulated")
        for loaded in (
            self.model_class.load(tmp_path / "model", self.data()),
            self.model_class.load(tmp_path / "model"),
            self.model_class.load(tmp_path / "model", self.data()[:, ::-1].copy()),
        ):
            np.testing.assert_allclose(
                loaded.get_latent_representation(self.data()), model.get_latent_representation(), atol=1e-6
            )
            again = loaded.predict_perturbation(self.data(), control="control", target="stimulated")
            np.testing.assert_allclose(dense(again.X), dense(predicted.X), atol=1e-5)
            assert loaded.is_trained
            assert loaded.history["train_loss"].equals(model.history["train_loss"])
        assert not any(path.suffix in (".pt", ".pkl") for path in (tmp_path / "model").iterdir())
        with pytest.raises(ModelFileError, match="overwrite"):
            model.save(tmp_path / "model")
        model.save(tmp_path / "model", overwrite=True, save_anndata=True)
        attached = self.model_class.load(tmp_path / "model")
        assert attached.adata.shape == adata.shape

    def test_a_model_without_data_asks_for_cells(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, _ = fit
        model.save(tmp_path / "model")
        loaded = self.model_class.load(tmp_path / "model")
        with pytest.raises(DeltaviError, match="adata"):
            loaded.get_latent_representation()
        with pytest.raises(DeltaviError, match="train on"):
            loaded.train(max_epochs=1)

    def test_query_mapping_learns_a_new_batch(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, _ = fit
        model.save(tmp_path / "model")
        for reference in (model, tmp_path / "model", str(tmp_path / "model")):
            query = self.data(seed=1)
            query.obs["batch"] = "new"
            mapped = self.model_class.load_query_data(query, reference)
            mapped.train(max_epochs=1, batch_size=32, **QUIET)
            assert mapped.summary_stats.n_batch == model.summary_stats.n_batch + 1
            assert mapped.get_latent_representation().shape == (query.n_obs, model.module.n_latent)

    def test_an_unseen_batch_is_averaged_with_a_warning(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        for name in ("new", "", "0"):
            query = self.data()
            query.obs["batch"] = name
            with pytest.warns(UnseenCategoryWarning, match="average"):
                predicted = model.predict_perturbation(query, control="control", target="stimulated")
            assert np.isfinite(dense(predicted.layers["rate"])).all()
