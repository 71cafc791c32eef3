"""Small AnnData and trained models for the tests of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anndata import AnnData

from deltavi.model import SCGEN, VAE
from deltavi.testing._cells import QUIET, SETUP, dense, log_normalised, small_adata

__all__ = ["QUIET", "SETUP", "Factory", "dense", "log_normalised", "small_adata", "train", "trained", "trained_vae"]


@pytest.fixture
def adata() -> AnnData:
    return small_adata()


def train(model_class: type, adata: AnnData, *, epochs: int = 2, setup: dict[str, Any] = SETUP, **kwargs: Any) -> Any:
    """A model of `model_class` after a few epochs on `adata`."""
    model_class.setup_anndata(adata, **setup)
    model = model_class(adata, **kwargs)
    model.train(max_epochs=epochs, batch_size=32, **QUIET)
    return model


@pytest.fixture(scope="module")
def trained() -> SCGEN:
    """A briefly trained SCGEN that tests must not change."""
    return train(SCGEN, small_adata(), n_hidden=16, n_latent=4)


@pytest.fixture(scope="module")
def trained_vae() -> VAE:
    """A briefly trained VAE that tests must not change."""
    return train(VAE, small_adata(), n_hidden=16, n_latent=4)


Factory = Callable[[AnnData], Any]
