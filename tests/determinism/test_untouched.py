"""No step, and no error in the middle of one, leaves a trace in the process or in the user's AnnData."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback

from deltavi.errors import DeltaviError, InputDataError
from tests.determinism.cases import CASES, Case, inherited, own_verbs
from tests.determinism.snapshot import untouched
from tests.model.conftest import QUIET

EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(autouse=True, scope="module")
def _warmed_up() -> None:
    """Libraries start threads, and set what they need, when they are first used; that is no concern of ours."""
    for case in CASES.values():
        case.trained()


def rich(case: Case, seed: int = 0) -> AnnData:
    """Data of the case with something in every place of an AnnData."""
    adata = case.data(seed)
    adata.layers["other"] = adata.X.toarray(order="F")
    adata.obs["ordered"] = pd.Categorical(["b"] * adata.n_obs, categories=["c", "b", "a"], ordered=True)
    adata.obs["mixed"] = np.array([1, "1"] * (adata.n_obs // 2), dtype=object)
    adata.obs["nullable"] = pd.array([None, *range(adata.n_obs - 1)], dtype="Int8")
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(pd.CategoricalDtype(["type_3", "type_1", "none", "type_2"]))
    adata.var["gene"] = adata.var_names.to_numpy()[::-1]
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2), dtype=np.float16)
    adata.obsm["frame"] = pd.DataFrame({"a": range(adata.n_obs)}, index=adata.obs_names)
    adata.varm["loadings"] = np.ones((adata.n_vars, 2))
    adata.obsp["graph"] = adata.X @ adata.X.T
    adata.uns["history"] = {"log1p": {"base": None}, "colours": ["red", "blue"]}
    # entries of a row in another order: sorting them would be a change
    adata.X.indices[:2], adata.X.data[:2] = adata.X.indices[:2][::-1].copy(), adata.X.data[:2][::-1].copy()
    return adata


@EVERY_CASE
def test_steps_leave_no_trace(case: Case, tmp_path: Path) -> None:
    adata, query = rich(case), rich(case, seed=1)
    with untouched("setup_anndata", adata):
        case.model_class.setup_anndata(adata, **case.setup)
    with untouched("the model", adata):
        model = case.model_class(adata, **case.init)
    with untouched("train", adata):
        model.train(max_epochs=1, batch_size=32, **case.training, **QUIET)
    for name, verb in own_verbs(case).items():
        with untouched(name, adata, query):
            verb(model, query)
            verb(model, None)
    for name, verb in inherited(case).items():
        with untouched(name, adata, query, draws=True):
            verb(model, query)
    with untouched("save", adata):
        model.save(tmp_path / "model")
    for label, cells in (("load", None), ("load with cells", rich(case)), ("load with other genes", query)):
        with untouched(label, *([cells] if cells is not None else [])):
            case.model_class.load(tmp_path / "model", cells)
    if case.entry.decodes and case.entry.by_epochs:
        query.obs["batch"] = "new"
        with untouched("load_query_data", adata, query):
            mapped = case.model_class.load_query_data(query, model)
            mapped.train(max_epochs=1, batch_size=32, **case.training, **QUIET)
    if case.entry.annotates:
        with untouched("calibrate", adata):
            model.calibrate()


class Fails(Callback):
    """A user's callback with a mistake in it."""

    def on_train_batch_end(self, *_: Any) -> None:
        torch.rand(1)
        raise ZeroDivisionError("a mistake")


class Interrupts(Callback):
    def on_train_epoch_end(self, *_: Any) -> None:
        raise KeyboardInterrupt


@EVERY_CASE
def test_errors_leave_no_trace(case: Case, tmp_path: Path) -> None:
    adata = rich(case)
    broken = rich(case, seed=1)
    broken.X.data[3] = np.nan
    with untouched("a refused setup", broken), pytest.raises(InputDataError, match="NaN"):
        case.model_class.setup_anndata(broken, **case.setup)
    assert not [key for key in (*broken.obs, *broken.obsm, *broken.uns) if str(key).startswith("_scvi")]
    model = case.made(adata)
    if case.draws:
        with untouched("training with a callback that fails", adata), pytest.raises(ZeroDivisionError):
            model.train(max_epochs=2, batch_size=32, callbacks=[Fails()], **case.training, **QUIET)
        with untouched("interrupted training", adata), pytest.raises(KeyboardInterrupt):
            model.train(max_epochs=3, batch_size=32, callbacks=[Interrupts()], **case.training, **QUIET)
        with untouched("a refused training", adata), pytest.raises(DeltaviError, match="max_epochs"):
            model.train(max_epochs=0)
    model.train(max_epochs=1, batch_size=32, **case.training, **QUIET)
    for name, verb in own_verbs(case).items():
        if name not in ("sample", "loadings", "noise"):
            with untouched(f"refused {name}", adata, broken), pytest.raises(DeltaviError):
                verb(model, broken)
    with untouched("a refused file", adata), pytest.raises(DeltaviError):
        case.model_class.load(tmp_path / "nothing")


CONDITIONS = pd.CategoricalDtype(["stimulated", "control", "none"])


@pytest.mark.parametrize(
    "change",
    [
        lambda _: random.random(),
        lambda _: np.random.random(),
        lambda _: torch.rand(1),
        lambda _: torch.set_default_dtype(torch.float64),
        lambda _: Path("left").touch(),
        lambda adata: setattr(adata, "obs", adata.obs.astype({"batch": object})),
        lambda adata: setattr(adata, "obs", adata.obs.astype({"condition": CONDITIONS})),
        lambda adata: adata.X.data.__setitem__(0, 7.5),
        lambda adata: adata.X.sort_indices(),
        lambda adata: adata.uns["history"].__setitem__("new", 1),
        lambda adata: adata.obsm.__setitem__("X_mine", np.ones((adata.n_obs, 1))),
        lambda adata: setattr(adata, "obs_names", adata.obs_names[::-1]),
    ],
)
def test_a_trace_would_be_seen(change: Any) -> None:
    adata = rich(CASES["VAE"])
    try:
        with pytest.raises(AssertionError, match=" changed "), untouched("this", adata):
            change(adata)
    finally:
        torch.set_default_dtype(torch.float32)
