"""Rows 14 to 24: names of genes and cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.errors import DuplicateNameWarning, GeneMatchError, GeneMatchWarning
from deltavi.testing._bad_input import row
from deltavi.testing._bench import (
    N_CELLS,
    N_GENES,
    Bench,
    Case,
    assert_names,
    assert_same,
    refused,
    silent_about,
    untouched,
    warned,
)
from deltavi.testing._cells import dense


def renamed(adata: AnnData, rename: Callable[[str], str]) -> AnnData:
    adata.var_names = [rename(name) for name in adata.var_names]
    return adata


def with_repeats(case: Case) -> AnnData:
    """Four names of genes stand twice."""
    adata = case.cells()
    with silent_about("Variable names are not unique"):
        adata.var_names = [*adata.var_names[:-4], *adata.var_names[:4]]
    return adata


@row(
    14, "names of genes that repeat, in the data to learn from", "an error that names them, and how to tell them apart"
)
def repeated_genes(bench: Bench) -> None:
    case, adata = bench.case, with_repeats(bench.case)
    words = ("adata.var_names has 4 gene names", "adata = adata.copy(); adata.var_names_make_unique()")
    with silent_about("Variable names are not unique"):
        message = refused(lambda: case.set_up(adata), GeneMatchError, *words, of=adata)
    assert_names(message, adata.var_names.unique(), adata.var_names[:4])
    there = {"adata": adata}
    with silent_about("Variable names are not unique"):
        exec("adata = adata.copy(); adata.var_names_make_unique()", there)
    assert there["adata"] is not adata
    case.set_up(there["adata"])


@row(15, "names of genes that repeat, in the cells to predict", "an error that names them")
def repeated_genes_of_a_query(bench: Bench) -> None:
    case, query = bench.case, with_repeats(bench.case)
    words = ("The query has 4 gene names", "var_names_make_unique")
    with silent_about("Variable names are not unique"):
        message = refused(lambda: case.ask(case.trained, query), GeneMatchError, *words, of=query)
    assert_names(message, query.var_names.unique(), query.var_names[:4])


@row(16, "names of cells that repeat", "a warning that names them; answers stay in the order of the cells")
def repeated_cells(bench: Bench) -> None:
    case = bench.case
    expected = case.fitted(case.cells())
    adata, query = case.cells(), case.cells()
    with silent_about("Observation names are not unique"):
        for cells in (adata, query):
            cells.obs_names = [*cells.obs_names[:-4], *cells.obs_names[:4]]
        words = ("4 cell names occur more than once", "'CELL000001', 'CELL000002', 'CELL000003' and 1 more", "position")
        with untouched(adata, registered=True):
            model = warned(lambda: case.fitted(adata), DuplicateNameWarning, *words)
        answers = [case.ask(fit, drawn=False).to_numpy() for fit in (model, expected)]
        np.testing.assert_array_equal(answers[0], answers[1])
        with untouched(query):
            found = warned(lambda: case.ask(model, query, drawn=False), DuplicateNameWarning, *words)
    np.testing.assert_array_equal(found.to_numpy(), case.ask(expected, case.cells(), drawn=False).to_numpy())
    assert list(found.index) == list(query.obs_names[case.answered(query)])


def reordered(adata: AnnData) -> AnnData:
    return adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()


@row(17, "cells to predict with their genes in another order", "genes are matched by name")
def shuffled_genes(bench: Bench) -> None:
    case, query = bench.case, reordered(bench.case.cells())
    assert not query.var_names.equals(case.cells().var_names)
    expected = case.ask(case.trained, case.cells())
    for cells in (query, query[:, ::-1], renamed(case.cells(), str)):
        with untouched(cells):
            assert_same(case.ask(case.trained, cells), expected, atol=1e-5)


def other_genes(adata: AnnData) -> AnnData:
    return renamed(adata, lambda name: f"OTHER{name[-2:]}")


@row(18, "cells to predict with as many genes, none of them the model's", "an error: they share no gene")
def as_many_other_genes(bench: Bench) -> None:
    case, query = bench.case, other_genes(bench.case.cells())
    assert query.n_vars == len(case.trained.gene_names)
    words = ("Only 0%", f"{N_GENES} genes", "min_gene_overlap", "'GENE0001'", "'OTHER01'")
    refused(lambda: case.ask(case.trained, query), GeneMatchError, *words, of=query)


@row(
    19,
    "cells to predict that lack a third of the genes",
    "genes by name, and how many there are; a warning below 95 %, an error below a floor that can be set",
)
def a_third_missing(bench: Bench) -> None:
    case, model = bench.case, bench.case.trained
    query = case.cells()[:, :26].copy()
    words = ("14 of 40 genes", "65% present", "'GENE0027', 'GENE0028', 'GENE0029' and 11 more", "zero")
    with untouched(query):
        found = warned(lambda: case.ask(model, query), GeneMatchWarning, *words)
    padded = case.cells(lambda x: sparse.csr_matrix(np.where(np.arange(N_GENES) < 26, x, 0)))
    assert_same(found, case.ask(model, padded), atol=1e-5)
    # one in forty is told, and no more
    _, logged = bench.logged(lambda: case.ask(model, case.cells()[:, :39].copy()))
    assert "1 of 40 genes" in logged
    bench.monkeypatch.setattr(model, "min_gene_overlap", 0.7)
    refused(lambda: case.ask(model, query), GeneMatchError, "Only 65%", "at least 70%", "min_gene_overlap", of=query)


@row(20, "cells to predict that have a tenth of the genes, or one in thirty", "an error, unless the floor is lowered")
def few_genes(bench: Bench) -> None:
    case, model = bench.case, bench.case.trained
    for n_genes, share in ((4, "10%"), (1, "2.5%")):
        query = case.cells()[:, :n_genes].copy()
        words = (f"Only {share}", "at least 50%", "min_gene_overlap")
        refused(partial(case.ask, model, query), GeneMatchError, *words, of=query)
    bench.monkeypatch.setattr(model, "min_gene_overlap", 0.02)
    with pytest.warns(GeneMatchWarning, match="39 of 40"), silent_about(".*no counts at all"):
        found = case.ask(model, query)
    assert np.isfinite(found).all(axis=None)


@row(21, "cells to predict that share no gene, where the floor is zero", "an error all the same")
def no_genes(bench: Bench) -> None:
    case, model = bench.case, bench.case.trained
    bench.monkeypatch.setattr(model, "min_gene_overlap", 0.0)
    for query in (other_genes(case.cells()), other_genes(case.cells()[:, :3].copy())):
        refused(partial(case.ask, model, query), GeneMatchError, "Only 0%", of=query)


@row(22, "genes that the model does not know", "they are left out, which is logged")
def further_genes(bench: Bench) -> None:
    case = bench.case
    query = case.cells()
    further = AnnData(np.full((N_CELLS, 5), 900.0, dtype=np.float32), obs=query.obs[[]].copy())
    further.var_names = [f"OTHER{i}" for i in range(5)]
    further.X = sparse.csr_matrix(further.X)
    wide = ad.concat([further, query], axis=1, merge="first")
    wide.obs = query.obs
    with untouched(wide):
        found, logged = bench.logged(lambda: case.ask(case.trained, wide))
    assert "5 genes of the query are unknown" in logged
    assert_same(found, case.ask(case.trained, query), atol=1e-5)


VOCABULARIES: tuple[tuple[Callable[[str], str], str], ...] = (
    (str.lower, "adata.var_names.str.upper()"),
    (lambda name: f"{name}.3", r"adata.var_names.str.replace(r'\.\d+$', '')"),
    (lambda name: f"ENSG{int(name[4:]):011d}", "query has Ensembl identifiers, the model gene symbols"),
)


@row(
    23,
    "Ensembl identifiers in place of symbols, other case, suffixes of versions",
    "an error that recognises it and says how to rename; nothing is renamed unasked",
)
def another_vocabulary(bench: Bench) -> None:
    case = bench.case
    for rename, hint in VOCABULARIES:
        query = renamed(case.cells(), rename)
        refused(partial(case.ask, case.trained, query), GeneMatchError, "Only 0%", hint, of=query)
    ensembl = case.untrained(renamed(case.cells(), VOCABULARIES[2][0]))
    query, hint = case.cells(), "query has gene symbols, the model Ensembl identifiers"
    refused(lambda: ensembl._validate_anndata(query), GeneMatchError, hint, of=query)
    # what is suggested leads to the model's names
    lower, versions = (pd.Index([rename(name) for name in query.var_names]) for rename, _ in VOCABULARIES[:2])
    assert lower.str.upper().equals(query.var_names)
    assert versions.str.replace(r"\.\d+$", "", regex=True).equals(query.var_names)


@row(24, "a model loaded with cells whose genes are in another order", "genes are matched by name")
def shuffled_genes_on_loading(bench: Bench) -> None:
    case, shuffled = bench.case, reordered(bench.case.cells())
    case.trained.save(bench.folder / "model")
    with untouched(shuffled):
        loaded = case.load(bench.folder / "model", shuffled)
    assert list(loaded.gene_names) == list(case.cells().var_names)
    expected = case.ask(case.trained, case.cells())
    assert_same(case.ask(loaded), expected, atol=1e-5)
    assert_same(case.ask(loaded, shuffled), expected, atol=1e-5)
    assert not np.allclose(dense(shuffled.X), dense(case.cells().X))
