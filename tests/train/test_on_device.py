"""Training from mini-batches made on the device: the same as training from those made beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scvi import settings
from scvi.dataloaders import DataSplitter

from deltavi.model import LABELVI, SCGEN, VAE
from deltavi.registry import _device_rows
from deltavi.registry._batches import OrderedDataset
from deltavi.registry._device_rows import KeptRows, SentRows
from deltavi.train import on_device
from tests.model.conftest import QUIET, SETUP, dense, small_adata

ROOM = {KeptRows: 10**9, SentRows: 0}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What data sets were asked to make for a device."""
    found: list[Any] = []
    rows_on = OrderedDataset.rows_on

    def noted(dataset: OrderedDataset, device: torch.device) -> Any:
        found.append(rows_on(dataset, device))
        return found[-1]

    monkeypatch.setattr(OrderedDataset, "rows_on", noted)
    return found


@pytest.fixture
def moved(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The same where the CPU counts as a device that works on its own."""
    monkeypatch.setattr(on_device, "KINDS", ("cpu",))
    return made


def trained(model: Any = VAE, x: Any = None, **kwargs: Any) -> Any:
    adata = small_adata()
    adata.X = adata.X if x is None else x
    model.setup_anndata(adata, **SETUP)
    fitted = model(adata, n_hidden=8, n_latent=2)
    fitted.train(
        **{"max_epochs": 3, "batch_size": 32, "train_size": 0.8, "check_val_every_n_epoch": 1, **QUIET, **kwargs}
    )
    return fitted


def assert_same_training(found: Any, expected: Any) -> None:
    assert set(found.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_array_equal(found.history[name].astype(float), values.astype(float), err_msg=name)
    weights = expected.module.state_dict()
    for name, values in found.module.state_dict().items():
        assert torch.equal(values, weights[name]), name


@pytest.mark.parametrize("kind", list(ROOM))
@pytest.mark.parametrize("model", [VAE, SCGEN])
def test_training_is_the_same(
    model: Any, kind: type[SentRows], made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(model)
    assert not made
    monkeypatch.setattr(on_device, "KINDS", ("cpu",))
    monkeypatch.setattr(_device_rows, "free_bytes", lambda _: ROOM[kind])
    found = trained(model)
    # once for training and validation together
    assert [type(rows) for rows in made] == [kind]
    assert_same_training(found, expected)


def test_without_validation(moved: list[Any]) -> None:
    trained(train_size=1.0, check_val_every_n_epoch=None)
    assert len(moved) == 1


def test_the_device_is_free_again_afterwards(moved: list[Any]) -> None:
    model = trained()
    loader = model.trainer.train_dataloader
    assert len(moved) == 1
    assert loader.dataset.dataset.device_rows is None
    assert not model.trainer.datamodule._cells
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert len(moved) == 2


def test_the_device_is_free_again_where_training_breaks(moved: list[Any]) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(trainer.datamodule)
            assert trainer.train_dataloader.dataset.dataset.device_rows is moved[0]
            raise ArithmeticError

    seen: list[Any] = []
    with pytest.raises(ArithmeticError):
        trained(callbacks=[Stop()])
    assert len(seen) == 1
    assert not seen[0]._cells


def test_what_is_no_count_takes_the_usual_way(moved: list[Any]) -> None:
    adata = small_adata()
    adata.X.data[:2] = 1e-9, 0.5  # the second shows that the first is no zero but for rounding
    VAE.setup_anndata(adata)
    VAE(adata, n_hidden=8, n_latent=2, check_input=False).train(max_epochs=1, batch_size=32, **QUIET)
    assert set(moved) == {None}


def test_dense_counts_take_the_usual_way(moved: list[Any]) -> None:
    trained(x=dense(small_adata().X))
    assert set(moved) == {None}


def test_backed_counts_take_the_usual_way(moved: list[Any], tmp_path: Path) -> None:
    small_adata().write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    VAE.setup_anndata(adata)
    VAE(adata, n_hidden=8, n_latent=2).train(max_epochs=1, batch_size=32, **QUIET)
    assert set(moved) == {None}
    adata.file.close()


def test_models_with_mini_batches_of_their_own_keep_them(moved: list[Any]) -> None:
    adata = small_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    LABELVI.setup_anndata(adata, labels_key="cell_type", unlabeled_category="Unknown")
    LABELVI(adata, n_hidden=8, n_latent=2).train(max_epochs=1, batch_size=32, **QUIET)
    assert not moved


def test_several_loading_processes_keep_their_counts(moved: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    splitter = on_device.DeviceSplitter(registered_manager(), train_size=0.8, batch_size=32)
    splitter.trainer = FakeTrainer()
    splitter.setup()
    monkeypatch.setattr(settings, "dl_num_workers", 1)
    splitter.train_dataloader()
    assert not moved
    monkeypatch.setattr(settings, "dl_num_workers", 0)
    splitter.val_dataloader()
    assert len(moved) == 1


@pytest.mark.parametrize("change", [{"world_size": 2}, {"kind": "meta"}])
def test_other_machines_take_the_usual_way(moved: list[Any], change: dict[str, Any]) -> None:
    splitter = on_device.DeviceSplitter(registered_manager(), train_size=0.8, batch_size=32)
    splitter.setup()
    for trainer in (FakeTrainer(**change), None):
        splitter.trainer = trainer
        for loader in (splitter.train_dataloader(), splitter.val_dataloader()):
            assert loader.dataset.dataset.device_rows is None
    assert not moved


def test_without_a_trainer_it_is_the_splitter_of_scvi() -> None:
    splitters = [
        cls(registered_manager(), train_size=0.8, batch_size=32, shuffle_set_split=False)
        for cls in (on_device.DeviceSplitter, DataSplitter)
    ]
    for splitter in splitters:
        splitter.setup()
    ours, theirs = (list(splitter.val_dataloader()) for splitter in splitters)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(mine[key], other[key]) for key in other)


class FakeTrainer:
    """What a splitter asks of its trainer."""

    def __init__(self, world_size: int = 1, kind: str = "cpu") -> None:
        self.world_size, self.strategy, self.root_device = world_size, self, torch.device(kind)


def registered_manager() -> Any:
    adata = small_adata()
    VAE.setup_anndata(adata, **SETUP)
    return VAE(adata, n_hidden=8, n_latent=2).adata_manager
