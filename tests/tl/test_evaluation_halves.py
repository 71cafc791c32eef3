"""Halves of the control cells: one that methods start from, and one that none of them sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.datasets import simulate_perturbation
from deltavi.errors import InputDataError, InputDataWarning
from deltavi.model import PPCA
from deltavi.tl import Split, evaluate_perturbation, predict_held_out
from deltavi.tl._halves import LEAST_TO_HALVE, halved
from deltavi.tl._splits import HoldOut, question_of, resolve_hold_outs
from tests.tl.conftest import ASK, lean, mean_change, without

KEYS = {"condition_key": "condition", "labels_key": "cell_type"}


def named(sizes: dict[str, int], order: Any = None) -> AnnData:
    """Control cells of some labels and as many perturbed ones, without expression."""
    rows = [(label, condition) for label in sizes for condition in ("control", "stim", "other")]
    rows = [row for row in rows for _ in range(sizes[row[0]])]
    obs = pd.DataFrame(rows, columns=["cell_type", "condition"], index=[f"cell {i}" for i in range(len(rows))])
    return AnnData(obs=obs if order is None else obs.iloc[order])


def apart_of(adata: AnnData, perturbation: str, given: Any = None, seed: int = 0) -> dict[str, set[str]]:
    """Names of the control cells set apart, by hold-out; queries are the rest of the controls."""
    question = question_of(adata, control="control", perturbation=perturbation, **KEYS)
    found = {}
    for part in resolve_hold_outs(question, given)[0]:
        half = halved(part, question, seed)
        assert isinstance(half, HoldOut)
        assert half.apart is not None
        assert not (half.apart & half.query).any()
        assert ((half.apart | half.query) == part.query).all()
        assert (half.hidden == (part.held_out | half.apart)).all()
        found[part.name] = set(adata.obs_names[half.apart])
    return found


@settings(max_examples=25, deadline=None)
@given(n=st.integers(10, 60), seed=st.integers(0, 99))
def test_they_depend_on_names_and_not_on_the_order(n: int, seed: int) -> None:
    adata = named({"a": n, "b": 30})
    found = apart_of(adata, "stim", seed=seed)
    assert len(found["a"]) == (n // 2 if n >= LEAST_TO_HALVE else 0)
    assert len(found["b"]) == 15
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    assert apart_of(named({"a": n, "b": 30}, order), "stim", seed=seed) == found


def test_they_depend_on_seed_label_and_perturbation_and_not_on_the_name_of_a_split() -> None:
    adata = named({"a": 40, "b": 40})
    first = apart_of(adata, "stim")
    assert apart_of(adata, "stim") == first
    assert apart_of(adata, "stim", seed=1)["a"] != first["a"]
    assert apart_of(adata, "other")["a"] != first["a"]
    mask = np.asarray((adata.obs["cell_type"] == "a") & (adata.obs["condition"] == "stim"))
    query = np.asarray((adata.obs["cell_type"] == "a") & (adata.obs["condition"] == "control"))
    assert apart_of(adata, "stim", {"x": mask, "y": Split(mask, query)}) == {"x": first["a"], "y": first["a"]}
    fewer = query & (np.cumsum(query) <= 24)
    of_fewer = apart_of(adata, "stim", {"z": Split(mask, fewer)})["z"]
    assert len(of_fewer) == 12
    assert of_fewer <= set(adata.obs_names[fewer])


def test_no_method_sees_the_cells_set_apart(adata: AnnData) -> None:
    """Nor do genes depend on them; the leak test changes their counts."""
    seen: dict[str, tuple[set[str], set[str]]] = {}

    def watching(train: AnnData, query: AnnData, **_: Any) -> Any:
        label = str(query.obs["cell_type"].iloc[0])
        seen[label] = set(train.obs_names), set(query.obs_names)
        return query.X

    table = evaluate_perturbation(adata, {"watching": watching}, **ASK, baselines=False).table
    assert (table[["n_control", "n_reference"]] == 15).all().all()
    for label, (train, query) in seen.items():
        controls = adata.obs_names[(adata.obs["cell_type"] == label) & (adata.obs["condition"] == "control")]
        assert query <= train
        assert len(set(controls) - train) == 15
        assert set(controls) - train == set(controls) - query


def test_too_few_control_cells_are_on_both_sides_and_it_is_said(adata: AnnData) -> None:
    few = without(adata, "type_2", "control", 19)
    found = evaluate_perturbation(few, mean_change, **ASK, baselines=False, split_half=False)
    counts = found.table.groupby("label")[["n_control", "n_reference"]].first()
    assert counts.loc["type_2"].tolist() == [19, 0]
    assert counts.drop(index="type_2").to_numpy().tolist() == [[15, 15]] * 2
    said = [text for text in found.warnings if "two halves" in text]
    assert said == [
        "type_2 under stimulated: 19 control cells are too few for two halves, 20 are needed. The real change is "
        "measured from the cells that methods start from, so that smoothing their noise away raises the share "
        "explained."
    ]
    ask: dict[str, Any] = {
        "control": "control", "perturbation": "stimulated", "n_genes": 40, "model_class": PPCA,
    }  # fmt: skip
    with pytest.warns(InputDataWarning, match="type_2 under stimulated: 19 control cells are too few"):
        alone = predict_held_out(few, label="type_2", model_kwargs={"n_latent": 3}, **ask)
    assert alone.reference_cells is None
    assert alone.control_cells.n_obs == 19


def test_a_control_cell_on_both_sides_is_refused(adata: AnnData) -> None:
    """Copies of control cells, one of which a method would start from while the other measures the change."""
    x = adata.X.toarray()
    rows = np.flatnonzero((adata.obs["condition"] == "control") & (adata.obs["cell_type"] == "type_1"))
    x[rows] = x[rows[0]] + 10
    adata.X = type(adata.X)(x)
    with pytest.raises(InputDataError, match="control cells set apart: 15 of 15 held-out cells have the counts"):
        evaluate_perturbation(adata, mean_change, **ASK, hold_out=["type_1"])


def smooth(train: AnnData, query: AnnData, **_: Any) -> Any:
    """No response at all: control cells whose mean is drawn to that of the other labels' control cells."""
    others = train[(train.obs["condition"] == "control").to_numpy()]
    start = np.asarray(query.X.mean(0)).ravel()
    return query.X.toarray() + 0.5 * (np.asarray(others.X.mean(0)).ravel() - start)


@pytest.fixture(scope="module")
def alike() -> AnnData:
    """Labels that are names alone, so that their control cells differ by noise, and smoothing removes it."""
    cells = lean(simulate_perturbation(n_genes=150, n_cell_types=4, n_batches=1, n_cells_per_group=24, seed=2))
    cells.obs["cell_type"] = np.random.default_rng(0).permutation(cells.obs["cell_type"].to_numpy().astype(str))
    return cells


def test_smoothing_raises_a_legacy_correlation_and_explains_nothing(alike: AnnData) -> None:
    options: dict[str, Any] = {**ASK, "n_genes": 140, "seeds": range(6)}
    found = evaluate_perturbation(alike, {"smooth": smooth, "mean change": mean_change}, **options)
    smoothed = found.summary("explained")["mean"]["smooth"]
    assert found.summary("pearson_delta")["mean"]["smooth"] > 0.1
    assert smoothed < 0.02
    assert found.summary("explained")["mean"]["mean change"] > 0.3
