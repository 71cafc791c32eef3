"""Tables of a prediction, of real answers, before and after a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import deltavi
from deltavi import get, pl
from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownArgumentError, UnknownCategoryError
from deltavi.model import SCGEN
from deltavi.perturbation import ShiftBaseline
from tests.model.conftest import QUIET, SETUP, dense, log_normalised, small_adata


@pytest.fixture(scope="module")
def predicted() -> AnnData:
    adata = small_adata()
    SCGEN.setup_anndata(adata, **SETUP)
    model = SCGEN(adata, n_hidden=16, n_latent=3)
    model.train(max_epochs=1, batch_size=32, **QUIET)
    query = small_adata(seed=1)
    query.obs_names = "query-" + query.obs_names
    query.obs["cell_type"] = query.obs["cell_type"].astype(str)
    return model.predict_perturbation(query, control="control", perturbation="stimulated", seed=3)


@pytest.fixture(params=["in memory", "read from a file"])
def answer(request: Any, predicted: AnnData, tmp_path: Path) -> AnnData:
    if request.param == "in memory":
        return predicted
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    return ad.read_h5ad(tmp_path / "predicted.h5ad")


def test_weights_are_a_row_for_each_pair_and_sum_to_one(answer: AnnData) -> None:
    table = get.weights(answer)
    columns = ["query", "training_label", "weight", "n_control", "n_perturbed", "shift_scale", "own_weight"]
    assert table.columns.tolist() == columns
    np.testing.assert_allclose(table.groupby("query")["weight"].sum(), 1.0)
    n_labels = answer.obs["cell_type"].nunique()
    assert len(table) == n_labels**2
    assert table["n_control"].dtype.kind == "i"
    # every label was seen under the perturbation
    assert (table["own_weight"] > 0).all()
    assert not table.index.has_duplicates


def test_uncertainty_says_which_labels_are_extrapolated(answer: AnnData) -> None:
    table = get.uncertainty(answer)
    columns = ["query", "uncertainty", "max_training_uncertainty", "is_extrapolated"]
    assert table.columns.tolist() == [*columns, "expected_skill", "n_worse", "n_groups", "flags"]
    assert set(table["query"]) == set(answer.obs["cell_type"].astype(str))
    np.testing.assert_array_equal(table["is_extrapolated"], table["uncertainty"] > table["max_training_uncertainty"])
    held = answer.uns["deltavi"]["uncertainty"]
    np.testing.assert_array_equal(table["uncertainty"], held["uncertainty"])


def test_changes_are_those_of_the_means(answer: AnnData) -> None:
    table = get.changes(answer)
    assert table.columns.tolist() == ["label", "gene", "change", "lower", "upper"]
    assert len(table) == answer.n_vars * answer.obs["cell_type"].nunique()
    one = table[table["label"] == table["label"].iloc[-1]].set_index("gene")["change"]
    np.testing.assert_array_equal(one.loc[answer.var_names], answer.varm["deltavi_change"].iloc[:, -1])
    known = table.dropna()
    assert ((known["lower"] <= known["change"]) & (known["change"] <= known["upper"])).all()


def test_labels_and_genes_are_in_the_order_asked_for(answer: AnnData) -> None:
    labels = sorted(answer.obs["cell_type"].astype(str).unique())[::-1][:2]
    genes = [answer.var_names[7], answer.var_names[2]]
    table = get.changes(answer, labels=labels, genes=genes)
    assert list(zip(table["label"], table["gene"], strict=True)) == [(k, gene) for k in labels for gene in genes]
    whole = get.changes(answer).set_index(["label", "gene"])
    np.testing.assert_array_equal(
        table.set_index(["label", "gene"])["change"], whole.loc[[(k, g) for k in labels for g in genes], "change"]
    )
    assert get.changes(answer, labels=labels[0], genes=genes[0]).shape == (1, 5)


def test_provenance(answer: AnnData) -> None:
    found = get.provenance(answer)
    assert (found.model, found.control, found.perturbation, found.seed) == ("SCGEN", "control", "stimulated", 3)
    assert (found.shift, found.effect_scale, found.version) == ("similarity", 1.0, deltavi.__version__)
    assert found.empirical_weight == answer.uns["deltavi"]["empirical_weight"]


def test_a_label_that_files_cannot_name_has_its_own_name(predicted: AnnData) -> None:
    answer = predicted.copy()
    for key in ("deltavi_change", "deltavi_lower", "deltavi_upper"):
        table = answer.varm[key]
        answer.varm[key] = table.rename(columns={table.columns[0]: "CD4%2FCD8"})
    assert get.changes(answer)["label"].iloc[0] == "CD4/CD8"


def test_skill_and_flags_stand_beside_uncertainty(answer: AnnData) -> None:
    table, held = get.uncertainty(answer), answer.uns["deltavi"]["uncertainty"]
    for name, kind in {"expected_skill": "f", "n_worse": "i", "n_groups": "i", "flags": "O"}.items():
        assert table[name].dtype.kind == kind
        assert table[name].tolist() == held[name].tolist()
    earlier = answer.copy()
    earlier.uns["deltavi"]["uncertainty"] = held[["query", "uncertainty", "max_training_uncertainty"]]
    assert get.uncertainty(earlier).columns.tolist() == table.columns.tolist()[:4]


def test_treated_cells_that_were_given(answer: AnnData, tmp_path: Path) -> None:
    with pytest.raises(InputDataError, match="pass treated to predict_perturbation"):
        get.treated(answer)
    given = answer.copy()
    given.uns["deltavi"]["treated"] = pd.DataFrame({"query": ["B"], "n_treated": [5], "length": [1.2]}, index=["0"])
    given.write_h5ad(tmp_path / "given.h5ad")
    table = get.treated(ad.read_h5ad(tmp_path / "given.h5ad"))
    assert table.to_dict("list") == {"query": ["B"], "n_treated": [5], "length": [1.2]}
    with pytest.raises(InputDataError, match="no prediction"):
        get.treated(AnnData(np.ones((2, 2))))


def test_a_baseline_has_weights_and_no_uncertainty() -> None:
    adata = log_normalised(small_adata())
    baseline = ShiftBaseline(adata, condition_key="condition", labels_key="cell_type")
    answer = baseline.predict_perturbation(control="control", perturbation="stimulated")
    assert dense(answer.X).shape[1] == adata.n_vars
    np.testing.assert_allclose(get.weights(answer).groupby("query")["weight"].sum(), 1.0)
    assert get.provenance(answer).model == ""
    with pytest.raises(InputDataError, match="labels"):
        get.uncertainty(answer)
    with pytest.raises(InputDataError, match="labels"):
        get.changes(answer)


def test_what_is_no_prediction(predicted: AnnData) -> None:
    joined = ad.concat([predicted[:3], predicted[3:6]])
    for read in (get.weights, get.uncertainty, get.changes, get.provenance):
        with pytest.raises(InputDataError, match="no prediction"):
            read(joined)
        with pytest.raises(DeltaviError, match="AnnData"):
            read(predicted.to_df())


def test_names_that_are_not_there(predicted: AnnData) -> None:
    label, gene = predicted.obs["cell_type"].astype(str).iloc[0], predicted.var_names[0]
    with pytest.raises(UnknownCategoryError, match=label):
        get.changes(predicted, labels=label.swapcase() + "x")
    with pytest.raises(GeneMatchError, match=gene):
        get.changes(predicted, genes=gene + "x")
    with pytest.raises(UnknownArgumentError, match="mean 'genes'"):
        get.changes(predicted, gene=gene)


# what predictions were written with -> what they are written with
FORMER = {
    "uncertainty": "trust",
    "empirical_weight": "consensus",
    "effect_scale": "dose",
    "output": "profile",
    "shift_scale": "magnitude",
    "perturbation": "target",
    "n_perturbed": "n_target",
}


FORMER_COLUMNS = {**FORMER, "uncertainty": "doubt", "max_training_uncertainty": "usual_doubt"}
FORMER_VALUES = {"cells": "cell", "gp": "kriging"}


def as_written_before(answer: AnnData) -> AnnData:
    """The same prediction under the former names of its entries and of the columns of their tables."""
    old, held = answer.copy(), answer.uns["deltavi"]
    assert set(FORMER) <= set(held) | set(held["weights"])
    old.uns["deltavi"] = {
        FORMER.get(key, key): value.rename(columns=FORMER_COLUMNS)
        if isinstance(value, pd.DataFrame)
        else FORMER_VALUES.get(value, value)
        for key, value in held.items()
    }
    assert old.uns["deltavi"].keys() != held.keys()
    return old


def test_a_prediction_under_former_names_is_read_alike(answer: AnnData, tmp_path: Path) -> None:
    answer = answer.copy()
    answer.uns["deltavi"]["shift"] = "gp"
    as_written_before(answer).write_h5ad(tmp_path / "old.h5ad")
    old = ad.read_h5ad(tmp_path / "old.h5ad")
    for read in (get.weights, get.uncertainty, get.changes):
        pd.testing.assert_frame_equal(read(old), read(answer))
    assert get.provenance(old) == get.provenance(answer)
    titles = [pl.shift_weights(kept, show=False).get_title() for kept in (old, answer)]
    assert titles[0] == titles[1] != ""
