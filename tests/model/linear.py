"""Cells, fits and answers for the tests of what linear models do with bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from deltavi.model import PPCA
from tests.model.conftest import dense, log_normalised, small_adata

SETUP = {"condition_key": "condition", "labels_key": "cell_type"}
ASK = {"control": "control", "perturbation": "stimulated"}
NOISES = ("isotropic", "diagonal")
NOISE = pytest.mark.parametrize("noise", NOISES)


def logs(change: Callable[[np.ndarray], Any] = np.asarray) -> AnnData:
    """Log-normalised cells, after a change of the matrix."""
    adata = log_normalised(small_adata())
    return AnnData(change(adata.X.astype(np.float64)), obs=adata.obs, var=adata.var)


def counts(change: Callable[[np.ndarray], Any] = np.asarray) -> AnnData:
    """The same cells with raw counts, changed."""
    adata = small_adata()
    return AnnData(change(dense(adata.X).astype(np.float64)), obs=adata.obs, var=adata.var)


def untrained(adata: AnnData, noise: Any, *, setup: dict[str, Any] = SETUP, n_latent: int = 3, **kwargs: Any) -> PPCA:
    PPCA.setup_anndata(adata, **setup)
    return PPCA(adata, noise=noise, n_latent=n_latent, **kwargs)


def fitted(adata: AnnData, noise: Any, **kwargs: Any) -> PPCA:
    model = untrained(adata, noise, **kwargs)
    model.train()
    return model


def with_value(value: float, *, row: int = 3, column: int = 2) -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        x[row, column] = value
        return x

    return change


def answers(model: PPCA, adata: AnnData | None = None) -> dict[str, np.ndarray]:
    """All that the model says of cells, by verb; the shift is given, so that it does not hang on other cells."""
    predicted = model.predict_perturbation(adata, shift=np.full(3, 0.2), **ASK)
    return {
        "latent": model.get_latent_representation(adata),
        "variance": model.get_latent_representation(adata, return_dist=True)[1],
        "likelihood": model.log_likelihood(adata).to_numpy(),
        "imputed": model.impute(adata),
        "prediction": dense(predicted.X),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, tolerance: float = 1e-4) -> None:
    for verb, values in expected.items():
        np.testing.assert_allclose(found[verb], values, rtol=tolerance, atol=tolerance, err_msg=verb)
