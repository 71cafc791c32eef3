"""Tests that every model must pass: training, answers and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from deltavi.errors import DeltaviError, ModelFileError, NotTrainedError
from deltavi.testing._cells import QUIET, dense
from deltavi.testing._small_model import SmallModel


class ModelContract:
    """Tests of what every model can do; :func:`contract_of` makes a class of them for an entry.

    Attributes
    ----------
    entry
        The model, as a subclass sets it.
    verbs
        Methods that an untrained model refuses.
    """

    entry: ClassVar[SmallModel]
    verbs: ClassVar[tuple[str, ...]] = ("get_latent_representation",)
    # what is asked of training labels is computed, and not learned
    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [
        pytest.mark.filterwarnings("ignore:Measured cells under:UserWarning")
    ]

    @classmethod
    def data(cls, seed: int = 0) -> AnnData:
        """Cells of a seed that the model can read."""
        return cls.entry.cells(seed)

    @classmethod
    def untrained(cls, adata: AnnData, **kwargs: Any) -> Any:
        """A model of `adata` before training; `kwargs` replace settings of the entry."""
        return cls.entry.untrained(adata, **kwargs)

    @classmethod
    def fitted(cls, adata: AnnData, **kwargs: Any) -> Any:
        """A model of `adata` after two epochs; `kwargs` replace settings of the entry."""
        return cls.entry.trained(adata, epochs=2, **kwargs)

    @classmethod
    def answers(cls, model: Any, adata: AnnData | None = None) -> dict[str, np.ndarray]:
        """Answers of the model, a row for each cell that has one, by verb; of `adata`, or of the training cells."""
        return {"latent": model.get_latent_representation(adata)}

    @pytest.fixture(scope="class")
    @classmethod
    def fit(cls) -> tuple[Any, AnnData]:
        """A model and its data; tests must leave both as they are."""
        adata = cls.data()
        return cls.fitted(adata), adata

    def test_a_matrix_is_no_query(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        for verb in {"get_latent_representation", "predict", "get_novelty_scores"}.intersection(self.verbs):
            with pytest.raises(DeltaviError, match="pass an AnnData"):
                getattr(model, verb)(dense(adata.X))

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
        numpy_before, torch_before = _numpy_state(), torch.random.get_rng_state()
        self.fitted(adata).get_latent_representation()
        assert np.array_equal(numpy_before, _numpy_state())
        assert torch.equal(torch_before, torch.random.get_rng_state())

    def test_adata_is_untouched_but_for_the_documented_keys(self) -> None:
        adata = self.data()
        adata.layers["other"] = adata.X.copy()
        adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
        before = adata.copy()
        self.answers(self.fitted(adata))
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
        expected = self.answers(model)
        fresh = self.data()
        genes = np.random.default_rng(0).permutation(adata.n_vars)
        as_dense, as_csc = self.data(), self.data()
        as_dense.X, as_csc.X = dense(as_dense.X), sparse.csc_matrix(as_csc.X)
        for query in (fresh, fresh[:, genes].copy(), fresh[:, genes], as_dense, as_csc):
            was_view = query.is_view
            assert_same(self.answers(model, query), expected, atol=1e-5)
            assert query.is_view == was_view
            assert "_scvi_uuid" not in query.uns
        latent = expected["latent"]
        np.testing.assert_allclose(model.get_latent_representation(fresh[3:9]), latent[3:9], atol=1e-5)
        np.testing.assert_allclose(model.get_latent_representation(fresh[4:5].copy()), latent[4:5], atol=1e-5)

    def test_untrained_models_give_no_answers(self) -> None:
        model = self.untrained(self.data())
        arguments = {"predict_perturbation": {"control": "control", "perturbation": "stimulated"}}
        for verb in self.verbs:
            with pytest.raises(NotTrainedError, match="train"):
                getattr(model, verb)(**arguments.get(verb, {}))

    # -- files -----------------------------------------------------------------------------------------------

    def test_save_and_load_give_the_same_answers(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, adata = fit
        model.save(tmp_path / "model")
        expected = self.answers(model)
        for loaded in (
            self.entry.model_class.load(tmp_path / "model", self.data()),
            self.entry.model_class.load(tmp_path / "model"),
            self.entry.model_class.load(tmp_path / "model", self.data()[:, ::-1].copy()),
        ):
            assert_same(self.answers(loaded, self.data()), expected, atol=1e-5)
            assert loaded.is_trained
            assert loaded.history["train_loss"].equals(model.history["train_loss"])
        assert not any(path.suffix in (".pt", ".pkl") for path in (tmp_path / "model").iterdir())
        with pytest.raises(ModelFileError, match="overwrite"):
            model.save(tmp_path / "model")
        model.save(tmp_path / "model", overwrite=True, save_anndata=True)
        attached = self.entry.model_class.load(tmp_path / "model")
        assert attached.adata.shape == adata.shape

    def test_a_model_without_data_asks_for_cells(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, _ = fit
        model.save(tmp_path / "model")
        loaded = self.entry.model_class.load(tmp_path / "model")
        with pytest.raises(DeltaviError, match="adata"):
            loaded.get_latent_representation()
        with pytest.raises(DeltaviError, match="train on"):
            loaded.train(max_epochs=1)


def _numpy_state() -> np.ndarray:
    """Copy of the state of NumPy's global generator."""
    return np.array(np.random.get_state(legacy=False)["state"]["key"])


def assert_same(answers: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, atol: float) -> None:
    """Answers of two models, or to two forms of the same query; numbers up to rounding, text exactly."""
    assert answers.keys() == expected.keys()
    for verb, values in answers.items():
        if values.dtype == object:
            assert values.tolist() == expected[verb].tolist(), verb
        else:
            np.testing.assert_allclose(values, expected[verb], atol=atol, err_msg=verb)
