"""PPCA and factor analysis as models: exact posterior, tight bound, verbs, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats
from sklearn.decomposition import PCA

from deltavi.errors import DeltaviError, InputDataError, KeyClashError, NotTrainedError, UnknownCategoryError
from deltavi.model import PPCA, VAE
from deltavi.pp import log_normalise
from tests.model.conftest import QUIET, dense, log_normalised, small_adata

SETUP = {"condition_key": "condition", "labels_key": "cell_type"}
NOISES = ("isotropic", "diagonal")


def fitted(adata: AnnData | None = None, *, n_latent: int = 3, setup: dict[str, Any] = SETUP, **kwargs: Any) -> PPCA:
    adata = log_normalised(small_adata()) if adata is None else adata
    PPCA.setup_anndata(adata, **setup)
    model = PPCA(adata, n_latent=n_latent, **kwargs)
    model.train()
    return model


def density(model: PPCA) -> Any:
    loadings = model.get_loadings().to_numpy()
    mean = dense(model.adata.X).astype(np.float64).mean(0)
    return stats.multivariate_normal(mean, loadings @ loadings.T + np.diag(model.get_noise()))


@pytest.mark.parametrize("noise", NOISES)
def test_log_likelihood_is_that_of_the_gaussian(noise: Any) -> None:
    model = fitted(noise=noise)
    x = dense(model.adata.X).astype(np.float64)
    np.testing.assert_allclose(model.log_likelihood(), density(model).logpdf(x), rtol=1e-4)
    assert model.log_likelihood().index.equals(model.adata.obs_names)
    chosen = [7, 2]
    np.testing.assert_allclose(model.log_likelihood(indices=chosen), model.log_likelihood().iloc[chosen])
    fresh = log_normalised(small_adata(seed=1))[:, ::-1].copy()
    np.testing.assert_allclose(model.log_likelihood(fresh), density(model).logpdf(dense(fresh.X)[:, ::-1]), rtol=1e-4)


@pytest.mark.parametrize("noise", NOISES)
def test_the_bound_is_tight(noise: Any) -> None:
    """The posterior of a linear Gaussian model is a diagonal Gaussian, which the linear encoder is."""
    model = fitted(noise=noise)
    exact = float(model.log_likelihood().mean())
    bounds = []
    for model.seed in range(40):
        # each answer is drawn from the seed of the model
        bounds.append(float(model.get_elbo()))
    assert abs(np.mean(bounds) - exact) < 4 * np.std(bounds) / np.sqrt(len(bounds))
    np.testing.assert_allclose(float(model.get_marginal_ll(n_mc_samples=50)), exact, rtol=1e-3)


@pytest.mark.parametrize("noise", NOISES)
def test_latent_positions_are_posterior_means_with_their_variance(noise: Any) -> None:
    model = fitted(noise=noise)
    gauss, loadings = density(model), model.get_loadings().to_numpy()
    gain = loadings.T @ np.linalg.inv(gauss.cov)
    x = dense(model.adata.X).astype(np.float64)
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(mean, (x - gauss.mean) @ gain.T, atol=1e-4)
    expected = np.eye(3) - gain @ loadings
    np.testing.assert_allclose(variance, np.tile(np.diag(expected), (len(x), 1)), rtol=1e-3)
    np.testing.assert_allclose(expected, np.diag(np.diag(expected)), atol=1e-5)


def test_factors_span_the_principal_subspace() -> None:
    model = fitted()
    pca = PCA(3).fit(dense(model.adata.X))
    cosines = np.linalg.svd(np.linalg.qr(model.get_loadings().to_numpy())[0].T @ pca.components_.T)[1]
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_a_trained_linear_vae_reaches_its_likelihood() -> None:
    """Within half a per cent; it cannot do better than maximum likelihood."""
    adata = log_normalised(small_adata(n_per_group=30))
    best = float(fitted(adata.copy()).log_likelihood().mean())
    VAE.setup_anndata(adata)
    vae = VAE(
        adata, n_latent=3, n_layers=0, gene_likelihood="normal", dispersion="shared", use_batch_norm="none", seed=1
    )
    vae.train(
        600, train_size=1.0, batch_size=64, kl_warmup=0.0, plan_kwargs={"lr": 1e-2, "lr_schedule": "one_cycle"}, **QUIET
    )
    reached = np.mean([float(vae.get_elbo()) for _ in range(20)])
    assert reached < best + 0.002 * abs(best)
    assert reached > best - 0.005 * abs(best)


def test_expression_is_decoded_with_what_the_condition_changes() -> None:
    model = fitted()
    predicted = model.predict_perturbation(
        control="control", perturbation="stimulated", shift="nearest", similarity_space="latent", shift_scale=1.0
    )
    positions = model.get_latent_representation()
    before, after = predicted.obsm["X_deltavi_control"], predicted.obsm["X_deltavi"]
    for label in set(predicted.obs["cell_type"]):
        group = (model.adata.obs["cell_type"] == label).to_numpy()
        stimulated = (model.adata.obs["condition"] == "stimulated").to_numpy()
        expected = positions[group & stimulated].mean(0) - positions[group & ~stimulated].mean(0)
        moves = (after - before)[(predicted.obs["cell_type"] == label).to_numpy()]
        np.testing.assert_allclose(moves, np.tile(expected, (len(moves), 1)), atol=1e-4)
    # a Gaussian keeps each cell's residual
    change = (after - before) @ model.get_loadings().to_numpy().T
    control = dense(model.adata[predicted.obs["deltavi_source_cell"]].X)
    np.testing.assert_allclose(predicted.X, np.maximum(control + change, 0), atol=1e-3)


def test_made_up_cells_have_the_moments_of_the_model() -> None:
    model = fitted(noise="diagonal")
    made = model.sample(20_000, seed=1)
    gauss = density(model)
    error = np.sqrt(np.diag(gauss.cov) / 20_000)
    assert (np.abs(made.X.mean(0) - gauss.mean) < 5 * error).all()
    np.testing.assert_allclose(np.cov(made.X.T), gauss.cov, atol=0.1 * np.diag(gauss.cov).max())
    np.testing.assert_array_equal(model.sample(5, seed=3).X, model.sample(5, seed=3).X)
    assert not np.array_equal(model.sample(5, seed=3).X, model.sample(5, seed=4).X)


@pytest.mark.parametrize("form", ["csc", "backed", "dense"])
def test_storage_does_not_matter(form: str, tmp_path: Path) -> None:
    adata = log_normalised(small_adata())
    adata.X = sparse.csr_matrix(adata.X)
    expected = fitted(adata.copy()).get_loadings()
    if form == "backed":
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    else:
        adata.X = sparse.csc_matrix(adata.X) if form == "csc" else dense(adata.X)
    np.testing.assert_allclose(fitted(adata).get_loadings(), expected, rtol=1e-4, atol=1e-5)


def test_counts_are_refused_with_an_offer_that_works() -> None:
    adata = small_adata()
    PPCA.setup_anndata(adata)
    with pytest.raises(InputDataError, match=r"log_normalise.*layer='log1p_cp10k'"):
        PPCA(adata)
    log_normalise(adata)
    expected = log_normalised(small_adata()).X
    np.testing.assert_allclose(dense(adata.layers["log1p_cp10k"]), expected, rtol=1e-5)
    model = fitted(adata, setup={"layer": "log1p_cp10k"})
    np.testing.assert_allclose(model.get_loadings(), fitted().get_loadings(), rtol=1e-3, atol=1e-4)
    with pytest.raises(KeyClashError, match="log1p_cp10k"):
        log_normalise(adata)


def test_log_normalise_uses_totals_over_all_genes() -> None:
    adata = small_adata()
    adata.obs["all_genes"] = 2.0 * np.asarray(adata.X.sum(1)).ravel()
    before = adata.X.copy()
    log_normalise(adata, size_factor_key="all_genes", key_added="logs")
    x = dense(adata.X).astype(np.float64)
    np.testing.assert_allclose(
        dense(adata.layers["logs"]), np.log1p(1e4 * x / (2 * x.sum(1, keepdims=True))), rtol=1e-5
    )
    assert (before != adata.X).nnz == 0
    with pytest.raises(UnknownCategoryError, match="missing"):
        log_normalise(adata, size_factor_key="missing", key_added="other")
    adata.layers["half"] = adata.X * 0.5
    with pytest.raises(InputDataError):
        log_normalise(adata, layer="half", key_added="other")


def test_a_loaded_model_is_the_same_without_its_data(tmp_path: Path) -> None:
    model = fitted(noise="diagonal")
    model.save(tmp_path / "model")
    again = PPCA.load(tmp_path / "model")
    fresh = log_normalised(small_adata(seed=2))
    np.testing.assert_array_equal(again.log_likelihood(fresh), model.log_likelihood(fresh))
    assert again.get_noise().equals(model.get_noise())
    with pytest.raises(DeltaviError, match="loaded without data"):
        again.train()


def test_what_it_refuses() -> None:
    adata = log_normalised(small_adata())
    PPCA.setup_anndata(adata)
    with pytest.raises(UnknownCategoryError, match="isotropic"):
        PPCA(adata, noise="diag")  # type: ignore[arg-type]
    with pytest.raises(DeltaviError, match="n_latent=40"):
        PPCA(adata, n_latent=40).train()
    untrained = PPCA(adata)
    for verb in (untrained.get_loadings, untrained.get_noise, untrained.log_likelihood, lambda: untrained.sample(3)):
        with pytest.raises(NotTrainedError):
            verb()
    with pytest.raises(DeltaviError, match="use the trained model"):
        PPCA.load_query_data(adata, untrained)
    with pytest.raises(DeltaviError, match="both 'cell_type'"):
        PPCA.setup_anndata(adata, condition_key="cell_type", labels_key="cell_type")
    with pytest.raises(DeltaviError, match="setup_anndata"):
        PPCA()


def test_the_global_state_of_torch_is_untouched() -> None:
    before = torch.random.get_rng_state()
    fitted().sample(3)
    assert torch.equal(before, torch.random.get_rng_state())
