"""Bad names, batches and storage for PPCA and factor analysis: what must happen, and what must not matter."""

from __future__ import annotations

import logging
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.errors import (
    DeltaviError,
    DuplicateNameWarning,
    GeneMatchError,
    GeneMatchWarning,
    InputDataError,
    UnknownArgumentError,
)
from deltavi.model import PPCA
from deltavi.registry import matrix
from tests.model.conftest import dense
from tests.model.linear import NOISE, NOISES, answers, assert_same, fitted, logs

KINDS: dict[str, Callable[[Any], Any]] = {"dense": dense, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


@pytest.fixture(scope="module", params=NOISES)
def model(request: pytest.FixtureRequest) -> PPCA:
    """Not to be changed by tests."""
    return fitted(logs(), request.param)


# -- names and batches -----------------------------------------------------------------------------------------


def test_gene_names_that_repeat(model: PPCA) -> None:
    adata = logs()
    adata.var_names = ["GENE0002", *adata.var_names[1:]]
    for ask, where in ((PPCA.setup_anndata, "adata.var_names"), (model.log_likelihood, "The query")):
        with pytest.raises(GeneMatchError, match=f"{where} has 1 gene names.*'GENE0002'.*var_names_make_unique"):
            ask(adata)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")  # anndata's own
def test_cell_names_that_repeat_warn_and_keep_positions(model: PPCA) -> None:
    adata = logs()
    expected = model.log_likelihood(adata).to_numpy()
    adata.obs_names = ["same", "same", *adata.obs_names[2:]]
    said = []
    for ask in (lambda: fitted(adata, model.noise).log_likelihood(), lambda: model.log_likelihood(adata)):
        with pytest.warns(DuplicateNameWarning, match="1 cell names .*'same'.*position") as caught:
            np.testing.assert_allclose(ask(), expected, rtol=1e-6)
        said.append(sum(one.category is DuplicateNameWarning for one in caught))
    assert said == [1, 1]


def test_genes_in_another_order_with_others_between(model: PPCA, caplog: pytest.LogCaptureFixture) -> None:
    query = logs()
    others = AnnData(np.ones((144, 5)), obs=query.obs[[]])
    others.var_names = [f"OTHER{i}" for i in range(5)]
    wide = ad.concat([others, query], axis=1, merge="first")
    wide.obs = query.obs
    wide = wide[:, np.random.default_rng(1).permutation(45)].copy()
    with caplog.at_level(logging.INFO, logger="deltavi"):
        found = answers(model, wide)
    assert_same(found, answers(model))
    assert "5 genes of the query are unknown" in caplog.text


GENES: dict[str, tuple[Callable[[AnnData], AnnData], str]] = {
    "other genes": (lambda a: renamed(a, lambda name: f"X{name}"), "Only 0%"),
    "one gene in ten": (lambda a: a[:, :4].copy(), "Only 10%.*min_gene_overlap"),
    "other case": (lambda a: renamed(a, str.lower), "differ by case"),
    "versions": (lambda a: renamed(a, lambda name: f"{name}.3"), "version suffix"),
}


def renamed(adata: AnnData, rename: Callable[[str], str]) -> AnnData:
    adata.var_names = [rename(name) for name in adata.var_names]
    return adata


@pytest.mark.parametrize(("change", "message"), GENES.values(), ids=GENES)
def test_genes_that_do_not_meet(model: PPCA, change: Callable[[AnnData], AnnData], message: str) -> None:
    for ask in (model.get_latent_representation, model.log_likelihood):
        with pytest.raises(GeneMatchError, match=message):
            ask(change(logs()))


def test_a_third_of_the_genes_missing_warns_and_reads_zeros(model: PPCA) -> None:
    with pytest.warns(GeneMatchWarning, match="14 of 40 genes .*'GENE0027'.*zero"):
        found = model.log_likelihood(logs()[:, :26].copy())
    zeros = logs(lambda x: np.where(np.arange(40) < 26, x, 0.0))
    np.testing.assert_allclose(found, model.log_likelihood(zeros), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_key": "batch"}, DeltaviError, "takes no 'batch_key'.*VAE and SCGEN"),
        ({"size_factor_key": "total_counts"}, DeltaviError, "takes no 'size_factor_key'.*log_normalise"),
        ({"categorical_covariate_keys": ["batch"]}, DeltaviError, "takes no 'categorical_covariate_keys'"),
        ({"label_key": "cell_type"}, UnknownArgumentError, "PPCA.setup_.* no argument 'label_key'.*mean 'labels_key'"),
    ],
    ids=["batches", "size factors", "covariates", "a slip"],
)
def test_columns_that_would_be_left_out_of_account(arguments: Any, error: type[Exception], message: str) -> None:
    adata = logs()
    with pytest.raises(error, match=message):
        PPCA.setup_anndata(adata, **arguments)
    assert not any(str(column).startswith("_scvi") for column in adata.obs)


@pytest.mark.parametrize("batch", ["new", "", 0, None])
def test_batches_of_a_query_change_nothing(model: PPCA, batch: Any) -> None:
    query = logs()
    query.obs["batch"] = batch
    assert_same(answers(model, query), answers(model))


