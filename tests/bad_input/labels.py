"""Rows 25 to 38: labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._errors import DeltaviError, InputDataError, LabelWarning, UnknownCategoryError
from deltavi.model._classification import labelled_parts
from deltavi.model._label_column import label_codes
from tests.bad_input.bench import (
    N_CELLS,
    PERTURBATION,
    Bench,
    Case,
    assert_names,
    assert_same,
    refused,
    untouched,
    warned,
)
from tests.bad_input.registry import NO_LABELS, row
from tests.model.conftest import dense

LABELS = "cell_type"
TYPES = ["type_1", "type_2", "type_3"]
UNKNOWN = {"unlabeled_category": "unknown"}


def with_labels(case: Case, labels: Any) -> AnnData:
    """Cells with other labels; of a dictionary those at its positions."""
    adata = case.cells()
    if isinstance(labels, dict):
        changed = adata.obs[LABELS].astype(str).to_numpy(dtype=object)
        for position, label in labels.items():
            changed[position] = label
        labels = changed
    adata.obs[LABELS] = pd.Series(labels, adata.obs_names)
    return adata


def label_names(model: Any) -> list[Any]:
    """Labels the model knows, of all models alike."""
    return list(model._categories("labels"))


@row(25, "categories that no cell has", "they are dropped")
def unused_categories(bench: Bench) -> None:
    case = bench.case
    adata = case.cells()
    for key in ("cell_type", "batch", "condition"):
        adata.obs[key] = adata.obs[key].astype("category").cat.add_categories(["never", "A first one"])
    with untouched(adata, registered=True):
        model = case.fitted(adata)
    assert label_names(model) == TYPES
    assert model.summary_stats.n_labels == 3
    if "batch_key" in case.setup:
        assert model.summary_stats.n_batch == 2
    assert_same(case.ask(model), case.ask(case.fitted(case.cells())))


@row(26, "labels that are missing", "those cells are unlabelled, which is logged; an error where each cell needs one")
def missing_labels(bench: Bench) -> None:
    case = bench.case
    wrong = [2, 9, 40, 41]
    for missing in (None, np.nan, pd.NA):
        adata = with_labels(case, dict.fromkeys(wrong, missing))
        if not case.annotates:
            words = ("obs['cell_type'] is missing for 4 of 144 cells", "Fill it in or remove")
            message = refused(lambda adata=adata: case.set_up(adata), InputDataError, *words, of=adata)
            assert_names(message, adata.obs_names, adata.obs_names[wrong])
            continue
        with untouched(adata, registered=True):
            model, said = bench.logged(lambda adata=adata: case.fitted(adata))
        assert "obs['cell_type'] is missing for 4 of 144 cells; they are unlabelled" in said
        assert label_names(model) == TYPES
        assert model.predict(keep_observed=True).iloc[wrong].isin(TYPES).all()
        assert not set(wrong) & set(labelled_parts(model)[0])


@row(
    27,
    "batches that are missing",
    "an error that counts and names the cells",
    without={"ACTINN": "it knows no batches", "PPCA": "it knows no batches"},
)
def missing_batches(bench: Bench) -> None:
    case, wrong = bench.case, [2, 9, 40, 41]
    for missing in (None, np.nan):
        adata, query = case.cells(), case.cells()
        for cells in (adata, query):
            values = cells.obs["batch"].astype(object)
            values.iloc[wrong] = missing
            cells.obs["batch"] = values
        words = ("obs['batch'] is missing for 4 of 144 cells", "Fill it in or remove")
        calls = ((lambda a=adata: case.set_up(a), adata), (lambda q=query: case.ask(case.trained, q), query))
        for call, cells in calls:
            assert_names(refused(call, InputDataError, *words, of=cells), cells.obs_names, cells.obs_names[wrong])


@row(28, "labels that differ by case or spaces alone", "a warning with the pairs; they stay apart")
def nearly_the_same_labels(bench: Bench) -> None:
    case = bench.case
    adata = with_labels(case, dict.fromkeys(range(4), "Type_1 ") | dict.fromkeys(range(4, 9), "type _2"))
    words = ("obs['cell_type']: 2 pairs", "'Type_1 ' and 'type_1'", "'type _2' and 'type_2'", "rename")
    with untouched(adata, registered=True):
        model = warned(lambda: case.fitted(adata), LabelWarning, *words)
    assert label_names(model) == sorted([*TYPES, "Type_1 ", "type _2"])


@row(29, "a slip in the name of unlabelled cells", "an error that suggests the name that is meant", without=NO_LABELS)
def slip_in_unlabelled(bench: Bench) -> None:
    case = bench.case
    adata = with_labels(case, dict.fromkeys(range(44), "unknown"))
    for slip in ("Unknwon", "UNKNOWN", "un known", "nan"):
        words = (f"'{slip}' is not in obs['cell_type']", "Did you mean 'unknown', which 44 cells", "None if")
        refused(lambda slip=slip: case.set_up(adata, unlabeled_category=slip), UnknownCategoryError, *words, of=adata)


@row(30, "a name of unlabelled cells that no cell has", "a note in the log: every cell is labelled", without=NO_LABELS)
def nobody_is_unlabelled(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    with untouched(adata, registered=True):
        model, said = bench.logged(lambda: case.fitted(adata, setup=UNKNOWN))
    assert "obs['cell_type']: every cell is labelled, none is called 'unknown'" in said
    assert_same(case.ask(model), case.ask(case.fitted(case.cells())))


@row(31, "no cell has a label", "an error that says what to do without any", without=NO_LABELS)
def all_unlabelled(bench: Bench) -> None:
    case = bench.case
    for labels, setup in ((["unknown"] * N_CELLS, UNKNOWN), ([None] * N_CELLS, {})):
        adata = with_labels(case, labels)
        words = ("obs['cell_type']: none of the 144 cells", "at least 2 types", "use VAE")
        message = refused(lambda a=adata, s=setup: case.set_up(a, **s), DeltaviError, *words, of=adata)
        assert_names(message, adata.obs_names, adata.obs_names)


@row(32, "a single label", "an error: two are needed to tell cells apart", without=NO_LABELS)
def one_label(bench: Bench) -> None:
    case = bench.case
    for n_labelled, setup in ((N_CELLS, {}), (100, UNKNOWN)):
        adata = with_labels(case, ["B"] * n_labelled + ["unknown"] * (N_CELLS - n_labelled))
        words = (
            "obs['cell_type'] holds one label only, 'B'",
            f"in {n_labelled} of 144",
            "at least 2",
            "another column",
        )
        refused(lambda a=adata, s=setup: case.set_up(a, **s), DeltaviError, *words, of=adata)


@row(
    33, "a label that a single cell has", "a warning; the cell is learned from, not calibrated with", without=NO_LABELS
)
def label_of_one_cell(bench: Bench) -> None:
    case = bench.case
    adata = with_labels(case, {5: "rare"})
    words = ("obs['cell_type']: 1 of 4 labels", "single cell ('rare')", "Merge them")
    with untouched(adata, registered=True):
        model = warned(lambda: case.untrained(adata), LabelWarning, *words)
    for seed in range(3):
        case.train(model, seed=seed)
        training, held_out = labelled_parts(model)
        assert 5 in training
        assert 5 not in held_out
        assert len(held_out)
    assert "rare" in model.predict(soft=True)
    assert np.isfinite(model.get_novelty_scores()["novelty_score"]).all()


@row(34, "a label that chance would leave to the validation cells alone", "every label is learned", without=NO_LABELS)
def label_left_to_validation(bench: Bench) -> None:
    case = bench.case
    adata = with_labels(case, dict.fromkeys((10, 90), "rare") | dict.fromkeys((20, 60, 70, 80), "few"))
    model = case.untrained(adata)
    codes = label_codes(model)
    rare, few = np.flatnonzero(codes == label_names(model).index("rare")), np.flatnonzero(codes == 0)
    assert label_names(model)[0] == "few"
    by_chance = 0
    for seed in range(50):
        options = {"train_size": 0.4, "validation_size": None, "batch_size": 32}
        split = model.recipe.split(model, **options, generator=np.random.default_rng(seed))
        assert set(codes[split.train]) == set(range(5))
        # of four there is one to check with
        assert set(few) & set(split.validation)
        by_chance += not set(rare) & set(np.random.default_rng(seed).permutation(N_CELLS)[: len(split.train)])
    assert by_chance > 0
    case.train(model, train_size=0.4)
    assert set(rare) & set(model.train_indices)
    assert "rare" in model.predict(soft=True)


@row(
    35, "labels that are numbers, and a name for unlabelled cells that is text", "the number and its text are the same"
)
def numbers_for_labels(bench: Bench) -> None:
    case = bench.case
    codes = case.cells().obs[LABELS].astype(str).str[-1].astype(int)
    # whole numbers become fractions beside missing values, which every cell of a group must not have
    for kind in (int, "Int64", "category", object, *([float] if case.annotates else [])):
        adata = with_labels(case, codes.replace(3, -1).astype(kind))
        if not case.annotates:
            model = case.fitted(adata)
            moved = [model.predict_perturbation(**PERTURBATION, labels=label) for label in ("1", 1)]
            assert moved[0].n_obs == 24
            np.testing.assert_array_equal(dense(moved[0].X), dense(moved[1].X))
            continue
        for name in ("-1", -1):
            with untouched(adata, registered=True):
                model = case.untrained(adata, setup={"unlabeled_category": name})
            assert label_names(model) == ["1", "2"]
            assert (label_codes(model) < 0).sum() == 48


@row(36, "text and numbers in one column of labels", "a warning; all are read as text")
def mixed_labels(bench: Bench) -> None:
    case = bench.case
    labels = case.cells().obs[LABELS].astype(str).replace("type_1", 7).to_numpy(dtype=object).copy()
    labels[:2] = 7.0
    labels[2:4] = "7"
    adata = with_labels(case, labels)
    words = ("obs['cell_type'] mixes labels of 2 types", "number", "read as text", "astype(str)")
    with untouched(adata, registered=True):
        model = warned(lambda: case.fitted(adata), LabelWarning, *words)
    assert label_names(model) == ["7", "type_2", "type_3"]
    # as if all of it had been text
    text = with_labels(case, [label if isinstance(label, str) else "7" for label in labels])
    assert_same(case.ask(model), case.ask(case.fitted(text)))
    model.save(bench.folder / "model")
    assert_same(case.ask(case.load(bench.folder / "model", adata.copy())), case.ask(model))


@row(37, "labels in the cells to predict that training never saw", "they change nothing")
def unseen_labels(bench: Bench) -> None:
    case, bare = bench.case, bench.case.cells()
    del bare.obs[LABELS]
    for labels in ("neuron", np.nan, 0):
        query = case.cells()
        query.obs[LABELS] = pd.Series([labels] * N_CELLS, query.obs_names, dtype=object)
        if labels is np.nan and case.verb == "predict_perturbation":
            # which group a cell is of decides about its shift
            message = refused(lambda query=query: case.ask(case.trained, query), InputDataError, "144 of 144", of=query)
            assert_names(message, query.obs_names, query.obs_names)
            continue
        with untouched(query):
            found, said = bench.logged(lambda query=query: case.ask(case.trained, query))
        assert_same(found, case.ask(case.trained, bare))
        if case.annotates and labels is not np.nan:
            assert "1 labels that training did not see" in said
            assert "144 cells" in said


@row(38, "cells to predict without a column of labels", "they are predicted")
def no_label_column(bench: Bench) -> None:
    case, query = bench.case, bench.case.cells()
    del query.obs[LABELS]
    with untouched(query):
        found, said = bench.logged(lambda: case.ask(case.trained, query))
    assert_same(found, case.ask(case.trained, case.cells()))
    assert said == ""
