"""Cells of scvi-tools' data module of annbatch, real and by a stand-in, whose stores are read where they lie."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pytest
import torch
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from lightning.pytorch import LightningDataModule

from deltavi.dataloaders import CellsDataModule
from deltavi.errors import DeltaviError, UnknownArgumentError
from deltavi.model import ACTINN, LABELVI, MIXVI, SCGEN, VAE
from deltavi.pp import concat_lazy
from tests.dataloaders.cells import numbered

SMALL: dict[str, Any] = {"n_hidden": 8, "n_latent": 3}
QUIET: dict[str, Any] = {"max_epochs": 1, "seed": 0, "enable_progress_bar": False, "logger": False}
PLACES = ("dataset_0", "dataset_1")


def stores(folder: Path, element: str = "X") -> Path:
    """A store of two AnnData, as collections of annbatch are."""
    adata, path = numbered(), folder / "cells.zarr"
    zarr.open_group(path, mode="w", zarr_format=3)
    for name, part in zip(PLACES, (adata[:70].copy(), adata[70:].copy()), strict=True):
        whole = AnnData(obs=part.obs, var=part.var, layers={"counts": part.X} if element != "X" else {})
        with anndata.settings.override(auto_shard_zarr_v3=False):
            write_elem(zarr.open_group(path / name, mode="w", zarr_format=3), "/", whole)
            if element == "X":
                write_elem(zarr.open_group(path / name, mode="r+"), "X", part.X)
    return path


class _Module(LightningDataModule):
    """What is read of scvi-tools' module, on any version of it."""

    def __init__(self, path: Path, element: str = "X", **given: Any) -> None:
        super().__init__()
        root = zarr.open_group(path, mode="r")
        self.dataset = SimpleNamespace(_train_datasets=[sparse_dataset(root[name][element]) for name in PLACES])
        self.given = {"batch_key": "batch", "labels_key": "cell_type", "categorical_covariate_keys": None, **given}
        self.unlabeled_category, self.train_size, self.batch_size = "Unknown", 0.8, 32

    @property
    def registry(self) -> dict[str, Any]:
        state = {"n_vars": self.dataset._train_datasets[0].shape[1], "column_names": ["gene_0"]}
        fields = {"X": {"state_registry": state}}
        return {"setup_method_name": "setup_datamodule", "setup_args": self.given, "field_registries": fields}


Module = type("AnnbatchDataModule", (_Module,), {"__module__": "scvi.dataloaders._custom_dataloaders"})


def weights(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.module.state_dict())


@pytest.mark.parametrize("model_class", [VAE, SCGEN, LABELVI, MIXVI])
def test_a_model_of_the_registry_is_that_of_its_cells(model_class: Any, tmp_path: Path) -> None:
    module = Module(stores(tmp_path))
    model, expected = model_class(registry=module.registry, **SMALL), CellsDataModule.from_annbatch(module)
    assert repr(model) == f"{model_class.__name__} without cells; not trained"
    model.train(datamodule=module, **QUIET)
    other = model_class(registry=expected.registry, **SMALL)
    other.train(datamodule=expected, **QUIET)
    found = weights(model)
    assert found.keys() == weights(other).keys()
    for key, value in weights(other).items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)
    np.testing.assert_array_equal(model.get_latent_representation(), other.get_latent_representation())
    assert model.adata.obs_names.tolist() == numbered().obs_names.tolist()
    # it has its cells by now
    model.train(datamodule=module, **QUIET)
    assert len(model.train_indices) == len(expected.train_idx)
    model.train(datamodule=module, train_size=0.5, batch_size=16, **QUIET)
    assert len(model.train_indices) == model.adata.n_obs // 2