# -- storage ---------------------------------------------------------------------------------------------------

STORED: dict[str, Callable[[Any], Any]] = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
    "Fortran order": np.asfortranarray,
    "single precision": lambda x: x.astype(np.float32),
    "half precision": lambda x: x.astype(np.float16),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
}


@NOISE
@pytest.mark.parametrize("convert", STORED.values(), ids=STORED)
def test_storage_does_not_matter(noise: str, convert: Callable[[Any], Any]) -> None:
    # half precision holds these exactly
    expected = fitted(logs(lambda x: x.astype(np.float16).astype(np.float64)), noise)
    adata = logs(lambda x: convert(x.astype(np.float16).astype(np.float64)))
    form, kept = type(adata.X), adata.X.copy()
    found = fitted(adata, noise)
    assert_same(answers(found), answers(expected))
    assert_same(answers(expected, adata), answers(expected))
    assert type(adata.X) is form
    np.testing.assert_array_equal(dense(adata.X), dense(kept))


@NOISE
@pytest.mark.parametrize("kind", KINDS)
def test_backed_files(tmp_path: Path, noise: str, kind: str) -> None:
    logs(KINDS[kind]).write_h5ad(tmp_path / "cells.h5ad")
    expected = fitted(logs(), noise)
    backed, query = (ad.read_h5ad(tmp_path / "cells.h5ad", backed="r") for _ in range(2))
    assert_same(answers(fitted(backed, noise)), answers(expected))
    assert_same(answers(expected, query), answers(expected))
    chosen = [31, 2, 9]
    some = expected.log_likelihood(query, indices=chosen)
    np.testing.assert_allclose(some, expected.log_likelihood().iloc[chosen], rtol=1e-6)
    assert query.isbacked


@NOISE
@pytest.mark.parametrize("kind", KINDS)
def test_a_backed_file_is_never_in_memory_whole(
    tmp_path: Path, noise: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "ENTRIES_PER_PASS", 100_000)
    rng = np.random.default_rng(0)
    x = sparse.random(48_000, 200, density=0.3, format="csr", dtype=np.float32, random_state=rng)
    size = {"dense": 4 * x.shape[0] * x.shape[1]}.get(kind, x.data.nbytes + x.indices.nbytes)
    AnnData(KINDS[kind](x)).write_h5ad(tmp_path / "large.h5ad")
    backed = ad.read_h5ad(tmp_path / "large.h5ad", backed="r")
    tracemalloc.start()
    model = fitted(backed, noise, setup={})
    model.get_latent_representation()
    likelihood = model.log_likelihood()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size
    expected = fitted(AnnData(x), noise, setup={})
    np.testing.assert_allclose(likelihood, expected.log_likelihood(), rtol=1e-3, atol=1e-3)


@NOISE
@pytest.mark.parametrize("in_chunks", [lambda x: x, sparse.csr_matrix], ids=["dense chunks", "sparse chunks"])
def test_dask_arrays(noise: str, in_chunks: Callable[[Any], Any]) -> None:
    dask_array = pytest.importorskip("dask.array")
    lazy = logs(lambda x: dask_array.from_array(in_chunks(x), chunks=(50, 40), asarray=False))
    expected = fitted(logs(), noise)
    assert_same(answers(fitted(lazy, noise)), answers(expected))
    assert_same(answers(expected, lazy), answers(expected))


@NOISE
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_sparse_matrices_in_zarr(tmp_path: Path, noise: str, kind: str) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "cells.zarr"), mode="w")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's plans for its next release
        ad.io.write_elem(group, "x", KINDS[kind](logs().X))
    lazy = logs(lambda _: ad.io.sparse_dataset(group["x"]))
    expected = fitted(logs(), noise)
    assert_same(answers(fitted(lazy, noise)), answers(expected))
    assert_same(answers(expected, lazy), answers(expected))


def test_a_zarr_array_is_refused_with_a_way_out(model: PPCA) -> None:
    zarr = pytest.importorskip("zarr")
    lazy = logs(lambda x: zarr.array(x))
    for ask in (PPCA.setup_anndata, model.get_latent_representation):
        with pytest.raises(InputDataError, match=r"adata.X is a Zarr array.*dask.array.from_zarr"):
            ask(lazy)


@NOISE
def test_views_leave_their_parents_alone(noise: str) -> None:
    parent = logs()
    columns, view = list(parent.obs), parent[20:90]
    found = fitted(view, noise)
    assert not view.is_view
    assert list(parent.obs) == columns
    assert not parent.uns
    assert_same(answers(found), answers(fitted(logs()[20:90].copy(), noise)))


def test_views_can_be_asked_about(model: PPCA) -> None:
    parent = logs()
    parent.obs["condition"] = "control"
    view = parent[90:20:-7, ::-1]
    expected = answers(model, parent)
    assert_same(answers(model, view), {verb: values[90:20:-7] for verb, values in expected.items()})
    assert view.is_view
