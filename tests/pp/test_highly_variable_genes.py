"""Choosing genes: the right numbers in the right places, and the user's data as it was."""

from __future__ import annotations

import logging
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from deltavi._cp10k import log1p_cp10k_rows
from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError, InputDataError, KeyClashError, UnknownCategoryError
from deltavi.pp import highly_variable_genes

# said by scanpy, about its own use of pandas 3.1
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")


@pytest.fixture
def adata():
    return simulate_perturbation(n_genes=300, n_cell_types=3, n_cells_per_group=30, seed=2)


@pytest.fixture(scope="module")
def reference():
    """The same values by scanpy's own steps."""
    data = simulate_perturbation(n_genes=300, n_cell_types=3, n_cells_per_group=30, seed=2)
    data.layers["counts"] = data.X.copy()
    sc.pp.highly_variable_genes(data, n_top_genes=50, flavor="seurat_v3", layer="counts", batch_key="condition")
    sc.pp.normalize_total(data, target_sum=1e4)
    sc.pp.log1p(data)
    return data


def as_dense(x) -> np.ndarray:
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def assert_same(left: AnnData, right: AnnData) -> None:
    assert list(left.var_names) == list(right.var_names)
    np.testing.assert_allclose(as_dense(left.X), as_dense(right.X), rtol=1e-6)
    np.testing.assert_array_equal(as_dense(left.layers["counts"]), as_dense(right.layers["counts"]))
    np.testing.assert_allclose(left.obs["total_counts"], right.obs["total_counts"])


class TestValues:
    def test_genes_are_those_of_scanpy(self, adata, reference):
        selected = highly_variable_genes(adata, n_top=50, condition_key="condition")
        assert list(selected.var_names) == list(reference.var_names[reference.var["highly_variable"]])

    def test_logs_are_those_of_scanpy(self, adata, reference):
        selected = highly_variable_genes(adata, n_top=50, condition_key="condition")
        np.testing.assert_allclose(as_dense(selected.X), as_dense(reference[:, selected.var_names].X), rtol=1e-5)

    def test_counts_and_totals(self, adata):
        selected = highly_variable_genes(adata, n_top=50)
        np.testing.assert_array_equal(as_dense(selected.layers["counts"]), as_dense(adata[:, selected.var_names].X))
        np.testing.assert_allclose(selected.obs["total_counts"], np.asarray(adata.X.sum(axis=1)).ravel())

    def test_everything_else_comes_along(self, adata):
        selected = highly_variable_genes(adata, n_top=50)
        assert set(adata.obs) <= set(selected.obs)
        assert set(adata.layers) - {None} <= set(selected.layers)
        np.testing.assert_array_equal(selected.layers["rate"], adata[:, selected.var_names].layers["rate"])
        assert "simulation" in selected.uns

    def test_without_condition_the_ranking_is_over_all_cells(self, adata):
        expected = sc.pp.highly_variable_genes(adata, n_top_genes=50, flavor="seurat_v3", inplace=False)
        assert list(highly_variable_genes(adata, n_top=50).var_names) == list(
            adata.var_names[expected["highly_variable"]]
        )

    def test_condition_is_not_what_makes_a_gene_variable(self):
        rng = np.random.default_rng(0)
        counts = rng.poisson(np.linspace(20, 1, 60), (200, 60)).astype(np.float32)
        counts[:100, 20] += 12  # differs between the conditions and not within
        counts[:, 25:30] = rng.negative_binomial(0.8, 0.05, (200, 5))
        adata = AnnData(counts, obs=pd.DataFrame({"c": ["a"] * 100 + ["b"] * 100}, index=[f"{i}" for i in range(200)]))
        assert "20" in highly_variable_genes(adata, n_top=6).var_names
        assert "20" not in highly_variable_genes(adata, n_top=6, condition_key="c").var_names

    @pytest.mark.parametrize("n_top", [300, 301, 10_000])
    def test_all_genes_are_kept_when_there_are_no_more(self, adata, n_top):
        assert list(highly_variable_genes(adata, n_top=n_top).var_names) == list(adata.var_names)

    def test_empty_cell_stays_zero(self):
        adata = AnnData(np.array([[0, 0, 0], [1, 2, 7]], dtype=np.float32))
        selected = highly_variable_genes(adata)
        np.testing.assert_allclose(as_dense(selected.X), [[0, 0, 0], np.log1p([1e3, 2e3, 7e3])], rtol=1e-6)

    def test_a_second_selection_keeps_the_library(self, adata):
        first = highly_variable_genes(adata, n_top=100, condition_key="condition")
        second = highly_variable_genes(first, n_top=40, condition_key="condition", layer="counts")
        np.testing.assert_array_equal(second.obs["total_counts"], first.obs["total_counts"])
        np.testing.assert_allclose(as_dense(second.X), as_dense(first[:, second.var_names].X), rtol=1e-6)

    def test_totals_of_quality_control_are_accepted(self, adata, caplog):
        full = adata.copy()
        del full.obs["total_counts"]
        sc.pp.calculate_qc_metrics(full, inplace=True, percent_top=None, log1p=False)
        filtered = full[:, :200].copy()
        with caplog.at_level(logging.INFO, logger="deltavi"):
            selected = highly_variable_genes(filtered)
        np.testing.assert_allclose(selected.obs["total_counts"], np.asarray(adata.X.sum(axis=1)).ravel())
        assert "kept as the library" in caplog.text


