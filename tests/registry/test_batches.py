"""Mini-batches cut from a CSR matrix in memory, against its dense rows and scvi-tools' data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, special
from scvi import REGISTRY_KEYS

from deltavi import _keys
from deltavi._compat import AnnTorchDataset
from deltavi.likelihood import Nonzeros
from deltavi.model import LABELVI, VAE
from deltavi.registry._batches import OrderedDataset
from deltavi.registry._resident_rows import ResidentRows, log_factorials_at
from tests.model.conftest import QUIET, SETUP, dense, small_adata

# one of the cells here is empty on purpose
pytestmark = pytest.mark.filterwarnings("ignore:.*have no counts at all:UserWarning")

N_CELLS, N_GENES = 20, 7
DTYPES = (np.float32, np.float64, np.int64, np.bool_)
# what scvi-tools does not hand out
FOR_COUNTS = (_keys.NONZERO, _keys.NONZERO_COUNT, _keys.LOG_FACTORIAL)
SELECTIONS: dict[str, Any] = {
    "every": list(range(N_CELLS)),
    "some": [3, 4, 9],
    "reversed": [9, 4, 3, 0],
    "repeated": [5, 5, 0, 5],
    "one": [6],
    "int": 6,
    "last": -1,
    "slice": slice(2, 9),
    "steps": slice(None, None, 3),
    "backwards": slice(9, 2, -2),
    "array": np.array([7, 1]),
    "none": np.array([], dtype=np.int64),
    "empty slice": slice(4, 4),
}


def counts(seed: int = 0, *, density: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.poisson(3.0, (N_CELLS, N_GENES)) * (rng.random((N_CELLS, N_GENES)) < density)
    x[2] = 0
    x[3, :2] = 40, 1000
    return x


def canonical(x: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix(x)


def unsorted(x: np.ndarray) -> sparse.csr_matrix:
    """Columns of a row in falling order."""
    matrix = sparse.csr_matrix(x)
    rows = [np.arange(start, stop)[::-1] for start, stop in zip(matrix.indptr, matrix.indptr[1:], strict=False)]
    order = np.concatenate(rows)
    return sparse.csr_matrix((matrix.data[order], matrix.indices[order], matrix.indptr), shape=x.shape)


def with_zeros(x: np.ndarray) -> sparse.csr_matrix:
    """Every entry stored, zeros as well."""
    n_cells, n_genes = x.shape
    return sparse.csr_matrix(
        (x.ravel().copy(), np.tile(np.arange(n_genes), n_cells), np.arange(n_cells + 1) * n_genes), shape=x.shape
    )


def doubled(x: np.ndarray) -> sparse.csr_matrix:
    """Every count stored in two parts, the second after all the firsts of the row."""
    if x.dtype == bool:
        return unsorted(x)
    n_cells, n_genes = x.shape
    first = x // 2
    data = np.concatenate([first, x - first], axis=1).ravel()
    genes = np.tile(np.arange(n_genes), 2 * n_cells)
    return sparse.csr_matrix((data, genes, np.arange(n_cells + 1) * 2 * n_genes), shape=x.shape)


FORMS = pytest.mark.parametrize("form", [canonical, unsorted, with_zeros, doubled])
Form = Callable[[np.ndarray], sparse.csr_matrix]


def arrays(matrix: sparse.csr_matrix) -> list[np.ndarray]:
    return [matrix.data, matrix.indices, matrix.indptr]


def registered(x: Any, model: Any = VAE) -> Any:
    """Model of an AnnData that holds `x` itself, with every kind of column."""
    rng = np.random.default_rng(0)
    adata = AnnData(x)
    adata.obs["batch"] = rng.choice(["b0", "b1"], adata.n_obs)
    adata.obs["label"] = rng.choice(["t", "u", "v"], adata.n_obs)
    adata.obs["total"] = np.asarray(x.sum(1), dtype=np.float64).ravel() + 1
    adata.obs["age"], adata.obs["weight"] = rng.normal(size=(2, adata.n_obs))
    adata.obs["sex"] = rng.choice(["f", "m"], adata.n_obs)
    model.setup_anndata(
        adata,
        batch_key="batch",
        labels_key="label",
        size_factor_key="total",
        continuous_covariate_keys=["age", "weight"],
        categorical_covariate_keys=["sex"],
    )
    return model(adata, n_hidden=8, n_latent=2)


def warned_of_bool(x: Any) -> Any:
    if x.dtype != bool:
        return registered(x)
    with pytest.warns(UserWarning, match="bool"):
        return registered(x)


def assert_same_batch(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Everything that scvi-tools hands out, in its form."""
    assert set(found) - set(FOR_COUNTS) == set(expected)
    for key, values in expected.items():
        assert found[key].dtype == values.dtype, key
        assert found[key].shape == values.shape, key
        np.testing.assert_array_equal(found[key], values, err_msg=key)


