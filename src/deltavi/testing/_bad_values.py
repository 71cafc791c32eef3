"""Rows 1 to 12: values of the matrix."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

import deltavi
from deltavi.errors import InputDataError, InputDataWarning
from deltavi.pp import valid_cells
from deltavi.testing._bad_input import READS_LOGS, row
from deltavi.testing._bench import N_CELLS, Bench, Case, assert_names, assert_same, refused, untouched, warned
from deltavi.testing._cells import dense, small_adata

# positions of a control cell and of a gene
CELL, GENE = 3, 2


def with_value(value: float, *cells: int, gene: int = GENE) -> Any:
    def change(x: np.ndarray) -> np.ndarray:
        x[list(cells), gene] = value
        return x

    return change


def stored(x: np.ndarray) -> list[Any]:
    """The matrix dense and sparse."""
    return [x, sparse.csr_matrix(x), sparse.csc_matrix(x)]


def holding(case: Case, x: Any) -> AnnData:
    """Cells whose matrix is `x`."""
    adata = case.cells()
    adata.X = x
    return adata


def no_number_at_setup(case: Case, value: float, counted: str) -> None:
    wrong = [CELL, 50, 51, 90]
    for x in stored(with_value(value, *wrong)(dense(case.cells().X).astype(np.float64))):
        adata = holding(case, x)
        words = (counted, f"in 4 of {N_CELLS} cells", "valid_cells")
        message = refused(partial(case.set_up, adata), InputDataError, "adata.X", *words, of=adata)
        assert_names(message, adata.obs_names, adata.obs_names[wrong])
        assert_names(message, adata.var_names, adata.var_names[[GENE]])
        # the way out, as it is written
        way_out = re.search(r"adata\[deltavi.*?\)\]", message)
        assert way_out is not None
        kept = eval(way_out.group(), {"adata": adata, "deltavi": deltavi})
        assert list(kept.obs_names) == [name for i, name in enumerate(adata.obs_names) if i not in wrong]
        case.set_up(kept.copy())


@row(1, "a NaN in the matrix to learn from", "an error at setup that counts it and names cells and genes")
def nan_at_setup(bench: Bench) -> None:
    no_number_at_setup(bench.case, np.nan, "4 NaN and 0 infinite")


@row(2, "a NaN in the cells to predict", "an error that names the cells; the others can be predicted without them")
def nan_in_a_query(bench: Bench) -> None:
    case = bench.case
    model, clean = case.trained, case.cells(lambda x: x)
    cell = int(case.answered(clean)[4])
    for x in stored(with_value(np.nan, cell)(clean.X.copy())):
        query = holding(case, x)
        message = refused(partial(case.ask, model, query), InputDataError, "1 NaN", "valid_cells", of=query)
        assert_names(message, query.obs_names, [query.obs_names[cell]])
        good = valid_cells(query, counts=not case.reads_logs)
        assert np.flatnonzero(~good).tolist() == [cell]
        expected = case.ask(model, clean).drop(index=query.obs_names[cell])
        with untouched(query):
            found = case.ask(model, query[good])
            assert_same(found, expected, atol=1e-5)
            if case.verb == "predict_perturbation":
                assert_same(case.ask(model, query, invalid_cells="drop"), expected, atol=1e-5)


@row(3, "an infinite value in the matrix to learn from", "an error at setup that counts it and names cells and genes")
def infinity_at_setup(bench: Bench) -> None:
    no_number_at_setup(bench.case, np.inf, "0 NaN and 4 infinite")
    no_number_at_setup(bench.case, -np.inf, "0 NaN and 4 infinite")


def negative_is_refused(case: Case, where: np.ndarray) -> None:
    """Values of minus one at `where` ``(n_cells, n_genes)`` of more cells than one block of the scan holds."""
    adata = case.many_cells(lambda x: np.where(where, -1.0, x))
    cells = adata.obs_names[where.any(1)]
    words = (f"{where.sum()} negative values in {len(cells)} cells", "check_input=False")
    for x in (adata.X, sparse.csr_matrix(adata.X)):
        adata.X = x
        message = refused(lambda: case.untrained(adata), InputDataError, "adata.X", *words, of=adata, registered=True)
        assert_names(message, adata.obs_names, cells)
        query = adata.copy()
        query.obs = query.obs[[key for key in query.obs if not key.startswith("_scvi")]]
        query.uns.clear()
        message = refused(partial(case.ask, case.trained, query), InputDataError, *words, of=query)
        assert_names(message, adata.obs_names, cells)


@row(4, "one negative value, in the last gene of the last cell", "an error: every value is read")
def one_negative(bench: Bench) -> None:
    where = np.zeros(bench.case.many_cells(lambda x: x).shape, dtype=bool)
    where[-1, -1] = True
    negative_is_refused(bench.case, where)


@row(5, "one value in twenty is negative", "an error that counts every one of them")
def some_negative(bench: Bench) -> None:
    shape = bench.case.many_cells(lambda x: x).shape
    negative_is_refused(bench.case, np.random.default_rng(0).random(shape) < 0.05)


def in_one_of_a_thousand(x: np.ndarray) -> np.ndarray:
    cells, genes = np.nonzero(x)
    # the last among them, which a sample of the first cells would miss
    chosen = np.unique([*np.random.default_rng(0).choice(len(cells), len(cells) // 1000 - 1, False), len(cells) - 1])
    x[cells[chosen], genes[chosen]] += 0.5
    return x


@row(
    6,
    "fractions among counts, one value in a thousand",
    "an error where counts are needed, which counts every one of them",
    without={"logs": READS_LOGS},
)
def few_fractions(bench: Bench) -> None:
    case = bench.case
    adata = case.many_cells(in_one_of_a_thousand)
    n_fractions, n_values = int((adata.X % 1 != 0).sum()), int((adata.X != 0).sum())
    assert 0 < n_fractions < 0.002 * n_values
    words = (f"{n_fractions} fractional values of {n_values}", "layer", "check_input=False")
    refused(lambda: case.untrained(adata), InputDataError, *words, of=adata, registered=True)
    # the only fraction lies beyond the first block of the scan
    last = case.many_cells(with_value(0.5, -1))
    refused(lambda: case.untrained(last), InputDataError, "1 fractional", of=last, registered=True)
    query = case.many_cells(with_value(0.5, -1))
    refused(lambda: case.ask(case.trained, query), InputDataError, "The query", "1 fractional", of=query)


@row(
    7,
    "log-normalised values in place of counts",
    "an error that recognises them, and an override that has to be asked for",
    without={"logs": READS_LOGS},
)
def logs_for_counts(bench: Bench) -> None:
    case = bench.case
    logs = case.cells(lambda x: np.log1p(1e4 * x / x.sum(1, keepdims=True)))
    words = ("log-normalised, not counts", "raw counts", "layer", "check_input=False")
    refused(lambda: case.untrained(logs), InputDataError, *words, of=logs, registered=True)
    query = case.cells(lambda x: np.log1p(1e4 * x / x.sum(1, keepdims=True)))
    refused(lambda: case.ask(case.trained, query), InputDataError, "The query", *words[:2], of=query)
    logs.layers["counts"] = case.cells().X
    case.untrained(logs, setup={"layer": "counts"})
    meant = case.untrained(logs, check_input=False)
    case.train(meant)
    assert np.isfinite(case.ask(meant, query)).all(axis=None)


@row(9, "counts scaled to the same total in every cell, without a logarithm", "an error that recognises them")
def scaled_counts(bench: Bench) -> None:
    case, counts = bench.case, dense(small_adata().X).astype(np.float64)
    x = 1e4 * counts / counts.sum(1, keepdims=True)
    adata, query = (case.cells(lambda _: x.copy()) for _ in range(2))
    word = "counts scaled per cell" + (" before the logarithm" if case.reads_logs else "")
    way_out = "sc.pp.log1p" if case.reads_logs else "layer"
    refused(lambda: case.untrained(adata), InputDataError, word, way_out, of=adata, registered=True)
    refused(lambda: case.ask(case.trained, query), InputDataError, "The query", word, of=query)


@row(10, "cells without any count", "a warning that counts and names them; no label is made up for them")
def empty_cells(bench: Bench) -> None:
    case = bench.case
    empty = case.answered(case.cells())[[3, 10, 12, 20]]
    adata, query = (case.cells(lambda x: np.where(np.isin(np.arange(N_CELLS), empty)[:, None], 0, x)) for _ in range(2))
    names = adata.obs_names[empty]
    words = ("4 cells have no counts", "unassigned", f"'{names[0]}', '{names[1]}', '{names[2]}'")
    with untouched(adata, registered=True):
        warned(lambda: case.set_up(adata), InputDataWarning, *words)
    # set up above; a second time would warn again
    model = case.model_class(adata, **case.init)
    case.train(model)
    with untouched(query):
        found = warned(lambda: case.ask(model, query), InputDataWarning, "4 cells have no counts")
    assert np.isfinite(found).all(axis=None)
    if not case.annotates:
        return
    for cells in (None, query):
        labels = warned(partial(model.predict, cells), InputDataWarning, *words[::2])
        assert list(labels.index[labels == "unassigned"]) == list(names)
    np.testing.assert_allclose(found.loc[names], 1 / found.shape[1])


@row(12, "a value of 1e12", "a warning that single precision loses counts there; nothing becomes NaN")
def huge_value(bench: Bench) -> None:
    case = bench.case
    cell = int(case.answered(case.cells())[2])
    adata, query = (case.cells(with_value(1e12, cell)) for _ in range(2))
    with untouched(adata, registered=True):
        warned(lambda: case.set_up(adata), InputDataWarning, "adata.X", "1e+12", "2^24")
    if case.reads_logs:
        # no logarithm is as large
        words = ("values up to 1e+12", "log_normalise", "check_input=False")
        refused(lambda: case.model_class(adata), InputDataError, *words, of=adata)
    model = case.model_class(adata, **case.init, check_input=not case.reads_logs)
    case.train(model)
    assert np.isfinite(model.history["train_loss"].to_numpy(dtype=float)).all()
    with untouched(query):
        found = warned(lambda: case.ask(model, query), InputDataWarning, "2^24")
    assert np.isfinite(found).all(axis=None)
    assert query.obs_names[cell] in found.index