class TestForms:
    @pytest.mark.parametrize(
        "convert",
        [
            sparse.csc_matrix,
            sparse.csr_array,
            lambda x: x.toarray(),
            lambda x: np.asfortranarray(x.toarray()),
            lambda x: x.toarray().astype(np.int64),
            lambda x: x.toarray().astype(np.float16),
            lambda x: x.astype(np.float64),
        ],
        ids=["csc", "csr_array", "dense", "fortran", "int64", "float16", "float64"],
    )
    def test_same_answer_however_stored(self, adata, convert):
        small = adata[:, adata.X.max(axis=0).toarray().ravel() < 2000].copy()  # float16 is exact up to 2048
        stored = AnnData(convert(sparse.csr_matrix(small.X)), obs=small.obs[["condition"]], var=small.var)
        plain = AnnData(sparse.csr_matrix(small.X), obs=small.obs[["condition"]], var=small.var)
        selected = highly_variable_genes(stored, n_top=40, condition_key="condition")
        assert_same(selected, highly_variable_genes(plain, n_top=40, condition_key="condition"))
        assert selected.X.format == selected.layers["counts"].format == "csr"
        assert selected.X.dtype == np.float32

    def test_view(self, adata):
        view = adata[10:150, 20:280]
        assert_same(highly_variable_genes(view, n_top=40), highly_variable_genes(view.copy(), n_top=40))
        assert view.is_view

    @pytest.mark.parametrize("dense", [False, True])
    def test_backed(self, adata, tmp_path, dense):
        if dense:
            adata.X = adata.X.toarray()
        adata.write_h5ad(tmp_path / "counts.h5ad")
        backed = anndata.read_h5ad(tmp_path / "counts.h5ad", backed="r")
        selected = highly_variable_genes(backed, n_top=40, condition_key="condition")
        assert_same(selected, highly_variable_genes(adata, n_top=40, condition_key="condition"))
        assert not selected.isbacked
        backed.file.close()

    def test_layer(self, adata):
        with_layer = adata.copy()
        with_layer.layers["raw"] = adata.X.copy()
        with_layer.X = with_layer.layers["rate"].copy()
        assert_same(highly_variable_genes(with_layer, n_top=40, layer="raw"), highly_variable_genes(adata, n_top=40))

    def test_counts_beyond_single_precision_stay_exact(self):
        counts = np.array([[2.0**24 + 1, 3], [1, 2]])
        selected = highly_variable_genes(AnnData(counts))
        np.testing.assert_array_equal(as_dense(selected.layers["counts"]), counts)

    def test_result_survives_a_file(self, adata, tmp_path):
        selected = highly_variable_genes(adata, n_top=40, condition_key="condition")
        selected.write_h5ad(tmp_path / "selected.h5ad")
        assert_same(anndata.read_h5ad(tmp_path / "selected.h5ad"), selected)

    def test_result_is_independent_of_the_input(self, adata):
        before = adata.copy()
        selected = highly_variable_genes(adata, n_top=300)
        selected.X.data[:] = -1
        selected.layers["counts"].data[:] = -1
        selected.layers["rate"][:] = -1
        np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
        np.testing.assert_array_equal(adata.layers["rate"], before.layers["rate"])

    @pytest.mark.parametrize("condition_key", [None, "condition"])
    def test_input_is_untouched(self, adata, condition_key):
        del adata.obs["total_counts"]
        before = adata.copy()
        highly_variable_genes(adata, n_top=40, condition_key=condition_key)
        assert str(adata) == str(before)
        pd.testing.assert_frame_equal(adata.obs, before.obs)
        pd.testing.assert_frame_equal(adata.var, before.var)
        np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())