@pytest.mark.parametrize("dtype", DTYPES)
@FORMS
def test_rows_are_those_of_the_dense_matrix(form: Form, dtype: Any) -> None:
    x = counts().astype(dtype)
    rows = ResidentRows(form(x))
    for selection in (np.arange(N_CELLS), np.array([9, 3, 3, 2, 0])):
        batch = rows.with_counts(selection)
        expression, places = batch[REGISTRY_KEYS.X_KEY], batch[_keys.NONZERO]
        assert expression.dtype == np.float32
        assert expression.flags.writeable
        np.testing.assert_array_equal(expression, x[selection].astype(np.float32))
        assert {tuple(place) for place in places.T} == {tuple(place) for place in np.argwhere(x[selection])}
        assert places.shape[1] == (x[selection] != 0).sum()
        assert places.dtype == np.int64
        expected = special.gammaln(x[selection].astype(np.float64) + 1).sum(1)
        np.testing.assert_allclose(batch[_keys.LOG_FACTORIAL], expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@FORMS
def test_the_matrix_is_not_changed(form: Form, dtype: Any) -> None:
    matrix = form(counts().astype(dtype))
    before, copies = arrays(matrix), [values.copy() for values in arrays(matrix)]
    dataset = warned_of_bool(matrix).adata_manager.create_torch_dataset()
    for batch in (dataset[[4, 1, 1]], dataset[:]):
        batch[REGISTRY_KEYS.X_KEY][:] = -1
    now = arrays(dataset.adata_manager.adata.X)
    for old, copied, new in zip(before, copies, now, strict=True):
        assert new is old or np.shares_memory(new, old)
        assert new.dtype == copied.dtype
        np.testing.assert_array_equal(new, copied)
    np.testing.assert_array_equal(dataset[[4]][REGISTRY_KEYS.X_KEY], dense(matrix)[[4]].astype(np.float32))


def test_a_canonical_matrix_in_single_precision_is_not_copied() -> None:
    matrix = canonical(counts().astype(np.float32))
    assert np.shares_memory(ResidentRows(matrix).matrix.data, matrix.data)


@pytest.mark.parametrize("selection", list(SELECTIONS))
@FORMS
def test_equals_the_data_set_of_scvi(form: Form, selection: str) -> None:
    asked = SELECTIONS[selection]
    x = counts().astype(np.float32)
    manager = registered(form(x)).adata_manager
    found = manager.create_torch_dataset()[asked]
    # scvi-tools reads a number as one row, and neither negative ones nor lists of none
    rows = np.atleast_1d(np.arange(N_CELLS)[asked])
    assert_same_batch(found, AnnTorchDataset(manager)[rows])
    np.testing.assert_array_equal(found[REGISTRY_KEYS.X_KEY], x[rows])
    assert found[_keys.LOG_FACTORIAL].shape == (len(rows),)
    assert found[_keys.NONZERO].shape == (2, (x[rows] != 0).sum())


@given(seed=st.integers(0, 1000), rows=st.lists(st.integers(0, N_CELLS - 1), max_size=30), density=st.floats(0, 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_places_are_those_that_would_be_looked_for(seed: int, rows: list[int], density: float) -> None:
    x = counts(seed, density=density).astype(np.float32)
    for form in (canonical, with_zeros, doubled):
        batch = {
            key: torch.from_numpy(values)
            for key, values in ResidentRows(form(x)).with_counts(np.array(rows, dtype=int)).items()
        }
        given, looked_for = Nonzeros.in_batch(batch), Nonzeros.of(batch[REGISTRY_KEYS.X_KEY])
        for name in ("cell", "gene", "count"):
            assert torch.equal(getattr(given, name), getattr(looked_for, name)), name
        torch.testing.assert_close(given.log_factorial, looked_for.log_factorial, rtol=1e-6, atol=1e-6)


def test_log_factorials_do_not_depend_on_what_was_asked_before() -> None:
    x = counts().astype(np.float32)
    rows, expected = ResidentRows(canonical(x)), special.gammaln(x.astype(np.float64) + 1).sum(1)
    for asked in ([3], [3, 0, 3], [5, 3, 2], list(range(N_CELLS))):
        np.testing.assert_allclose(rows.with_counts(np.array(asked))[_keys.LOG_FACTORIAL], expected[asked], rtol=1e-7)


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 2, 16, 4095],
        [4096, 3],
        [1e9, 3e38, 2],
        [0.5, 2.5, 1e-9],
        [np.inf, 1],
        [],
        [0.0, -0.0],
    ],
)
def test_log_factorials_by_table_are_those_of_the_special_function(values: list[float]) -> None:
    counts = np.array(values, dtype=np.float32)
    np.testing.assert_array_equal(log_factorials_at(counts), special.gammaln(counts.astype(np.float64) + 1))


