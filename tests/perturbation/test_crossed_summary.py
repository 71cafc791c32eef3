"""A screen at one glance: sizes, certainty and short texts of tables, models and predictions."""

from __future__ import annotations

import numpy as np
import pytest

from deltavi.errors import DeltaviError, InputDataError, UnknownCategoryError
from deltavi.perturbation import GeneTable, ResponseModel, gene_table
from deltavi.perturbation.called import Experiment
from tests.perturbation.crossed_scenes import structured


@pytest.fixture(scope="module")
def model() -> ResponseModel:
    return ResponseModel.fit(structured(0))


def test_rows_are_predictions(model: ResponseModel) -> None:
    found = model.summary()
    table = model.table
    assert len(found) == len(table.contexts) * table.n_conditions
    for row in (0, 7, len(found) - 1):
        one = found.iloc[row]
        prediction = model.predict(one["perturbation"], context=one["context"])
        np.testing.assert_allclose(one["size"] ** 2, (prediction.change**2).sum())
        np.testing.assert_allclose(one["error"] ** 2, prediction.variance.sum())
        assert one["uncertainty"] == pytest.approx(prediction.uncertainty[0])
        assert one["flags"] == ", ".join(prediction.flags[0])


def test_cells_are_those_that_were_measured(model: ResponseModel) -> None:
    found = model.summary().set_index(["context", "perturbation"])["n_cells"]
    assert found.sum() == model.table.n_perturbed.sum()
    assert set(found[found > 0].index) == set(model.table.pairs)
    assert (found == 0).any()


def test_what_is_asked_for_keeps_its_order(model: ResponseModel) -> None:
    found = model.summary(["drug 1", "drug 5+drug 0", "new"], contexts=["type 3", "type 0"])
    assert found["context"].tolist() == ["type 3"] * 3 + ["type 0"] * 3
    assert found["perturbation"].tolist() == ["drug 1", "drug 5+drug 0", "new"] * 2
    assert found["n_cells"].tolist()[2::3] == [0, 0]
    assert found["flags"].str.contains("new_perturbation").tolist()[2::3] == [True, True]


def test_bad_input(model: ResponseModel) -> None:
    with pytest.raises(UnknownCategoryError, match="'type 9'"):
        model.summary(contexts="type 9")
    with pytest.raises(InputDataError, match="is the control"):
        model.summary("control")
    with pytest.raises(DeltaviError, match="contexts is empty"):
        model.summary(contexts=[])


def test_texts_are_short(model: ResponseModel) -> None:
    prediction = model.predict("drug 0", profile=model.table.control_means[0], context="new one")
    experiment = Experiment(50, 50)
    genes = gene_table(
        prediction.change[0], prediction.variance[0], 5, cell_variance=0.4, control_mean=np.ones(60),
        experiment=experiment,
    )  # fmt: skip
    assert isinstance(genes, GeneTable)
    for value, words in (
        (model.table, f"{model.table.n_pairs} measured pairs of 6 contexts"),
        (model, f"{model.kernel.name} kernel"),
        (prediction, "'new one': 1 perturbations, 60 genes"),
        (genes, "60 genes, "),
    ):
        assert words in repr(value)
        assert len(repr(value)) < 300
    assert "new_context" in repr(prediction)
