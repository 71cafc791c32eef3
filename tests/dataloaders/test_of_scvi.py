"""Models of scvi-tools that are made and trained with the data module."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from deltavi.dataloaders import CellsDataModule
from tests.dataloaders.cells import BLOCKS, COLUMNS, FORMS, NUMBER, numbered

SMALL: dict[str, Any] = {"n_hidden": 16, "n_latent": 3}
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(autouse=True)
def _unseeded() -> Iterator[None]:
    """Leave scvi-tools and torch as they are, and Lightning its warnings of few mini-batches and workers."""
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield
    torch.set_rng_state(state)


class Seen(Callback):
    """Cells of each training mini-batch, by epoch."""

    def __init__(self) -> None:
        self.epochs: list[list[list[int]]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append([])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.epochs[-1].append(batch[NUMBER].ravel().long().tolist())


def trained(adata: AnnData, *, epochs: int = 2, **options: Any) -> tuple[Any, CellsDataModule, Seen]:
    module = CellsDataModule(adata, **{**COLUMNS, "batch_size": 32, **BLOCKS, **options})
    torch.manual_seed(0)
    model, seen = scvi.model.SCVI(registry=module.registry, **SMALL), Seen()
    model.train(max_epochs=epochs, datamodule=module, callbacks=[seen], check_val_every_n_epoch=1, **QUIET)
    return model, module, seen


@pytest.mark.parametrize("form", list(FORMS))
def test_scvi_trains_on_cells_wherever_they_lie(form: str, tmp_path: Path) -> None:
    model, module, seen = trained(FORMS[form](numbered(), tmp_path))
    assert np.isfinite(model.history["elbo_validation"].to_numpy(float)).all()
    assert np.array_equal(model.train_indices, module.train_idx)
    assert np.array_equal(model.validation_indices, module.val_idx)
    first, second = [[cell for batch in epoch for cell in batch] for epoch in seen.epochs]
    assert sorted(first) == sorted(second) == sorted(module.train_idx)
    assert first != second
    latent = model.get_latent_representation(dataloader=module.inference_dataloader())
    assert latent.shape == (144, 3)


def test_answers_are_those_of_scvi_for_the_same_cells_and_weights() -> None:
    """Batches, covariates and the order of cells are those of its own setup."""
    adata = numbered()
    model, module, _ = trained(adata, categorical_covariate_keys=["condition"], size_factor_key="total_counts")
    whole = adata.copy()
    columns = {**COLUMNS, "categorical_covariate_keys": ["condition"], "size_factor_key": "total_counts"}
    scvi.model.SCVI.setup_anndata(whole, **columns)
    other = scvi.model.SCVI(whole, **SMALL)
    other.module.load_state_dict(model.module.state_dict())
    other.module.eval()
    other.is_trained_ = True
    found = model.get_latent_representation(dataloader=module.inference_dataloader(batch_size=50))
    np.testing.assert_allclose(found, other.get_latent_representation(), rtol=1e-5, atol=1e-6)
    own = list(other._make_data_loader(adata=whole, batch_size=50))
    for batch, expected in zip(module.inference_dataloader(batch_size=50), own, strict=True):
        assert batch.keys() >= expected.keys()
        assert all(torch.equal(batch[key].float(), values.float()) for key, values in expected.items())


def test_the_order_and_the_model_are_those_of_the_seed(tmp_path: Path) -> None:
    adata = FORMS["h5ad"](numbered(), tmp_path)
    (one, _, first), (other, _, second) = trained(adata), trained(adata)
    assert first.epochs == second.epochs
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert trained(adata, seed=1)[2].epochs != first.epochs


def test_the_model_is_saved_and_loaded(tmp_path: Path) -> None:
    """Without the cells, though its registry knows them."""
    model, module, _ = trained(numbered(), epochs=1)
    model.save(str(tmp_path / "model"), datamodule=module)
    assert (tmp_path / "model" / "model.pt").stat().st_size < 200_000
    loaded = scvi.model.SCVI.load(str(tmp_path / "model"), adata=False, accelerator="cpu")
    assert type(loaded.registry_) is dict
    ask = model.get_latent_representation, loaded.get_latent_representation
    found, again = (get(dataloader=module.inference_dataloader()) for get in ask)
    assert np.array_equal(found, again)


def test_early_stopping_watches_the_validation_cells() -> None:
    module = CellsDataModule(numbered(), **COLUMNS, batch_size=32)
    model = scvi.model.SCVI(registry=module.registry, **SMALL)
    stopping = {"early_stopping": True, "early_stopping_patience": 1, "early_stopping_min_delta": 1e6}
    model.train(max_epochs=20, datamodule=module, **stopping, **QUIET)
    assert len(model.history["elbo_validation"]) < 6