class TestWithoutTheVarianceTrend:
    def test_pearson_residuals_where_the_trend_cannot_be_fitted(self, monkeypatch, adata, caplog):
        def fail(*args, **kwargs):
            raise ValueError("singular")

        monkeypatch.setattr(sc.pp, "highly_variable_genes", fail)
        with caplog.at_level(logging.INFO, logger="deltavi"):
            selected = highly_variable_genes(adata, n_top=40, condition_key="condition")
        expected = sc.experimental.pp.highly_variable_genes(
            adata, flavor="pearson_residuals", n_top_genes=40, batch_key="condition", inplace=False
        ).loc[adata.var_names, "highly_variable"]
        assert list(selected.var_names) == list(adata.var_names[expected])
        assert "cannot be fitted (singular)" in caplog.text

    @settings(max_examples=40, deadline=None)
    @given(
        counts=hnp.arrays(
            np.int64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9), elements=st.integers(0, 9)
        ),
        n_top=st.integers(1, 9),
        two_conditions=st.booleans(),
    )
    def test_any_small_matrix(self, counts, n_top, two_conditions):
        adata = AnnData(counts.astype(np.float32))
        adata.obs["c"] = np.where(np.arange(len(counts)) % 2 if two_conditions else np.zeros(len(counts)), "a", "b")
        selected = highly_variable_genes(adata, n_top=n_top, condition_key="c")
        assert selected.n_vars == min(n_top, counts.shape[1])
        assert np.isfinite(as_dense(selected.X)).all()
        taken = [int(name) for name in selected.var_names]
        assert taken == sorted(taken)
        np.testing.assert_array_equal(as_dense(selected.layers["counts"]), counts[:, taken])

    @settings(max_examples=30, deadline=None)
    @given(
        n_cells=st.integers(2, 12),
        n_genes=st.integers(20, 40),
        mean=st.floats(0.05, 20),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_few_cells_at_the_limit_of_the_trend(self, n_cells, n_genes, mean, seed):
        counts = np.random.default_rng(seed).poisson(mean, (2 * n_cells, n_genes)).astype(np.float32)
        adata = AnnData(sparse.csr_matrix(counts))
        adata.obs["c"] = ["a", "b"] * n_cells
        assert highly_variable_genes(adata, n_top=10, condition_key="c").n_vars == 10


class TestErrors:
    @pytest.mark.parametrize(
        ("value", "message"),
        [(np.nan, "NaN"), (np.inf, "infinite"), (-1, "negative"), (0.5, "not whole numbers")],
        ids=["nan", "inf", "negative", "fraction"],
    )
    @pytest.mark.parametrize("dense", [True, False])
    def test_one_bad_value(self, adata, value, message, dense):
        bad = adata.X.toarray()
        bad[150, 299] = value
        adata.X = bad if dense else sparse.csr_matrix(bad)
        with pytest.raises(InputDataError, match=message):
            highly_variable_genes(adata)

    def test_log_normalised(self, adata):
        sc.pp.log1p(adata)
        with pytest.raises(InputDataError, match=r"adata\.X must hold raw counts"):
            highly_variable_genes(adata)

    def test_objects(self):
        adata = AnnData(obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=["x"]))
        adata.layers["words"] = np.array([["a"], ["b"]], dtype=object)
        with pytest.raises(InputDataError, match="words"):
            highly_variable_genes(adata, layer="words")

    def test_no_matrix(self):
        adata = AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["x"]))
        with pytest.raises(InputDataError, match=r"adata\.X is empty"):
            highly_variable_genes(adata)

    def test_unknown_layer(self, adata):
        with pytest.raises(UnknownCategoryError, match="Did you mean 'rate'"):
            highly_variable_genes(adata, layer="rates")

    def test_unknown_column(self, adata):
        with pytest.raises(UnknownCategoryError, match="Did you mean 'condition'"):
            highly_variable_genes(adata, condition_key="conditions")

    def test_cell_without_condition(self, adata):
        adata.obs["c"] = adata.obs["condition"].astype(object).where(np.arange(adata.n_obs) > 2, None)
        with pytest.raises(InputDataError, match="missing in 3 of 360 cells"):
            highly_variable_genes(adata, n_top=40, condition_key="c")

    @pytest.mark.parametrize("total", [0.0, np.nan, "many"])
    def test_totals_that_cannot_be(self, adata, total):
        adata.obs["total_counts"] = [total] * adata.n_obs
        with pytest.raises(KeyClashError, match="total_counts"):
            highly_variable_genes(adata)

    def test_n_top(self, adata):
        with pytest.raises(DeltaviError, match="n_top"):
            highly_variable_genes(adata, n_top=0)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (4, 5), elements=st.integers(0, 1000).map(float)))
def test_log1p_cp10k_is_its_definition(counts):
    total = counts.sum(axis=1, dtype=np.float64)
    expected = np.log1p(np.divide(counts * 1e4, total[:, None], out=np.zeros((4, 5)), where=total[:, None] > 0))
    np.testing.assert_allclose(log1p_cp10k_rows(sparse.csr_matrix(counts), total).toarray(), expected, rtol=1e-6)


def test_threads_of_torch_are_kept_where_others_start_theirs() -> None:
    """In a process of its own: libraries set them back when they first run."""
    code = """
import anndata, numpy as np, torch
from deltavi.pp import highly_variable_genes
torch.set_num_threads(3)
counts = np.random.default_rng(0).poisson(2.0, (120, 60)).astype(np.float32)
highly_variable_genes(anndata.AnnData(counts), n_top=40)
print(torch.get_num_threads())
"""
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "3"
