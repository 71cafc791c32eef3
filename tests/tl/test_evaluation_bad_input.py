"""Every misuse of an evaluation is an error that names the key, the number, examples and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.model import ACTINN, SCGEN
from deltavi.tl import Method, Split, evaluate_perturbation
from tests.tl.conftest import ASK, mean_change, without


def one(adata: AnnData, **options: Any) -> Any:
    return evaluate_perturbation(adata, mean_change, **{**ASK, **options})


def cells_of(adata: AnnData, condition: str, label: str = "type_1") -> Any:
    return np.asarray((adata.obs["condition"] == condition) & (adata.obs["cell_type"] == label))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"control": "contrl"}, UnknownCategoryError, "condition 'contrl'.*mean 'control'"),
        ({"perturbation": "stim"}, UnknownCategoryError, "condition 'stim'.*'stimulated'"),
        ({"perturbation": "control"}, DeltaviError, "both 'control'"),
        ({"perturbation": []}, DeltaviError, "no condition to predict"),
        ({"condition_key": "cond"}, UnknownCategoryError, "obs column 'cond'"),
        ({"labels_key": "type"}, UnknownCategoryError, "obs column 'type'.*cell_type"),
        ({"layer": "counts"}, UnknownCategoryError, "layer 'counts'"),
        ({"hold_out": ["type_9"]}, UnknownCategoryError, "label 'type_9'"),
        ({"hold_out": []}, DeltaviError, "hold_out is empty"),
        ({"hold_out": {}}, DeltaviError, "hold_out is empty"),
        ({"hold_out": 3}, DeltaviError, "hold_out is 3"),
        ({"hold_out": "donor"}, UnknownCategoryError, "obs column 'donor'"),
        ({"hold_out": "type_1"}, UnknownCategoryError, r"hold_out=\['type_1'\]"),
        ({"hold_out": np.ones(180, dtype=bool)}, DeltaviError, "give it a name"),
        ({"seeds": ()}, DeltaviError, "seeds is"),
        ({"seeds": (0, 1.5)}, DeltaviError, "seeds is"),
        ({"seeds": True}, DeltaviError, "seeds is"),
        ({"seeds": -1}, DeltaviError, "seeds is"),
        ({"n_jobs": 0}, DeltaviError, "n_jobs is 0"),
        ({"n_jobs": 1.5}, DeltaviError, "n_jobs must be a whole number, not 1.5"),
        ({"top_genes": "all"}, UnknownCategoryError, "top_genes 'all'"),
        ({"baselines": ["mean shfit"]}, UnknownCategoryError, "baseline 'mean shfit'.*'mean shift'"),
        ({"keep_predictions": True}, DeltaviError, "needs a folder"),
        ({"n_genes": 0}, DeltaviError, "at least 1"),
    ],
)
def test_a_wrong_argument(adata: AnnData, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        one(adata, **options)


def missing_condition(adata: AnnData) -> AnnData:
    adata.obs.loc[adata.obs_names[:2], "condition"] = np.nan
    return adata


def nan_gene(adata: AnnData) -> AnnData:
    adata.X = adata.X.toarray()
    adata.X[3, 7] = np.nan
    return adata


def fractions(adata: AnnData) -> AnnData:
    adata.X = adata.X * 0.5
    return adata


def repeated_genes(adata: AnnData) -> AnnData:
    adata.var_names = ["gene_1", "gene_1", *adata.var_names[2:]]
    return adata


def same_name(adata: AnnData) -> AnnData:
    names = adata.obs_names.to_numpy().astype(object)
    names[cells_of(adata, "control")] = names[cells_of(adata, "stimulated")]
    adata.obs_names = names
    return adata


def same_counts(adata: AnnData) -> AnnData:
    """Three held-out cells stand among the training cells of another type, under other names."""
    copies = adata[cells_of(adata, "stimulated")][:3].copy()
    copies.obs_names = [f"copy{i}" for i in range(3)]
    copies.obs["cell_type"] = "type_2"
    return ad.concat([adata, copies])


def one_label(adata: AnnData) -> AnnData:
    return adata[adata.obs["cell_type"] == "type_1"].copy()


@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (missing_condition, InputDataError, r"obs\['condition'\] is missing for 2 of 180"),
        (nan_gene, InputDataError, "NaN"),
        (fractions, InputDataError, "must hold raw counts"),
        (repeated_genes, GeneMatchError, "'gene_1'"),
        (same_name, InputDataError, "30 of 30 held-out cells have the name of a training cell.*and 27 more"),
        (same_counts, InputDataError, "3 of 30 held-out cells have the counts of a training cell.*Remove duplicates"),
        (one_label, DeltaviError, "nothing to learn from"),
        (lambda a: without(a, "type_1", "stimulated", 9), DeltaviError, "'type_1' has 9 cells under 'stimulated'.*10"),
        (lambda a: without(a, "type_1", "control", 0), DeltaviError, "'type_1' has 0 cells under 'control'"),
        (lambda a: a[a.obs["condition"] == "control"].copy(), UnknownCategoryError, "'stimulated'"),
    ],
)
def test_data_that_cannot_be_evaluated(
    adata: AnnData, change: Callable[[AnnData], AnnData], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        one(change(adata), hold_out=["type_1"])


def test_chance_duplicates_of_nearly_empty_cells_are_allowed(adata: AnnData) -> None:
    x = adata.X.toarray()
    for condition in ("control", "stimulated"):
        x[np.flatnonzero(cells_of(adata, condition))[0]] = np.eye(60)[4]
    adata.X = type(adata.X)(x)
    assert len(one(adata, hold_out=["type_1"], baselines=False).table) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: cells_of(a, "stimulated").astype(int), "boolean mask over all 180 cells"),
        (lambda a: cells_of(a, "stimulated")[:-1], r"shape \(179,\)"),
        (lambda a: np.zeros(a.n_obs, dtype=bool), "is empty"),
        (
            lambda a: cells_of(a, "control"),
            r"30 of 30 held-out cells are not of a perturbed condition \('CELL.*'stimulated'",
        ),
        (lambda a: Split(cells_of(a, "stimulated"), cells_of(a, "stimulated")), "30 of 30 cells.*are held out, too"),
        (
            lambda a: Split(cells_of(a, "stimulated"), cells_of(a, "stimulated", "type_2")),
            "30 of 30 cells of the query are not controls",
        ),
        (lambda a: Split(cells_of(a, "stimulated"), np.zeros(a.n_obs, dtype=bool)), "the query of.*is empty"),
        (lambda a: pd.Series(cells_of(a, "stimulated"), index=[*a.obs_names[:-1], "z"]), "1 cells only in hold_out"),
        (lambda a: np.ma.masked_array(cells_of(a, "stimulated"), np.arange(a.n_obs) < 3), "3 masked entries"),
        (lambda a: Split(cells_of(a, "stimulated"), cells_of(a, "control", "type_2")), "no label has 10 cells"),
        (lambda a: np.asarray(a.obs["condition"] == "stimulated"), "nothing to learn from"),
    ],
)
def test_a_split_that_makes_no_sense(adata: AnnData, make: Callable[[AnnData], Any], message: str) -> None:
    with pytest.raises(DeltaviError, match=message):
        one(adata, hold_out={"mine": make(adata)})


def test_a_split_of_two_targets(adata: AnnData) -> None:
    adata.obs["condition"] = adata.obs["condition"].astype(str)
    half = np.asarray((adata.obs["condition"] == "stimulated") & (adata.obs["batch"] == "batch_1"))
    adata.obs.loc[half, "condition"] = "other"
    mask = np.asarray((adata.obs["condition"] != "control") & (adata.obs["cell_type"] == "type_1"))
    with pytest.raises(InputDataError, match="mixes the conditions 'other', 'stimulated'"):
        one(adata, hold_out={"mine": mask}, perturbation=None)


def returning(answer: Callable[[AnnData], Any]) -> Any:
    return {"mine": lambda train, query, **_: answer(query)}


def nan_cells(query: AnnData) -> Any:
    return np.full(query.shape, np.nan)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda q: q.X[:, :-1], GeneMatchError, "'mine' returned 39 genes, but the query has 40"),
        (lambda q: q.X[:-1], InputDataError, "'mine' returned 14 cells for 15"),
        (lambda q: np.asarray(q.X.mean(0)).ravel(), InputDataError, "'mine' returned ndarray, not an AnnData"),
        (lambda q: None, InputDataError, "'mine' returned NoneType"),
        (lambda q: q[:, :-2].copy(), GeneMatchError, "'mine' lacks 2 of 40 genes"),
        (lambda q: AnnData(obs=q.obs, var=q.var), InputDataError, "without X"),
        (nan_cells, InputDataError, "the prediction of 'mine'.*NaN"),
    ],
)
def test_a_method_that_returns_something_else(
    adata: AnnData, answer: Callable[[AnnData], Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        evaluate_perturbation(adata, returning(answer), **ASK, hold_out=["type_1"])
    assert any("'mine' on the hold-out 'type_1'" in note for note in raised.value.__notes__)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "methods is empty"),
        ({}, "methods is empty"),
        (ACTINN, "ACTINN has no predict_perturbation"),
        ([SCGEN, SCGEN], "1 names occur twice .'SCGEN'"),
        (lambda train, query, **_: None, "has no name"),
        ({"x": 3}, "method 'x' is 3"),
        ({"": mean_change}, "empty name"),
        ({"mean shift": mean_change}, "'mean shift' is the name of a baseline"),
        ({"split-half ceiling": mean_change}, "the ceiling"),
        ({"SCGEN": Method(SCGEN, predict={"a": {}}), "SCGEN, a": SCGEN}, "'SCGEN, a'"),
    ],
)
def test_methods_that_cannot_be_told_apart_or_run(adata: AnnData, methods: Any, message: str) -> None:
    with pytest.raises(DeltaviError, match=message):
        evaluate_perturbation(adata, methods, **ASK)


def test_a_method_without_settings() -> None:
    with pytest.raises(DeltaviError, match="predict must map"):
        Method(SCGEN, predict={})


def test_small_types_of_a_sweep_are_skipped_and_listed(adata: AnnData) -> None:
    few = without(adata, "type_2", "stimulated", 4)
    found = one(few, baselines=False)
    assert list(found.table["hold_out"].unique()) == ["type_1", "type_3"]
    skipped = found.skipped.iloc[0]
    assert (skipped["hold_out"], skipped["perturbation"]) == ("type_2", "stimulated")
    assert "'type_2' has 4 cells under 'stimulated'" in skipped["reason"]
    assert len(found.skipped) == 1


def test_small_types_of_a_donor_are_not_scored(adata: AnnData) -> None:
    few = adata[~((adata.obs["batch"] == "batch_1") & cells_of(adata, "control", "type_3"))].copy()
    found = one(few, baselines=False, hold_out="batch")
    assert found.table.groupby("hold_out")["label"].unique().map(list).to_dict() == {
        "batch_1": ["type_1", "type_2"],
        "batch_2": ["type_1", "type_2", "type_3"],
    }
    assert found.skipped[["hold_out", "label"]].to_numpy().tolist() == [["batch_1", "type_3"]]
    assert "0 cells under 'control' and 15 under 'stimulated'" in found.skipped["reason"][0]


def test_a_sweep_of_which_nothing_is_left(adata: AnnData) -> None:
    with pytest.raises(DeltaviError, match=r"nothing to hold out. 1 were left out.*nothing to learn from"):
        one(one_label(adata))


def test_cells_without_label_are_learned_from_only(adata: AnnData) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories([])
    adata.obs.loc[adata.obs["batch"] == "batch_1", "cell_type"] = np.nan
    found = one(adata, baselines=False)
    assert (found.table["n_real"] == 15).all()


def test_a_path_is_no_data() -> None:
    with pytest.raises(InputDataError, match=r"must be an AnnData, not a str; read a file"):
        evaluate_perturbation("cells.h5ad", mean_change, **ASK)


def test_a_name_is_no_method(adata: AnnData) -> None:
    with pytest.raises(DeltaviError, match=r"^'SCGEN' is no method; pass a model class"):
        evaluate_perturbation(adata, "SCGEN", **ASK)
    with pytest.raises(DeltaviError, match="method 'mine' is 'SCGEN'"):
        evaluate_perturbation(adata, {"mine": "SCGEN"}, **ASK)
