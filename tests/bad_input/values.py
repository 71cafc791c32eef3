"""Rows 8, 11 and 13: values of the matrix that some models read in a way of their own; the others are shared."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from deltavi.errors import InputDataError
from deltavi.pp import log_normalise
from tests.bad_input.bench import N_CELLS, N_GENES, Bench, assert_same, refused, untouched
from tests.bad_input.registry import row
from tests.model.conftest import dense, small_adata
from tests.models import names_of

DIVIDES_BY_NOTHING = "it divides by no standard deviation of a gene"


@row(8, "counts where logarithms are read", "an error with the way out, or logarithms are taken of them")
def counts_for_logs(bench: Bench) -> None:
    case, counts = bench.case, small_adata()
    if case.name == "ACTINN":
        # it takes the logarithms itself, and those of the cell alone
        model, x = case.trained, dense(counts.X)
        (tensors,) = model._make_data_loader(adata=model._validate_anndata(counts), batch_size=N_CELLS)
        expected = np.log2(1 + 1e4 * x / x.sum(1, keepdims=True))
        np.testing.assert_allclose(model.module.classifier_input(tensors).numpy(), expected, rtol=1e-5)
        return
    reads = {} if case.reads_logs else {"gene_likelihood": "normal"}
    way_out = "deltavi.pp.log_normalise" if case.reads_logs else "sc.pp.log1p"
    words = ("looks like raw counts", f"values up to {dense(counts.X).max():.6g}", way_out)
    refused(lambda: case.untrained(counts, **reads), InputDataError, *words, of=counts, registered=True)
    # none is larger than logarithms are
    few = small_adata()
    few.X = np.minimum(dense(few.X), 5.0)
    few.obs["total_counts"] = few.X.sum(1)
    words = ("looks like raw counts", "values up to 5,")
    refused(lambda: case.untrained(few, **reads), InputDataError, *words, of=few, registered=True)
    logs = small_adata()
    log_normalise(logs)
    model = case.untrained(logs, setup={"layer": "log1p_cp10k"}, **reads)
    case.train(model)
    query = small_adata()
    query.layers["log1p_cp10k"] = query.X.copy()
    refused(lambda: case.ask(model, query), InputDataError, "The query", "looks like raw counts", of=query)


@row(11, "a gene without any count", "allowed without a word, also by ACTINN's choice of genes")
def empty_gene(bench: Bench) -> None:
    case = bench.case
    adata = case.cells(lambda x: sparse.csr_matrix(np.where(np.arange(x.shape[1]) == 7, 0, x)))
    options = {"filter_genes": True, "scale": True} if case.name == "ACTINN" else {}
    with untouched(adata, registered=True):
        model = case.fitted(adata, **options)
        assert np.isfinite(case.ask(model)).all(axis=None)
    assert np.isfinite(case.ask(model, case.cells())).all(axis=None)
    if options:
        read = model.module.get_buffer("gene_mask").numpy()
        assert read[7] == 0
        # the others are chosen as if it were not there
        without = case.fitted(case.cells()[:, np.arange(N_GENES) != 7].copy(), **options)
        np.testing.assert_array_equal(np.delete(read, 7), without.module.get_buffer("gene_mask").numpy())
        assert read.any()


@row(
    13,
    "genes that never vary where they are divided by how much they do",
    "they are divided by one, and move no cell",
    without=dict.fromkeys(names_of(decodes=True, reads="counts"), DIVIDES_BY_NOTHING),
)
def constant_gene(bench: Bench) -> None:
    case = bench.case
    if case.reads_logs:
        model = case.fitted(case.cells(lambda x: np.where(np.arange(x.shape[1]) == 7, 2.5, x)))
        assert np.abs(model.get_loadings().iloc[7]).max() < 1e-6
        assert (model.get_noise() > 0).all()
        assert_same(case.ask(model, case.cells()), case.ask(model), atol=1e-4)
        return

    def same_in_all_cells(x: np.ndarray) -> np.ndarray:
        """The last gene fills every cell up to one total, so that a constant count is a constant logarithm."""
        x[:, 7] = 3
        x[:, -1] = 0
        x[:, -1] = x.sum(1).max() + 1 - x.sum(1)
        return x

    model = case.fitted(case.cells(same_in_all_cells), filter_genes=True, scale=True)
    assert float(model.module.get_buffer("gene_scale")[7]) == 1.0
    # its logarithm in any cell, so that it is zero once centred
    adata = model.adata
    expected = np.log2(1 + 1e4 * 3 / adata.X.sum(1))
    assert np.ptp(expected) < 1e-9
    np.testing.assert_allclose(float(model.module.get_buffer("gene_centre")[7]), expected[0], rtol=1e-6)
    assert np.isfinite(case.ask(model, case.cells())).all(axis=None)
