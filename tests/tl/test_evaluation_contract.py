"""What an evaluation promises beside its numbers: nothing changed, nothing printed, nothing left to chance."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from threadpoolctl import threadpool_info

from deltavi.datasets import simulate_perturbation
from deltavi.metrics import PredictionScore
from deltavi.model import PPCA, SCGEN
from deltavi.perturbation import BASELINES, SPLIT_HALF
from deltavi.tl import Method, PerturbationEvaluation, evaluate_perturbation
from deltavi.tl._runs import NO_CHANGE
from tests.tl.conftest import ASK, lean, mean_change, noisy

SCORES = [score.name for score in fields(PredictionScore)]
QUICK = Method(SCGEN, {"n_hidden": 8, "n_latent": 3}, {"max_epochs": 2})


def scores(evaluation: PerturbationEvaluation) -> pd.DataFrame:
    return evaluation.table.drop(columns="seconds")


def test_one_row_for_everything(evaluation: PerturbationEvaluation) -> None:
    table = evaluation.table
    methods = ["mean change", "noisy", *BASELINES, SPLIT_HALF]
    assert list(table.columns) == [
        *("hold_out", "label", "perturbation", "seed", "method", "kind", "n_control", "n_reference", "n_real"),
        *("signal_z", "seconds"),
        *("coverage", "coverage_top", "half_width", "uncertainty"), *SCORES,
    ]  # fmt: skip
    for _, part in table.groupby(["hold_out", "label", "perturbation", "seed"]):
        assert list(part["method"]) == methods
    assert len(table) == 3 * 2 * len(methods)
    kinds = table.groupby("kind")["method"].unique().map(list).to_dict()
    assert kinds == {"model": methods[:2], "baseline": list(BASELINES), "split_half": [SPLIT_HALF]}
    assert (table["n_real"] == 30).all()
    assert (table[["n_control", "n_reference"]] == 15).all().all()
    assert (table.groupby(["label", "seed"])["signal_z"].nunique() == 1).all()
    assert (table["signal_z"] > 1).all()
    assert (table.loc[table["method"] == NO_CHANGE, "explained"] == 0).all()
    assert np.isfinite(table[SCORES].to_numpy(dtype=float)).all()
    assert (table.loc[table["kind"] == "model", "seconds"] > 0).all()
    assert table.loc[table["kind"] == "split_half", "seconds"].isna().all()


def test_seeds_move_everything_where_there_are_halves(evaluation: PerturbationEvaluation) -> None:
    by_seed = {seed: part.set_index(["label", "method"])["mse_top"] for seed, part in evaluation.table.groupby("seed")}
    assert not (by_seed[0] == by_seed[1]).any()  # each seed has halves of its own


def test_without_halves_seeds_move_what_draws_and_nothing_else(adata: AnnData) -> None:
    options = {"hold_out": "batch", "seeds": (0, 1)}
    table = evaluate_perturbation(adata, {"mean change": mean_change, "noisy": noisy}, **ASK, **options).table
    keys = ["hold_out", "label", "method"]
    by_seed = {seed: part.set_index(keys)["mse_top"] for seed, part in table.groupby("seed")}
    same = by_seed[0] == by_seed[1]
    assert same.groupby("method").all().to_dict() == {
        **dict.fromkeys(["mean change", *BASELINES], True), "noisy": False, SPLIT_HALF: False,
    }  # fmt: skip


def test_the_same_call_gives_the_same(experiment: AnnData, evaluation: PerturbationEvaluation) -> None:
    np.random.rand(3)
    again = evaluate_perturbation(experiment, {"noisy": noisy}, **ASK, seeds=1, hold_out=["type_2"])
    expected = scores(evaluation).query("seed == 1 and label == 'type_2' and method != 'mean change'")
    pd.testing.assert_frame_equal(scores(again), expected.reset_index(drop=True))


@pytest.mark.parametrize(
    ("options", "baselines"),
    [
        ({"baselines": False}, [NO_CHANGE]),
        ({"baselines": "mean shift"}, [NO_CHANGE, "mean shift"]),
        (
            {"baselines": ["nearest shift", "mean shift"], "split_half": False},
            [NO_CHANGE, "mean shift", "nearest shift"],
        ),
    ],
)
def test_no_change_always_stands_beside(adata: AnnData, options: dict[str, Any], baselines: list[str]) -> None:
    found = evaluate_perturbation(adata, mean_change, **ASK, hold_out=["type_1"], **options)
    split_half = [SPLIT_HALF] if options.get("split_half", True) else []
    assert list(found.table["method"]) == ["mean_change", *baselines, *split_half]
    assert NO_CHANGE in BASELINES


def test_no_change_alone_is_that_of_the_baselines(adata: AnnData, evaluation: PerturbationEvaluation) -> None:
    alone = scores(evaluate_perturbation(adata, mean_change, **ASK, baselines=False, seeds=(0, 1)))
    found, expected = (
        table[table["method"] == NO_CHANGE].reset_index(drop=True) for table in (alone, scores(evaluation))
    )
    assert len(found) > 0
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("form", ["csc", "dense", "int64", "layer", "backed", "view", "array", "explicit zeros"])
def test_the_form_of_the_counts_does_not_matter(
    adata: AnnData, evaluation: PerturbationEvaluation, form: str, tmp_path: Any
) -> None:
    options = dict(ASK)
    if form == "csc":
        adata.X = adata.X.tocsc()
    elif form == "dense":
        adata.X = adata.X.toarray()
    elif form == "int64":
        adata.X = adata.X.astype(np.int64)
    elif form == "array":
        adata.X = sparse.csr_array(adata.X)
    elif form == "explicit zeros":
        x = adata.X.tolil()
        adata.X = sparse.csr_matrix(
            (
                np.append(adata.X.data, 0),
                np.append(adata.X.indices, 0),
                np.append(adata.X.indptr[:-1], adata.X.indptr[-1] + 1),
            ),
            shape=x.shape,
        )
    elif form == "layer":
        adata.layers["raw"], adata.X = adata.X, adata.X * 0
        options["layer"] = "raw"
    elif form == "view":
        adata = adata[:, :]
    elif form == "backed":
        import anndata

        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    found = evaluate_perturbation(adata, {"mean change": mean_change}, **options, hold_out=["type_3"])
    expected = scores(evaluation).query("label == 'type_3' and seed == 0 and method != 'noisy'").reset_index(drop=True)
    pd.testing.assert_frame_equal(scores(found), expected)


def test_neither_the_order_of_cells_nor_other_columns_matter(
    adata: AnnData, evaluation: PerturbationEvaluation
) -> None:
    """Halves are drawn by position, so the ceiling stays out."""
    rng = np.random.default_rng(0)
    other = adata[rng.permutation(adata.n_obs)].copy()
    other.obs["stranger"] = rng.normal(size=other.n_obs)
    other.obs["cell_type"] = other.obs["cell_type"].astype(str)
    other.obsm["X_pca"] = rng.normal(size=(other.n_obs, 2))
    other.layers["rate"] = rng.normal(size=other.shape)
    methods = {"mean change": mean_change}
    found = evaluate_perturbation(other, methods, **ASK, split_half=False).table.set_index(["label", "method"])
    expected = evaluation.table.query("seed == 0 and kind != 'split_half' and method != 'noisy'").set_index(
        ["label", "method"]
    )
    tight = [name for name in (*SCORES, "signal_z") if name != "zero_fraction"]  # zero but for rounding, see the oracle
    np.testing.assert_allclose(found.loc[expected.index, tight], expected[tight], rtol=1e-4, atol=1e-6)


def test_names_like_numbers_are_names(adata: AnnData) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].map({"type_1": 1, "type_2": 2, "type_3": 3}).astype(int)
    adata.obs["condition"] = np.where(adata.obs["condition"] == "control", 0, 1)
    found = evaluate_perturbation(
        adata, mean_change, **{**ASK, "control": 0, "perturbation": 1}, hold_out=[2], baselines=False
    )
    assert found.table[["hold_out", "label", "perturbation"]].drop_duplicates().to_numpy().tolist() == [["2", "2", "1"]]


def test_nothing_of_the_users_changes(adata: AnnData, capfd: Any, recwarn: Any) -> None:
    from scvi.model.base import BaseModelClass  # noqa: F401 - so that its import is not part of what is watched

    before, threads = adata.copy(), torch.get_num_threads()
    pools = [pool["num_threads"] for pool in threadpool_info()]
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    filters, level = list(warnings.filters), logging.getLogger("lightning.pytorch").level
    handlers, managers = list(logging.getLogger("deltavi").handlers), len(SCGEN._setup_adata_manager_store)
    found = evaluate_perturbation(adata, {"SCGEN": QUICK, "noisy": noisy}, **ASK, hold_out=["type_1"])
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in recwarn] == []
    assert any("SCGEN on type_1" in text for text in found.warnings)
    assert list(adata.obs) == list(before.obs)
    assert (list(adata.uns), list(adata.layers), list(adata.obsm)) == (list(before.uns), list(before.layers), [])
    assert (adata.X != before.X).nnz == 0
    assert torch.get_num_threads() == threads
    assert [pool["num_threads"] for pool in threadpool_info()] == pools
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert warnings.filters == filters
    assert logging.getLogger("lightning.pytorch").level == level
    assert logging.getLogger("deltavi").handlers == handlers
    assert len(SCGEN._setup_adata_manager_store) == managers


def test_cells_that_were_set_up_for_a_model_are_evaluated_all_the_same(
    adata: AnnData, evaluation: PerturbationEvaluation
) -> None:
    SCGEN.setup_anndata(adata, condition_key="condition", labels_key="cell_type")
    columns = list(adata.obs)
    options = {**ASK, "n_genes": np.int64(40), "hold_out": ["type_1"]}
    found = evaluate_perturbation(adata, {"SCGEN": QUICK, "mean change": mean_change}, **options)
    assert list(adata.obs) == columns
    expected = scores(evaluation).query("label == 'type_1' and seed == 0 and method != 'noisy'")
    pd.testing.assert_frame_equal(
        scores(found).query("method != 'SCGEN'").reset_index(drop=True), expected.reset_index(drop=True)
    )


def test_totals_over_more_genes_are_kept(adata: AnnData) -> None:
    """Counts of an earlier selection are normalised by the totals that came with them."""
    totals = np.asarray(adata.X.sum(1)).ravel() * 3
    adata.obs["total_counts"] = totals
    seen = []

    def watching(train: AnnData, query: AnnData, **_: Any) -> Any:
        seen.append(query.copy())
        return query.X

    evaluate_perturbation(adata, watching, **ASK, hold_out=["type_1"], baselines=False)
    counts = seen[0].layers["counts"].toarray()
    expected = np.log1p(counts / adata.obs.loc[seen[0].obs_names, "total_counts"].to_numpy()[:, None] * 1e4)
    np.testing.assert_allclose(seen[0].X.toarray(), expected, rtol=1e-5)


def test_methods_run_in_one_thread(adata: AnnData) -> None:
    seen = []

    def watching(train: AnnData, query: AnnData, **_: Any) -> Any:
        seen.append((torch.get_num_threads(), {pool["num_threads"] for pool in threadpool_info()}))
        return query.X

    torch.set_num_threads(2)
    try:
        evaluate_perturbation(adata, watching, **ASK, hold_out=["type_1"], baselines=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [(1, {1})]


class Screen(io.StringIO):
    """Standard error that somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "progress", "drawn"), [(Screen, True, True), (Screen, False, False), (io.StringIO, True, False)]
)
def test_a_bar_is_drawn_on_a_terminal_alone(
    adata: AnnData, capfd: Any, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], progress: bool, drawn: bool
) -> None:
    screen = stream()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", screen)
        options = {**ASK, "progress": progress}
        evaluate_perturbation(adata, mean_change, **options, hold_out=["type_1"], baselines=False)
    assert ("3/3" in screen.getvalue()) == drawn
    assert bool(screen.getvalue()) == drawn
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("several", ["sequence", "mapping", "class"])
def test_ways_to_name_methods(adata: AnnData, several: str) -> None:
    linear = Method(PPCA, {"n_latent": 3})
    methods = {
        "sequence": [linear, mean_change],
        "mapping": {"PPCA": linear, "mean_change": mean_change},
        "class": PPCA,
    }
    if several == "class":
        adata = lean(simulate_perturbation(n_genes=80, n_cell_types=3, n_batches=1, n_cells_per_group=40))
    options = {**ASK, "n_genes": 80, "hold_out": ["type_1"], "baselines": False}
    found = evaluate_perturbation(adata, methods[several], **options)
    assert found.methods == ["PPCA", "mean_change"][: 1 if several == "class" else 2]


