"""The data module by itself: its cells, split, mini-batches, columns, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from deltavi.dataloaders import CellsDataModule
from deltavi.errors import DeltaviError, InputDataError, UnknownArgumentError, UnknownCategoryError
from deltavi.train import split_cells
from deltavi.train._streamed import StreamedLoader
from tests.dataloaders.cells import BLOCKS, COLUMNS, FORMS, NUMBER, flat, numbered, numbers, of_rank, written

FIELDS = "field_registries"


def made(adata: AnnData | None = None, **options: Any) -> CellsDataModule:
    return CellsDataModule(numbered() if adata is None else adata, **{**COLUMNS, "batch_size": 16, **options})


# -- cells -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(FORMS))
def test_cells_are_read_wherever_they_lie(form: str, tmp_path: Path) -> None:
    """In their order, and each training and validation cell once an epoch."""
    adata = numbered()
    module = made(FORMS[form](adata.copy(), tmp_path), **BLOCKS)
    batches = list(module.inference_dataloader())
    assert flat(batches) == list(range(144))
    assert torch.equal(torch.cat([batch["X"] for batch in batches]), torch.from_numpy(adata.X.toarray()))
    assert torch.cat([batch["batch"] for batch in batches]).ravel().tolist() == list(adata.obs["batch"].cat.codes)
    assert sorted(flat(module.train_dataloader())) == sorted(module.train_idx)
    assert sorted(flat(module.val_dataloader())) == sorted(module.val_idx)
    module.teardown()


def test_chosen_cells_come_in_the_order_that_is_asked_for() -> None:
    module = made()
    loader = module.inference_dataloader(indices=[7, 3, 90, 2], batch_size=3)
    assert len(loader) == 2
    # as often as they are asked for
    assert numbers(loader) == numbers(loader) == [[7, 3, 90], [2]]
    mask = np.zeros(144, dtype=bool)
    mask[[5, 6]] = True
    assert flat(module.inference_dataloader(indices=mask)) == [5, 6]


@pytest.mark.parametrize("form", ["memory", "h5ad"])
def test_an_epoch_has_an_order_of_its_own_which_the_seed_fixes(form: str, tmp_path: Path) -> None:
    adata = FORMS[form](numbered(), tmp_path)
    loader = made(adata, seed=1, **BLOCKS).train_dataloader()
    first, second = flat(loader), flat(loader)
    assert first != second
    assert sorted(first) == sorted(second)
    assert flat(made(adata, seed=1, **BLOCKS).train_dataloader()) == first
    split = {"train_indices": np.sort(first)}
    orders = [flat(made(adata, seed=seed, **split, **BLOCKS).train_dataloader()) for seed in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_a_file_is_read_in_blocks_of_rows(tmp_path: Path) -> None:
    module = made(FORMS["h5ad"](numbered(), tmp_path), **BLOCKS)
    loader = module.train_dataloader()
    assert isinstance(loader.loader, StreamedLoader)
    # mixed, though the cells are sorted by type
    types = [len({int(label) for label in batch["labels"]}) for batch in loader]
    assert np.mean(types) > 1.5
    module.teardown()


@pytest.mark.parametrize("form", ["memory", "h5ad"])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_cells(form: str, world: int, tmp_path: Path) -> None:
    adata = FORMS[form](numbered(), tmp_path)
    modules = [of_rank(made(adata, **BLOCKS), rank, world) for rank in range(world)]
    for of_epoch in zip(*[[numbers(loader) for _ in range(2)] for loader in map(train, modules)], strict=True):
        assert len({len(batches) for batches in of_epoch}) == 1
        cells = [cell for batches in of_epoch for batch in batches for cell in batch]
        assert sorted(cells) == sorted(modules[0].train_idx)
    held_out = [cell for module in modules for cell in flat(module.val_dataloader())]
    assert sorted(held_out) == sorted(modules[0].val_idx)
    for module in modules:
        module.teardown()


def train(module: CellsDataModule) -> Any:
    return module.train_dataloader()


def test_the_loaders_are_none_of_torch_which_lightning_would_deal_out_again() -> None:
    module = made()
    assert not isinstance(module.train_dataloader(), torch.utils.data.DataLoader)
    assert not isinstance(module.val_dataloader(), torch.utils.data.DataLoader)


# -- split -----------------------------------------------------------------------------------------------------


def test_the_split_is_at_random_by_cell() -> None:
    """That of a model with the same seed; of sorted cells every type is validated."""
    module = made(seed=3, train_size=0.75)
    split = split_cells(144, train_size=0.75, validation_size=None, batch_size=16, generator=np.random.default_rng(3))
    assert np.array_equal(module.train_idx, split.train)
    assert np.array_equal(module.val_idx, split.validation)
    assert (module.n_train, module.n_val, len(module.test_idx)) == (108, 36, 0)
    assert module.adata.obs["cell_type"].iloc[module.val_idx].nunique() == 3


def test_a_split_of_ones_own() -> None:
    module = made(train_indices=[5, 2, 9, 11, 20], validation_indices=[0, 1])
    assert module.train_idx.tolist() == [5, 2, 9, 11, 20]
    assert module.val_idx.tolist() == [0, 1]
    assert len(module.test_idx) == 137
    assert sorted(flat(module.train_dataloader())) == [2, 5, 9, 11, 20]


def test_no_mini_batch_has_one_or_two_cells() -> None:
    module = made(train_indices=np.arange(33))
    assert sorted(map(len, numbers(module.train_dataloader()))) == [16, 17]


def test_nothing_may_be_held_out() -> None:
    module = made(train_size=1.0)
    assert module.n_val == 0
    assert module.val_dataloader() == []


# -- columns ---------------------------------------------------------------------------------------------------


def test_size_factors_are_totals_over_the_mean_of_all_training_cells() -> None:
    """And not over that of the mini-batch, in which a cell would have another one each time."""
    adata = numbered()
    module = made(adata)
    totals = np.asarray(adata.X.sum(1)).ravel()
    expected = totals / totals[module.train_idx].mean()
    for _ in range(2):
        for batch in module.train_dataloader():
            cells = batch[NUMBER].ravel().long().numpy()
            np.testing.assert_allclose(batch["size_factor"].ravel(), expected[cells], rtol=1e-6)


def test_size_factors_that_are_given_stay() -> None:
    adata = numbered()
    module = made(adata, size_factor_key="total_counts")
    found = torch.cat([batch["size_factor"] for batch in module.inference_dataloader()])
    np.testing.assert_allclose(found.ravel(), adata.obs["total_counts"])
    assert module.registry["setup_args"]["size_factor_key"] == "total_counts"


def test_a_cell_without_counts_has_one_molecule() -> None:
    adata = numbered()
    adata.X = adata.X.multiply(adata.obs["number"].to_numpy()[:, None] != 4).tocsr()
    with pytest.warns(UserWarning, match="1 cells have no counts"):
        batch = next(iter(made(adata).inference_dataloader(indices=[4])))
    assert float(batch["size_factor"]) > 0


def test_conditions_have_a_place() -> None:
    adata = numbered()
    module = made(adata, condition_key="condition")
    found = torch.cat([batch["condition"] for batch in module.inference_dataloader()]).ravel()
    names = module.registry[FIELDS]["condition"]["state_registry"]["categorical_mapping"]
    assert [names[int(code)] for code in found] == adata.obs["condition"].tolist()
    assert "condition" not in next(iter(made().inference_dataloader()))


@pytest.mark.parametrize(("name", "given"), [("Unknown", "Unknown"), (np.nan, None), (np.nan, "Unknown")])
def test_cells_without_a_label_have_the_last_code(name: Any, given: str | None) -> None:
    adata = numbered()
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[[0, 70]] = name
    if given is not None:
        labels.iloc[100] = "Unknown"
    adata.obs["cell_type"] = labels
    module = made(adata, unlabeled_category=given)
    assert module.unlabeled_category == module.labels[-1] == "Unknown"
    assert module.n_labels == 4
    assert {"Unknown"} == set(module.labels_[[0, 70]])
    codes = torch.cat([batch["labels"] for batch in module.inference_dataloader()]).ravel().numpy()
    assert np.array_equal(module.labels[codes], module.labels_)
    assert np.array_equal(module.labels_ == "Unknown", (labels.isna() | (labels == "Unknown")).to_numpy())
    assert module.label_keys["Unknown"] == 3


def test_labels_that_all_cells_have() -> None:
    module = made(unlabeled_category=None)
    assert module.unlabeled_category is None
    assert module.labels.tolist() == sorted(module.adata.obs["cell_type"].unique())
    assert CellsDataModule(numbered()).n_labels == 1


def test_covariates() -> None:
    adata = numbered()
    module = made(adata, categorical_covariate_keys="condition")
    batch = next(iter(module.inference_dataloader()))
    assert batch["extra_categorical_covs"].ravel().tolist() == adata.obs["condition"].cat.codes[:16].tolist()
    # models of scvi-tools do not standardise, nor does their setup
    assert batch[NUMBER].ravel().tolist() == list(range(16))


# -- registry --------------------------------------------------------------------------------------------------


def test_the_registry_is_the_same_before_and_after_the_matrix_was_scanned() -> None:
    module = made(size_factor_key="total_counts", condition_key="condition")
    before = pickle.dumps(module.registry)
    next(iter(module.train_dataloader()))
    assert pickle.dumps(module.registry) == before


def test_copies_of_the_registry_are_plain() -> None:
    """A model of scvi-tools saves its registry, and is not to save the cells."""
    registry = made().registry
    for copied in (pickle.loads(pickle.dumps(registry)), copy.deepcopy(registry), copy.copy(registry)):
        assert type(copied) is dict
        assert copied["setup_args"] == registry["setup_args"]


def test_the_registry_has_the_sizes() -> None:
    module = made()
    summary = {}
    for field in module.registry[FIELDS].values():
        summary |= field["summary_stats"]
    assert summary["n_cells"] == module.n_obs == 144
    assert summary["n_vars"] == module.n_vars == len(module.var_names) == 40
    assert summary["n_batch"] == module.n_batch == 2
    assert summary["n_labels"] == module.n_labels == 3
    assert summary["n_extra_continuous_covs"] == 1
    assert repr(module) == str(module)
    assert repr(module).startswith("CellsDataModule: 144 cells (128 to train, 16 to validate on), 40 genes")


# -- what users do ---------------------------------------------------------------------------------------------


def test_the_cells_stay_as_they_are() -> None:
    adata = numbered()
    before = adata.copy()
    list(made(adata, condition_key="condition").train_dataloader())
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert not adata.uns
    assert not adata.obsm


def test_a_view_becomes_an_anndata_of_its_own(tmp_path: Path) -> None:
    view = numbered()[20:80]
    module = made(view)
    assert not view.is_view
    assert module.adata is view
    assert flat(module.inference_dataloader()) == list(range(20, 80))
    backed = anndata.read_h5ad(written(numbered(), tmp_path / "a.h5ad"), backed="r")
    with pytest.raises(DeltaviError, match=r"view of 60 cells and 40 genes of a backed file.*to_memory"):
        made(backed[20:80])


def test_a_layer() -> None:
    adata = numbered()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.5
    batch = next(iter(made(adata, layer="counts").inference_dataloader()))
    assert torch.equal(batch["X"], torch.from_numpy(adata.layers["counts"][:16].toarray()))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch_key": "donor"}, UnknownCategoryError, "obs column 'donor' is not in the data"),
        ({"batch_key": ["batch"]}, DeltaviError, "batch_key must be one name"),
        ({"categorical_covariate_keys": ["batch", "batch"]}, DeltaviError, "names 'batch' more than once"),
        ({"layer": "counts"}, UnknownCategoryError, "layer 'counts'"),
        ({"size_factor_key": "totals"}, UnknownCategoryError, r"obs column 'totals'"),
        ({"size_factor_key": "batch"}, InputDataError, "must be positive and finite"),
        ({"continuous_covariate_keys": ["batch"]}, InputDataError, "must be numbers"),
        ({"unlabeled_category": "type1"}, UnknownCategoryError, "Did you mean 'type_1'"),
        ({"train_size": 1.5}, DeltaviError, "train_size must be a number from 0 to 1"),
        ({"train_size": 0.9, "train_indices": [1, 2, 3]}, DeltaviError, "several ways to split"),
        ({"train_indices": [1, 2]}, DeltaviError, "leaves 2 cells to train on"),
        ({"train_indices": [1, 2, 3, 400]}, DeltaviError, "lie outside 0..143"),
        ({"batch_size": 0}, DeltaviError, "batch_size must be a whole number of at least 1"),
        ({"block_rows": 0}, DeltaviError, "block_rows must be"),
        ({"read_ahead": 1}, DeltaviError, "read_ahead must be True or False"),
        ({"seed": -1}, DeltaviError, "seed must be"),
        ({"label_key": "cell_type"}, UnknownArgumentError, "Did you mean 'labels_key'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made(**options)


def test_cells_that_are_none_are_refused() -> None:
    with pytest.raises(DeltaviError, match=r"must be an AnnData.*read the file first"):
        CellsDataModule("cells.h5ad")  # type: ignore[arg-type]
    with pytest.raises(DeltaviError, match="0 cells and 40 genes"):
        made(numbered()[:0].copy())
    doubled = numbered()
    doubled.var_names = ["gene"] * 40
    with pytest.raises(DeltaviError, match="gene"):
        made(doubled)


def test_values_are_checked_when_mini_batches_are_first_asked_for() -> None:
    adata = numbered()
    adata.X.data[7] = np.nan
    module = made(adata)
    for ask in (module.train_dataloader, module.val_dataloader, module.inference_dataloader):
        with pytest.raises(InputDataError, match="1 NaN"):
            ask()
    changed = numbered()
    module = made(changed)
    list(module.train_dataloader())
    changed.X.data[:] = 1
    with pytest.raises(DeltaviError, match="changed"):
        module.inference_dataloader()
