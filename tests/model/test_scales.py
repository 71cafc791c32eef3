"""Covariates, library priors and bounds on scales that a model would not learn on."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData

from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError, InputDataError, InputDataWarning, TrainingDivergedError
from deltavi.model import VAE
from deltavi.model._bound import require_plausible_bound

QUICK = {"max_epochs": 2, "enable_progress_bar": False, "accelerator": "cpu"}
TINY = {"n_hidden": 8, "n_latent": 3}
N = 48
YEARS = 2019.0 + np.arange(N) % 5


def cells(**columns: Any) -> AnnData:
    adata = simulate_perturbation(n_genes=30, n_cell_types=3, n_batches=2, n_cells_per_group=4)
    for key, values in columns.items():
        adata.obs[key] = values
    return adata


def fitted(adata: AnnData, **settings: Any) -> VAE:
    VAE.setup_anndata(adata, continuous_covariate_keys=["cov"])
    model = VAE(adata, **TINY, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(**QUICK)
    return model


def decoded(model: VAE, adata: AnnData | None = None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(model.impute(adata))


UNITS = {
    "year": YEARS,
    "seconds": 1.6e9 + 1e6 * (YEARS - 2019),
    "tiny": 1e-9 * YEARS,
    "Int64": pd.array(YEARS.astype(int), dtype="Int64"),
    "Arrow": pd.array(YEARS, dtype="double[pyarrow]"),
    "categories": pd.Categorical(YEARS),
}


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_of_a_covariate_does_not_matter(unit: str) -> None:
    scaled = (YEARS - YEARS.mean()) / YEARS.std()
    expected = decoded(fitted(cells(cov=scaled)))
    assert np.allclose(decoded(fitted(cells(cov=UNITS[unit]))), expected, rtol=1e-3)


def test_moments_are_those_of_training_and_are_saved(tmp_path: Path) -> None:
    model = fitted(cells(cov=YEARS))
    model.save(tmp_path / "model")
    query = cells(cov=YEARS)[:5].copy()
    expected = decoded(model)[:5]
    for answering in (model, VAE.load(tmp_path / "model"), VAE.load(tmp_path / "model", cells(cov=YEARS))):
        assert np.allclose(decoded(answering, query), expected, rtol=1e-5)
    moments = model._state("extra_continuous_covs")["moments"]
    assert moments["means"] == pytest.approx([YEARS.mean()])
    assert moments["scales"] == pytest.approx([YEARS.std()])


def test_a_file_without_moments_reads_covariates_as_they_are(tmp_path: Path) -> None:
    model: Any = fitted(cells(cov=YEARS - 2021))
    del model.registry_["field_registries"]["extra_continuous_covs"]["state_registry"]["moments"]
    model.save(tmp_path / "model")
    again: Any = VAE.load(tmp_path / "model", cells(cov=YEARS - 2021))
    assert np.array_equal(again.adata.obsm["_scvi_extra_continuous_covs"]["cov"], YEARS - 2021)


# the mean of many 0.1 is none of them
@pytest.mark.parametrize("value", [3.0, 0.1, 0.0])
def test_a_constant_covariate_is_named_and_ignored(value: float) -> None:
    with pytest.warns(InputDataWarning, match=rf"obs\['cov'\], a continuous covariate, is {value:g} in all 48 cells"):
        model = fitted(cells(cov=value))
    other = cells(cov=4.0)
    with pytest.warns(InputDataWarning, match=r"48 of 48 cells .* lie far from the training cells"):
        answer = model.impute(other)
    assert np.allclose(answer, decoded(model), rtol=1e-5)


def test_values_far_from_training_are_named() -> None:
    model = fitted(cells(cov=YEARS))
    query = cells(cov=YEARS)
    query.obs.loc[query.obs_names[:2], "cov"] = 20.0
    with pytest.warns(InputDataWarning, match=r"obs\['cov'\]: 2 of 48 cells .* go from 2019 to 2023"):
        model.impute(query)


@pytest.mark.parametrize("value", [np.nan, np.inf, None])
def test_covariates_and_size_factors_are_finite_numbers(value: Any) -> None:
    adata = cells(cov=YEARS, total=1.0)
    for key, keys, message in (
        ("cov", {"continuous_covariate_keys": ["cov"]}, r"obs\['cov'\] must be numbers; 1 cells are not"),
        ("total", {"size_factor_key": "total"}, r"obs\['total'\] must be positive and finite; 1 cells are not"),
    ):
        wrong = adata.copy()
        wrong.obs.loc[wrong.obs_names[3], key] = value
        with pytest.raises(InputDataError, match=f"{message} .for example '{wrong.obs_names[3]}'"):
            VAE.setup_anndata(wrong, **keys)
    for total in (0.0, -1.0):
        with pytest.raises(InputDataError, match="positive and finite; 48 cells"):
            VAE.setup_anndata(cells(total=total), size_factor_key="total")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{}, {"encode_covariates": True}])
def test_an_exported_model_sees_the_same_numbers(settings: dict[str, Any], tmp_path: Path) -> None:
    adata = cells(cov=YEARS)
    model = fitted(adata, **settings)
    model.export_scvi(tmp_path / "scvi")
    theirs = scvi.model.SCVI.load(str(tmp_path / "scvi"), adata=cells(cov=YEARS), accelerator="cpu")
    assert np.allclose(theirs.get_latent_representation(), model.get_latent_representation(), atol=1e-3)
    back = VAE.import_scvi(tmp_path / "scvi", cells(cov=YEARS), allow_pickle=True)
    assert np.allclose(decoded(back), decoded(model), rtol=1e-2)


def test_what_single_precision_cannot_tell_apart_is_not_exported(tmp_path: Path) -> None:
    model = fitted(cells(cov=1.6e9 + YEARS))
    with pytest.raises(DeltaviError, match=r"obs\['cov'\] has mean 1.6e\+09 and standard deviation"):
        model.export_scvi(tmp_path / "scvi")


def test_a_library_that_hardly_varies_has_a_floor() -> None:
    adata = cells()
    adata.X = np.tile(np.arange(adata.n_vars, dtype=np.float32), (adata.n_obs, 1))
    VAE.setup_anndata(adata)
    with pytest.warns(InputDataWarning, match="library='learned': the totals of the cells hardly differ"):
        model: Any = VAE(adata, library="learned", **TINY)
    assert float(model.module.library_prior.log_vars.min()) == pytest.approx(1e-3)
    model.train(**QUICK)
    assert np.isfinite(model.history["elbo_train"].to_numpy(dtype=float)).all()


def model_ending_at(**bounds: float) -> Any:
    """What the check of a bound reads of a model."""
    adata = cells(total=np.where(np.arange(N) < 1, 1e9, 1.0))
    VAE.setup_anndata(adata, size_factor_key="total")
    model: Any = VAE(adata, **TINY)
    model.history_ = {name: pd.DataFrame({name: [1.0, value]}) for name, value in bounds.items()}
    return model


def test_an_absurd_bound_is_an_error_with_its_likely_cause() -> None:
    message = r"elbo_validation 3e\+07 nats per cell.*obs\['total'\] that differ 1e\+09-fold.*learning rate of 0.5"
    with pytest.raises(TrainingDivergedError, match=message):
        require_plausible_bound(model_ending_at(elbo_train=10.0, elbo_validation=3e7), 0.5)
    require_plausible_bound(model_ending_at(elbo_train=1e5), 0.5)
    require_plausible_bound(SimpleNamespace(history_=None), None)


@pytest.mark.filterwarnings("ignore")
def test_training_that_ends_absurd_says_so() -> None:
    adata = cells()
    adata.X = np.asarray(adata.to_df()) * 1e7
    VAE.setup_anndata(adata)
    model = VAE(adata, gene_likelihood="normal", check_input=False, **TINY)
    with pytest.raises(TrainingDivergedError, match=r"values up to .* in adata.X"):
        model.train(**QUICK)