def test_an_answer_with_names_is_put_in_order(adata: AnnData) -> None:
    """Cells and genes of an AnnData are matched by name; one with names of its own is taken as it comes."""

    def shuffled(train: AnnData, query: AnnData, **_: Any) -> AnnData:
        rng = np.random.default_rng(0)
        return query[rng.permutation(query.n_obs), rng.permutation(query.n_vars)].copy()

    def renamed(train: AnnData, query: AnnData, **_: Any) -> AnnData:
        return AnnData(query.X, obs=pd.DataFrame(index=[f"new{i}" for i in range(query.n_obs)]), var=query.var)

    options = {**ASK, "hold_out": "batch", "baselines": False}
    table = evaluate_perturbation(adata, [shuffled, renamed], **options).table
    for _, part in table.groupby(["hold_out", "label"]):
        rows = part.set_index("method").loc[["shuffled", "renamed", NO_CHANGE], SCORES].to_numpy(dtype=float)
        np.testing.assert_allclose(rows, np.tile(rows[2], (3, 1)), rtol=1e-5, atol=1e-7)


def test_batches_are_registered_on_request(adata: AnnData) -> None:
    method = Method(SCGEN, {"n_hidden": 8, "n_latent": 3}, {"max_epochs": 1}, setup_kwargs={"batch_key": "batch"})
    model = method.fit(_prepared(adata), condition_key="condition", labels_key="cell_type", seed=3)
    assert model._setup_argument("batch_key") == "batch"
    assert model._setup_argument("size_factor_key") == "total_counts"
    assert model.seed == 3


