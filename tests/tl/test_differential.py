"""Table of genes that are predicted to change: form, probabilities against real cells, bad input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

from deltavi.datasets import kang, simulate_screen
from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownArgumentError, UnknownCategoryError
from deltavi.get import response_df, response_notes
from deltavi.perturbation import Experiment, ResponseModel, called_genes, gene_table
from deltavi.tl import differential_response, responses

KEYS: dict[str, Any] = {"condition_key": "condition", "control": "control", "context_keys": "context"}
HIDDEN = "context_2"


def screen(seed: int = 0) -> AnnData:
    return simulate_screen(
        n_genes=150, n_contexts=5, n_perturbations=4, n_pairs=0, n_drugs=0, n_batches=1, n_cells_per_group=40,
        n_control_cells=80, absent_fraction=0.0, specific_effect=1.0, seed=seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """A screen in which one context has control cells only; tests must not change it."""
    found = screen()
    hidden = (found.obs["context"] == HIDDEN) & (found.obs["condition"] != "control")
    return found[~hidden.to_numpy()].copy()


@pytest.fixture(scope="module")
def model(cells: AnnData) -> ResponseModel:
    return ResponseModel.fit(responses(cells, **KEYS))


@pytest.fixture(scope="module")
def tabled(cells: AnnData, model: ResponseModel) -> AnnData:
    """All groups; tests must not change it."""
    found = cells.copy()
    differential_response(found, model)
    return found


# -- form ------------------------------------------------------------------------------------------------------


def test_there_is_a_table_for_every_context_and_perturbation(tabled: AnnData, model: ResponseModel) -> None:
    table = model.table
    groups = [f"{context} | {name}" for context in table.contexts for name in dict.fromkeys(table.names)]
    found = response_df(tabled)
    assert found["group"].unique().tolist() == groups
    assert (found.groupby("group")["gene"].nunique() == tabled.n_vars).all()
    assert set(found["gene"]) == set(tabled.var_names)


def test_changes_and_intervals_are_those_of_the_model(tabled: AnnData, model: ResponseModel) -> None:
    context, name = model.table.contexts[1], model.table.names[0]
    predicted = model.predict(name, context=context)
    found = response_df(tabled, f"{context} | {name}").set_index("gene").loc[list(predicted.genes)]
    np.testing.assert_allclose(found["change"], predicted.change[0])
    lower, upper = predicted.interval(0.9)
    np.testing.assert_allclose(found["lower"], lower[0])
    np.testing.assert_allclose(found["upper"], upper[0])
    np.testing.assert_allclose(found["log2_fold_change"], predicted.change[0] / np.log(2))
    known = predicted.variance[0] > 0
    score = predicted.change[0][known] / np.sqrt(predicted.variance[0][known])
    np.testing.assert_allclose(found["score"].to_numpy()[known], score)
    assert (found["score"].to_numpy()[~known] == 0).all()


def test_genes_stand_in_the_order_of_their_probability(tabled: AnnData) -> None:
    for _, table in response_df(tabled).groupby("group", sort=False):
        assert table["probability_called"].is_monotonic_decreasing
        assert table["false_discovery_rate"].is_monotonic_increasing
        assert table["local_false_sign_rate"].between(0, 0.5).all()


# scanpy drops columns in place
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_scanpy_reads_and_draws_it(tabled: AnnData, tmp_path: Path) -> None:
    group = response_df(tabled)["group"].iloc[0]
    ours = response_df(tabled, group)
    theirs = sc.get.rank_genes_groups_df(tabled, group, key="differential_response")
    assert theirs["names"].tolist() == ours["gene"].tolist()
    np.testing.assert_allclose(theirs["logfoldchanges"], ours["log2_fold_change"])
    np.testing.assert_allclose(theirs["pvals_adj"], ours["false_discovery_rate"])
    np.testing.assert_allclose(theirs["scores"], ours["score"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries behind the figure
        axes = sc.pl.rank_genes_groups(tabled, groups=[group], key="differential_response", show=False)
    assert axes
    tabled.write_h5ad(tmp_path / "tabled.h5ad")
    again = anndata.read_h5ad(tmp_path / "tabled.h5ad")
    pd.testing.assert_frame_equal(response_df(again), response_df(tabled), check_dtype=False)
    pd.testing.assert_frame_equal(response_notes(again), response_notes(tabled), check_dtype=False)
    pd.testing.assert_frame_equal(sc.get.rank_genes_groups_df(again, group, key="differential_response"), theirs)


def test_a_selection_of_genes_in_any_order(cells: AnnData, model: ResponseModel, tabled: AnnData) -> None:
    few = cells[:, cells.var_names[[7, 3, 90]]].copy()
    differential_response(few, model)
    everything = response_df(tabled)
    kept = everything[everything["gene"].isin(few.var_names)].reset_index(drop=True)
    pd.testing.assert_frame_equal(response_df(few), kept)


def test_a_new_context_is_given_by_its_profile(cells: AnnData, model: ResponseModel) -> None:
    table, found = model.table, cells.copy()
    profile = pd.Series(table.control_means[0], index=table.genes)
    differential_response(found, model, table.names[0], profiles={"new": profile.iloc[::-1]}, key_added="new")
    assert response_df(found, key="new")["group"].unique().tolist() == [f"new | {table.names[0]}"]
    array = cells.copy()
    differential_response(array, model, table.names[0], profiles={"new": table.control_means[0]}, key_added="new")
    pd.testing.assert_frame_equal(response_df(array, key="new"), response_df(found, key="new"))


def test_notes_say_what_a_group_rests_on(tabled: AnnData, model: ResponseModel) -> None:
    notes = response_notes(tabled).set_index("group")
    is_hidden = notes.index.str.startswith(f"{HIDDEN} | ")
    assert is_hidden.sum() == 4
    assert notes.loc[is_hidden, "flags"].str.contains("new_context").all()
    assert not notes.loc[~is_hidden, "flags"].str.contains("new_context").any()
    assert notes["is_calibrated"].all()
    controls = dict(zip(model.table.contexts, model.table.n_control, strict=True))
    assert (notes["n_control"] == [controls[group.split(" | ")[0]] for group in notes.index]).all()


def test_a_larger_experiment_would_call_more(cells: AnnData, model: ResponseModel) -> None:
    means = []
    for n in (20, 200):
        found = cells.copy()
        differential_response(found, model, n_perturbed=n, n_control=n)
        means.append(response_df(found)["probability_called"].mean())
    assert means[1] > means[0]


def test_only_those_below_a_rate_are_returned(tabled: AnnData) -> None:
    found = response_df(tabled, fdr=0.3)
    assert (found["false_discovery_rate"] <= 0.3).all()
    assert 0 < len(found) < len(response_df(tabled))


def test_one_measured_response_cannot_be_calibrated(cells: AnnData) -> None:
    treated = next(name for name in cells.obs["condition"].unique() if name != "control")
    one = cells[cells.obs["condition"].isin(["control", treated])]
    context = one.obs.loc[one.obs["condition"] == treated, "context"].iloc[0]
    found = one[one.obs["context"] == context].copy()
    model = ResponseModel.fit(responses(found, **KEYS))
    differential_response(found, model)
    assert not response_notes(found)["is_calibrated"].any()


# -- learning --------------------------------------------------------------------------------------------------


def test_recalibration_brings_probabilities_to_the_shares_that_are_called() -> None:
    """Of genes of contexts that were left out of a screen whose truth is known, drawn anew with other cells."""
    stated, plain, called = [], [], []
    for seed in range(3):
        everything = screen(seed)
        for context in everything.obs["context"].unique()[:2]:
            of_context = (everything.obs["context"] == context).to_numpy()
            seen = everything[~of_context | (everything.obs["condition"] == "control").to_numpy()].copy()
            model, real = ResponseModel.fit(responses(seen, **KEYS)), responses(everything[of_context].copy(), **KEYS)
            sizes = {"n_perturbed": int(real.n_perturbed[0]), "n_control": int(real.n_control[0])}
            differential_response(seen, model, contexts=context, **sizes)
            predicted = model.predict(real.names, context=context)
            for row, (_, name) in enumerate(real.pairs):
                experiment = Experiment(int(real.n_perturbed[row]), int(real.n_control[0]), min_change=0.1)
                called.append(called_genes(real.changes[row], real.variances[0], experiment=experiment))
                group = response_df(seen, f"{context} | {name}").set_index("gene").loc[list(real.genes)]
                stated.append(group["probability_called"].to_numpy())
                raw = gene_table(
                    predicted.change[real.names.index(name)],
                    predicted.variance[real.names.index(name)],
                    predicted.freedom,
                    cell_variance=predicted.cell_variance,
                    control_mean=real.control_means[0],
                    experiment=experiment,
                )
                plain.append(raw.probability_called)
    errors = [abs(np.mean(one) - np.mean(called)) for one in (stated, plain)]
    assert errors[0] <= 0.03
    assert errors[0] <= errors[1] + 0.005


def test_genes_of_a_type_that_was_left_out(kang_path: Path) -> None:
    """Real cells: of genes called at 5 % no more than one in ten is not, and directions hold."""
    adata = kang(kang_path)
    of_type = (adata.obs["cell_type"] == "FCGR3A+Mono").to_numpy()
    keys = KEYS | {"context_keys": "cell_type"}
    seen = adata[~(of_type & (adata.obs["condition"] == "stimulated").to_numpy())].copy()
    real = responses(adata[of_type].copy(), **keys)
    n = int(real.n_perturbed[0]), int(real.n_control[0])
    model = ResponseModel.fit(responses(seen, **keys))
    differential_response(seen, model, contexts="FCGR3A+Mono", n_perturbed=n[0])
    found = response_df(seen, fdr=0.05)
    calls = called_genes(real.changes[0], real.variances[0], experiment=Experiment(*n, min_change=0.1))
    measured = pd.DataFrame({"called": calls, "change": real.changes[0]}, index=real.genes).loc[found["gene"]]
    assert len(found) >= 100
    assert (~measured["called"]).mean() <= 0.1
    assert (np.sign(measured["change"].to_numpy()) != np.sign(found["change"].to_numpy())).mean() <= 0.01
    assert {"ISG15", "IFI6", "IFIT3"} <= set(found["gene"])


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"contexts": "nowhere"}, UnknownCategoryError, "nowhere"),
        ({"perturbations": []}, InputDataError, "nothing to predict"),
        ({"contexts": []}, InputDataError, "nothing to predict"),
        ({"perturbations": "control"}, InputDataError, "control"),
        ({"n_perturbed": 1}, DeltaviError, "n_perturbed"),
        ({"alpha": 1.5}, DeltaviError, "alpha"),
        ({"min_change": -1}, DeltaviError, "min_change"),
        ({"level": 0}, DeltaviError, "level"),
        ({"profiles": {"new": [1.0, 2.0]}}, InputDataError, "150 genes"),
        ({"profiles": {"new": pd.Series([1.0], index=["a"])}}, GeneMatchError, "lacks 150 of 150"),
        ({"perturbation": "A"}, UnknownArgumentError, "perturbations"),
    ],
)
def test_questions_that_have_no_answer(
    cells: AnnData, model: ResponseModel, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    found = cells.copy()
    with pytest.raises(error, match=message):
        differential_response(found, model, **given)
    assert "differential_response" not in found.uns


@pytest.mark.parametrize("change", [lambda m: m.table, lambda m: None, lambda m: ResponseModel])
def test_what_is_no_model_of_responses(cells: AnnData, model: ResponseModel, change: Callable[..., Any]) -> None:
    with pytest.raises(DeltaviError, match="must be a ResponseModel"):
        differential_response(cells.copy(), change(model))


def test_genes_that_were_not_measured(cells: AnnData, model: ResponseModel) -> None:
    other = cells.copy()
    other.var_names = [f"other {name}" for name in other.var_names]
    with pytest.raises(GeneMatchError, match="150 of 150 genes of adata"):
        differential_response(other, model)


def test_there_is_no_table_to_read(cells: AnnData, tabled: AnnData) -> None:
    for read in (response_df, response_notes):
        with pytest.raises(InputDataError, match="differential_response writes it"):
            read(cells)
    with pytest.raises(UnknownCategoryError, match="nowhere"):
        response_df(tabled, "nowhere")
    with pytest.raises(DeltaviError, match="fdr"):
        response_df(tabled, fdr=2)
