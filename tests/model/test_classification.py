"""Rejection by groups of labels, and what a mapped query keeps of its reference's calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from anndata import AnnData

from deltavi.annotation import Calibration, conformal_p_values
from deltavi.model import ACTINN
from tests.model.conftest import QUIET, small_adata


def test_a_share_too_small_for_one_label_alone_is_judged_over_all() -> None:
    adata = small_adata(n_per_group=60)
    ACTINN.setup_anndata(adata, labels_key="cell_type")
    model = ACTINN(adata, n_hidden=(8,), n_networks=1, weight_l2=0.005)
    model.train(max_epochs=5, batch_size=32, train_size=0.7, plan_kwargs={"lr": 1e-2}, **QUIET)
    calibration = model.calibration
    assert calibration is not None
    held_out = np.bincount(calibration.predicted)
    assert (held_out.min() > 20, held_out.max() < 99, calibration.n_held_out > 99) == (True, True, True)
    scores = model.get_novelty_scores()
    pooled = conformal_p_values(scores["novelty_score"].to_numpy(), calibration.scores)
    own = conformal_p_values(
        scores["novelty_score"].to_numpy(),
        calibration.scores,
        groups=scores["predicted"].to_numpy(),
        calibration_groups=model.label_names[calibration.predicted],
    )
    np.testing.assert_allclose(scores["p_value"], own, atol=0.02)
    assert not np.allclose(own, pooled, atol=0.02)
    rejected = model.predict(reject=0.01) == "unassigned"
    assert rejected.sum() > 0
    np.testing.assert_array_equal(rejected, pooled <= 0.01)
    np.testing.assert_array_equal(model.predict(reject=0.05) == "unassigned", scores["p_value"] <= 0.05)


def query(labels: list[str]) -> AnnData:
    """Cells of which only those of `labels` are labelled."""
    adata = small_adata(seed=1)
    adata.obs_names = "query-" + adata.obs_names
    known = adata.obs["cell_type"].astype(str)
    adata.obs["cell_type"] = known.where(known.isin(labels))
    return adata


def mapped(labels: list[str], folder: Path) -> tuple[ACTINN, Calibration]:
    """A model on query cells after more training, as query mapping leaves it, and the reference's calibration."""
    adata = small_adata()
    ACTINN.setup_anndata(adata, labels_key="cell_type")
    reference = ACTINN(adata, n_hidden=(8,))
    reference.train(max_epochs=1, batch_size=32, train_size=0.7, **QUIET)
    reference.save(folder / "reference")
    model = ACTINN.load(folder / "reference", query(labels))
    model.calibration = model.reference_calibration = reference.calibration
    model.train(max_epochs=1, batch_size=32, train_size=0.7, **QUIET)
    assert reference.calibration is not None
    return model, reference.calibration


def test_a_query_that_lacks_labels_keeps_the_reference_s(tmp_path: Path) -> None:
    model, calibration = mapped(["type_1", "type_3"], tmp_path)
    assert model.calibration is calibration
    model.save(tmp_path / "mapped")
    again = ACTINN.load(tmp_path / "mapped")
    assert again.calibration is not None
    np.testing.assert_array_equal(again.calibration.scores, calibration.scores)
    assert again.predict(small_adata(), reject=0.2).equals(model.predict(small_adata(), reject=0.2))


def test_a_query_with_every_label_makes_its_own(tmp_path: Path) -> None:
    model, calibration = mapped(["type_1", "type_2", "type_3"], tmp_path)
    assert model.calibration is not None
    assert model.calibration is not calibration
    assert model.calibration.n_held_out == len(model.validation_indices)
