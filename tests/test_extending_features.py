"""The model of the page "Write your own model" that reads features of conditions, some of which were not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from deltavi.errors import DeltaviError, InputDataError, UnknownCategoryError
from deltavi.latent import FeatureRows
from tests.model.conftest import QUIET, dense
from tests.test_extending import imported

FeatureVAE: Any = imported("feature_vae").FeatureVAE
# two programmes of genes, which perturbations raise as much as their features say
FEATURES = {
    "control": [0.0, 0.0],
    "A": [1.0, 0.0],
    "B": [0.0, 1.0],
    "C": [0.6, 0.2],
    "D": [0.2, 0.7],
    "unseen": [0.5, 0.5],
}
N_GENES, N_CELLS, EFFECT = 60, 150, 1.2


def screen(seed: int = 0, names: tuple[str, ...] = tuple(FEATURES)) -> AnnData:
    rng = np.random.default_rng(seed)
    programmes = np.zeros((2, N_GENES))
    programmes[0, :15], programmes[1, 15:30] = EFFECT, EFFECT
    base = np.random.default_rng(7).gamma(2.0, 1.5, N_GENES)
    rates = [base * np.exp(FEATURES[name] @ programmes) for name in names]
    cells = AnnData(np.concatenate([rng.poisson(rate, (N_CELLS, N_GENES)) for rate in rates]).astype(np.float32))
    cells.obs["condition"] = np.repeat(names, N_CELLS)
    cells.obs["cell_type"] = "one"
    return cells


def trained(features: dict[str, list[float]]) -> Any:
    cells = screen()
    seen = cells[cells.obs["condition"] != "unseen"].copy()
    FeatureVAE.setup_anndata(seen, condition_key="condition", labels_key="cell_type")
    settings: dict[str, Any] = {"gene_likelihood": "poisson", "encode_covariates": True, "n_latent": 2, "n_hidden": 32}
    model = FeatureVAE(seen, features=features, seed=0, **settings)
    model.train(max_epochs=100, **QUIET)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    """A trained model that tests must not change."""
    return trained(FEATURES)


def change(predicted: AnnData) -> np.ndarray:
    control = screen(names=("control",))
    totals = np.log1p(dense(control.X) / dense(control.X).sum(1, keepdims=True) * 1e4).mean(0)
    return np.asarray(dense(predicted.X).mean(0) - totals)


def truth() -> np.ndarray:
    unseen = screen(seed=1, names=("unseen",))
    unseen.X = np.log1p(dense(unseen.X) / dense(unseen.X).sum(1, keepdims=True) * 1e4)
    return change(unseen)


def explained(predicted: AnnData) -> float:
    """Share of the squared response of the unseen perturbation that is predicted."""
    return float(1 - ((change(predicted) - truth()) ** 2).sum() / (truth() ** 2).sum())


def answer(model: Any) -> AnnData:
    predicted: AnnData = model.predict_perturbation(control="control", perturbation="unseen", shift="none")
    return predicted


def test_an_unmeasured_perturbation_is_predicted_better_than_by_any_measured_one(model: Any) -> None:
    others = [screen(seed=2, names=(name,)) for name in FEATURES if name not in ("control", "unseen")]
    for cells in others:
        cells.X = np.log1p(dense(cells.X) / dense(cells.X).sum(1, keepdims=True) * 1e4)
    assert explained(answer(model)) > max(explained(cells) for cells in others)


def test_features_of_another_perturbation_predict_it_worse(model: Any) -> None:
    misled = trained({**FEATURES, "unseen": FEATURES["A"]})
    assert explained(answer(misled)) < explained(answer(model)) / 2


def test_answers_survive_a_file(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model", save_anndata=True)
    again = FeatureVAE.load(tmp_path / "model")
    asked: dict[str, Any] = {"control": "control", "perturbation": "unseen", "shift": "none"}
    np.testing.assert_array_equal(*(dense(one.predict_perturbation(**asked).X) for one in (model, again)))
    assert again.perturbation_names == ["A", "B", "C", "D", "control", "unseen"]


def test_measured_perturbations_are_shifted_as_before(model: Any) -> None:
    predicted = model.predict_perturbation(control="control", perturbation="A")
    assert predicted.uns["deltavi"]["weights"] is not None
    assert (predicted.obs["condition"] == "A").all()


@pytest.mark.parametrize("options", [{}, {"shift": "gp"}, {"shift": "none", "empirical_weight": 0.5}])
def test_what_needs_cells_is_refused(model: Any, options: dict[str, Any]) -> None:
    with pytest.raises(DeltaviError, match=r"No cells of 'unseen' were measured.*Pass shift='none'"):
        model.predict_perturbation(control="control", perturbation="unseen", **options)


def test_a_control_has_to_be_measured_and_a_name_known(model: Any) -> None:
    with pytest.raises(UnknownCategoryError, match="unseen"):
        model.predict_perturbation(control="unseen", perturbation="A")
    with pytest.raises(UnknownCategoryError, match="'unsen'"):
        model.predict_perturbation(control="control", perturbation="unsen")


@pytest.mark.parametrize(("rows", "message"), [([[1.0]], "at least 2"), ([[1.0, 2.0], [1.0]], "same length")])
def test_rows_that_are_no_table(rows: list[list[float]], message: str) -> None:
    with pytest.raises(InputDataError, match=message):
        FeatureRows(rows)


def test_rows_must_be_finite() -> None:
    with pytest.raises(InputDataError, match="NaN"):
        FeatureRows([[1.0, float("nan")]])
