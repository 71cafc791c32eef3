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
from tests.bad_input.bench import CASES, PERTURBATION
from tests.model.conftest import SETUP, small_adata

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
