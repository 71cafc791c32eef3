"""The full scan, gene matching, column selection and fields, away from any model."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltavi.errors import GeneMatchError, InputDataError, UnseenCategoryWarning
from deltavi.pp import valid_cells
from deltavi.registry.checks import (
    BLOCK_ROWS,
    MatrixReport,
    require_counts,
    require_finite,
    require_log_normalised,
    row_blocks,
    scan_matrix,
)
from deltavi.registry.columns import UNSEEN, codes_of, used_categories
from deltavi.registry.fields import CategoryField
from deltavi.registry.genes import match_genes
from deltavi.registry.matrix import take_columns

FORMATS = pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix], ids=["dense", "csr"])


@FORMATS
def test_a_bad_value_beyond_the_first_block_is_named_by_its_own_row(convert: Any) -> None:
    x = np.ones((BLOCK_ROWS + 50, 4), dtype=np.float32)
    row = BLOCK_ROWS + 7
    x[row, 2] = np.nan
    report = scan_matrix(convert(x))
    assert report.bad_cells == (row,)
    assert report.bad_genes == (2,)
    names = [f"cell{i}" for i in range(len(x))]
    with pytest.raises(InputDataError, match=f"cell{row}'"):
        require_finite(report, where="X", cells=names, genes=list("abcd"))
    mask = valid_cells(AnnData(convert(x)))
    assert list(np.flatnonzero(~mask)) == [row]


@FORMATS
@given(seed=st.integers(0, 10_000), shape=st.tuples(st.integers(1, 30), st.integers(1, 8)))
@settings(max_examples=60, deadline=None)
def test_scan_counts_what_numpy_counts(convert: Any, seed: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    x = rng.choice([0.0, 0.0, 1.0, 3.0, -1.0, 0.5, np.nan, np.inf], size=shape)
    report = scan_matrix(convert(x))
    finite = x[np.isfinite(x)]
    assert report.n_nan == np.isnan(x).sum()
    assert report.n_infinite == np.isinf(x).sum()
    assert report.n_negative == (finite < 0).sum()
    assert report.n_fractional == (finite != np.floor(finite)).sum()
    assert report.n_nonzero == (finite != 0).sum()
    assert report.n_empty_cells == (np.abs(np.nan_to_num(x, nan=1.0, posinf=1.0)).sum(1) == 0).sum()
    assert set(report.bad_cells) == set(np.flatnonzero(~np.isfinite(x).all(1)))
    assert report.n_negative_cells == (x < 0).any(1).sum()
    assert list(report.negative_cells) == list(np.flatnonzero((x < 0).any(1))[:3])
    assert MatrixReport.from_dict(report.as_dict()) == report
    good = valid_cells(AnnData(convert(x)))
    np.testing.assert_array_equal(good, (np.isfinite(x) & (x >= 0) & (x == np.floor(x))).all(1))
    np.testing.assert_array_equal(valid_cells(AnnData(convert(x)), counts=False), np.isfinite(x).all(1))


def test_blocks_follow_the_rows_asked_for() -> None:
    x = np.arange(3000.0)[:, None]
    seen = np.concatenate([block.ravel() for _, block in row_blocks(x, np.array([5, 2900, 17]))])
    assert sorted(seen) == [5, 17, 2900]
    assert sum(len(rows) for rows, _ in row_blocks(x)) == 3000
    assert list(row_blocks(x[:0])) == []


def test_hints_tell_scaled_counts_from_logarithms_and_the_rest() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (40, 12)) + 0.0
    counts[:, 0] += 1
    scaled = 1e4 * counts / counts.sum(1, keepdims=True)
    for x, hint in ((scaled, "scaled per cell"), (np.log1p(scaled), "log-normalised"), (counts * 30.5, "not zero")):
        with pytest.raises(InputDataError, match=hint):
            require_counts(scan_matrix(x), where="X")
    require_counts(scan_matrix(counts), where="X")


@FORMATS
@given(seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_taken_columns_are_those_asked_for_and_absent_ones_are_empty(convert: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.poisson(1.0, (7, 5)).astype(np.float32)
    positions = rng.choice([-1, *rng.permutation(5)], size=6, replace=False)
    taken = take_columns(convert(x), positions).toarray()
    expected = np.where(positions >= 0, x[:, positions], 0.0)
    np.testing.assert_array_equal(taken, expected)


@given(query=st.permutations(list("abcdef")), extra=st.integers(0, 3), missing=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_genes_are_found_wherever_they_are(query: list[str], extra: int, missing: int) -> None:
    model = list("abcdef") + [f"m{i}" for i in range(missing)]
    names = query + [f"x{i}" for i in range(extra)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deltavi.registry.genes.WARN_OVERLAP", 0.0)
        match = match_genes(names, model, min_overlap=0.5)
    for gene, position in zip(model, match.positions, strict=True):
        assert (names[position] == gene) if position >= 0 else gene not in names
    assert match.n_extra == extra
    assert match.is_identity == (names == model)
    assert match.overlap == pytest.approx(6 / len(model))


def test_a_model_of_no_matching_gene_is_refused_even_without_a_floor() -> None:
    with pytest.raises(GeneMatchError, match="0%"):
        match_genes(["x"], ["a"], min_overlap=0.0)


def test_a_few_missing_genes_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = [f"g{i}" for i in range(100)]
    with caplog.at_level(logging.INFO, logger="deltavi"):
        match_genes(model[:-1], model, min_overlap=0.5)
    assert "1 of 100 genes" in caplog.text


def frame(values: list[Any]) -> AnnData:
    return AnnData(
        np.ones((len(values), 1)), obs=pd.DataFrame({"batch": values}, index=[f"c{i}" for i in range(len(values))])
    )


def test_unseen_categories_are_coded_and_warned_of_unless_optional() -> None:
    state = CategoryField("batch", "batch").register_field(frame(["b", "a", "b"]))
    assert list(state["categorical_mapping"]) == ["a", "b"]
    query = frame(["b", "new", ""])
    with pytest.warns(UnseenCategoryWarning, match="2 categories.*'new', ''.*in 2 cells"):
        CategoryField("batch", "batch").transfer_field(state, query)
    assert list(query.obs["_scvi_batch"]) == [1, UNSEEN, UNSEEN]
    optional = frame(["b", "new", ""])
    CategoryField("batch", "batch", optional_in_query=True).transfer_field(state, optional)
    assert list(optional.obs["_scvi_batch"]) == [1, UNSEEN, UNSEEN]
    bare = AnnData(np.ones((2, 1)))
    CategoryField("batch", "batch", optional_in_query=True).transfer_field(state, bare)
    assert list(bare.obs["_scvi_batch"]) == [UNSEEN, UNSEEN]


def test_extending_keeps_the_old_codes() -> None:
    state = CategoryField("batch", "batch").register_field(frame(["b", "c", "b"]))
    query = frame(["a", "c"])
    extended = CategoryField("batch", "batch").transfer_field(state, query, extend_categories=True)
    assert list(extended["categorical_mapping"]) == ["b", "c", "a"]
    assert list(query.obs["_scvi_batch"]) == [2, 1]


def test_categories_keep_their_type() -> None:
    values = pd.Series([3, 1, 3])
    categories = used_categories(values, "batch")
    assert [type(c) for c in categories] == [int, int]
    assert list(codes_of(values, categories)) == [1, 0, 1]


def test_extra_genes_at_the_end_are_no_identity() -> None:
    assert not match_genes(["a", "b", "c"], ["a", "b"], min_overlap=0.5).is_identity
    assert match_genes(["a", "b"], ["a", "b"], min_overlap=0.5).is_identity


def test_a_negative_value_beyond_the_first_block_is_named_by_its_own_row() -> None:
    x = np.ones((BLOCK_ROWS + 50, 4))
    x[BLOCK_ROWS + 7, 2] = x[BLOCK_ROWS + 7, 3] = -1
    for require in (require_counts, require_log_normalised):
        with pytest.raises(InputDataError, match=f"2 negative values in 1 cells .for example {BLOCK_ROWS + 7}"):
            require(scan_matrix(x), where="X")
        names = [f"cell{i}" for i in range(len(x))]
        with pytest.raises(InputDataError, match=f"for example 'cell{BLOCK_ROWS + 7}'"):
            require(scan_matrix(x), where="X", cells=names)


def test_large_fractional_values_are_no_logarithms() -> None:
    with pytest.raises(InputDataError, match="raw counts"):
        require_log_normalised(scan_matrix(np.array([[500.5, 1.0]])), where="X")


def test_rounding_does_not_hide_a_common_total() -> None:
    x = np.random.default_rng(0).random((5, 9))
    x *= 1e4 / x.sum(1, keepdims=True)
    x[0] *= 1 + 1e-5
    assert scan_matrix(x).look_scaled
    x[0] *= 1.1
    assert not scan_matrix(x).look_scaled


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.5])
def test_a_scan_leaves_unsorted_indices_as_they_are(value: float) -> None:
    x = sparse.csr_matrix((np.array([3.0, 1.0, value]), np.array([4, 0, 2]), np.array([0, 2, 3])), shape=(2, 5))
    x.has_sorted_indices = False
    before = x.indices.copy(), x.data.copy()
    report = scan_matrix(x)
    assert not report.are_counts or report.n_nan
    np.testing.assert_array_equal(x.indices, before[0])
    np.testing.assert_array_equal(x.data, before[1])


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_sums_of_genes_and_cells_come_from_the_one_pass(kind: str) -> None:
    from deltavi.registry.checks import scan_and_sum

    rng = np.random.default_rng(3)
    counts = rng.poisson(0.7, (1500, 7)).astype(np.float32)
    x = counts if kind == "dense" else sparse.csr_matrix(counts).asformat(kind)
    found = scan_and_sum(x, genes=True)
    np.testing.assert_array_equal(found.gene_sums, counts.sum(0, dtype=np.float64))
    np.testing.assert_array_equal(found.cell_totals, counts.sum(1, dtype=np.float64))
    assert found.report == scan_and_sum(x).report
    assert scan_and_sum(x).gene_sums is None