def test_cells_are_split_at_random_and_have_conditions(tmp_path: Path) -> None:
    cells = CellsDataModule.from_annbatch(Module(stores(tmp_path)), condition_key="condition", train_size=0.7)
    assert (cells.n_train, cells.batch_size) == (-(-7 * cells.n_obs // 10), 32)
    # they are sorted by type
    assert len(set(cells.adata.obs["cell_type"].iloc[cells.val_idx])) == numbered().obs["cell_type"].nunique()
    model = SCGEN(registry=cells.registry, **SMALL)
    model.train(datamodule=cells, **QUIET)
    found = model.predict_perturbation(control="control", perturbation="stimulated")
    assert (found.obs["condition"] == "stimulated").all()


def test_the_name_of_no_label_is_taken_where_cells_have_it(tmp_path: Path) -> None:
    path = stores(tmp_path)
    assert CellsDataModule.from_annbatch(Module(path)).unlabeled_category is None
    module = Module(path)
    module.unlabeled_category = "type_1"
    assert CellsDataModule.from_annbatch(module).unlabeled_category == "type_1"
    # without labels there is none
    module = Module(path, labels_key=None)
    assert CellsDataModule.from_annbatch(module).columns.unlabeled_category is None


def test_counts_in_a_layer(tmp_path: Path) -> None:
    cells = CellsDataModule.from_annbatch(Module(stores(tmp_path, "layers/counts"), "layers/counts"))
    assert cells.columns.layer == "counts"
    batch = next(iter(cells.inference_dataloader(batch_size=5)))
    np.testing.assert_array_equal(batch["X"].numpy(), numbered().X[:5].toarray())


@pytest.mark.parametrize("ask", [lambda m: m.get_latent_representation(), lambda m: m.adata, lambda m: m.train()])
def test_cells_that_are_still_to_come_are_named(ask: Any, tmp_path: Path) -> None:
    model = VAE(registry=Module(stores(tmp_path)).registry)
    with pytest.raises(DeltaviError, match=r"VAE was made of the registry.*train\(datamodule=\.\.\.\).*from_annbatch"):
        ask(model)


def test_a_model_that_cannot_be_made_still_waits(tmp_path: Path) -> None:
    module = Module(stores(tmp_path))
    model = ACTINN(registry=module.registry)
    for _ in range(2):
        with pytest.raises(UnknownArgumentError, match="no argument 'batch_key'"):
            model.train(datamodule=module, **QUIET)
        assert repr(model) == "ACTINN without cells; not trained"
    model.train(datamodule=CellsDataModule.from_annbatch(module, batch_key=None), **QUIET)
    assert len(model.predict()) == model.adata.n_obs


def test_another_number_of_genes(tmp_path: Path) -> None:
    module = Module(stores(tmp_path))
    registry = module.registry
    registry["field_registries"]["X"]["state_registry"]["n_vars"] = 7
    with pytest.raises(DeltaviError, match="registry of 7 genes, and datamodule has"):
        VAE(registry=registry).train(datamodule=module)


def test_other_cells_than_those_of_the_model(tmp_path: Path) -> None:
    adata = numbered()
    VAE.setup_anndata(adata, batch_key="batch")
    with pytest.raises(DeltaviError, match="of another AnnData than the model"):
        VAE(adata, **SMALL).train(datamodule=Module(stores(tmp_path)))


def test_matrices_that_lie_in_no_store(tmp_path: Path) -> None:
    module = Module(stores(tmp_path))
    module.dataset._train_datasets = [numbered().X]
    with pytest.raises(DeltaviError, match=r"no part of an AnnData in a Zarr store.*Compressed Sparse Row"):
        CellsDataModule.from_annbatch(module)
    module.dataset._train_datasets = []
    with pytest.raises(DeltaviError, match="no matrix"):
        CellsDataModule.from_annbatch(module)


def test_other_modules_are_no_collections() -> None:
    with pytest.raises(DeltaviError, match="must be scvi-tools' AnnbatchDataModule, not"):
        CellsDataModule.from_annbatch(LightningDataModule())


# -- annbatch itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", [VAE, LABELVI])
def test_a_collection_of_annbatch(model_class: Any, tmp_path: Path) -> None:
    annbatch = pytest.importorskip("annbatch")
    dataloaders = pytest.importorskip("scvi.dataloaders")
    path = tmp_path / "collection.zarr"
    adata = numbered()
    with warnings.catch_warnings():
        # of annbatch, anndata and zarr, while they write
        warnings.simplefilter("ignore")
        adata.write_h5ad(tmp_path / "cells.h5ad")
        collection = annbatch.DatasetCollection(path)
        collection.add_adatas(
            [tmp_path / "cells.h5ad"], rng=np.random.default_rng(0), dataset_size=60, shuffle_chunk_size=10
        )
        reading = {"chunk_size": 16, "preload_nchunks": 4, "preload_to_gpu": False}
        loader = annbatch.Loader(batch_size=32, to="torch", **reading).use_collection(collection)
        module = dataloaders.AnnbatchDataModule(loader, batch_key="batch", label_key="cell_type", **reading)
    cells = concat_lazy([path / f"dataset_{number}" for number in range(len(loader._train_datasets))])
    model = model_class(registry=module.registry, **SMALL)
    model.train(datamodule=module, train_size=0.9, **QUIET)
    assert model.adata.obs_names.tolist() == cells.obs_names.tolist()
    assert sorted(cells.obs_names) == sorted(adata.obs_names)
    assert model.gene_names.tolist() == adata.var_names.tolist()
    # those of each cell wherever it lies
    found = model.get_latent_representation()
    query = model.get_latent_representation(adata[cells.obs_names].copy())
    np.testing.assert_allclose(found, query, rtol=1e-5, atol=1e-6)
