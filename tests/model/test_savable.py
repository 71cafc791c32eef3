"""What setup takes can be saved, loaded, checkpointed and written with the prediction, or is refused at setup."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError
from deltavi.model import PPCA, SCGEN, VAE
from deltavi.model._given import plain_settings
from deltavi.registry.writable import writable_columns
from deltavi.tl import evaluate_perturbation
from tests.models import classes_of

QUICK = {"max_epochs": 1, "enable_progress_bar": False, "accelerator": "cpu"}
TINY = {"n_hidden": 8, "n_latent": 3}
pytestmark = pytest.mark.filterwarnings("ignore")
N = 48


def cells(**columns: Any) -> AnnData:
    adata = simulate_perturbation(n_genes=30, n_cell_types=3, n_batches=2, n_cells_per_group=4)
    assert adata.n_obs == N
    for key, values in columns.items():
        adata.obs[key] = values
    return adata


HALVES = np.arange(N) % 2
DAYS = pd.to_datetime(np.where(HALVES, "2023-01-05", "2023-02-07"))
COLUMNS: dict[str, Any] = {
    "datetime64": DAYS,
    "time zones": DAYS.tz_localize("Europe/Berlin"),
    "dates": [day.date() for day in DAYS],
    "ranges": pd.cut(np.arange(N), 2),
    "periods": DAYS.to_period("M"),
    "durations": pd.to_timedelta(24 * HALVES, unit="h"),
    "decimals": [Decimal(int(i)) / 2 for i in HALVES],
    "bytes": np.array([b"a", b"b"])[HALVES],
    "uuids": [uuid.UUID(int=int(i)) for i in HALVES],
    "mixed dates and text": [datetime.date(2023, 1, 5) if i else "unknown date" for i in HALVES],
    "truth": HALVES.astype(bool),
    "float": HALVES * 0.5,
    "Arrow": pd.array([str(i) for i in HALVES], dtype="string[pyarrow]"),
    "ordered": pd.Categorical(np.array(["b", "a"])[HALVES], categories=["b", "a"], ordered=True),
    "times": [datetime.time(int(i)) for i in HALVES],
}
KINDS = list(COLUMNS)
# registered at once, each with a column of another kind, so that every kind comes to every place
PLACES = {"run": "batch_key", "kind": "labels_key", "site": "categorical_covariate_keys"}


def columns_from(first: str) -> dict[str, Any]:
    """A column for each place: one of kind `first`, and of those that follow."""
    start = KINDS.index(first)
    return {key: COLUMNS[KINDS[(start + i) % len(KINDS)]] for i, key in enumerate(PLACES)}


@pytest.mark.parametrize("first", KINDS)
def test_any_column_is_saved_loaded_and_written(first: str, tmp_path: Path) -> None:
    columns = columns_from(first)
    adata = cells(**columns)
    SCGEN.setup_anndata(adata, condition_key="condition", **{place: key for key, place in PLACES.items()})
    model = SCGEN(adata, **TINY)
    model.train(**QUICK, checkpoint=tmp_path / "checkpoint")
    ask = {"control": "control", "perturbation": "stimulated"}
    predicted = model.predict_perturbation(**ask)
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    back = anndata.read_h5ad(tmp_path / "predicted.h5ad")
    for key in columns:
        assert list(back.obs[key].astype(str)) == list(predicted.obs[key].astype(str))
    model.save(tmp_path / "model")
    again = SCGEN.load(tmp_path / "model", cells(**columns))
    assert np.array_equal(again.get_latent_representation(), model.get_latent_representation())
    # a column that went through a file is text
    from_file = SCGEN.load(tmp_path / "checkpoint").predict_perturbation(back_of(predicted, adata), **ask)
    assert np.allclose(from_file.to_df(), predicted.to_df(), atol=1e-5)


def back_of(predicted: AnnData, adata: AnnData) -> AnnData:
    """Control cells with their columns as they were written with the prediction."""
    source = adata[list(predicted.obs["deltavi_source_cell"])].copy()
    for key in PLACES:
        source.obs[key] = predicted.obs[key].to_numpy()
    return source


@pytest.mark.parametrize("kind", ["datetime64", "decimals", "truth", "ranges", "float"])
@pytest.mark.parametrize("cls", classes_of(annotates=True))
def test_labels_of_any_kind_are_saved(cls: Any, kind: str, tmp_path: Path) -> None:
    adata = cells(run=COLUMNS[kind])
    cls.setup_anndata(adata, labels_key="run")
    model = cls(adata)
    model.train(**QUICK)
    model.save(tmp_path / "model")
    again = cls.load(tmp_path / "model", cells(run=COLUMNS[kind]))
    assert list(again.predict()) == list(model.predict())


@pytest.mark.parametrize("kind", ["datetime64", "decimals", "truth", "float", "bytes"])
def test_conditions_of_any_kind_are_predicted(kind: str) -> None:
    adata = cells(run=COLUMNS[kind])
    SCGEN.setup_anndata(adata, condition_key="run", labels_key="cell_type")
    model = SCGEN(adata, **TINY)
    model.train(**QUICK)
    start, end = COLUMNS[kind][0], COLUMNS[kind][1]
    by_value = model.predict_perturbation(control=start, perturbation=end)
    assert by_value.n_obs == N // 2
    by_text = model.predict_perturbation(
        adata, control=by_value.uns["deltavi"]["control"], perturbation=str(by_value.obs["run"].iloc[0])
    )
    assert np.array_equal(by_text.to_df(), by_value.to_df())


def test_doses_are_numbers_and_text_alike() -> None:
    adata = cells()
    adata.obs["dose"] = 10.0 * (adata.obs["condition"] == "stimulated")
    SCGEN.setup_anndata(adata, condition_key="dose", labels_key="cell_type")
    model = SCGEN(adata, **TINY)
    model.train(**QUICK)
    expected = model.predict_perturbation(control=0, perturbation=10)
    assert set(expected.obs["dose"]) == {"10"}
    for start, end in (
        (0.0, 10.0),
        ("0", "10"),
        ("0.0", "10.0"),
        (np.float32(0), np.int8(10)),
        (False * 1, Decimal(10)),
    ):
        assert np.array_equal(model.predict_perturbation(control=start, perturbation=end).to_df(), expected.to_df())
    written = cells()
    written.obs["dose"] = ["10.0" if stimulated else "0.0" for stimulated in written.obs["condition"] == "stimulated"]
    assert np.array_equal(model.predict_perturbation(written, control=0, perturbation=10).to_df(), expected.to_df())
    many = simulate_perturbation(n_genes=30, n_cell_types=3, n_batches=2, n_cells_per_group=12)
    many.obs["dose"] = 10.0 * (many.obs["condition"] == "stimulated")
    result = evaluate_perturbation(
        many, PPCA, control=0, perturbation=10, condition_key="dose", n_genes=20, progress=False, hold_out=["type_1"]
    )
    assert result.settings["control"] == "0"


def test_means_of_older_files_are_found_under_their_new_names(tmp_path: Path) -> None:
    adata = cells()
    adata.obs["dose"] = 10.0 * (adata.obs["condition"] == "stimulated")
    SCGEN.setup_anndata(adata, condition_key="dose", labels_key="cell_type")
    model: Any = SCGEN(adata, **TINY)
    model.train(**QUICK)
    expected = model.predict_perturbation(control=0, perturbation=10).to_df()
    model.training_means = model.training_means.renamed({"0": "0.0", "10": "10.0"})
    model.save(tmp_path / "old")
    again = SCGEN.load(tmp_path / "old", adata.copy())
    assert np.array_equal(again.predict_perturbation(control=0, perturbation=10).to_df(), expected)


def test_cells_saved_with_the_model_are_written_too(tmp_path: Path) -> None:
    adata = cells(run=DAYS)
    VAE.setup_anndata(adata, batch_key="run")
    model = VAE(adata, **TINY)
    model.train(**QUICK)
    model.save(tmp_path / "model", save_anndata=True)
    again = VAE.load(tmp_path / "model")
    assert np.array_equal(again.get_latent_representation(), model.get_latent_representation())
    assert adata.obs["run"].dtype == DAYS.dtype


# -- names of columns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["categorical_covariate_keys", "continuous_covariate_keys"])
def test_one_key_is_a_list_of_one(key: str) -> None:
    for given in ("depth", ("depth",), ["depth"], np.array(["depth"]), pd.Index(["depth"])):
        adata = cells(depth=np.arange(N) % 3)
        VAE.setup_anndata(adata, **{key: given})
        assert VAE(adata, **TINY)._setup_argument(key) == ["depth"]
    VAE.setup_anndata(adata, **{key: []})
    assert VAE(adata, **TINY)._setup_argument(key) is None


WRONG_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"categorical_covariate_keys": ["cell_type", "cell_type"]}, "names 'cell_type' more than once"),
    ({"batch_key": ["batch"]}, r"batch_key is the name of one column of obs, not \['batch'\]"),
    ({"batch_key": ("batch",)}, "batch_key is the name of one column"),
    ({"layer": ["counts"]}, "layer is the name of one layer"),
    ({"batch_key": 5}, "batch_key is 5, a int; names are text"),
    ({"categorical_covariate_keys": [5]}, "categorical_covariate_keys is 5, a int; names are text"),
    ({"labels_key": {"cell_type"}}, "labels_key is the name of one column"),
]


@pytest.mark.parametrize(("setup", "message"), WRONG_KEYS, ids=[str(setup) for setup, _ in WRONG_KEYS])
def test_keys_that_are_no_names_are_refused(setup: dict[str, Any], message: str) -> None:
    adata = cells()
    adata.obs[5] = "a"
    with pytest.raises(DeltaviError, match=message):
        VAE.setup_anndata(adata, **setup)


# -- arguments of models ---------------------------------------------------------------------------------------


def test_numbers_of_numpy_and_torch_are_saved(tmp_path: Path) -> None:
    adata = cells()
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=np.int64(8), n_latent=torch.tensor(3), dropout_rate=np.float32(0.5), seed=np.uint8(1))
    model.save(tmp_path / "model")
    again: Any = VAE.load(tmp_path / "model", adata)
    assert again.module.n_latent == 3
    assert again.init_params_["non_kwargs"]["dropout_rate"] == 0.5


@pytest.mark.parametrize("value", [lambda: 1, object(), {1, 2}, torch.nn.ReLU()])
def test_what_a_file_cannot_hold_is_refused_when_the_model_is_made(value: Any) -> None:
    adata = cells()
    VAE.setup_anndata(adata)
    with pytest.raises(DeltaviError, match="weight_l2 must be a finite number"):
        VAE(adata, **TINY, weight_l2=value)
    # of settings that no reader knows
    with pytest.raises(DeltaviError, match=r"of a list=.* could not be saved"):
        plain_settings({"non_kwargs": {"extra": {"of a list": [value]}}})


# -- columns in files ------------------------------------------------------------------------------------------


def test_any_column_can_be_written(tmp_path: Path) -> None:
    odd = {
        **COLUMNS,
        "lists": [[1]] * N,
        "objects of numbers": pd.array([1, 2] * (N // 2), dtype=object),
        "objects of truths": pd.array([True, False] * (N // 2), dtype=object),
        "nothing": [None] * N,
        "Float64": pd.array([1.5, None] * (N // 2), dtype="Float64"),
        "Arrow numbers": pd.array([1, 2] * (N // 2), dtype="int64[pyarrow]"),
        "sparse": pd.arrays.SparseArray(HALVES),
        "categories of dates": pd.Categorical(DAYS),
        5: HALVES,
    }
    obs = pd.DataFrame(odd, index=[f"c{i}" for i in range(N)])
    written = writable_columns(obs)
    AnnData(np.ones((N, 1)), obs=written).write_h5ad(tmp_path / "cells.h5ad")
    assert list(written.columns) == [str(name) for name in odd]
    assert written["float"].dtype == obs["float"].dtype
    assert written["objects of numbers"].dtype == int
    assert written["datetime64"].iloc[1] == "2023-01-05"
