"""Tests that a model that learns labels must pass: labels, probabilities, rejection and calibration."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from deltavi.annotation import fit_temperature
from deltavi.errors import CalibrationWarning, DeltaviError, InputDataWarning, NotTrainedError
from deltavi.model._classification import labelled_parts
from deltavi.testing._cells import QUIET, dense
from deltavi.testing._contract import ModelContract


class PredictContract(ModelContract):
    """Tests of what a model that learns labels can do; its cells hold them in ``obs["cell_type"]``.

    Attributes
    ----------
    verbs
        Methods that an untrained model refuses.
    """

    verbs: ClassVar[tuple[str, ...]] = (*ModelContract.verbs, "predict", "get_novelty_scores", "calibrate")

    @classmethod
    def answers(cls, model: Any, adata: AnnData | None = None) -> dict[str, np.ndarray]:
        """Latent positions, labels and what is known of them."""
        scores = model.get_novelty_scores(adata)
        return {
            **super().answers(model, adata),
            "labels": model.predict(adata).to_numpy(),
            "probabilities": model.predict(adata, soft=True).to_numpy(),
            "confidence": scores["confidence"].to_numpy(),
            "novelty_score": scores["novelty_score"].to_numpy(),
        }

    @classmethod
    def partly_labelled(cls) -> AnnData:
        """Every third cell is ``"unknown"``, and so is each cell of the first ten."""
        adata = cls.data()
        labels = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
        labels[::3] = labels[:10] = "unknown"
        adata.obs["cell_type"] = labels
        return adata

    @classmethod
    def fitted_partly(cls, adata: AnnData) -> Any:
        """A model after two epochs, to which ``"unknown"`` is no label."""
        return cls.entry.but(setup={"unlabeled_category": "unknown"}).trained(adata, epochs=2)

    # -- genes -----------------------------------------------------------------------------------------------

    def test_attributions_add_up_to_the_logit(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        label = str(model.label_names[1])
        explained = model.get_attributions(label=label, indices=[7, 3, 20], n_steps=200)
        assert explained.obs_names.tolist() == adata.obs_names[[7, 3, 20]].tolist()
        tensors = next(iter(model._make_data_loader(adata=adata, indices=[7, 3, 20], batch_size=3)))
        with torch.no_grad():
            expression = model.module.classifier_input(tensors)
            logits = [model.module.class_logits(x, tensors)[:, 1] for x in (expression, 0 * expression)]
        difference = (logits[0] - logits[1]).numpy()
        sums = np.asarray(explained.X.sum(1)).ravel()
        np.testing.assert_allclose(sums, difference, atol=0.02 * np.abs(difference).max() + 1e-4)
        assert not dense(explained.X)[expression.numpy() == 0].any()

    # -- labels ----------------------------------------------------------------------------------------------

    def test_labels_can_be_assigned_to_obs(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, adata = fit
        labels = model.predict()
        assert isinstance(labels, pd.Series)
        assert labels.index.equals(adata.obs_names)
        assert list(model.label_names) == sorted(adata.obs["cell_type"].unique())
        assert set(labels) <= set(model.label_names)
        fresh = self.data()
        fresh.obs["predicted"] = model.predict(fresh[::-1].copy())
        assert fresh.obs["predicted"].astype(str).tolist() == labels.tolist()
        fresh.write_h5ad(tmp_path / "labelled.h5ad")
        assert ad.read_h5ad(tmp_path / "labelled.h5ad").obs["predicted"].astype(str).tolist() == labels.tolist()

    def test_probabilities_sum_to_one_and_agree_with_the_labels(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        probabilities = model.predict(soft=True)
        assert list(probabilities.columns) == list(model.label_names)
        assert probabilities.index.equals(adata.obs_names)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
        assert (probabilities.to_numpy() >= 0).all()
        assert probabilities.idxmax(axis=1).tolist() == model.predict().tolist()
        scores = model.get_novelty_scores()
        assert list(scores) == ["novelty_score", "p_value", "predicted", "confidence"]
        np.testing.assert_allclose(scores["confidence"], probabilities.max(axis=1))
        assert scores["predicted"].tolist() == model.predict().tolist()
        assert scores["p_value"].between(0, 1).all()

    def test_labels_do_not_depend_on_batches_order_or_other_cells(self, fit: tuple[Any, AnnData]) -> None:
        model, adata = fit
        whole, labels = model.predict(soft=True), model.predict()
        for size in (1, 7, 1000):
            np.testing.assert_allclose(model.predict(soft=True, batch_size=size), whole, atol=1e-5)
            assert model.predict(batch_size=size).equals(labels)
        chosen = np.array([5, 2, 9, 2])
        for given in (chosen, chosen.tolist()):
            assert model.predict(indices=given).equals(labels.iloc[chosen])
            np.testing.assert_allclose(model.predict(soft=True, indices=given), whole.iloc[chosen], atol=1e-5)
        mask = np.arange(adata.n_obs) % 4 == 1
        assert model.predict(indices=mask).equals(labels[mask])
        assert model.get_novelty_scores(indices=mask).index.equals(labels.index[mask])

    @pytest.mark.parametrize("wrong", [[100_000], [-1], [True, False], [0.5], [[1, 2]], ["CELL000001"]])
    def test_indices_that_fit_no_cell(self, fit: tuple[Any, AnnData], wrong: list[Any]) -> None:
        with pytest.raises(DeltaviError, match="indices"):
            fit[0].predict(indices=wrong)

    def test_one_cell_and_no_cells_are_labelled(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        fresh = self.data()
        one = model.predict(fresh[3:4].copy(), soft=True)
        np.testing.assert_allclose(one, model.predict(soft=True).iloc[3:4], atol=1e-5)
        none = fresh[:0].copy()
        for empty in (model.predict(none), model.predict(indices=[]), model.predict(none, reject=0.05)):
            assert len(empty) == 0
            assert empty.dtype == object
        assert list(model.predict(none, soft=True)) == list(model.label_names)
        assert list(model.get_novelty_scores(none)) == list(model.get_novelty_scores())
        assert len(model.get_novelty_scores(none)) == 0

    def test_labels_of_a_query_change_nothing(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        expected = model.predict(soft=True).to_numpy()
        without, missing, foreign = (self.data() for _ in range(3))
        del without.obs["cell_type"]
        missing.obs["cell_type"] = None
        foreign.obs["cell_type"] = "never seen"
        for query in (without, missing, foreign):
            np.testing.assert_allclose(model.predict(query, soft=True).to_numpy(), expected, atol=1e-5)
            assert model.predict(query, keep_observed=True).equals(model.predict(query))

    def test_duplicate_cell_names_keep_positions(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        query = self.data()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # anndata's own
            query.obs_names = np.repeat(query.obs_names[::2], 2)
            labels = model.predict(query)
        assert labels.tolist() == model.predict().tolist()
        query.obs["predicted"] = labels
        assert query.obs["predicted"].tolist() == labels.tolist()

    # -- some cells are not labelled -------------------------------------------------------------------------

    def test_unlabelled_cells_are_predicted_and_known_labels_kept(self) -> None:
        adata = self.partly_labelled()
        model = self.fitted_partly(adata)
        unknown = (adata.obs["cell_type"] == "unknown").to_numpy()
        assert "unknown" not in model.label_names
        kept, free = model.predict(keep_observed=True), model.predict()
        assert kept[~unknown].tolist() == adata.obs["cell_type"][~unknown].tolist()
        assert kept[unknown].equals(free[unknown])
        assert set(kept) <= set(model.label_names)
        probabilities = model.predict(soft=True, keep_observed=True)
        np.testing.assert_array_equal(probabilities[~unknown].max(axis=1), 1)
        assert probabilities.idxmax(axis=1).tolist() == kept.tolist()
        np.testing.assert_allclose(probabilities[unknown], model.predict(soft=True)[unknown])
        rejecting = model.predict(keep_observed=True, reject=0.5)
        assert rejecting[~unknown].equals(kept[~unknown])
        held_out = model.validation_indices
        assert model.calibration.n_held_out == (~unknown[held_out]).sum()

    def test_a_name_for_unlabelled_cells_that_none_has(self) -> None:
        named = self.fitted_partly(self.data())
        without = self.fitted(self.data())
        assert list(named.label_names) == list(without.label_names)
        np.testing.assert_allclose(named.predict(soft=True), without.predict(soft=True), atol=1e-6)

    # -- cells of no known type ------------------------------------------------------------------------------

    def test_rejected_are_the_cells_with_small_p_values(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        p_values, labels = model.get_novelty_scores()["p_value"], model.predict()
        for share in (0.05, 0.2, 0.5):
            rejected = model.predict(reject=share)
            strange = (p_values <= share).to_numpy()
            assert (rejected[strange] == "unassigned").all()
            assert rejected[~strange].equals(labels[~strange])
        # of the very cells that calibrated, no larger share can be rejected
        held_out = model.predict(indices=model.validation_indices, reject=0.2)
        assert 0 < (held_out == "unassigned").mean() <= 0.25

    def test_what_reject_cannot_mean(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        with pytest.raises(DeltaviError, match="get_novelty_scores"):
            model.predict(soft=True, reject=0.05)
        for share in (0, 1, -0.1, 5):
            with pytest.raises(DeltaviError, match="reject"):
                model.predict(reject=share)
        n = model.calibration.n_held_out
        with pytest.raises(DeltaviError, match=f"at least {n + 1} labelled cells .* there are {n}"):
            model.predict(reject=1 / (n + 2))
        model.predict(reject=1 / (n + 1))

    def test_without_held_out_labels_nothing_is_rejected(self) -> None:
        model = self.untrained(self.data())
        with pytest.warns(CalibrationWarning, match="held out"):
            model.train(max_epochs=1, train_size=0.98, validation_size=0.0, batch_size=32, **QUIET)
        apart = model._answers_without(*labelled_parts(model))
        if apart is None:
            assert model.calibration.temperature == model.temperature_prior.median
        else:
            expected = fit_temperature(apart.logits, apart.codes, model.temperature_prior)
            assert model.calibration.temperature == pytest.approx(expected, rel=1e-4)
        assert set(model.predict()) <= set(model.label_names)
        assert model.get_novelty_scores()["p_value"].isna().all()
        with pytest.raises(DeltaviError, match="there are 0"):
            model.predict(reject=0.5)

    def test_a_cell_without_counts_is_unassigned(self, fit: tuple[Any, AnnData]) -> None:
        model, _ = fit
        query = self.data()
        x = dense(query.X)
        x[4] = 0
        query.X = sparse.csr_matrix(x)
        with pytest.warns(InputDataWarning, match="1 cells have no counts at all .*unassigned") as caught:
            labels = model.predict(query)
        assert sum(issubclass(warning.category, InputDataWarning) for warning in caught) == 1
        assert labels.iloc[4] == "unassigned"
        others = np.arange(query.n_obs) != 4
        assert labels[others].equals(model.predict()[others])
        with pytest.warns(InputDataWarning, match="no counts"):
            np.testing.assert_allclose(model.predict(query, soft=True).iloc[4], 1 / len(model.label_names))
        with pytest.warns(InputDataWarning, match="no counts"):
            scores = model.get_novelty_scores(query).iloc[4]
        assert scores["predicted"] == "unassigned"
        assert np.isnan([scores["p_value"], scores["novelty_score"]]).all()
        with pytest.warns(InputDataWarning, match="no counts"):
            assert model.predict(query, keep_observed=True).iloc[4] == query.obs["cell_type"].iloc[4]

    # -- calibration -----------------------------------------------------------------------------------------

    def test_calibration_is_saved_and_can_be_repeated(self, fit: tuple[Any, AnnData], tmp_path: Path) -> None:
        model, _ = fit
        model.save(tmp_path / "model")
        loaded = self.entry.model_class.load(tmp_path / "model", self.data())
        for again in (False, True):
            if again:
                loaded.calibrate()
            assert loaded.calibration.temperature == pytest.approx(model.calibration.temperature, rel=1e-4)
            np.testing.assert_allclose(loaded.calibration.scores, model.calibration.scores, rtol=1e-4, atol=1e-5)
            assert loaded.predict(reject=0.2).equals(model.predict(reject=0.2))
        elsewhere = self.entry.model_class.load(tmp_path / "model", self.data()[:50].copy())
        with pytest.raises(DeltaviError, match="other cells"):
            elsewhere.calibrate()
        without_data = self.entry.model_class.load(tmp_path / "model")
        with pytest.raises(DeltaviError, match="adata"):
            without_data.calibrate()

    def test_probabilities_are_calibrated_by_cells_that_were_not_learned(self, fit: tuple[Any, AnnData]) -> None:
        """At the fitted temperature their labels are more likely than at others, but for the prior."""
        model, adata = fit
        held_out = np.asarray(model.validation_indices)
        codes = pd.Index(model.label_names).get_indexer(adata.obs["cell_type"].iloc[held_out].astype(str))
        logits = np.log(model.predict(soft=True, indices=held_out).to_numpy()) * model.calibration.temperature
        apart = model._answers_without(*labelled_parts(model))
        if apart is not None:
            logits, codes = apart.logits, apart.codes

        def objective(temperature: float) -> float:
            scaled = logits / temperature
            log_probabilities = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
            prior = model.temperature_prior.penalty(np.log(temperature))
            return float(prior - log_probabilities[np.arange(len(codes)), codes].sum())

        best = model.calibration.temperature
        assert all(objective(best) <= objective(factor * best) for factor in (0.5, 0.9, 1.1, 2.0))

    def test_an_interrupted_training_says_what_to_do(self, fit: tuple[Any, AnnData]) -> None:
        model = self.untrained(self.data())
        with pytest.raises(NotTrainedError, match="train"):
            model.predict()
        model.is_trained_ = True
        with pytest.raises(DeltaviError, match="calibrate"):
            model.predict()
