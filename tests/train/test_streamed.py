"""Training from files in blocks of rows: the mini-batches and the models of training in memory."""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from anndata import AnnData
from anndata.io import sparse_dataset
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch.utils.data import DataLoader

from deltavi.errors import DeltaviError, UnknownArgumentError
from deltavi.model import ACTINN, LABELVI, MIXVI, VAE
from deltavi.registry.stored_rows import CsrRows
from deltavi.train._order import cells_of_batch
from deltavi.train._streamed import StreamedLoader
from deltavi.train.on_device import DeviceSplitter
from tests.model.conftest import QUIET, dense
from tests.registry.test_batches import canonical, doubled, unsorted, with_zeros

N_CELLS, N_GENES = 300, 40
SMALL = {"block_rows": 2, "buffer_rows": 64}
KEYS: dict[str, Any] = {
    "batch_key": "batch",
    "labels_key": "label",
    "size_factor_key": "total",
    "continuous_covariate_keys": ["age", "weight"],
    "categorical_covariate_keys": ["sex"],
}


# -- cells in files ----------------------------------------------------------------------------------------------


def cells(n_cells: int = N_CELLS, n_genes: int = N_GENES, *, form: Callable[[Any], Any] = canonical) -> AnnData:
    """Cells in the order of their type, with every kind of column."""
    rng = np.random.default_rng(0)
    label = np.arange(n_cells) * 4 // n_cells
    means = rng.gamma(0.4, 2.0, n_genes) * np.exp(rng.normal(0, 1.2, (4, n_genes)))
    x = rng.poisson(means[label] * rng.gamma(3, 1 / 3, (n_cells, 1))).astype(np.float32)
    x[:, 0] += 1
    adata = AnnData(form(x))
    adata.obs["label"], adata.obs["batch"] = np.array(list("tuvw"))[label], rng.choice(["b0", "b1"], n_cells)
    adata.obs["total"], adata.obs["sex"] = x.sum(1), rng.choice(["f", "m"], n_cells)
    adata.obs["age"], adata.obs["weight"] = rng.normal(size=(2, n_cells))
    return adata


def on_disk(adata: AnnData, folder: Path, kind: str = "h5ad") -> AnnData:
    """The same cells with their matrix in a file."""
    if kind == "zarr":
        zarr = pytest.importorskip("zarr")
        with warnings.catch_warnings():
            # of anndata, about the format of its next release
            warnings.simplefilter("ignore")
            adata.write_zarr(folder / "cells.zarr")
        x = sparse_dataset(zarr.open_group(str(folder / "cells.zarr"), mode="r")["X"])
        return AnnData(X=x, obs=adata.obs.copy(), var=adata.var.copy())
    adata.write_h5ad(folder / "cells.h5ad", compression=None if kind == "h5ad" else kind)
    return anndata.read_h5ad(folder / "cells.h5ad", backed="r")


def manager_of(adata: AnnData) -> Any:
    VAE.setup_anndata(adata, **KEYS)
    return VAE(adata, n_hidden=8, n_latent=2).adata_manager


def splitter_of(adata: AnnData, **options: Any) -> Any:
    parts = np.split(np.random.default_rng(1).permutation(adata.n_obs), [int(0.8 * adata.n_obs), adata.n_obs - 7])
    made = DeviceSplitter(manager_of(adata), **{"batch_size": 32, "external_indexing": parts, **SMALL, **options})
    made.setup()
    return made


def fitted(adata: AnnData, *, streamed: bool = True, setup: dict[str, Any] | None = None, **options: Any) -> Any:
    VAE.setup_anndata(adata, **({} if setup is None else setup))
    model = VAE(adata, n_hidden=16, n_latent=3)
    loading = {"datasplitter_kwargs": SMALL} if streamed else {}
    known = {"max_epochs": 2, "batch_size": 32, "seed": 0, "check_val_every_n_epoch": 1, **QUIET}
    model.train(**{**known, **loading, **options})
    return model