def _prepared(adata: AnnData) -> AnnData:
    from deltavi.pp import highly_variable_genes

    return highly_variable_genes(adata, n_top=40)


@pytest.mark.slow
def test_processes_change_nothing(adata: AnnData) -> None:
    """A model, a function that draws, one from a closure, and all baselines: equal to the last bit."""
    offset = 0.25
    methods = {"SCGEN": QUICK, "noisy": noisy, "closure": lambda train, query, **_: query.X.toarray() + offset}
    options = {**ASK, "seeds": (0, 1), "hold_out": ["type_1", "type_2"]}
    alone = evaluate_perturbation(adata, methods, **options)
    together = evaluate_perturbation(adata, methods, **options, n_jobs=2)
    pd.testing.assert_frame_equal(scores(together), scores(alone), check_exact=True)
    assert together.warnings == alone.warnings


@pytest.mark.slow
def test_a_model_learns_the_response() -> None:
    """SCGEN predicts a response that types share better than no change, and than its own untrained self."""
    adata = lean(simulate_perturbation(n_genes=200, n_cell_types=4, n_batches=1, n_cells_per_group=120, seed=0))
    small = {"n_hidden": 32, "n_latent": 10}
    # what training labels showed is the same for both
    alone = {"": {}, "alone": {"empirical_weight": 0.0}}
    methods = {
        "trained": Method(SCGEN, small, {"max_epochs": 80, "batch_size": 64}, alone),
        "hardly": Method(SCGEN, small, {"max_epochs": 1}, alone),
    }
    found = evaluate_perturbation(adata, methods, **{**ASK, "n_genes": 200}, hold_out=["type_1", "type_3"])
    for metric in ("mse_top", "e_distance"):
        means = found.summary(metric)["mean"]
        assert means["trained"] < 0.7 * means[NO_CHANGE]
        assert means["trained, alone"] < means["hardly, alone"]
    assert found.summary("pearson_delta")["mean"]["trained"] > 0.5
