"""Counts that lie elsewhere, are rounded, masked or in odd containers: offered, read alike, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from anndata.experimental import read_lazy
from scipy import sparse

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.model import ACTINN, PPCA, VAE
from deltavi.pp import canonical_conditions, highly_variable_genes, log_normalise, valid_cells
from deltavi.registry.checks import scan_matrix
from deltavi.registry.counts import counts_of
from deltavi.registry.genes import match_genes
from deltavi.registry.source import elsewhere, matrix_of


def counts(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (30, 12)).astype(np.float32)


def cells(x: Any) -> AnnData:
    n_cells, n_genes = counts().shape
    obs = pd.DataFrame({"label": ["a", "b"] * (n_cells // 2)}, index=[f"c{i}" for i in range(n_cells)])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


def logs() -> np.ndarray:
    x = counts()
    found: np.ndarray = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    return found


def set_up(adata: AnnData, layer: str | None = None) -> VAE:
    VAE.setup_anndata(adata, layer=layer)
    return VAE(adata, n_hidden=4, n_latent=2)


# -- elsewhere -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [set_up, highly_variable_genes, log_normalise, counts_of])
@pytest.mark.parametrize("x", [logs(), logs() - 4, None], ids=["logs", "scaled", "none"])
def test_counts_in_raw_are_offered_with_the_line_to_write(ask: Callable[[AnnData], Any], x: Any) -> None:
    adata = cells(x)
    adata.raw = cells(counts())
    with pytest.raises(InputDataError, match=r"adata\.raw holds counts of 12 genes: pass adata\.raw\.to_adata\(\)"):
        ask(adata)
    np.testing.assert_array_equal(counts_of(adata.raw.to_adata()).toarray(), counts())


def test_raw_that_holds_logarithms_is_offered_to_those_who_need_them() -> None:
    adata = cells(logs() - 4)
    adata.raw = cells(logs())
    with pytest.raises(InputDataError) as error:
        set_up(adata)
    assert "adata.raw" not in str(error.value)
    PPCA.setup_anndata(adata)
    with pytest.raises(InputDataError, match=r"adata\.raw holds log-normalised values of 12 genes"):
        PPCA(adata, n_latent=2)


@pytest.mark.parametrize(("names", "best"), [(["spliced", "ambiguous"], "spliced"), (["x", "counts"], "counts")])
def test_layers_with_counts_are_offered_the_usual_one_first(names: list[str], best: str) -> None:
    adata = cells(logs())
    for name in names:
        adata.layers[name] = counts()
    with pytest.raises(InputDataError, match=rf"layers\['{best}'\] holds counts: pass layer='{best}'"):
        set_up(adata)


def test_x_is_offered_where_a_layer_holds_no_counts_or_does_not_exist() -> None:
    adata = cells(counts())
    adata.layers["logs"] = logs()
    with pytest.raises(InputDataError, match=r"adata\.X holds counts: leave out layer"):
        set_up(adata, "logs")
    with pytest.raises(UnknownCategoryError, match=r"Did you mean 'logs'.*adata\.X holds counts"):
        valid_cells(adata, layer="log")


def test_a_query_is_told_where_its_counts_are() -> None:
    adata = cells(counts())
    ACTINN.setup_anndata(adata, labels_key="label")
    model = ACTINN(adata)
    query = cells(logs())
    query.layers["counts"] = counts()
    with pytest.raises(InputDataError, match=r"adata\.X = adata\.layers\['counts'\]\.copy\(\)"):
        model._validate_anndata(query)


def test_nothing_is_offered_where_there_is_nothing() -> None:
    adata = cells(logs())
    adata.layers["zeros"] = np.zeros_like(counts())
    adata.layers["text"] = counts().astype(str)
    adata.raw = adata.copy()
    assert elsewhere(adata, None, "counts") == ""


def test_corrected_counts_get_three_ways_out() -> None:
    adata = cells(counts() * 9 * 0.97)
    with pytest.raises(InputDataError) as error:
        set_up(adata)
    for way in ("np.rint(adata.X)", "check_input=False", "gene_likelihood='normal'"):
        assert way in str(error.value)
    adata.X = np.rint(adata.X)
    assert set_up(adata).module is not None


# -- whole but for rounding ----------------------------------------------------------------------------------


def undone() -> np.ndarray:
    """Counts after a logarithm in single precision and its inverse."""
    found: np.ndarray = np.expm1(np.log1p(counts() / np.float32(7))) * np.float32(7)
    return found


@pytest.mark.parametrize("as_stored", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, np.float64, da.from_array])
def test_counts_whose_logarithm_was_undone_are_read_as_whole(
    as_stored: Callable[[np.ndarray], Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert (undone() != counts()).any()
    adata = cells(as_stored(undone()))
    with caplog.at_level(logging.INFO, "deltavi"):
        model = set_up(adata)
    assert "they are read as whole" in caplog.text
    read = model.adata_manager.get_from_registry("X")
    np.testing.assert_array_equal(read.toarray() if sparse.issparse(read) else np.asarray(read), counts())
    np.testing.assert_array_equal(counts_of(adata).toarray(), counts())
    kept = adata.X
    np.testing.assert_array_equal(kept.toarray() if sparse.issparse(kept) else np.asarray(kept), undone())


def test_rounded_counts_in_a_file_are_refused_with_the_way_out(tmp_path: Any) -> None:
    cells(undone()).write_h5ad(tmp_path / "a.h5ad")
    adata = read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(InputDataError, match="to_memory"):
        set_up(adata)
    adata.file.close()


def test_what_is_left_of_zeros_is_zero() -> None:
    report = scan_matrix(counts() - np.float32(1e-9) + (counts() == 0) * np.float32(-1e-9))
    assert report.are_counts
    assert report.n_negative == 0


@pytest.mark.parametrize("x", [counts() * 1e-7, counts() + 0.01, counts() - 2e-3, np.full((30, 12), 4e-4)])
def test_small_numbers_and_other_fractions_are_no_counts(x: np.ndarray) -> None:
    report = scan_matrix(x)
    assert not report.are_counts
    assert not valid_cells(cells(counts() + 0.01)).any()
    assert valid_cells(cells(undone())).all()


# -- containers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [set_up, highly_variable_genes, valid_cells, lambda adata: set_up(adata[:20])])
def test_masked_arrays_are_refused_in_views_too(ask: Callable[[AnnData], Any]) -> None:
    adata = cells(counts())
    adata.X = np.ma.masked_greater(counts(), 5)
    with pytest.raises(InputDataError, match=r"masked array, \d+ of whose \d+ values are hidden"):
        ask(adata)


def test_masked_layers_are_refused() -> None:
    adata = cells(counts())
    adata.layers["m"] = np.ma.masked_greater(counts(), 5)
    with pytest.raises(InputDataError, match=r"adata\.layers\['m'\] is a masked array"):
        matrix_of(adata, "m")
    for whole_or_view in (adata, adata[:20]):
        with pytest.raises(InputDataError, match=r"adata\.layers\['m'\] is a masked array"):
            VAE.setup_anndata(whole_or_view, layer="m")


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4"])
def test_the_byte_order_of_other_computers(dtype: str, tmp_path: Any) -> None:
    adata = cells(counts().astype(dtype))
    np.testing.assert_array_equal(counts_of(adata).toarray(), counts())
    assert set_up(adata).adata_manager.get_from_registry("X").dtype.isnative
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(counts_of(backed).toarray(), counts())
    backed.file.close()


def test_sparse_values_of_another_byte_order_are_refused() -> None:
    x = sparse.csr_matrix(counts())
    swapped = sparse.csr_matrix((x.data.astype(">f4"), x.indices, x.indptr), shape=x.shape)
    with pytest.raises(InputDataError, match="byte order"):
        counts_of(cells(swapped))


def test_arrays_of_other_packages_are_refused() -> None:
    xarray = pytest.importorskip("xarray")
    adata = cells(counts())
    adata.X = xarray.DataArray(counts(), dims=("cell", "gene"))
    with pytest.raises(InputDataError, match=r"xarray DataArray.*np\.asarray\(adata\.X\)"):
        set_up(adata)


def test_views_of_backed_files_say_what_to_load(tmp_path: Any) -> None:
    cells(counts()).write_h5ad(tmp_path / "a.h5ad")
    backed = read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(DeltaviError, match=r"view of 20 cells.*to_memory.*filename"):
        set_up(backed[:20])
    backed.file.close()


def test_what_does_not_read_lazy_files_says_what_to_load(tmp_path: Any) -> None:
    pytest.importorskip("xarray")
    cells(counts()).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DeltaviError, match=r"read lazily.*to_memory\(\)"):
        canonical_conditions(read_lazy(tmp_path / "a.h5ad"), "label", control="a")


# -- names of genes ------------------------------------------------------------------------------------------

GENES = pd.Index([f"CD{i}D" for i in range(20)])


@pytest.mark.parametrize("prefix", ["GRCh38_", "hg19_", "mm10___", "GRCh38-2020-A_", "GRCh38______", "GRCh38-", "hsa|"])
def test_a_genome_before_the_names_is_recognised(prefix: str) -> None:
    with pytest.raises(GeneMatchError) as error:
        match_genes(prefix + GENES.str.lower(), GENES, min_overlap=0.5)
    assert f"removeprefix({prefix!r})" in str(error.value)
    with pytest.raises(GeneMatchError) as error:
        match_genes(GENES, prefix + GENES, min_overlap=0.5)
    assert f"adata.var_names = {prefix!r} + adata.var_names" in str(error.value)


def test_of_two_species_the_one_of_the_model_is_named() -> None:
    others = pd.Index([f"mm10___Xkr{i}" for i in range(30)])
    with pytest.raises(GeneMatchError, match=r"removeprefix\('GRCh38_'\)\. 30 genes have another prefix"):
        match_genes(others.append("GRCh38_" + GENES), GENES, min_overlap=0.5)


@pytest.mark.parametrize("names", [[f"HLA-{i}" for i in range(20)], [f"ENSG{i:08d}_x" for i in range(20)]])
def test_names_with_a_stroke_are_no_prefixes(names: list[str]) -> None:
    with pytest.raises(GeneMatchError) as error:
        match_genes(pd.Index(names), GENES, min_overlap=0.5)
    assert "prefix" not in str(error.value)


def test_spaces_around_names_are_recognised() -> None:
    with pytest.raises(GeneMatchError, match="differ by spaces"):
        match_genes(GENES + " ", GENES, min_overlap=0.5)