def assert_same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for key, values in expected.items():
        values = torch.as_tensor(values)
        assert found[key].dtype == values.dtype, key
        assert torch.equal(found[key], values), key


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "deltavi-reads-ahead"]


# -- mini-batches ------------------------------------------------------------------------------------------------

FORMS = {"canonical": canonical, "unsorted": unsorted, "zeros": with_zeros, "halves": doubled, "dense": np.asarray}


def assert_mini_batches_are_those_of_memory(splitter: Any, memory: AnnData) -> None:
    expected = manager_of(memory).create_torch_dataset()
    for part, chosen in (("train", splitter.train_idx), ("val", splitter.val_idx)):
        loader = getattr(splitter, f"{part}_dataloader")()
        assert type(loader) is StreamedLoader
        orders = []
        for _ in range(2):
            seen = []
            for number, batch in enumerate(loader):
                seen.append(cells_of_batch(loader, number))
                assert_same(batch, expected[seen[-1]])
            orders.append(np.concatenate(seen))
            assert [len(batch) for batch in seen[:-1]] == [32] * (len(chosen) // 32)
            assert len(seen) == len(loader)
            np.testing.assert_array_equal(np.sort(orders[-1]), np.sort(chosen))
        if part == "train":
            assert (orders[0] != orders[1]).any()
        else:
            np.testing.assert_array_equal(orders, [np.sort(chosen)] * 2)
        assert len(cells_of_batch(loader, len(loader))) == 0


@pytest.mark.parametrize("read_ahead", [True, False])
@pytest.mark.parametrize("kind", ["h5ad", "gzip", "lzf", "zarr"])
def test_mini_batches_are_those_cut_from_memory(kind: str, read_ahead: bool, tmp_path: Path) -> None:
    stored = on_disk(cells(), tmp_path, kind)
    assert_mini_batches_are_those_of_memory(splitter_of(stored, read_ahead=read_ahead), cells())


@pytest.mark.parametrize("form", FORMS)
def test_mini_batches_of_other_matrices(form: str, tmp_path: Path) -> None:
    splitter = splitter_of(on_disk(cells(form=FORMS[form]), tmp_path))
    assert_mini_batches_are_those_of_memory(splitter, cells(form=FORMS[form]))


def test_mini_batches_of_a_layer(tmp_path: Path) -> None:
    adata = cells()
    adata.layers["counts"] = on_disk(cells(), tmp_path).X
    VAE.setup_anndata(adata, layer="counts")
    splitter = DeviceSplitter(VAE(adata).adata_manager, batch_size=32, **SMALL)
    splitter.setup()
    loader: Any = splitter.train_dataloader()
    assert type(loader) is StreamedLoader
    for number, batch in enumerate(loader):
        found = cells_of_batch(loader, number)
        np.testing.assert_array_equal(batch[REGISTRY_KEYS.X_KEY], dense(cells().X)[found])
    # as the AnnData that the matrix is of would do
    adata.layers["counts"].group.file.close()
    with pytest.raises(DeltaviError, match=r"adata\.layers\['counts'\] can no longer be read"):
        next(iter(loader))


def test_the_loader_is_one_of_torch_with_its_order(tmp_path: Path) -> None:
    """Its data set and sampler, in the hands of torch, give the same mini-batches."""
    stored = on_disk(cells(), tmp_path)
    mine, other = (torch.manual_seed(3) and splitter_of(stored).train_dataloader() for _ in range(2))
    torchs = list(DataLoader(other.dataset, sampler=other.sampler, batch_size=None))
    assert len(torchs) == len(mine) == 8
    for found, expected in zip(mine, torchs, strict=True):
        assert_same(found, expected)


def test_mini_batches_mix_the_types_of_a_sorted_file(tmp_path: Path) -> None:
    """Labels of a mini-batch are as even as those of cells at random."""
    splitter = splitter_of(on_disk(cells(2000), tmp_path), buffer_rows=256)
    loader = splitter.train_dataloader()
    drawn = [np.bincount(batch["labels"].ravel(), minlength=4) for batch in loader if len(batch["labels"]) == 32]
    counts = np.array(drawn)
    statistic = ((counts - 8) ** 2 / 8).sum()
    # three degrees of freedom for each mini-batch; blocks of two cells at most double the variance
    degrees = 3 * len(counts)
    assert len(counts) == 50
    assert statistic < 2 * (degrees + 4 * np.sqrt(2 * degrees))
    first = next(iter(splitter.val_dataloader()))["labels"].ravel()
    assert (first == first[0]).all()
    splitter.teardown()


def test_less_cells_than_a_mini_batch_are_left_out_where_this_is_asked_for(tmp_path: Path) -> None:
    splitter = splitter_of(on_disk(cells(), tmp_path), drop_last=True)
    assert [len(batch["X"]) for batch in splitter.train_dataloader()] == [32] * 7
    assert sum(len(batch["X"]) for batch in splitter.val_dataloader()) == len(splitter.val_idx)


def test_an_epoch_that_was_not_finished_is_no_matter(tmp_path: Path) -> None:
    splitter = splitter_of(on_disk(cells(), tmp_path))
    loader = splitter.train_dataloader()
    first = itertools.islice(loader, 3)
    assert len(list(first)) == 3
    assert sum(len(batch["X"]) for batch in loader) == len(splitter.train_idx)
    iter(loader)
    assert len(list(itertools.islice(loader, 2))) == 2
    splitter.teardown()
    assert not splitter._streams


# -- what is read otherwise --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"num_workers": 1}, {"pin_memory": True}, {"load_sparse_tensor": True}, {"collate_fn": lambda loaded: loaded}],
    ids=lambda options: next(iter(options)),
)
def test_other_loading_is_left_to_torch(options: dict[str, Any], tmp_path: Path) -> None:
    splitter = splitter_of(on_disk(cells(), tmp_path), **options)
    for loader in (splitter.train_dataloader(), splitter.val_dataloader()):
        assert not isinstance(loader, StreamedLoader)


