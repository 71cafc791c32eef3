"""Rows 83 to 97: keywords, numbers and objects at an entry, columns of any type, scales, and what a question means."""

from __future__ import annotations

import copy
import pickle
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from deltavi._errors import (
    DeltaviError,
    GeneMatchError,
    InputDataError,
    InputDataWarning,
    LibrarySizeWarning,
    NotHeldOutWarning,
    TrainingDivergedError,
    UnknownArgumentError,
)
from tests.bad_input.bench import N_CELLS, PERTURBATION, Bench, assert_same, refused, warned
from tests.bad_input.registry import NO_EPOCHS, row
from tests.model.conftest import small_adata

ONLY_COUNTS = {"ACTINN": "it has no library size and no covariates", "PPCA": "it has no library size and no covariates"}
NO_BOUND = {"ACTINN": "it minimises no bound", "PPCA": "it minimises no bound"}
NO_RESPONSE = {"ACTINN": "it predicts no response"}


# -- keywords and splits -----------------------------------------------------------------------------------------


@row(83, "a keyword that is misspelt", "an error with the nearest one, before anything is done")
def misspelt(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    model = case.untrained(case.cells())
    calls = {
        "'layer'": lambda: case.model_class.setup_anndata(adata, **case.setup, layr=None),
        "'seed'": lambda: case.model_class(model.adata, **case.init, sed=1),
        "'train_size'": lambda: model.train(trainsize=0.5),
        "'overwrite'": lambda: case.trained.save(bench.folder / "model", overwrit=True),
        "'indices'": lambda: case.trained.get_latent_representation(indeces=[0]),
    }
    for nearest, call in calls.items():
        refused(call, UnknownArgumentError, "Did you mean", nearest, of=adata)
    assert not model.is_trained
    assert not list(bench.folder.iterdir())


@row(
    84,
    "a split of one's own, by positions or masks; one with a cell in two parts, or outside",
    "the split that is used; an error with the number of cells",
)
def own_split(bench: Bench) -> None:
    case = bench.case
    order = np.random.default_rng(0).permutation(N_CELLS)
    train, validation = np.sort(order[:90]), np.sort(order[90:120])
    for chosen in ((train, validation), tuple(np.isin(np.arange(N_CELLS), part) for part in (train, validation))):
        model = case.untrained(case.cells())
        given = dict(zip(("train_indices", "validation_indices"), chosen, strict=True))
        case.train(model, **given, train_size=None)
        for name, expected in (("train", train), ("validation", validation), ("test", np.sort(order[120:]))):
            np.testing.assert_array_equal(np.sort(getattr(model, f"{name}_indices")), expected)
    model = case.untrained(case.cells())
    for wrong, word in (
        ((train, train[:4]), "4 cells"),
        ((np.append(train, N_CELLS), validation), "144"),
        ((np.append(train, train[0]), validation), "1 cells"),
    ):
        given = dict(zip(("train_indices", "validation_indices"), wrong, strict=True))
        refused(lambda g=given: case.train(model, **g, train_size=None), DeltaviError, word, of=model.adata)
    assert not model.is_trained


@row(
    85,
    "training that waits for validation cells, of which there are none",
    "an error before the first epoch",
    without=NO_EPOCHS,
)
def nothing_to_validate(bench: Bench) -> None:
    model = bench.case.untrained(bench.case.cells())
    call = lambda: bench.case.train(model, train_size=1.0, early_stopping=True)  # noqa: E731
    refused(call, DeltaviError, "early_stopping", "train_size", of=model.adata)
    assert not model.is_trained


# -- what can be saved -------------------------------------------------------------------------------------------


def of_kinds() -> dict[str, list[Any]]:
    """Values of a column that have a text of their own, two of each kind."""
    return {
        "days": [pd.Timestamp("2023-01-05"), pd.Timestamp("2023-02-07")],
        "decimals": [Decimal("0.5"), Decimal(2)],
        "truths": [True, False],
        "ranges": list(pd.interval_range(0, 2)),
    }


@row(
    86,
    "dates, decimals, ranges or truth values for labels; objects of one's own classes",
    "read as text by one rule, saved and loaded; an error",
)
def labels_of_any_kind(bench: Bench) -> None:
    case, halves = bench.case, np.arange(N_CELLS) % 2
    for kind, values in of_kinds().items():
        adata = case.cells()
        adata.obs["cell_type"] = pd.Series([values[i] for i in halves], index=adata.obs_names)
        model = case.fitted(adata)
        model.save(bench.folder / kind)
        again = case.load(bench.folder / kind, adata.copy())
        assert_same(case.ask(again), case.ask(model))
        assert list(again._categories("labels")) == list(model._categories("labels")), kind
    odd = case.cells()
    odd.obs["cell_type"] = pd.Series([object() for _ in halves], index=odd.obs_names)
    with pytest.raises(DeltaviError, match=r"'cell_type'.*object"):
        case.set_up(odd)


@row(87, "pickle and copy.deepcopy of a model", "a model that answers alike, with cells of its own")
def copies(bench: Bench) -> None:
    case, model = bench.case, bench.case.trained
    before = case.ask(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(case.ask(copied), before)
        assert copied.adata is not model.adata
        # both stand in one store of registrations
        assert copied.id != model.id
        copied.adata.X = copied.adata.X * 2
        with pytest.raises(DeltaviError, match="changed"):
            case.ask(copied)
        assert_same(case.ask(model), before)


# -- entries -----------------------------------------------------------------------------------------------------


@row(
    88,
    "numbers of NumPy and torch; text, truth values or NaN in place of a number",
    "numbers; an error that names the argument",
)
def numbers(bench: Bench) -> None:
    case, model = bench.case, bench.case.trained
    ask = model.get_latent_representation
    expected = ask(batch_size=32)
    for size in (np.int64(32), np.uint8(32), torch.tensor(32), 32.0, np.array(32)):
        np.testing.assert_array_equal(ask(batch_size=size), expected)
    for size in ("32", True, float("nan"), 2.5, 0, -1, np.timedelta64(2, "s"), [32]):
        refused(lambda s=size: ask(batch_size=s), DeltaviError, "batch_size", of=model.adata)
    adata = case.cells()
    case.set_up(adata)
    for seed in ("1", -1, 2**40, 0.5):
        refused(
            lambda s=seed: case.model_class(adata, **case.init, seed=s), DeltaviError, "seed", of=adata, registered=True
        )


@row(
    89,
    "cells chosen by a mask of any type, by positions that are not there, or by names",
    "the same cells; an error with three examples",
)
def masks(bench: Bench) -> None:
    model = bench.case.trained
    ask = model.get_latent_representation
    mask = model.adata.obs["cell_type"] == "type_2"
    expected = ask(indices=np.flatnonzero(mask))
    for form in (
        mask.to_numpy(),
        mask.tolist(),
        mask[::-1],
        mask.astype("boolean"),
        torch.tensor(mask.to_numpy()),
    ):
        np.testing.assert_allclose(ask(indices=form), expected, rtol=1e-5, atol=1e-6)
    for wrong in ([-1], [N_CELLS], ["CELL1"], [True] * 3, [0.5], [True, 2]):
        refused(lambda w=wrong: ask(indices=w), DeltaviError, "indices", of=model.adata)


@row(
    90,
    "a path, a table, an array, a list or a class in place of an AnnData",
    "an error that says how to come by one",
)
def wrong_objects(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    for given, way in (
        ("cells.h5ad", "anndata.read_h5ad"),
        (Path("cells.h5ad"), "anndata.read_h5ad"),
        (adata.to_df(), "anndata.AnnData(table)"),
        (adata.to_df().to_numpy(), "anndata.AnnData(matrix"),
        ([adata], "anndata.concat"),
        (AnnData, "not its class"),
    ):
        refused(lambda g=given: case.set_up(g), DeltaviError, "must be an AnnData", way, of=adata)
        call = lambda g=given: case.trained.get_latent_representation(g)  # noqa: E731
        refused(call, DeltaviError, "must be an AnnData", way, of=adata)


# -- scales ------------------------------------------------------------------------------------------------------


@row(
    91,
    "a continuous covariate far from zero and one, such as a year; cells to predict far from the training cells",
    "standardised as in training; a warning that counts and names them",
    without=ONLY_COUNTS,
)
def years(bench: Bench) -> None:
    case, year = bench.case, 2019.0 + np.arange(N_CELLS) % 5
    answers = []
    for values in (year, (year - year.mean()) / year.std()):
        adata = case.cells()
        adata.obs["year"] = values
        model = case.fitted(adata, setup={"continuous_covariate_keys": ["year"]})
        answers.append(np.asarray(model.impute()))
        if values is year:
            model.save(bench.folder / "model")
            asked_of_years(model, adata[:7].copy(), answers[0][:7])
            asked_of_years(case.load(bench.folder / "model"), adata[:7].copy(), answers[0][:7])
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-3)


def asked_of_years(model: Any, query: AnnData, expected: np.ndarray) -> None:
    """A few cells are read as in training, and two of them are far from it."""
    np.testing.assert_allclose(np.asarray(model.impute(query)), expected, rtol=1e-4)
    query.obs.loc[query.obs_names[:2], "year"] = 23.0
    words = ("obs['year']: 2 of 7 cells", f"'{query.obs_names[0]}'", "go from 2019 to 2023")
    warned(lambda: model.impute(query), InputDataWarning, *words)


@row(
    92,
    "cells that all have one total, where library sizes are learned",
    "a warning; the variance of their prior has a floor, and training is finite",
    without=ONLY_COUNTS,
)
def one_total(bench: Bench) -> None:
    case = bench.case
    # the same counts in each cell, of other genes
    adata = case.cells(lambda x: np.random.default_rng(0).permuted(np.tile(np.arange(x.shape[1]), (len(x), 1)), axis=1))
    case.set_up(adata)
    make = lambda: case.model_class(adata, **case.init, library="learned")  # noqa: E731
    model = warned(make, InputDataWarning, "library='learned'", "hardly differ")
    case.train(model)
    assert np.isfinite(model.history["elbo_train"].to_numpy(dtype=float)).all()


@row(
    93,
    "training that ends above a million nats per cell",
    "an error with the bound and its likely cause; the weights can be looked at",
    without=NO_BOUND,
)
def absurd_bound(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    adata.obs["total"] = np.where(np.arange(N_CELLS) < 1, 1e9, 1.0)
    model = case.untrained(adata, setup={"size_factor_key": "total"})
    # the bound itself is made small: a model that comes to a million may not end at all
    bench.monkeypatch.setattr("deltavi.model._bound.LARGEST_BOUND", 1.0)
    words = ("nats per cell", "obs['total']", "1e+09-fold")
    refused(lambda: case.train(model), TrainingDivergedError, *words, of=adata)
    assert model.is_trained


# -- what a question means ---------------------------------------------------------------------------------------


@row(
    94,
    "a response to be predicted that the model was trained on",
    "a warning that names the labels and how to hold them out; the weight of their own cells is kept",
    without=NO_RESPONSE,
)
def trained_on(bench: Bench) -> None:
    case, adata = bench.case, bench.case.cells()
    hidden = (adata.obs["cell_type"] == "type_3") & (adata.obs["condition"] == "stimulated")
    model = case.fitted(adata[~hidden.to_numpy()].copy())
    ask = lambda label: model.predict_perturbation(**PERTURBATION, labels=label)  # noqa: E731
    moved = warned(lambda: ask("type_1"), NotHeldOutWarning, "'type_1'", "hold them out")
    assert moved.uns["deltavi"]["own_weights"]["own_weight"].iloc[0] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotHeldOutWarning)
        moved = ask("type_3")
    assert (moved.uns["deltavi"]["own_weights"]["own_weight"] == 0).all()


@row(
    95,
    "totals over more genes than the matrix has, in obs, without size_factor_key",
    "a warning that names the column to pass",
    without=ONLY_COUNTS,
)
def unused_totals(bench: Bench) -> None:
    case, whole = bench.case, bench.case.cells()
    whole.obs["n_counts"] = np.asarray(whole.X.sum(1)).ravel()
    del whole.obs["total_counts"]
    few = whole[:, :20].copy()
    warned(lambda: case.set_up(few.copy()), LibrarySizeWarning, "size_factor_key='n_counts'")
    case.set_up(few, size_factor_key="n_counts")
    case.set_up(whole)


@row(
    96,
    "the values that are needed in a layer or in raw, and others in the matrix",
    "an error with the place and the line to write",
)
def elsewhere(bench: Bench) -> None:
    case = bench.case
    right = case.cells()
    wrong = AnnData(
        small_adata().X if case.reads_logs else np.log1p(right.X.toarray() / 3), obs=right.obs.copy(), var=right.var
    )
    in_layer, in_raw = wrong.copy(), wrong.copy()
    in_layer.layers["kept"], in_raw.raw = right.X, right
    for adata, word in ((in_layer, "layer='kept'"), (in_raw, "adata.raw.to_adata()")):
        refused(lambda a=adata: case.untrained(a), InputDataError, word, of=adata, registered=True)


@row(
    97,
    "a genome before the names of genes, as in a reference of two species",
    "an error with the prefix and the renaming",
)
def genome(bench: Bench) -> None:
    case = bench.case
    for prefix in ("GRCh38_", "mm10___"):
        query = case.cells()
        query.var_names = [prefix + name for name in query.var_names]
        words = (f"removeprefix({prefix!r})",)
        refused(lambda q=query: case.ask(case.trained, q), GeneMatchError, *words, of=query)
