"""Total counts over all genes: what decoder and encoder make of a column that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deltavi.model import LABELVI, SCGEN, VAE
from deltavi.module.decoder import Decoder
from tests.model.conftest import QUIET, SETUP, small_adata

SMALL = {"n_hidden": 16, "n_latent": 4}
LABELS = {"labels_key": "cell_type", "size_factor_key": "total"}


def model_of(factor: np.ndarray | None, **kwargs: Any) -> LABELVI:
    adata = small_adata()
    if factor is not None:
        adata.obs["total"] = factor
    LABELVI.setup_anndata(adata, **(LABELS if factor is not None else {"labels_key": "cell_type"}))
    return LABELVI(adata, **SMALL, **kwargs)


def totals() -> np.ndarray:
    return np.asarray(small_adata().X.sum(1), dtype=float).ravel()


def first_input(model: LABELVI) -> torch.Tensor:
    tensors = next(iter(model._make_data_loader(adata=model.adata, batch_size=20)))
    return model.module.classifier_input(tensors)


def test_the_encoder_divides_by_the_given_total() -> None:
    x = torch.from_numpy(np.asarray(small_adata().X[:20].todense()))
    own, given = model_of(None), model_of(3 * totals())
    torch.testing.assert_close(first_input(own), (1e4 * x / x.sum(1, keepdim=True)).log1p())
    torch.testing.assert_close(first_input(given), (1e4 * x / (3 * x.sum(1, keepdim=True))).log1p())


def test_relative_factors_are_brought_to_the_scale_of_counts() -> None:
    relative = totals() / totals().mean()
    as_totals, as_relative = first_input(model_of(totals())), first_input(model_of(relative))
    torch.testing.assert_close(as_relative, as_totals, rtol=1e-4, atol=1e-4)
    assert model_of(relative).module.size_factor_unit == pytest.approx(totals().mean())
    assert model_of(totals()).module.size_factor_unit == 1.0


@pytest.mark.parametrize(
    ("factor", "activation"),
    [(None, "softmax"), (3 * totals(), "softmax_rest"), (totals() / totals().mean(), "exp")],
)
def test_the_decoder_gives_shares_of_the_total(factor: np.ndarray | None, activation: str) -> None:
    assert model_of(factor).module.scale_activation == activation


def test_the_decoder_starts_at_the_mean_share_of_every_gene() -> None:
    model = model_of(3 * totals())
    shares = np.asarray(small_adata().X.sum(0)).ravel().clip(0.5) / (3 * totals().sum())
    model.module.eval()
    with torch.no_grad():
        decoded = model.module.decoder(torch.zeros(1, 4), torch.ones(1, 1)).scale.numpy().ravel()
    assert np.corrcoef(np.log(decoded), np.log(shares))[0, 1] > 0.5
    assert decoded.sum() < 1


def test_a_start_from_a_vae_keeps_what_its_totals_meant() -> None:
    for source, activation in ((VAE, "softplus"), (SCGEN, "softmax_rest")):
        adata = small_adata()
        adata.obs["total"] = 3 * totals()
        source.setup_anndata(adata, **SETUP, size_factor_key="total")
        vae = source(adata, **SMALL)
        vae.train(max_epochs=1, batch_size=32, **QUIET)
        model = LABELVI.from_vae(vae)
        assert model.module.scale_activation == activation
        model.is_trained_ = True
        model.module.eval()
        np.testing.assert_allclose(model.get_latent_representation(), vae.get_latent_representation(), atol=1e-5)


def test_a_file_remembers_the_unit(tmp_path: Any) -> None:
    model = model_of(totals() / totals().mean())
    model.train(max_epochs=1, batch_size=32, train_size=0.7, **QUIET)
    model.save(tmp_path / "model")
    loaded = LABELVI.load(tmp_path / "model")
    assert loaded.module.size_factor_unit == model.module.size_factor_unit
    query = small_adata()
    query.obs["total"] = totals() / totals().mean()
    assert loaded.predict(query).tolist() == model.predict().tolist()


@pytest.mark.parametrize("times", [None, 3.0, 10.0])
def test_the_decoder_is_started_at_counts_over_the_given_totals(
    times: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Decoder, "start_at", lambda self, shares: seen.append(shares))
    model_of(None if times is None else times * totals())
    expected = np.asarray(small_adata().X.sum(0)).ravel() / ((times or 1.0) * totals().sum())
    np.testing.assert_allclose(seen[-1].numpy(), expected, rtol=1e-5)


def test_the_unit_is_a_ratio_of_means_whatever_the_library_is() -> None:
    relative = totals() / totals().mean() * np.random.default_rng(0).uniform(0.5, 2, len(totals()))
    for library in (None, "observed", "learned"):
        model = model_of(relative, **({} if library is None else {"library": library}))
        assert model.module.size_factor_unit == pytest.approx(totals().mean() / relative.mean())