class OfRank:
    """What a splitter asks of the trainer of one of several processes."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.global_rank, self.world_size, self.strategy = rank, world_size, self
        self.root_device = torch.device("cpu")

    def broadcast(self, value: Any) -> Any:
        return value


@pytest.mark.parametrize("drop_last", [False, True])
def test_each_of_several_processes_reads_cells_of_its_own(drop_last: bool, tmp_path: Path) -> None:
    adata = on_disk(cells(), tmp_path)
    of_epochs: list[list[int]] = [[], []]
    for rank in range(3):
        torch.manual_seed(5)
        splitter = splitter_of(adata, drop_last=drop_last)
        splitter.trainer = OfRank(rank, 3)
        loader = splitter.train_dataloader()
        assert isinstance(loader, StreamedLoader)
        for of_epoch in of_epochs:
            sizes = [len(batch[REGISTRY_KEYS.X_KEY]) for batch in loader]
            assert len(sizes) == len(loader)
            found = np.concatenate([cells_of_batch(loader, number) for number in range(len(loader))])
            assert len(found) == sum(sizes)
            of_epoch += found.tolist()
    assert of_epochs[0] != of_epochs[1]
    for of_epoch in of_epochs:
        assert len(set(of_epoch)) == len(of_epoch)
        assert set(of_epoch) <= set(splitter.train_idx)
        assert drop_last or len(of_epoch) == len(splitter.train_idx)


def test_several_processes_validate_cells_of_their_own(tmp_path: Path) -> None:
    adata = on_disk(cells(), tmp_path)
    found = []
    for rank in range(2):
        splitter = splitter_of(adata)
        splitter.trainer = OfRank(rank, 2)
        loader = splitter.val_dataloader()
        assert isinstance(loader, StreamedLoader)
        found.append(np.concatenate([batch[REGISTRY_KEYS.X_KEY].numpy() for batch in loader]))
    every = np.concatenate([batch[REGISTRY_KEYS.X_KEY].numpy() for batch in splitter_of(adata).val_dataloader()])
    np.testing.assert_array_equal(np.concatenate(found), every)


@pytest.mark.parametrize("form", ["canonical", "dense"])
def test_a_small_file_is_kept_in_memory_while_a_model_trains(form: str, tmp_path: Path) -> None:
    """Training is that of the cells in memory, to the last digit."""
    found = fitted(on_disk(cells(form=FORMS[form]), tmp_path), streamed=False)
    expected = fitted(cells(form=FORMS[form]), streamed=False)
    assert_same_model(found, expected)
    dataset = found.trainer.train_dataloader.dataset.dataset
    assert not dataset.is_held
    assert not isinstance(dataset.data[REGISTRY_KEYS.X_KEY], np.ndarray | sparse.csr_matrix)


def test_what_is_kept_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    reads = CsrRows.read
    monkeypatch.setattr(CsrRows, "read", lambda *args, **kwargs: read.append(len(args[1])) or reads(*args, **kwargs))
    fitted(on_disk(cells(), tmp_path), streamed=False)
    assert read == [N_CELLS]


@pytest.mark.parametrize("model_class", [LABELVI, MIXVI, ACTINN])
def test_models_with_an_order_of_their_own(model_class: Any, tmp_path: Path) -> None:
    answers = []
    for adata in (on_disk(cells(), tmp_path), cells()):
        model_class.setup_anndata(adata, labels_key="label")
        model = model_class(adata, seed=0)
        model.train(max_epochs=3, batch_size=32, **QUIET)
        assert not isinstance(model.trainer.train_dataloader, StreamedLoader)
        answers.append(np.asarray(model.predict(soft=True)))
    np.testing.assert_allclose(*answers, atol=1e-3)


# -- training ----------------------------------------------------------------------------------------------------


def assert_same_model(found: Any, expected: Any) -> None:
    weights = expected.module.state_dict()
    assert all(torch.equal(values, weights[name]) for name, values in found.module.state_dict().items())
    for name, values in expected.history.items():
        np.testing.assert_array_equal(found.history[name].astype(float), values.astype(float), err_msg=name)


@pytest.mark.parametrize("kind", ["h5ad", "gzip", "zarr"])
def test_a_seed_gives_one_model(kind: str, tmp_path: Path, lean: list[int]) -> None:
    stored = on_disk(cells(), tmp_path, kind)
    found = fitted(stored)
    # of 270 cells nine mini-batches, the last of which is a step of Lightning
    assert lean == list(range(8)) * 2
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert_same_model(fitted(stored, datasplitter_kwargs={**SMALL, "read_ahead": False}), found)
    np.testing.assert_array_equal(np.random.get_state()[1], state[0])
    assert torch.equal(torch.get_rng_state(), state[1])
    np.testing.assert_array_equal(found.train_indices, fitted(cells(), streamed=False).train_indices)
    other = fitted(stored, seed=1).module.state_dict()
    assert any(not torch.equal(values, other[name]) for name, values in found.module.state_dict().items())


def bound(model: Any) -> float:
    return float(model.history["validation_loss"].iloc[-1, 0])


def test_a_model_of_a_sorted_file_is_as_good_as_one_of_cells_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_epochs": 12, "batch_size": 64, "kl_warmup": 0.2}
    memory, stored = cells(1200, 200), on_disk(cells(1200, 200), tmp_path)
    # the same held-out cells for all
    held_out = np.arange(0, 1200, 8)
    expected = [
        bound(fitted(memory, streamed=False, validation_indices=held_out, seed=seed, **options)) for seed in range(4)
    ]
    spread = max(expected) - min(expected)
    small = {"datasplitter_kwargs": {"block_rows": 4, "buffer_rows": 128}, "validation_indices": held_out, **options}
    found = [bound(fitted(stored, seed=seed, **small)) for seed in range(2)]
    assert min(expected) - spread < min(found) <= max(found) < max(expected) + spread
    # so would not be a model that sees one type after the other
    monkeypatch.setattr(DeviceSplitter, "_stream", in_file_order(DeviceSplitter._stream))
    assert bound(fitted(stored, **small)) > max(expected) + spread


def in_file_order(stream: Callable[..., Any]) -> Callable[..., Any]:
    return lambda splitter, cells, chosen, seed=None: stream(splitter, cells, chosen)


@pytest.mark.parametrize("options", [{"limit_train_batches": 3}, {"train_size": 1.0, "check_val_every_n_epoch": None}])
def test_options_of_training(options: dict[str, Any], tmp_path: Path) -> None:
    model = fitted(on_disk(cells(), tmp_path), **options)
    assert model.trainer.train_dataloader._epoch is None
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block_rows": 0}, "block_rows must be a whole number"),
        ({"buffer_rows": 2.5}, "buffer_rows must be a whole number"),
        ({"read_ahead": "yes"}, "read_ahead must be True or False"),
    ],
)
def test_sizes_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeltaviError, match=said):
        fitted(cells(), datasplitter_kwargs=options)


def test_models_that_make_their_mini_batches_take_no_options_of_others() -> None:
    adata = cells()
    LABELVI.setup_anndata(adata, labels_key="label")
    with pytest.raises(UnknownArgumentError, match=r"'drop_last'.*LABELVI makes mini-batches of its own"):
        LABELVI(adata).train(max_epochs=1, datasplitter_kwargs={"drop_last": True})


# -- training that breaks ----------------------------------------------------------------------------------------


class At(Callback):
    """Does something at a mini-batch of the second epoch, while the rest of it is still to be read."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.do = do
        self.loader: Any = None

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.loader = trainer.train_dataloader
        if trainer.current_epoch == 1 and args[-1] == 1:
            assert self.loader._epoch is not None
            self.do()


