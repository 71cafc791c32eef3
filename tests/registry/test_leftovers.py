"""Columns that another registration left behind, and columns of the user under the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData

from deltavi.errors import KeyClashError
from deltavi.model import SCGEN, VAE
from deltavi.perturbation import ShiftBaseline
from tests.bad_input.bench import CASES, PERTURBATION
from tests.model.conftest import SETUP, dense, small_adata

OWN = ("_scvi_batch", "_scvi_labels", "_scvi_condition")


def joined(register: Any, **how: Any) -> AnnData:
    samples = [small_adata(), small_adata(seed=1)]
    for sample in samples:
        sample.obs["age"] = np.linspace(20, 60, sample.n_obs)
        register(sample)
    return anndata.concat(samples, index_unique="-", **how)


REGISTRATIONS = {
    "SCVI": lambda a: scvi.model.SCVI.setup_anndata(a, batch_key="batch", continuous_covariate_keys=["age"]),
    "SCGEN": lambda a: SCGEN.setup_anndata(a, **SETUP),
}


@pytest.mark.parametrize("name", REGISTRATIONS)
def test_what_other_registrations_left_is_dropped(name: str, caplog: pytest.LogCaptureFixture) -> None:
    adata = joined(REGISTRATIONS[name])
    left = [key for key in (*adata.obs, *adata.obsm) if str(key).startswith("_scvi")]
    assert left
    with caplog.at_level("INFO", logger="deltavi"):
        VAE.setup_anndata(adata)
    (line,) = [record.getMessage() for record in caplog.records if "earlier registration" in record.getMessage()]
    assert all(repr(key) in line for key in left)
    assert {key for key in (*adata.obs, *adata.obsm) if str(key).startswith("_scvi")} == {"_scvi_batch", "_scvi_labels"}
    assert set(adata.obs["_scvi_batch"]) == {0}
    VAE(adata, n_hidden=8, n_latent=2).train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")


def test_some_cells_may_lack_them(caplog: pytest.LogCaptureFixture) -> None:
    registered, fresh = small_adata(), small_adata(seed=1)
    SCGEN.setup_anndata(registered, **SETUP)
    adata = anndata.concat([registered, fresh], join="outer", index_unique="-")
    assert adata.obs["_scvi_labels"].isna().any()
    VAE.setup_anndata(adata, labels_key="cell_type")
    assert set(adata.obs["_scvi_labels"]) == {0, 1, 2}


def test_real_and_predicted_cells_for_another_model() -> None:
    model = CASES["SCGEN"].fitted(CASES["SCGEN"].cells())
    adata = anndata.concat([model.adata, model.predict_perturbation(**PERTURBATION)], join="outer", index_unique="-")
    VAE.setup_anndata(adata, layer=None, labels_key="cell_type")


# -- answers joined with the cells they are about --------------------------------------------------------------

SOURCES = ["deltavi_source_condition", "deltavi_source_cell"]


def joined_answer() -> tuple[AnnData, AnnData]:
    """Cells of SCGEN, and the same with an answer of its own beside them."""
    model = CASES["SCGEN"].trained
    predicted = model.predict_perturbation(**PERTURBATION)
    return model.adata.copy(), anndata.concat([model.adata, predicted], join="outer")


def test_an_earlier_answer_beside_the_cells_to_predict(caplog: pytest.LogCaptureFixture) -> None:
    model, (alone, joined) = CASES["SCGEN"].trained, joined_answer()
    before = joined.obs.copy()
    # as long as no column is in the way, an answer is that for the control cells
    joined.X = np.vstack([dense(alone.X), np.ones((joined.n_obs - alone.n_obs, alone.n_vars))])
    with caplog.at_level("INFO", logger="deltavi"):
        found = model.predict_perturbation(joined, **PERTURBATION)
    (line,) = [record.getMessage() for record in caplog.records if "themselves predicted" in record.getMessage()]
    assert line.startswith(f"{joined.n_obs - alone.n_obs} of {joined.n_obs} cells")
    expected = model.predict_perturbation(alone, **PERTURBATION)
    assert found.obs_names.equals(expected.obs_names)
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    for key in SOURCES:
        assert list(found.obs[key].astype(str)) == list(expected.obs[key].astype(str))
    pd.testing.assert_frame_equal(joined.obs, before)


def test_cells_that_were_predicted_are_named_as_the_source_of_what_follows() -> None:
    model = CASES["SCGEN"].trained
    once = model.predict_perturbation(**PERTURBATION)
    once.X = once.layers["counts"]
    back = model.predict_perturbation(once, control="stimulated", perturbation="control")
    assert list(back.obs["deltavi_source_cell"]) == list(once.obs_names)
    assert set(back.obs["deltavi_source_condition"]) == {"stimulated"}


def test_a_model_of_measured_and_predicted_cells_answers(tmp_path: Path) -> None:
    _, joined = joined_answer()
    joined.X = np.rint(np.nan_to_num(dense(joined.X)))
    # in a file, text with gaps is made a category
    joined.write_h5ad(tmp_path / "joined.h5ad")
    for adata in (joined, anndata.read_h5ad(tmp_path / "joined.h5ad")):
        model = CASES["SCGEN"].fitted(adata)
        found = model.predict_perturbation(**PERTURBATION)
        assert set(found.obs["deltavi_source_condition"]) == {"control"}


def test_answers_of_baselines_and_models_side_by_side() -> None:
    train, joined = joined_answer()
    for adata in (train, joined):
        adata.X = np.log1p(np.nan_to_num(dense(adata.X)))
    baseline = ShiftBaseline(train, condition_key="condition", labels_key="cell_type")
    of_baseline = baseline.predict_perturbation(**PERTURBATION)
    for cells in (joined, anndata.concat([joined, of_baseline], join="outer", index_unique="-")):
        found = baseline.predict_perturbation(cells, **PERTURBATION)
        assert found.n_obs == of_baseline.n_obs
        assert set(found.obs["deltavi_source_condition"]) == {"control"}


def test_columns_of_the_user_under_the_names_of_an_answer() -> None:
    model, (alone, joined) = CASES["SCGEN"].trained, joined_answer()
    for adata, key, values in (
        (alone, SOURCES[0], "clinic"),
        (alone, SOURCES[1], "mine"),
        # beside columns that are ours
        (joined, SOURCES[1], "mine"),
        (joined, SOURCES[0], "clinic"),
    ):
        taken = adata.copy()
        taken.obs[key] = values
        with pytest.raises(KeyClashError, match=f"'{key}'.*rename or drop"):
            model.predict_perturbation(taken, **PERTURBATION)


# -- files -----------------------------------------------------------------------------------------------------


def test_a_file_that_was_written_registered(tmp_path: Path) -> None:
    adata = small_adata()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    SCGEN.setup_anndata(read, **SETUP)
    del read.uns["_scvi_uuid"]
    SCGEN.setup_anndata(read, **SETUP)


MINE = {
    "text": lambda n: np.array(["mine"] * n),
    "categories": lambda n: pd.Categorical(["mine"] * n),
    "categories of numbers": lambda n: pd.Categorical([1] * n),
    "fractions": lambda n: np.full(n, 0.5),
    "numbers of something": lambda n: np.full(n, 31_000),
    "negative numbers": lambda n: np.full(n, -7),
    "truths": lambda n: np.ones(n, dtype=bool),
}


@pytest.mark.parametrize("key", OWN)
def test_columns_of_the_user_are_no_leftovers(key: str) -> None:
    for what, made in MINE.items():
        adata = small_adata()
        adata.obs[key] = made(adata.n_obs)
        before = adata.obs.copy()
        with pytest.raises(KeyClashError, match=f"'{key}'.*rename or drop"):
            VAE.setup_anndata(adata)
        pd.testing.assert_frame_equal(adata.obs, before, obj=what)


def test_a_table_of_the_user_is_no_leftover() -> None:
    adata = small_adata()
    adata.obsm["_scvi_extra_continuous_covs"] = pd.DataFrame({"a": "text"}, index=adata.obs_names)
    with pytest.raises(KeyClashError, match="obsm already holds '_scvi_extra_continuous_covs'"):
        VAE.setup_anndata(adata)


def test_a_refused_setup_drops_nothing() -> None:
    adata = joined(REGISTRATIONS["SCGEN"])
    before = adata.obs.copy()
    adata.X.data[0] = np.nan
    with pytest.raises(ValueError, match="1 NaN"):
        VAE.setup_anndata(adata)
    pd.testing.assert_frame_equal(adata.obs, before)
