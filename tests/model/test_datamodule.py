"""Models that are made with the registry of a data module, and trained with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule

from deltavi.dataloaders import CellsDataModule
from deltavi.errors import DeltaviError, InputDataError, UnknownArgumentError
from deltavi.model import ACTINN, LABELVI, PPCA, SCGEN, VAE
from deltavi.testing._cells import QUIET, SETUP, dense, small_adata
from tests.models import EVERY, MODELS, SMALL

NAMES = [*MODELS, "SizeFactorAndCondition", "Covariates"]


def module_of(name: str = "VAE", **options: Any) -> CellsDataModule:
    entry = EVERY[name]
    return CellsDataModule(entry.cells(), **{**entry.setup, "batch_size": 32, "train_size": 0.75, **options})


def same(one: Any, other: Any) -> bool:
    states = one.module.state_dict(), other.module.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_that_of_the_anndata(name: str, tmp_path: Path) -> None:
    """To the last bit: before training, after it, in its answers and from its file."""
    entry, module = EVERY[name], module_of(name, seed=3)
    model = entry.model_class(registry=module.registry, **entry.init)
    other = entry.untrained()
    assert model.adata is module.adata
    assert same(model, other)
    assert repr(model) == repr(other)
    model.train(max_epochs=2, datamodule=module, checkpoint=tmp_path / "checkpoint", **QUIET)
    parts = {"train_indices": module.train_idx, "validation_indices": module.val_idx}
    other.train(max_epochs=2, batch_size=32, **parts, **QUIET)
    assert same(model, other)
    assert sorted(model.train_indices) == sorted(other.train_indices)
    ask = {"control": "control", "perturbation": "stimulated"} if entry.verb == "predict_perturbation" else {}
    found, expected = (getattr(one, entry.verb)(**ask) for one in (model, other))
    pairs = (dense(found.X), dense(expected.X)) if ask else (np.asarray(found), np.asarray(expected))
    assert np.array_equal(*pairs)
    loaded = entry.model_class.load(tmp_path / "checkpoint")
    assert same(model, loaded)


def test_a_random_split_is_that_of_the_same_seed() -> None:
    model, other = VAE(registry=(module := module_of(seed=5)).registry, **SMALL), EVERY["VAE"].untrained()
    model.train(max_epochs=1, datamodule=module, seed=5, **QUIET)
    other.train(max_epochs=1, train_size=0.75, batch_size=32, seed=5, **QUIET)
    assert same(model, other)


def test_a_file_is_read_as_the_module_says(tmp_path: Path) -> None:
    small_adata().write_h5ad(tmp_path / "cells.h5ad")
    models = []
    for options in ({}, {"block_rows": 2, "buffer_rows": 64, "read_ahead": False}):
        adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        module = CellsDataModule(adata, **SETUP, batch_size=32, **options)
        model = VAE(registry=module.registry, **SMALL)
        model.train(max_epochs=1, datamodule=module, **QUIET)
        models.append(model)
        adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        VAE.setup_anndata(adata, **SETUP)
        parts = {"train_indices": module.train_idx, "validation_indices": module.val_idx}
        other = VAE(adata, **SMALL)
        other.train(max_epochs=1, batch_size=32, **parts, datasplitter_kwargs=options, **QUIET)
        assert same(model, other)
    assert not same(*models)


def test_a_model_without_a_size_of_mini_batches_takes_its_own() -> None:
    module = CellsDataModule(small_adata(), **SETUP)
    model = SCGEN(registry=module.registry, **SMALL)
    model.train(max_epochs=1, datamodule=module, **QUIET)
    # that of SCGEN is larger than the data
    assert model.trainer.num_training_batches == 1


def test_models_may_share_a_module_and_train_on() -> None:
    module = module_of("LABELVI")
    vae = VAE(registry=module.registry, **SMALL)
    labelled = LABELVI(registry=module.registry, **SMALL)
    for model in (vae, labelled, vae):
        model.train(max_epochs=1, datamodule=module, **QUIET)
    assert len(vae.history["train_loss"]) == 2
    assert np.array_equal(np.sort(vae.train_indices), np.sort(labelled.train_indices))
    vae.predict_perturbation(control="control", perturbation="stimulated")


def test_a_model_from_a_file_takes_the_cells_of_the_module(tmp_path: Path) -> None:
    module = module_of()
    model = VAE(registry=module.registry, **SMALL)
    model.train(max_epochs=1, datamodule=module, **QUIET)
    model.save(tmp_path / "model")
    loaded = VAE.load(tmp_path / "model")
    with pytest.raises(DeltaviError, match=r"model.adata = datamodule.adata"):
        loaded.train(max_epochs=1, datamodule=module, **QUIET)
    loaded.adata = module.adata
    loaded.train(max_epochs=1, datamodule=module, **QUIET)


def test_other_options_of_the_splitter_stay_with_the_caller() -> None:
    module = module_of()
    model = VAE(registry=module.registry, **SMALL)
    model.train(max_epochs=1, datamodule=module, datasplitter_kwargs={"drop_last": True}, **QUIET)
    assert model.trainer.num_training_batches == module.n_train // 32


class Batches(LightningDataModule):
    """A data module of another package."""


@pytest.mark.parametrize("model_class", [VAE, PPCA])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_size": 0.5}, "'train_size' beside datamodule"),
        ({"validation_size": 0.1, "batch_size": 8}, "'validation_size', 'batch_size' beside"),
        ({"train_indices": [1, 2, 3]}, "'train_indices' beside"),
        ({"shuffle_set_split": False}, "'shuffle_set_split' beside"),
        ({"datasplitter_kwargs": {"block_rows": 8}}, r"datasplitter_kwargs\['block_rows'\]"),
        ({"datasplitter_kwargs": {"external_indexing": [[1, 2]]}}, r"datasplitter_kwargs\['external_indexing'\]"),
        ({"datamodule": Batches()}, "names of cells, conditions and a split at random"),
        ({"datamodule": CellsDataModule}, "make one: it is a class"),
        (
            {"datamodule": "cells"},
            "CellsDataModule, or scvi-tools' AnnbatchDataModule, not 'cells'",
        ),
        ({"datamodule": CellsDataModule(small_adata(n_genes=20))}, "144 cells and 20 genes of another AnnData"),
    ],
)
def test_what_contradicts_the_module_is_refused(model_class: Any, options: dict[str, Any], words: str) -> None:
    entry = MODELS[model_class.__name__]
    module = module_of(entry.name)
    model = model_class(registry=module.registry, **entry.init)
    with pytest.raises(DeltaviError, match=words):
        model.train(**{"max_epochs": 1, "datamodule": module, **QUIET, **options})
    assert not model.is_trained_


def test_a_module_of_other_columns_is_refused() -> None:
    adata = small_adata()
    model = VAE(registry=CellsDataModule(adata, batch_key="batch").registry, **SMALL)
    with pytest.raises(DeltaviError, match="'batch_key' of datamodule differ from what the model was set up with"):
        model.train(max_epochs=1, datamodule=CellsDataModule(adata, batch_key="cell_type"), **QUIET)


def test_what_users_pass_for_a_registry() -> None:
    module = module_of()
    for wrong in ({"adata": module}, {"adata": module.registry}, {"registry": module}):
        with pytest.raises(DeltaviError, match=r"VAE takes registry=datamodule.registry"):
            VAE(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DeltaviError, match="brings its cells: pass adata or registry"):
        VAE(small_adata(), registry=module.registry)
    # a copy does not know its module, with which the model is made
    copied = VAE(registry=dict(module.registry), **SMALL)
    copied.train(max_epochs=1, datamodule=module, **QUIET)
    assert copied.adata is module.adata
    assert VAE(None, module.registry, **SMALL).adata is module.adata


def test_a_model_refuses_what_its_setup_refuses() -> None:
    with pytest.raises(UnknownArgumentError, match=r"ACTINN.setup_anndata has no argument 'batch_key'"):
        ACTINN(registry=module_of().registry)
    logs = small_adata()
    logs.X = np.log1p(dense(logs.X))
    with pytest.raises(InputDataError):
        VAE(registry=CellsDataModule(logs).registry)
    module = module_of()
    module.adata._inplace_subset_obs(np.arange(100))
    with pytest.raises(DeltaviError, match="was made of 144 cells, and its AnnData has 100 by now"):
        VAE(registry=module.registry)
