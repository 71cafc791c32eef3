"""Bad input, row by row: what a user may hand over by mistake, and what must happen."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.errors import (
    DeltaviError,
    DuplicateNameWarning,
    GeneMatchError,
    GeneMatchWarning,
    InputDataError,
    InputDataWarning,
    KeyClashError,
    UnknownCategoryError,
)
from deltavi.model import SCGEN, VAE
from deltavi.pp import valid_cells
from tests.model.conftest import QUIET, SETUP, dense, log_normalised, small_adata, train
from tests.models import classes_of, entry_of

ASK = {"control": "control", "perturbation": "stimulated"}
MODELS = pytest.mark.parametrize("model_class", classes_of(decodes=True, reads="counts"))


def with_value(adata: AnnData, value: float, *, row: int = 3, column: int = 2) -> AnnData:
    changed = adata.copy()
    x = dense(changed.X).astype(np.float64)
    x[row, column] = value
    changed.X = x
    return changed


# -- values --------------------------------------------------------------------------------------------------


@MODELS
@pytest.mark.parametrize(("value", "word"), [(np.nan, "1 NaN"), (np.inf, "1 infinite")])
def test_nan_or_infinite_value_in_training(adata: AnnData, model_class: Any, value: float, word: str) -> None:
    broken = with_value(adata, value)
    with pytest.raises(InputDataError, match=word) as caught:
        model_class.setup_anndata(broken, **SETUP)
    assert adata.obs_names[3] in str(caught.value)
    assert adata.var_names[2] in str(caught.value)


def test_nan_in_a_sparse_matrix_is_found(adata: AnnData) -> None:
    broken = adata.copy()
    broken.X.data[5] = np.nan
    with pytest.raises(InputDataError, match="1 NaN"):
        SCGEN.setup_anndata(broken, **SETUP)


def test_nan_in_a_query_names_the_cell_and_can_be_left_out(trained: SCGEN) -> None:
    query = small_adata()
    row = int(np.flatnonzero(query.obs["condition"] == "control")[4])
    broken = with_value(query, np.nan, row=row)
    with pytest.raises(InputDataError, match=query.obs_names[row]):
        trained.predict_perturbation(broken, **ASK)
    predicted = trained.predict_perturbation(broken, invalid_cells="drop", **ASK)
    whole = trained.predict_perturbation(query, **ASK)
    assert set(whole.obs_names) - set(predicted.obs_names) == {f"{query.obs_names[row]}-stimulated"}
    mask = valid_cells(broken)
    assert (~mask).sum() == 1
    assert not mask[row]
    assert trained.get_latent_representation(broken[mask]).shape[0] == query.n_obs - 1


@MODELS
def test_one_negative_value(adata: AnnData, model_class: Any) -> None:
    broken = with_value(adata, -1.0, row=adata.n_obs - 1, column=adata.n_vars - 1)
    model_class.setup_anndata(broken, **SETUP)
    with pytest.raises(InputDataError, match="1 negative"):
        model_class(broken)


@MODELS
def test_some_negative_values_are_counted_in_full(adata: AnnData, model_class: Any) -> None:
    broken = adata.copy()
    x = dense(broken.X)
    negative = np.random.default_rng(0).random(x.shape) < 0.05
    broken.X = np.where(negative, -1.0, x)
    model_class.setup_anndata(broken, **SETUP)
    with pytest.raises(InputDataError, match=f"{negative.sum()} negative"):
        model_class(broken)


@MODELS
def test_one_value_in_a_thousand_is_fractional(adata: AnnData, model_class: Any) -> None:
    broken = adata.copy()
    x = dense(broken.X)
    rows, columns = np.nonzero(x)
    chosen = np.random.default_rng(0).choice(len(rows), max(1, len(rows) // 1000), replace=False)
    x[rows[chosen], columns[chosen]] += 0.5
    broken.X = sparse.csr_matrix(x)
    model_class.setup_anndata(broken, **SETUP)
    with pytest.raises(InputDataError, match=f"{len(chosen)} fractional"):
        model_class(broken)


@MODELS
def test_log_normalised_instead_of_counts(adata: AnnData, model_class: Any) -> None:
    logs = log_normalised(adata)
    model_class.setup_anndata(logs, **SETUP)
    with pytest.raises(InputDataError, match="log-normalised") as caught:
        model_class(logs)
    assert "layer" in str(caught.value)
    assert "check_input=False" in str(caught.value)
    model_class(logs, check_input=False)
    model_class(logs, gene_likelihood="normal")


@MODELS
def test_counts_instead_of_log_normalised(adata: AnnData, model_class: Any) -> None:
    model_class.setup_anndata(adata, **SETUP)
    with pytest.raises(InputDataError, match="raw counts"):
        model_class(adata, gene_likelihood="normal")


@MODELS
def test_counts_scaled_per_cell(adata: AnnData, model_class: Any) -> None:
    scaled = adata.copy()
    x = dense(scaled.X)
    scaled.X = 1e4 * x / x.sum(1, keepdims=True)
    model_class.setup_anndata(scaled, **SETUP)
    with pytest.raises(InputDataError, match="scaled per cell"):
        model_class(scaled)


def test_a_query_on_another_scale_is_refused(trained: SCGEN) -> None:
    with pytest.raises(InputDataError, match="query"):
        trained.predict_perturbation(log_normalised(small_adata()), **ASK)


def test_an_empty_cell_warns_and_is_predicted_as_empty(adata: AnnData) -> None:
    x = dense(adata.X)
    row = int(np.flatnonzero(adata.obs["condition"] == "control")[0])
    x[row] = 0
    adata.X = x
    with pytest.warns(InputDataWarning, match="1 cells have no counts") as caught:
        SCGEN.setup_anndata(adata, **SETUP)
    assert len(caught) == 1
    model = SCGEN(adata, n_hidden=16, n_latent=4)
    model.train(max_epochs=1, batch_size=32, **QUIET)
    predicted = model.predict_perturbation(**ASK)
    assert np.isfinite(dense(predicted.X)).all()
    assert np.isfinite(model.get_latent_representation()).all()


def test_an_empty_gene_is_allowed(adata: AnnData) -> None:
    x = dense(adata.X)
    x[:, 7] = 0
    adata.X = sparse.csr_matrix(x)
    predicted = train(SCGEN, adata, n_hidden=16, n_latent=4).predict_perturbation(**ASK)
    assert np.isfinite(dense(predicted.X)).all()
    # nothing of the gene was ever seen, so nothing much of it is predicted
    assert dense(predicted.layers["counts"])[:, 7].mean() < x[x > 0].mean()


def test_a_value_beyond_single_precision_warns_and_gives_no_nan(adata: AnnData) -> None:
    huge = with_value(adata, 1e12)
    with pytest.warns(InputDataWarning, match="2\\^24"):
        SCGEN.setup_anndata(huge, **SETUP)
    model = SCGEN(huge, n_hidden=16, n_latent=4)
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.history["train_loss"].to_numpy(dtype=float)).all()


def test_a_value_that_is_infinite_in_single_precision_in_a_query_that_lacks_genes(trained: SCGEN) -> None:
    query = with_value(small_adata()[:, :30].copy(), 1e300)
    with pytest.warns(GeneMatchWarning, match="missing"), pytest.raises(InputDataError, match="infinite"):
        trained.get_latent_representation(query)


# -- genes and cells -----------------------------------------------------------------------------------------


@MODELS
def test_duplicate_gene_names_in_training(adata: AnnData, model_class: Any) -> None:
    adata.var_names = ["GENE1", "GENE1", *adata.var_names[2:]]
    with pytest.raises(GeneMatchError, match="var_names_make_unique"):
        model_class.setup_anndata(adata, **SETUP)


def test_duplicate_gene_names_in_a_query(trained: SCGEN) -> None:
    query = small_adata()
    query.var_names = [query.var_names[1], *query.var_names[1:]]
    with pytest.raises(GeneMatchError, match="more than once"):
        trained.predict_perturbation(query, **ASK)


def test_duplicate_cell_names_warn_and_keep_positions(trained: SCGEN) -> None:
    query = small_adata()
    expected = trained.get_latent_representation(query)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        query.obs_names = ["same"] * query.n_obs
    with pytest.warns(DuplicateNameWarning, match="position"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        latent = trained.get_latent_representation(query)
    np.testing.assert_allclose(latent, expected, atol=1e-5)


def test_genes_of_a_query_in_another_order_with_others_between(
    trained: SCGEN, caplog: pytest.LogCaptureFixture
) -> None:
    query = small_adata()
    extra = AnnData(np.ones((query.n_obs, 5), dtype=np.float32), obs=query.obs[[]].copy())
    extra.var_names = [f"OTHER{i}" for i in range(5)]
    wide = ad.concat([extra, query], axis=1, merge="first")
    wide.obs = query.obs
    wide = wide[:, np.random.default_rng(1).permutation(wide.n_vars)].copy()
    with caplog.at_level(logging.INFO, logger="deltavi"):
        latent = trained.get_latent_representation(wide)
    np.testing.assert_allclose(latent, trained.get_latent_representation(), atol=1e-5)
    assert "5 genes of the query are unknown" in caplog.text


def test_a_query_with_other_genes_altogether(trained: SCGEN) -> None:
    query = small_adata()
    query.var_names = [f"OTHER{i}" for i in range(query.n_vars)]
    with pytest.raises(GeneMatchError, match="Only 0%"):
        trained.predict_perturbation(query, **ASK)


def test_a_third_of_the_genes_missing_warns(trained: SCGEN) -> None:
    query = small_adata()[:, : int(40 * 0.67)].copy()
    with pytest.warns(GeneMatchWarning, match="missing"):
        predicted = trained.predict_perturbation(query, **ASK)
    assert predicted.n_vars == 40
    assert list(predicted.var_names) == list(trained.gene_names)


@pytest.mark.parametrize("share", [0.1, 0.03])
def test_too_few_genes_are_an_error_with_a_floor_to_set(share: float) -> None:
    model = train(SCGEN, small_adata(), n_hidden=16, n_latent=4)
    query = small_adata()[:, : max(1, int(40 * share))].copy()
    with pytest.raises(GeneMatchError, match="min_gene_overlap"):
        model.predict_perturbation(query, **ASK)
    model.min_gene_overlap = 0.01
    with pytest.warns(GeneMatchWarning, match="missing"), warnings.catch_warnings():
        warnings.simplefilter("ignore", InputDataWarning)
        model.predict_perturbation(query, **ASK)


@pytest.mark.parametrize(
    ("rename", "hint"),
    [
        (str.lower, "case"),
        (lambda name: f"{name}.3", "version suffix"),
        (lambda name: f"ENSG{int(name[4:]):011d}", "Ensembl"),
    ],
)
def test_another_vocabulary_is_recognised_but_not_guessed(trained: SCGEN, rename: Any, hint: str) -> None:
    query = small_adata()
    query.var_names = [rename(name) for name in query.var_names]
    with pytest.raises(GeneMatchError, match=hint):
        trained.predict_perturbation(query, **ASK)


# -- labels, batches, conditions -----------------------------------------------------------------------------


@MODELS
def test_unused_categories_are_dropped(adata: AnnData, model_class: Any) -> None:
    for key in ("cell_type", "batch", "condition"):
        values = adata.obs[key].astype("category")
        adata.obs[key] = values.cat.add_categories(["never seen"])
    before = adata.obs["cell_type"].copy()
    model = train(model_class, adata, n_hidden=16, n_latent=4)
    assert model.summary_stats.n_labels == 3
    assert model.summary_stats.n_batch == 2
    assert adata.obs["cell_type"].equals(before)


@pytest.mark.parametrize(
    ("model_class", "key"),
    [
        (cls, key)
        for cls in classes_of(decodes=True, reads="counts")
        for key in ("batch", "condition", "cell_type")
        # to a model that predicts labels a missing one is of a cell to predict
        if key != "cell_type" or not entry_of(cls).annotates
    ],
)
def test_missing_values_in_a_column(adata: AnnData, model_class: Any, key: str) -> None:
    values = adata.obs[key].astype(object)
    values.iloc[[1, 5]] = np.nan
    adata.obs[key] = values
    with pytest.raises(InputDataError, match=f"obs\\['{key}'\\] is missing for 2 of") as caught:
        model_class.setup_anndata(adata, **SETUP)
    assert adata.obs_names[1] in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"control": "contrl"}, "Did you mean 'control'"),
        ({"perturbation": "stim"}, "Known: 'control', 'stimulated'"),
        ({"labels": "type_9"}, "type_1"),
        ({"labels": ["type_1", "typ_2"]}, "Did you mean 'type_2'"),
    ],
)
def test_misspelt_conditions_and_labels_list_the_known(trained: SCGEN, arguments: Any, match: str) -> None:
    with pytest.raises(UnknownCategoryError, match=match):
        trained.predict_perturbation(**{**ASK, **arguments})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"control": "stimulated"}, "nothing to predict"),
        ({"shift": "scanvi"}, "scanvi"),
        ({"shift": np.ones(3)}, "shape"),
        ({"shift": np.full(4, np.nan)}, "NaN"),
        ({"n_samples": 0}, "n_samples"),
        ({"output": "decoded"}, "output"),
        ({"invalid_cells": "ignore"}, "invalid_cells"),
        ({"shift_scale": "large"}, "shift_scale"),
        ({"bandwidth": 0.0}, "bandwidth"),
    ],
)
def test_senseless_arguments(trained: SCGEN, arguments: Any, match: str) -> None:
    with pytest.raises(DeltaviError, match=match):
        trained.predict_perturbation(**{**ASK, **arguments})


def test_a_query_with_new_labels_and_without_labels_is_fine(trained: SCGEN) -> None:
    renamed = small_adata()
    renamed.obs["cell_type"] = "a new type"
    assert trained.predict_perturbation(renamed, **ASK).n_obs > 0
    bare = small_adata()
    bare.obs = bare.obs[["batch"]]
    predicted = trained.predict_perturbation(bare, **ASK)
    assert predicted.n_obs == bare.n_obs
    assert (predicted.obs["condition"] == "stimulated").all()
    with pytest.raises(UnknownCategoryError, match="batch"):
        bare.obs = pd.DataFrame(index=bare.obs_names)
        trained.predict_perturbation(bare, **ASK)


def test_a_query_without_control_cells(trained: SCGEN) -> None:
    query = small_adata()
    only = query[query.obs["condition"] == "stimulated"].copy()
    with pytest.raises(UnknownCategoryError, match="nothing to start from"):
        trained.predict_perturbation(only, **ASK)


def test_without_a_condition_there_is_no_prediction(adata: AnnData) -> None:
    model = train(VAE, adata, setup={"batch_key": "batch"}, n_hidden=8, n_latent=2)
    with pytest.raises(DeltaviError, match="condition_key"):
        model.predict_perturbation(**ASK)


@pytest.mark.parametrize("key", ["condition_key", "labels_key", "batch_key", "size_factor_key"])
def test_a_column_that_does_not_exist(adata: AnnData, key: str) -> None:
    with pytest.raises(UnknownCategoryError, match="Known"):
        SCGEN.setup_anndata(adata, **{**SETUP, key: "nope"})


def test_a_layer_that_does_not_exist(adata: AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    with pytest.raises(UnknownCategoryError, match="Did you mean 'counts'"):
        SCGEN.setup_anndata(adata, layer="count", **SETUP)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, "x"])
def test_a_size_factor_must_be_a_positive_number(adata: AnnData, value: Any) -> None:
    factors = adata.obs["total_counts"].astype(object)
    factors.iloc[2] = value
    adata.obs["size"] = factors
    with pytest.raises(InputDataError, match="positive"):
        SCGEN.setup_anndata(adata, size_factor_key="size", **SETUP)


def test_covariates_train_and_an_unseen_category_is_averaged(adata: AnnData) -> None:
    rng = np.random.default_rng(0)
    adata.obs["chemistry"] = rng.choice(["v2", "v3"], adata.n_obs)
    adata.obs["age"] = rng.standard_normal(adata.n_obs)
    setup = {**SETUP, "categorical_covariate_keys": ["chemistry"], "continuous_covariate_keys": ["age"]}
    model = train(SCGEN, adata, setup=setup, n_hidden=16, n_latent=4)
    query = small_adata()
    query.obs["chemistry"], query.obs["age"] = "v4", 0.5
    with pytest.warns(UserWarning, match="average"):
        predicted = model.predict_perturbation(query, **ASK)
    assert np.isfinite(predicted.layers["rate"]).all()
    query.obs["age"] = np.nan
    with pytest.raises(InputDataError, match="age"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.predict_perturbation(query, **ASK)


# -- storage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        sparse.csc_matrix,
        sparse.csr_array,
        sparse.csc_array,
        lambda x: x.toarray(),
        lambda x: np.asfortranarray(x.toarray()),
        lambda x: x.astype(np.int64),
        lambda x: x.toarray().astype(np.uint8),
        lambda x: x.toarray().astype(np.float16),
        lambda x: x.astype(np.float64),
    ],
    ids=["csc", "csr_array", "csc_array", "dense", "fortran", "int64", "uint8", "float16", "float64"],
)
def test_any_numeric_storage_trains_the_same_model(convert: Any) -> None:
    # every count fits into eight bits
    original, stored = small_adata(), small_adata()
    original.X.data = np.minimum(original.X.data, 200)
    reference = train(SCGEN, original, n_hidden=16, n_latent=4).get_latent_representation()
    stored.X = convert(original.X)
    before = type(stored.X)
    model = train(SCGEN, stored, n_hidden=16, n_latent=4)
    assert type(stored.X) is before
    np.testing.assert_allclose(model.get_latent_representation(), reference, atol=1e-4)


def test_a_coo_matrix_is_converted_beside_the_users(adata: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    from deltavi.registry.matrix import loadable

    with caplog.at_level(logging.INFO, logger="deltavi"):
        converted = loadable(adata.X.tocoo(), where="adata.X")
    assert "COO" in caplog.text
    assert (converted != adata.X).nnz == 0


def test_bool_is_read_as_counts_with_a_warning(adata: AnnData) -> None:
    adata.X = sparse.csr_matrix(adata.X > 0)
    with pytest.warns(InputDataWarning, match="bool") as caught:
        SCGEN.setup_anndata(adata, **SETUP)
        SCGEN(adata, n_hidden=8, n_latent=2)
    assert len(caught) == 1


def test_objects_are_refused(adata: AnnData) -> None:
    from deltavi.registry.matrix import loadable

    with pytest.raises(InputDataError, match="object"):
        loadable(dense(adata.X).astype(object), where="adata.X")
    with pytest.raises(InputDataError, match="empty"):
        loadable(None, where="adata.X")


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_backed_files_train_and_predict(tmp_path: Path, trained: SCGEN, kind: str) -> None:
    adata = small_adata()
    adata.X = {"dense": dense, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[kind](adata.X)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    reference = train(SCGEN, small_adata(), n_hidden=16, n_latent=4)
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = train(SCGEN, backed, n_hidden=16, n_latent=4)
    chosen = np.array([9, 2, 31])
    latent = model.get_latent_representation(indices=chosen)
    np.testing.assert_allclose(latent, reference.get_latent_representation()[chosen], atol=1e-4)
    query = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    in_memory = trained.predict_perturbation(small_adata(), **ASK)
    np.testing.assert_allclose(dense(trained.predict_perturbation(query, **ASK).X), dense(in_memory.X), atol=1e-4)
    assert query.isbacked


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_a_backed_file_is_never_held_in_memory_whole(tmp_path: Path, kind: str) -> None:
    import tracemalloc

    from deltavi.registry.checks import scan_matrix
    from deltavi.registry.matrix import loadable

    rng = np.random.default_rng(0)
    n_cells, n_genes = 60_000, 400
    matrix = sparse.random(n_cells, n_genes, density=0.25, format="csr", dtype=np.float32, random_state=rng)
    matrix.data[:] = 1.0
    size = matrix.data.nbytes + matrix.indices.nbytes
    stored = AnnData(matrix if kind == "csr" else sparse.csc_matrix(matrix))
    stored.write_h5ad(tmp_path / "large.h5ad")
    backed = ad.read_h5ad(tmp_path / "large.h5ad", backed="r")
    tracemalloc.start()
    rows = loadable(backed.X, where="adata.X")
    report = scan_matrix(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.n_nonzero == matrix.nnz
    # passes of two million entries, with the index arithmetic on them, whatever the size of the file
    assert peak < 0.75 * size if kind == "csr" else peak < 1.3 * 2_000_000 * 8 * 8
    np.testing.assert_array_equal(dense(rows[100:110]), matrix[100:110].toarray())


def test_a_view_is_set_up_and_its_parent_stays_as_it_is(adata: AnnData) -> None:
    parent = adata.copy()
    view = parent[:40]
    SCGEN.setup_anndata(view, **SETUP)
    model = SCGEN(view, n_hidden=16, n_latent=4)
    model.train(max_epochs=1, batch_size=16, **QUIET)
    assert model.get_latent_representation().shape[0] == 40
    assert not view.is_view
    assert not any(str(c).startswith("_scvi") for c in parent.obs)
    assert "_scvi_uuid" not in parent.uns


@pytest.mark.parametrize("dtype", ["string", "string[pyarrow]", "category"])
def test_nullable_and_arrow_strings_in_obs(dtype: str) -> None:
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    adata = small_adata()
    for key in ("condition", "cell_type", "batch"):
        adata.obs[key] = adata.obs[key].astype(str).astype(dtype)
    model = train(SCGEN, adata, n_hidden=16, n_latent=4)
    predicted = model.predict_perturbation(labels="type_1", **ASK)
    assert (predicted.obs["cell_type"].astype(str) == "type_1").all()


def test_integer_labels_work(adata: AnnData, tmp_path: Path) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).str[-1].astype(int)
    model = train(SCGEN, adata, n_hidden=16, n_latent=4)
    predicted = model.predict_perturbation(labels="1", **ASK)
    assert (predicted.obs["cell_type"] == 1).all()
    model.save(tmp_path / "model")
    assert list(SCGEN.load(tmp_path / "model")._categories("labels")) == [1, 2, 3]


def test_a_column_in_the_way_is_not_overwritten(adata: AnnData, trained: SCGEN) -> None:
    taken = adata.copy()
    taken.obs["_scvi_labels"] = "mine"
    with pytest.raises(KeyClashError, match="_scvi_labels"):
        SCGEN.setup_anndata(taken, **SETUP)
    assert (taken.obs["_scvi_labels"] == "mine").all()
    query = adata.copy()
    query.obs["deltavi_source_cell"] = "mine"
    with pytest.raises(KeyClashError, match="deltavi_source_cell"):
        trained.predict_perturbation(query, **ASK)


def test_setting_up_twice_is_fine(adata: AnnData) -> None:
    SCGEN.setup_anndata(adata, **SETUP)
    SCGEN.setup_anndata(adata, **SETUP)
    SCGEN(adata, n_hidden=8, n_latent=2).train(max_epochs=1, batch_size=32, **QUIET)


def test_no_cells_and_too_few_cells(adata: AnnData) -> None:
    with pytest.raises(DeltaviError, match="0 cells"):
        SCGEN.setup_anndata(adata[:0].copy(), **SETUP)
    pair = adata[:2].copy()
    SCGEN.setup_anndata(pair, **SETUP)
    with pytest.raises(DeltaviError, match="too few"):
        SCGEN(pair, n_hidden=8, n_latent=2).train(max_epochs=1, **QUIET)


# -- settings and questions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"gene_likelihood": "NB"}, "Did you mean|Known: 'zinb', 'nb'"),
        ({"dispersion": "genes"}, "Did you mean 'gene'"),
        ({"library": "obs"}, "'observed'"),
        ({"use_batch_norm": "all"}, "'both'"),
        ({"n_latent": 0}, "n_latent"),
        ({"n_hidden": -3}, "n_hidden"),
        ({"dispersion": "shared"}, "normal"),
        ({"library": "none"}, "library size"),
    ],
)
@MODELS
def test_a_setting_that_does_not_exist(adata: AnnData, model_class: Any, settings: Any, match: str) -> None:
    model_class.setup_anndata(adata, **SETUP)
    with pytest.raises(DeltaviError, match=match):
        model_class(adata, **settings)


@pytest.mark.parametrize("key", ["condition", "cell_type", "batch"])
def test_missing_values_in_a_column_of_a_query(trained: SCGEN, key: str) -> None:
    query = small_adata()
    values = query.obs[key].astype(object)
    values.iloc[[0, 5]] = np.nan
    query.obs[key] = values
    with pytest.raises(InputDataError, match=f"obs\\['{key}'\\] is missing for 2 of"):
        trained.predict_perturbation(query, **ASK)


def test_negative_values_where_logarithms_are_needed(adata: AnnData) -> None:
    scaled = log_normalised(adata)
    scaled.X = dense(scaled.X) - dense(scaled.X).mean(0)
    SCGEN.setup_anndata(scaled, **SETUP)
    with pytest.raises(InputDataError, match="negative"):
        SCGEN(scaled, gene_likelihood="normal")
    SCGEN(scaled, gene_likelihood="normal", check_input=False)


def test_one_column_for_two_keys(adata: AnnData) -> None:
    with pytest.raises(DeltaviError, match="both 'batch'"):
        SCGEN.setup_anndata(adata, condition_key="batch", batch_key="batch")


def test_labels_may_be_one_number_or_several_but_not_none(adata: AnnData, trained: SCGEN) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).str[-1].astype(int)
    model = train(SCGEN, adata, n_hidden=16, n_latent=4)
    expected = model.predict_perturbation(labels="1", **ASK)
    for labels in (1, np.int64(1), [1], np.array([1])):
        assert list(model.predict_perturbation(labels=labels, **ASK).obs_names) == list(expected.obs_names)
    with pytest.raises(DeltaviError, match="empty"):
        model.predict_perturbation(labels=[], **ASK)
    bare = small_adata()
    del bare.obs["cell_type"]
    with pytest.raises(DeltaviError, match="no label column"):
        trained.predict_perturbation(bare, labels="type_1", **ASK)


def test_what_a_query_lacks_is_said_with_the_way_out(adata: AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    setup = {**SETUP, "layer": "counts", "size_factor_key": "total_counts"}
    model = train(SCGEN, adata, setup=setup, n_hidden=8, n_latent=2)
    query = small_adata()
    with pytest.raises(DeltaviError, match=r"adata.layers\['counts'\] = adata.X.copy"):
        model.predict_perturbation(query, **ASK)
    query.layers["counts"] = query.X.copy()
    del query.obs["total_counts"]
    with pytest.raises(UnknownCategoryError, match="total counts over all genes"):
        model.predict_perturbation(query, **ASK)
    query.obs["total_counts"] = np.asarray(query.X.sum(1)).ravel()
    assert model.predict_perturbation(query, **ASK).n_obs > 0


def test_batch_removal_needs_no_condition(adata: AnnData) -> None:
    model = train(SCGEN, adata, setup={"labels_key": "cell_type", "batch_key": "batch"}, n_hidden=8, n_latent=2)
    assert model.batch_removal().shape == adata.shape


def test_weak_evidence_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    adata = small_adata()
    few = np.asarray((adata.obs["cell_type"] == "type_1") & (adata.obs["condition"] == "stimulated"))
    kept = adata[~few | (np.cumsum(few) <= 4)].copy()
    model = train(SCGEN, kept, n_hidden=16, n_latent=4)
    with caplog.at_level(logging.WARNING, logger="deltavi"):
        model.predict_perturbation(labels="type_1", bandwidth=1e-3, **ASK)
    assert "rests on labels of fewer than 10 cells ('type_1')" in caplog.text