def test_log_factorials_of_nan_are_nan() -> None:
    assert np.isnan(log_factorials_at(np.array([1, np.nan, 2], dtype=np.float32))[1])


def test_what_is_no_count_is_no_place() -> None:
    x = np.array([[-1.0, 0.0, 2.0], [0.5, 1e-9, 0.0]], dtype=np.float32)
    batch = ResidentRows(canonical(x)).with_counts(np.array([1, 0]))
    np.testing.assert_array_equal(batch[REGISTRY_KEYS.X_KEY], x[[1, 0]])
    assert batch[_keys.NONZERO].tolist() == [[0, 1], [0, 2]]
    np.testing.assert_allclose(batch[_keys.LOG_FACTORIAL], special.gammaln([1.5, 3.0]), rtol=1e-6)


# -- other ways to hold the matrix ------------------------------------------------------------------------------


def backed(tmp_path: Path, x: Any) -> AnnData:
    path = tmp_path / "cells.h5ad"
    AnnData(x).write_h5ad(path)
    return anndata.read_h5ad(path, backed="r")


def test_dense_matrices_take_the_way_of_scvi_and_give_the_same(tmp_path: Path) -> None:
    x = counts().astype(np.float32)
    expected = registered(canonical(x)).adata_manager.create_torch_dataset()
    assert expected._resident is not None
    dataset = registered(x).adata_manager.create_torch_dataset()
    assert dataset._resident is None
    for asked in ([9, 4, 4, 0], slice(1, 5), 6):
        found = dataset[asked]
        assert not set(found) & set(FOR_COUNTS)
        assert_same_batch(expected[asked], found)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix], ids=["dense", "csr", "csc"])
def test_backed_matrices_give_the_same(form: Any, tmp_path: Path) -> None:
    x = counts().astype(np.float32)
    adata = backed(tmp_path, form(x))
    VAE.setup_anndata(adata)
    dataset = VAE(adata, n_hidden=8, n_latent=2).adata_manager.create_torch_dataset()
    # rows of a column-wise file are cut from a scratch file, which is as good as memory
    assert (dataset._resident is not None) == (form is sparse.csc_matrix)
    for asked in ([9, 4, 4, 0], [0, 1, 2], slice(1, 5), 6):
        rows = np.atleast_1d(np.arange(N_CELLS)[asked])
        np.testing.assert_array_equal(dataset[asked][REGISTRY_KEYS.X_KEY], x[rows])
    adata.file.close()


@pytest.mark.filterwarnings("ignore:Sparse (invariant checks|CSR tensor support):UserWarning")
def test_who_asks_for_something_else_than_usual_takes_the_way_of_scvi() -> None:
    manager = registered(canonical(counts().astype(np.float32))).adata_manager
    for options in ({"load_sparse_tensor": True}, {"getitem_tensors": [REGISTRY_KEYS.BATCH_KEY]}):
        dataset, plain = OrderedDataset(manager, **options), AnnTorchDataset(manager, **options)
        assert dataset._resident is None
        assert set(dataset[[0, 3]]) == set(plain[[0, 3]])
    doubles = OrderedDataset(manager, getitem_tensors={REGISTRY_KEYS.X_KEY: np.float64})
    assert doubles[[3]][REGISTRY_KEYS.X_KEY].dtype == np.float64


# -- training ----------------------------------------------------------------------------------------------------


def trained(model: Any, x: Any, **kwargs: Any) -> Any:
    adata = small_adata()
    adata.X = x
    if model is LABELVI:
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
        adata.obs.loc[adata.obs_names[::3], "cell_type"] = "Unknown"
    model.setup_anndata(adata, **SETUP, **({"unlabeled_category": "Unknown"} if model is LABELVI else {}))
    fitted = model(adata, n_hidden=8, n_latent=2, **kwargs)
    fitted.train(max_epochs=2, batch_size=32, train_size=0.8, check_val_every_n_epoch=1, **QUIET)
    return fitted


@pytest.mark.parametrize(
    ("model", "kwargs"),
    [
        (VAE, {}),
        (VAE, {"gene_likelihood": "nb", "dispersion": "gene-batch"}),
        (VAE, {"gene_likelihood": "poisson"}),
        (LABELVI, {}),
    ],
)
def test_training_on_either_form_is_the_same(model: Any, kwargs: dict[str, Any]) -> None:
    x = small_adata().X
    expected = trained(model, dense(x), **kwargs)
    for form in (x, doubled(dense(x)), x.astype(np.int64)):
        fitted = trained(model, form, **kwargs)
        assert set(fitted.history) == set(expected.history)
        for name, values in expected.history.items():
            np.testing.assert_allclose(fitted.history[name].astype(float), values.astype(float), rtol=2e-5, atol=2e-5)