def raised(error: BaseException) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


@pytest.mark.parametrize("error", [ArithmeticError("of the user"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("read_ahead", [True, False])
def test_reading_ends_with_a_training_that_fails(error: BaseException, read_ahead: bool, tmp_path: Path) -> None:
    at = At(raised(error))
    with pytest.raises(type(error)):
        fitted(on_disk(cells(), tmp_path), callbacks=[at], datasplitter_kwargs={**SMALL, "read_ahead": read_ahead})
    assert at.loader._epoch is None


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files as they are")
@pytest.mark.parametrize("read_ahead", [True, False])
def test_a_file_that_is_cut_short_while_a_model_trains(read_ahead: bool, tmp_path: Path) -> None:
    stored = on_disk(cells(), tmp_path)
    at = At(lambda: os.truncate(tmp_path / "cells.h5ad", 9000))
    options = {**SMALL, "read_ahead": read_ahead}
    with pytest.raises(DeltaviError, match=r"adata\.X (changed|can no longer be read).*cells.h5ad") as caught:
        fitted(stored, callbacks=[at], datasplitter_kwargs=options)
    # a part of what is kept of training cells is read from the file too
    assert any("The model is that of the end of epoch 1" in note for note in caught.value.__notes__)
    assert at.loader._epoch is None


def test_a_store_that_changes_while_a_model_trains(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    stored = on_disk(cells(), tmp_path, "zarr")

    def change() -> None:
        group = zarr.open_group(str(tmp_path / "cells.zarr"), mode="r+")
        group["X/data"][:] = group["X/data"][:] + 1

    with pytest.raises(DeltaviError, match=r"adata\.X changed while it was read\. Put the file back"):
        fitted(stored, callbacks=[At(change)])


def test_a_thread_holds_no_lock_that_training_holds(tmp_path: Path) -> None:
    """The manager waits for its turn, which a training has: a reading thread that asked it would wait for ever."""
    splitter = splitter_of(on_disk(cells(), tmp_path))
    loader = splitter.train_dataloader()
    splitter.adata_manager.get_from_registry = raised(AssertionError("the manager was asked"))
    splitter.adata_manager.validate = raised(AssertionError("the manager was asked"))
    assert sum(len(batch["X"]) for batch in loader) == len(splitter.train_idx)
