"""Tables of a prediction of many perturbations, and the answer for one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData

from deltavi import get, pl
from deltavi.errors import InputDataError, UnknownCategoryError
from deltavi.model import SCGEN
from tests.model.conftest import dense
from tests.model.screens import CONTEXTS, query, screen, trained_on


@pytest.fixture(scope="module")
def model() -> SCGEN:
    return trained_on(SCGEN, screen(), epochs=2)


@pytest.fixture(scope="module")
def predicted(model: SCGEN) -> AnnData:
    return model.predict_perturbations(query(), control="control", controls=True)


@pytest.fixture(params=["in memory", "read from a file"])
def answer(request: Any, predicted: AnnData, tmp_path: Path) -> AnnData:
    if request.param == "in memory":
        return predicted
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    return ad.read_h5ad(tmp_path / "predicted.h5ad")


def test_a_row_for_each_pair(answer: AnnData) -> None:
    table = get.predictions(answer)
    columns = ["perturbation", "context", "n_cells", "own_weight", "uncertainty", "max_training_uncertainty"]
    assert table.columns.tolist() == columns
    assert set(zip(table["perturbation"], table["context"], strict=True)) == {(p, c) for p in "ABC" for c in CONTEXTS}
    assert table["n_cells"].sum() == answer.obs["deltavi_predicted"].sum()
    hidden = (table["perturbation"] == "C") & (table["context"] == CONTEXTS[2])
    assert (table.loc[hidden, "own_weight"] == 0).all()
    assert (table.loc[~hidden, "own_weight"] > 0).all()


def test_tables_name_the_perturbation(answer: AnnData) -> None:
    assert get.weights(answer).columns[:2].tolist() == ["perturbation", "query"]
    assert len(get.uncertainty(answer)) == 9
    changes = get.changes(answer, labels=CONTEXTS[1], genes=[answer.var_names[3]])
    assert changes["perturbation"].tolist() == ["A", "B", "C"]
    assert get.provenance(answer).perturbation == "A, B, C"


def test_the_answer_for_one_is_that_of_one_prediction(model: SCGEN, answer: AnnData) -> None:
    single = model.predict_perturbation(query(), control="control", perturbation="B")
    found = get.prediction(answer, "B")
    assert set(found.obs_names) == set(single.obs_names)
    np.testing.assert_allclose(dense(found[single.obs_names].X), dense(single.X), atol=1e-5)
    for table in (get.changes, get.weights, get.uncertainty):
        first, second = (
            table(one).sort_values(["label", "gene"] if table is get.changes else ["query"], kind="stable")
            for one in (found, single)
        )
        assert first.columns.tolist() == second.columns.tolist()
        for name in first:
            if first[name].dtype.kind == "f":
                np.testing.assert_allclose(first[name], second[name], atol=1e-5)
    plain, expected = get.predictions(found), get.predictions(single)
    assert plain["perturbation"].tolist() == ["B"] * 3
    assert plain["n_cells"].tolist() == expected["n_cells"].tolist()
    axes = pl.response_intervals(found, label=CONTEXTS[0])
    assert axes is not None
    plt.close("all")


def test_contexts_and_controls_can_be_chosen(answer: AnnData) -> None:
    found = get.prediction(answer, "A", contexts=CONTEXTS[2], controls=True)
    assert set(found.obs["condition"].astype(str)) == {"A", "control"}
    assert set(found.obs["context"].astype(str)) == {CONTEXTS[2]}
    assert found.varm["deltavi_change"].columns.tolist() == [CONTEXTS[2]]


def test_a_backed_file_is_read_for_one(predicted: AnnData, tmp_path: Path) -> None:
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    backed = ad.read_h5ad(tmp_path / "predicted.h5ad", backed="r")
    found = get.prediction(backed, "A")
    np.testing.assert_array_equal(dense(found.X), dense(get.prediction(predicted, "A").X))
    backed.file.close()


def test_what_is_not_there_is_refused(model: SCGEN, predicted: AnnData) -> None:
    with pytest.raises(UnknownCategoryError, match=r"perturbation 'D'.*Known: 'A', 'B', 'C'"):
        get.prediction(predicted, "D")
    with pytest.raises(UnknownCategoryError, match="context"):
        get.prediction(predicted, "A", contexts="nowhere")
    single = model.predict_perturbation(query(), control="control", perturbation="B")
    with pytest.raises(InputDataError, match="one perturbation"):
        get.prediction(single, "B")
    with pytest.raises(InputDataError, match="before cells are left out"):
        get.prediction(predicted[:50].copy(), "A")
    with pytest.raises(InputDataError, match="no prediction"):
        get.predictions(query())
