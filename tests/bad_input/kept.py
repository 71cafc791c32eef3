"""Rows 76 to 82: files and data that must stay, and names that tables carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from deltavi._errors import DeltaviError, GeneMatchError, ModelFileError
from deltavi.io._format import TENSORS
from deltavi.metrics import pearson_delta
from tests.bad_input.bench import PERTURBATION, Bench, assert_same, refused, untouched
from tests.bad_input.files import saved
from tests.bad_input.registry import row
from tests.model.conftest import dense

NO_EXPRESSION = {"ACTINN": "it predicts labels, not expression"}


@row(
    76,
    "a model saved over a folder that holds files of one's own",
    "they stay, and are not taken for the model's; files of the former model go",
)
def over_a_users_folder(bench: Bench) -> None:
    case = bench.case
    mine = {"thesis.txt": b"mine", "adata.h5ad": b"mine, too", "model.json": b"{}", "raw/counts.csv": b"1,2"}
    folder = bench.folder / "work"
    for name, content in mine.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    refused(lambda: case.trained.save(folder), ModelFileError, "overwrite=True", of=case.trained.adata)
    counts = []
    for _ in range(2):
        case.trained.save(folder, overwrite=True)
        loaded = case.load(folder)
        # the cells that lie there are no cells of the model
        assert loaded.adata is None
        assert_same(case.ask(loaded, case.cells()), case.ask(case.trained))
        assert {name: (folder / name).read_bytes() for name in mine} == mine
        counts.append(len(list(folder.iterdir())))
    assert counts[0] == counts[1]


@row(77, "a saved file that was changed since, where the model is saved again", "it stays beside the new model")
def changed_file(bench: Bench) -> None:
    case, folder = bench.case, saved(bench)
    path = folder.path / TENSORS
    path.write_bytes(b"notes of one's own")
    case.trained.save(folder.path, overwrite=True)
    assert path.read_bytes() == b"notes of one's own"
    assert_same(case.ask(case.load(folder.path), case.cells()), case.ask(case.trained))


@row(
    78,
    "a place for a model that names nothing, is a file, or has a manifest of something else",
    "an error; nothing there changes",
)
def no_place(bench: Bench) -> None:
    model = bench.case.trained
    bench.monkeypatch.chdir(bench.folder)
    (bench.folder / "file").write_text("mine")
    (bench.folder / "site").mkdir()
    (bench.folder / "site" / "manifest.json").write_text('{"name": "a web site"}')
    for place, word in (("", "names nothing"), (" ", "names nothing"), (None, "a path"), ("file", "is a file")):
        refused(lambda p=place: model.save(p, overwrite=True), ModelFileError, word, of=model.adata)
    refused(lambda: model.save("site", overwrite=True), ModelFileError, "manifest.json", of=model.adata)
    assert sorted(str(path.relative_to(bench.folder)) for path in bench.folder.rglob("*")) == [
        *("file", "site", "site/manifest.json")
    ]
    assert (bench.folder / "file").read_text() == "mine"
    assert (bench.folder / "site" / "manifest.json").read_text() == '{"name": "a web site"}'


# -- data that changed -------------------------------------------------------------------------------------------


def scaled(adata: AnnData) -> None:
    adata.X = adata.X * 2


@row(
    79,
    "the matrix, genes or cells changed in place after setup",
    "an error that says what changed and the way out; as a query of its own they are answered for",
)
def changed_in_place(bench: Bench) -> None:
    case = bench.case
    changes: dict[str, Callable[[AnnData], Any]] = {
        "adata.X": scaled,
        "values of 1 of 144 cells": lambda a: a.X.data.__setitem__(5, a.X.data[5] + 1),
        "other cells": lambda a: setattr(a, "X", a.X[::-1].copy()),
        "1 of 40 genes went away": lambda a: a._inplace_subset_var(np.arange(a.n_vars) >= 1),
        "44 of 144 cells went away": lambda a: a._inplace_subset_obs(np.arange(a.n_obs) >= 44),
        "cells lie in other places": lambda a: a._inplace_subset_obs(np.arange(a.n_obs)[::-1]),
    }
    for what, change in changes.items():
        model = case.fitted(case.cells())
        change(model._adata)
        for call in (lambda m=model: case.ask(m), lambda m=model: case.train(m), lambda m=model: m.data_registry("X")):
            refused(call, DeltaviError, what, "setup_anndata", of=model._adata)
        case.ask(model, model._adata.copy())


@row(
    80, "the same values in another storage or type after setup, and further columns", "no change: it answers as before"
)
def no_change(bench: Bench) -> None:
    case = bench.case
    model = case.fitted(case.cells())
    before, adata = case.ask(model), model._adata
    for store in (dense, sparse.csc_matrix, lambda x: sparse.csr_matrix(x, dtype=np.float64)):
        adata.X = store(adata.X)
        assert_same(case.ask(model), before, atol=1e-4)
    adata.obs["leiden"], adata.layers["more"], adata.obsm["X_umap"] = "0", adata.X * 2, np.zeros((adata.n_obs, 2))
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype(object)
    assert_same(case.ask(model), before, atol=1e-4)


@row(
    81,
    "measured cells joined with an answer or with other samples, and columns of an earlier registration in them",
    "what the package wrote is told from what is one's own, and written anew; the log says so",
)
def joined(bench: Bench) -> None:
    case = bench.case
    parts = [case.fitted(case.cells()).adata, case.cells(seed=1)]
    case.set_up(parts[1])
    samples = anndata.concat(parts, index_unique="-")
    assert "_scvi_labels" in samples.obs
    model, said = bench.logged(lambda: case.fitted(samples))
    assert "earlier registration" in said
    assert len(case.ask(model)) == len(case.answered(samples))
    if case.name == "ACTINN":
        return
    answer = case.trained.predict_perturbation(**PERTURBATION)
    answer.X = answer.layers.get("counts", answer.X)
    both = anndata.concat([case.trained.adata, answer], join="outer")
    assert both.obs["deltavi_source_cell"].isna().any()
    with untouched(both):
        moved, said = bench.logged(lambda: case.trained.predict_perturbation(both, **PERTURBATION))
    assert f"{answer.n_obs} of {both.n_obs} cells were themselves predicted" in said
    assert list(moved.obs["deltavi_source_cell"]) == list(both.obs_names[case_controls(both)])


def case_controls(adata: AnnData) -> np.ndarray:
    """Cells without treatment."""
    return np.asarray(adata.obs["condition"] == "control")


# -- tables ------------------------------------------------------------------------------------------------------


@row(
    82,
    "predicted and measured cells whose genes differ in order or in name, to be compared",
    "matched by name; an error with the number and the names where they do not match",
    without=NO_EXPRESSION,
)
def other_order(bench: Bench) -> None:
    case = bench.case
    found = case.trained.predict_perturbation(**PERTURBATION).to_df()
    logs = case.cells()
    if not case.reads_logs:
        sc.pp.normalize_total(logs, target_sum=1e4)
        sc.pp.log1p(logs)
    control, real = logs[case_controls(logs)].copy(), logs[~case_controls(logs)].copy()
    expected = pearson_delta(found, real, control=control)
    for genes in (found.columns[::-1], np.random.default_rng(0).permutation(found.columns)):
        assert np.isclose(pearson_delta(found[list(genes)], real, control=control), expected)
        assert np.isclose(pearson_delta(found, real[:, list(genes)], control=control), expected)
    first = found.columns[0]
    for predicted, measured in (
        (found.drop(columns=first), real),
        (found, real[:, 1:].copy()),
        (found.rename(columns={first: first.lower()}), real),
    ):
        call = lambda p=predicted, m=measured: pearson_delta(p, m, control=control)  # noqa: E731
        refused(call, GeneMatchError, "1 ", f"'{first}'", of=control)
    call = lambda: pearson_delta(found.to_numpy()[:, ::-1], real, control=control[:, ::-1].copy())  # noqa: E731
    refused(call, GeneMatchError, "different orders", of=control)
