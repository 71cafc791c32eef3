"""Changed data over models, changes and methods: an error that says what changed, or the answers of before."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from deltavi.errors import DeltaviError
from tests.bad_input.bench import CASES, PERTURBATION, Case
from tests.model.conftest import QUIET, dense

EVERY = pytest.mark.parametrize("name", CASES)
# what is asked for beside the registered cells
ARGUMENTS: dict[str, dict[str, Any]] = {
    "predict_perturbation": PERTURBATION,
    "predict_perturbations": {"control": PERTURBATION["control"]},
    "differential_expression": {"groupby": "cell_type", "silent": True},
    "differential_abundance": {"sample_key": "batch"},
    "data_registry": {"registry_key": "X"},
    "get_attributions": {"label": "type_1"},
    "train": {"max_epochs": 1, **QUIET},
    "get_feature_correlation_matrix": {"n_samples": 1},
    "get_latent_library_size": {"give_mean": False},
    "get_marginal_ll": {"n_mc_samples": 1},
}
# methods that read no registered cell: files, descriptions, weights, cells that are handed over, and those refused
READ_NOTHING = {
    *("convert_legacy_save", "deregister_manager", "get_anndata_manager", "get_setup_arg", "get_state_registry"),
    *("get_var_names", "load", "load_query_data", "load_registry", "prepare_query_anndata", "prepare_query_mudata"),
    "setup_annbatch",
    *("register_manager", "setup_anndata", "to_device", "transfer_fields", "update_setup_method_args"),
    *("view_anndata_setup", "view_registry", "view_setup_args", "view_setup_method_args", "import_scvi", "from_vae"),
    *("from_clusters", "get_likelihood_parameters", "get_loadings", "get_noise", "sample", "merge_components"),
    "get_importance_weights",
}
# inherited all the same: a classifier decodes nothing, and factors come with no verbs of counts
LACKS = {
    "ACTINN": {"get_normalized_expression", "differential_abundance"},
    # SCVI is no such model
    "LABELVI": {"export_scvi"},
    "MIXVI": {"export_scvi"},
}


def methods(model: Any) -> dict[str, Callable[[Path], Any]]:
    """Every public method that reads registered cells, asked for those."""
    found: dict[str, Callable[[Path], Any]] = {}
    left_out = READ_NOTHING | LACKS.get(type(model).__name__, set())
    for name, function in inspect.getmembers(type(model), callable):
        if not name.startswith("_") and name not in left_out:
            found[name] = lambda _, f=function, n=name: f(model, **ARGUMENTS.get(n, {}))
    found["get_from_registry"] = lambda _: model.get_from_registry(model.adata, "X")
    for name in {"save", "export_scvi"} & found.keys():
        found[name] = lambda folder, n=name: getattr(model, n)(folder / n, save_anndata=True)
    return found


# -- changes -------------------------------------------------------------------------------------------------------


def normalise(adata: AnnData) -> None:
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)


def replace(change: Callable[[Any], Any]) -> Callable[[AnnData], None]:
    def apply(adata: AnnData) -> None:
        adata.X = change(adata.X)

    return apply


def one_value(adata: AnnData) -> None:
    adata.X.data[7] += 1


def without_cells(adata: AnnData) -> None:
    adata._inplace_subset_obs(np.arange(adata.n_obs) % 5 > 0)


def column(key: str, change: Callable[[pd.Series], Any]) -> Callable[[AnnData], None]:
    def apply(adata: AnnData) -> None:
        adata.obs[key] = change(adata.obs[key])

    return apply


CHANGES: dict[str, tuple[Callable[[AnnData], Any], str]] = {
    "log1p": (sc.pp.log1p, r"adata\.X "),
    "normalised": (normalise, r"adata\.X "),
    "total of all cells": (lambda a: sc.pp.normalize_total(a, target_sum=1e4), r"adata\.X "),
    "scaled": (lambda a: sc.pp.scale(a), r"adata\.X .*centred or scaled"),
    "one value": (one_value, r"adata\.X .*values of 1 of 144 cells changed"),
    "rows turned round": (replace(lambda x: x[::-1].copy()), "its rows are those of other cells"),
    "columns turned round": (replace(lambda x: x[:, ::-1].copy()), r"adata\.X .*changed"),
    "two columns swapped": (replace(lambda x: x[:, [1, 0, *range(2, x.shape[1])]]), r"adata\.X .*changed"),
    "all zero": (replace(lambda x: x * 0), r"adata\.X .*changed"),
    "genes filtered": (lambda a: a._inplace_subset_var(np.arange(a.n_vars) % 4 > 0), "10 of 40 genes went away"),
    "genes renamed": (lambda a: setattr(a, "var_names", "x" + a.var_names), "40 of 40 genes are not there"),
    "genes in another order": (lambda a: setattr(a, "var_names", a.var_names[::-1]), "genes lie in other places"),
    "cells filtered": (without_cells, "29 of 144 cells went away"),
    "cells drawn": (lambda a: a._inplace_subset_obs(np.random.default_rng(0).permutation(144)[:60]), "84 of 144 cells"),
    "cells in another order": (lambda a: a._inplace_subset_obs(np.arange(144)[::-1]), "cells lie in other places"),
    "cells renamed": (lambda a: setattr(a, "obs_names", a.obs_names + "-1"), "144 of 144 cells are not there"),
    "labels edited": (column("cell_type", lambda c: c.iloc[::-1].to_numpy()), r"obs\['cell_type'\] was edited"),
    "labels dropped": (lambda a: a.obs.pop("cell_type"), r"obs\['cell_type'\].* is gone"),
    "codes edited": (column("_scvi_labels", lambda c: c + 1), r"obs\['_scvi_labels'\].* was edited"),
    "codes dropped": (lambda a: a.obs.pop("_scvi_labels"), r"obs\['_scvi_labels'\].* is gone"),
}


@contextmanager
def changed(model: Any, change: Callable[[AnnData], Any]) -> Any:
    """A model whose own AnnData has the change in the block."""
    adata = model._adata
    before = adata.copy()
    try:
        change(adata)
        yield model
    finally:
        adata._init_as_actual(before)


@EVERY
@pytest.mark.filterwarnings("ignore")
def test_every_method_says_what_changed(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.fitted(case.cells())
    reading = methods(model)
    assert {"get_latent_representation", "train", "data_registry", "get_from_registry", "save"} <= reading.keys()
    for what, (change, message) in CHANGES.items():
        with changed(model, change):
            for verb, call in reading.items():
                with pytest.raises(DeltaviError) as caught:
                    call(tmp_path)
                assert re.search(message, str(caught.value)), f"{what}, {verb}: {caught.value}"
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(case.ask(model), case.ask(model))


LOOKS: list[tuple[str, Callable[[AnnData], Any], str]] = [
    ("VAE", lambda a: sc.pp.normalize_total(a, target_sum=1e4), "it looks scaled to one total since setup_anndata"),
    ("VAE", normalise, "it looks log-normalised since setup_anndata"),
    ("VAE", replace(lambda x: x * np.float32(0.37)), r"no longer holds counts: \d+ values are fractional"),
    ("VAE", lambda a: a.X.data.__setitem__(0, np.nan), "holds 1 NaN and 0 infinite values in 1 of 144 cells .for exam"),
    ("PPCA", replace(lambda x: sparse.csr_matrix(np.rint(dense(x) * 9))), "it looks like counts since setup_anndata"),
]


@pytest.mark.parametrize(("name", "change", "message"), LOOKS, ids=[message for _, _, message in LOOKS])
def test_the_error_says_what_the_matrix_looks_like_now(name: str, change: Any, message: str) -> None:
    case = CASES[name]
    model = case.fitted(case.cells())
    with changed(model, change), pytest.raises(DeltaviError, match=message):
        case.ask(model)


# -- no changes ----------------------------------------------------------------------------------------------------


def with_a_stored_zero(x: sparse.csr_matrix) -> sparse.csr_matrix:
    filled = x.tolil().tocoo()
    row, column = np.argwhere(dense(x) == 0)[0]
    places = (np.append(filled.row, row), np.append(filled.col, column))
    return sparse.csr_matrix((np.append(filled.data, np.float32(0)), places), shape=x.shape)


def unsorted(x: sparse.csr_matrix) -> sparse.csr_matrix:
    found = x.copy()
    found.indices[:2], found.data[:2] = x.indices[:2][::-1], x.data[:2][::-1]
    return found


NO_CHANGES: dict[str, Callable[[AnnData], Any]] = {
    "dense": replace(dense),
    "Fortran order": replace(lambda x: np.asfortranarray(dense(x))),
    "CSC": replace(sparse.csc_matrix),
    "CSR array": replace(sparse.csr_array),
    "double precision": replace(lambda x: x.astype(np.float64)),
    "a copy": replace(lambda x: x.copy()),
    "a stored zero": replace(with_a_stored_zero),
    "entries of a row in another order": replace(unsorted),
    "columns": lambda a: a.obs.__setitem__("leiden", "0"),
    "layers": lambda a: a.layers.__setitem__("other", a.X * 2),
    "uns": lambda a: a.uns.clear(),
    "obsm": lambda a: a.obsm.__setitem__("X_pca", np.ones((a.n_obs, 2))),
    "type of names": lambda a: setattr(a, "obs_names", pd.Index(a.obs_names.astype("string"))),
    "type of labels": column("cell_type", lambda c: c.astype(str).astype(object)),
    "var": lambda a: a.var.__setitem__("highly_variable", True),
}


@EVERY
@pytest.mark.filterwarnings("ignore:String index has converted")
def test_what_is_no_change(name: str) -> None:
    case = CASES[name]
    model = case.fitted(case.cells())
    before = case.ask(model)
    for what, change in NO_CHANGES.items():
        with changed(model, change):
            found = case.ask(model)
            np.testing.assert_allclose(found, before, rtol=1e-4, atol=1e-4, err_msg=what)
            model.adata_manager.create_torch_dataset()


# -- when -------------------------------------------------------------------------------------------------------


@EVERY
def test_between_setup_and_the_model_and_before_training(name: str) -> None:
    case = CASES[name]
    adata = case.cells()
    case.set_up(adata)
    adata.X.data[3] += 1
    with pytest.raises(DeltaviError, match=r"adata\.X .*values of 1 of 144 cells changed"):
        case.model_class(adata, **case.init)
    adata.X.data[3] -= 1
    model = case.model_class(adata, **case.init)
    adata.X.data[3] += 1
    with pytest.raises(DeltaviError, match=r"adata\.X .*values of 1 of 144 cells changed"):
        case.train(model)
    assert not model.is_trained


@EVERY
def test_setting_up_again_makes_a_new_model_and_no_other_of_the_old(name: str) -> None:
    case = CASES[name]
    adata = case.cells()
    old = case.fitted(adata)
    adata.X.data[:50] += 1
    new = case.fitted(adata)
    case.ask(new)
    with pytest.raises(DeltaviError, match=r"adata\.X .*changed"):
        case.ask(old)
    case.ask(new)


def test_models_share_cells_without_scanning_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["VAE"]
    adata = case.cells()
    first, second = case.fitted(adata), case.fitted(adata, setup={"labels_key": "batch", "batch_key": None})
    expected = case.ask(first)
    monkeypatch.setattr("deltavi.registry.fields.scan_and_sum", lambda *_, **__: pytest.fail("scanned again"))
    case.ask(second)
    np.testing.assert_array_equal(case.ask(first), expected)


def test_a_query_is_read_anew_each_time() -> None:
    case = CASES["VAE"]
    query = case.cells(seed=1)
    before = case.ask(case.trained, query)
    query.X.data[:] += 2
    assert not np.allclose(case.ask(case.trained, query), before)
    query.X.data[:] -= 2
    np.testing.assert_array_equal(case.ask(case.trained, query), before)


# -- other columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["total_counts", "age", "site"])
def test_size_factors_and_covariates(key: str) -> None:
    case = CASES["VAE"]
    adata = case.cells()
    adata.obs["age"] = np.linspace(20, 60, adata.n_obs)
    adata.obs["site"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    setup = {
        "size_factor_key": "total_counts",
        "continuous_covariate_keys": ["age"],
        "categorical_covariate_keys": ["site"],
    }
    model = case.fitted(adata, setup=setup)
    before, held = case.ask(model), adata.obs[key].copy()
    adata.obs[key] = held.iloc[::-1].to_numpy()
    with pytest.raises(DeltaviError, match=rf"obs\['{key}'\] was edited after setup_anndata: \d+ of 144 cells"):
        case.ask(model)
    del adata.obs[key]
    with pytest.raises(DeltaviError, match=rf"obs\['{key}'\].* is gone"):
        case.ask(model)
    adata.obs[key] = held
    if key == "age":
        del adata.obsm["_scvi_extra_continuous_covs"]
        with pytest.raises(DeltaviError, match=r"obsm\['_scvi_extra_continuous_covs'\].* is gone"):
            case.ask(model)
        case.set_up(adata, **setup)
    np.testing.assert_array_equal(case.ask(model), before)


def test_a_layer() -> None:
    case = CASES["VAE"]
    adata = case.cells()
    adata.layers["counts"] = adata.X.copy()
    model = case.fitted(adata, setup={"layer": "counts"})
    before = case.ask(model)
    normalise(adata)
    np.testing.assert_array_equal(case.ask(model), before)
    kept = adata.layers.pop("counts")
    with pytest.raises(DeltaviError, match=r"adata.layers\['counts'\], registered for 144 cells"):
        case.ask(model)
    adata.layers["counts"] = adata.X
    with pytest.raises(DeltaviError, match=r"adata.layers\['counts'\] no longer holds counts: it looks log-normalised"):
        case.ask(model)
    adata.layers["raw"] = kept
    with pytest.raises(DeltaviError, match=r"adata.layers\['raw'\] holds what was registered"):
        case.ask(model)
    adata.layers["counts"] = kept
    np.testing.assert_array_equal(case.ask(model), before)


# -- files -------------------------------------------------------------------------------------------------------


def backed(case: Case, folder: Path, kind: Callable[[Any], Any]) -> AnnData:
    adata = case.cells()
    adata.X = kind(adata.X)
    adata.write_h5ad(folder / "cells.h5ad")
    return anndata.read_h5ad(folder / "cells.h5ad", backed="r+")


@pytest.mark.parametrize("kind", [dense, sparse.csr_matrix, sparse.csc_matrix], ids=["dense", "CSR", "CSC"])
def test_files(tmp_path: Path, kind: Callable[[Any], Any]) -> None:
    case = CASES["VAE"]
    adata = backed(case, tmp_path, kind)
    model = case.fitted(adata)
    before = case.ask(model)
    adata.file.close()
    np.testing.assert_array_equal(case.ask(model), before)
    adata.obs["leiden"] = "0"
    np.testing.assert_array_equal(case.ask(model), before)
    with_another = adata.X
    values = with_another if hasattr(with_another, "__setitem__") and kind is dense else with_another.group["data"]
    first = values[0]
    values[0] = first + 1
    values.file.flush()
    with pytest.raises(DeltaviError, match=r"adata\.X .*changed"):
        case.ask(model)
    values[0] = first
    values.file.flush()
    np.testing.assert_array_equal(case.ask(model), before)
    adata.file.close()
    (tmp_path / "cells.h5ad").unlink()
    with pytest.raises(DeltaviError, match=r"adata is backed by .*put that file back"):
        case.ask(model)


# -- the split, and other cells ------------------------------------------------------------------------------------


@EVERY
def test_the_split_points_at_the_cells_it_was_made_of(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.fitted(case.cells())
    splits = ("train_indices", "validation_indices", "test_indices")
    expected = {split: np.asarray(getattr(model, split)) for split in splits}
    model.save(tmp_path / "model")
    with changed(model, sc.pp.log1p):
        for split in splits:
            np.testing.assert_array_equal(getattr(model, split), expected[split])
    with changed(model, without_cells):
        for split in splits:
            with pytest.raises(DeltaviError, match="29 of 144 cells went away"):
                getattr(model, split)
        model.save(tmp_path / "changed")
    for cells in (None, case.cells()):
        loaded = case.load(tmp_path / "model", cells)
        np.testing.assert_array_equal(loaded.train_indices, expected["train_indices"])
    other = case.load(tmp_path / "model", case.cells()[:100].copy())
    with pytest.raises(DeltaviError, match="point at the cells the model was trained on"):
        _ = other.validation_indices


@EVERY
def test_other_cells_can_be_assigned(name: str) -> None:
    case = CASES[name]
    model = case.fitted(case.cells())
    own, before = model.adata, case.ask(model)
    other = case.cells(seed=1)
    other.obs_names = "other " + other.obs_names
    expected = case.ask(model, other)
    model.adata = other
    assert model.adata is other
    np.testing.assert_allclose(case.ask(model), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(DeltaviError, match="point at the cells"):
        _ = model.train_indices
    model.adata = own
    np.testing.assert_allclose(case.ask(model), before, rtol=1e-5, atol=1e-5)
    assert len(model.train_indices)
    for wrong in (None, dense(own.X), case.cells()[:, :5].copy()):
        with pytest.raises(DeltaviError):
            model.adata = wrong
        assert model.adata is own
    np.testing.assert_allclose(case.ask(model), before, rtol=1e-5, atol=1e-5)
