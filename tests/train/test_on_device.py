"""Training from mini-batches made on the device: the same as training from those made beside it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS, settings
from scvi.dataloaders import DataSplitter

from deltavi import _keys
from deltavi.errors import UnknownArgumentError
from deltavi.model import LABELVI, VAE
from deltavi.registry import _device_rows
from deltavi.registry._batches import OrderedDataset
from deltavi.registry._device_rows import KeptRows, SentRows
from deltavi.train import FoldSplitter, MixedSplitter, on_device
from tests.model.conftest import QUIET, SETUP, dense, small_adata
from tests.models import EVERY

ROOM = {KeptRows: 10**9, SentRows: 0}
# repeated draws of LABELVI are thinned, and with them totals where there are any
WITH_TOTALS = {"LABELVIWithTotals": EVERY["LABELVI"].but(setup={"size_factor_key": "total_counts"})}
OF_COUNTS = {
    name: entry for name, entry in {**EVERY, **WITH_TOTALS}.items() if entry.reads == "counts" and entry.by_epochs
}


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


@pytest.fixture
def cells_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cells of every mini-batch that was made on a device."""
    found: list[int] = []
    with_counts = SentRows.with_counts

    def noted(rows: SentRows, chosen: np.ndarray) -> Any:
        found.append(len(chosen))
        return with_counts(rows, chosen)

    monkeypatch.setattr(SentRows, "with_counts", noted)
    return found


def trained(x: Any = None, **kwargs: Any) -> Any:
    adata = small_adata()
    adata.X = adata.X if x is None else x
    VAE.setup_anndata(adata, **SETUP)
    fitted = VAE(adata, n_hidden=8, n_latent=2)
    fitted.train(
        **{"max_epochs": 3, "batch_size": 32, "train_size": 0.8, "check_val_every_n_epoch": 1, **QUIET, **kwargs}
    )
    return fitted


def trained_entry(name: str) -> Any:
    model = OF_COUNTS[name].untrained()
    OF_COUNTS[name].train(model, max_epochs=3, check_val_every_n_epoch=1)
    return model


@functools.cache
def trained_beside_the_device(name: str) -> Any:
    """A model that tests must not change."""
    return trained_entry(name)


def assert_same_training(found: Any, expected: Any) -> None:
    assert set(found.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_array_equal(found.history[name].astype(float), values.astype(float), err_msg=name)
    weights = expected.module.state_dict()
    for name, values in found.module.state_dict().items():
        assert torch.equal(values, weights[name]), name


# -- every model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(ROOM))
@pytest.mark.parametrize("name", list(OF_COUNTS))
def test_training_is_the_same(
    name: str, kind: type[SentRows], made: list[Any], cells_made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained_beside_the_device(name)
    assert not made
    assert not cells_made
    monkeypatch.setattr(on_device, "KINDS", ("cpu",))
    monkeypatch.setattr(_device_rows, "free_bytes", lambda _: ROOM[kind])
    found = trained_entry(name)
    # once for training and validation together
    assert [type(rows) for rows in made] == [kind]
    splitter = found.trainer.datamodule
    # each epoch makes every cell there, and lightning looks at the first of validation before them
    assert sum(cells_made) >= 3 * (len(splitter.train_idx) + len(splitter.val_idx))
    assert len(splitter.val_idx)
    assert_same_training(found, expected)


@pytest.mark.parametrize("name", ["VAE", "LABELVI", "ACTINN"])
def test_the_device_is_free_again_afterwards(name: str, moved: list[Any]) -> None:
    model = trained_entry(name)
    loader = model.trainer.train_dataloader
    assert len(moved) == 1
    assert loader.dataset.dataset.device_rows is None
    assert not model.trainer.datamodule._cells
    model.train(max_epochs=1, batch_size=32, **QUIET)
    assert len(moved) == 2


@pytest.mark.parametrize("name", ["VAE", "LABELVI", "ACTINN"])
def test_the_device_is_free_again_where_training_breaks(name: str, moved: list[Any]) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append((trainer.datamodule, trainer.train_dataloader.dataset.dataset))
            assert seen[0][1].device_rows is moved[0]
            raise ArithmeticError

    seen: list[Any] = []
    model = OF_COUNTS[name].untrained()
    with pytest.raises(ArithmeticError):
        OF_COUNTS[name].train(model, callbacks=[Stop()])
    [(splitter, cells)] = seen
    assert not splitter._cells
    assert cells.device_rows is None


@pytest.mark.parametrize("name", ["LABELVI", "MIXVI", "ACTINN"])
def test_an_order_of_its_own_takes_no_options_of_loaders(name: str, moved: list[Any]) -> None:
    model = OF_COUNTS[name].untrained()
    with pytest.raises(UnknownArgumentError, match=f"'drop_last'.*{name} makes mini-batches of its own"):
        OF_COUNTS[name].train(model, datasplitter_kwargs={"drop_last": True})
    assert not moved


# -- every order of mini-batches -----------------------------------------------------------------------------

ORDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "shuffled": (on_device.DeviceSplitter, {}),
    "mixed": (MixedSplitter, {"sampling_seed": 3}),
    "thinned": (MixedSplitter, {"sampling_seed": 3, "thinning": 0.2}),
    "without repeated draws": (MixedSplitter, {"sampling_seed": 3, "repeated_share": 0.0}),
    "with folds": (FoldSplitter, {"sampling_seed": 3, "folds": np.arange(144) % 4 - 1}),
}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


def splitter_of(order: str, trainer: Any = None, *, batch_size: int = 32) -> Any:
    kind, options = ORDERS[order]
    # the same cells each time
    splitter = kind(registered_manager(), train_size=0.8, batch_size=batch_size, shuffle_set_split=False, **options)
    splitter.setup()
    splitter.trainer = trainer
    return splitter


def two_epochs(splitter: Any) -> list[dict[str, torch.Tensor]]:
    """Mini-batches of training, twice, and of validation."""
    torch.manual_seed(0)
    loader = splitter.train_dataloader()
    return [*loader, *loader, *splitter.val_dataloader()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", list(ROOM))
@pytest.mark.parametrize("order", list(ORDERS))
def test_mini_batches_are_the_same(
    order: str, kind: type[SentRows], device: str, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = two_epochs(splitter_of(order))
    assert not made
    monkeypatch.setattr(on_device, "KINDS", (device,))
    monkeypatch.setattr(_device_rows, "free_bytes", lambda _: ROOM[kind])
    found = two_epochs(splitter_of(order, FakeTrainer(kind=device)))
    assert [type(rows) for rows in made] == [kind]
    assert len(found) == len(expected)
    for mine, wanted in zip(found, expected, strict=True):
        assert set(mine) == set(wanted)
        for key, values in wanted.items():
            assert (mine[key].device.type, mine[key].dtype) == (device, values.dtype), key
            assert torch.equal(mine[key].cpu(), values), key


@pytest.mark.parametrize("kind", list(ROOM))
@pytest.mark.parametrize("order", list(ORDERS))
def test_all_of_a_mini_batch_is_made_without_looking_at_the_device(
    order: str, kind: type[SentRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on "meta" have no values: what came back from there would raise, what stayed here shows."""
    expected = two_epochs(splitter_of(order))
    monkeypatch.setattr(on_device, "KINDS", ("meta",))
    monkeypatch.setattr(_device_rows, "free_bytes", lambda _: ROOM[kind])
    for mine, wanted in zip(two_epochs(splitter_of(order, FakeTrainer(kind="meta"))), expected, strict=True):
        found = {key: (values.device.type, values.dtype, values.shape) for key, values in mine.items()}
        assert found == {key: ("meta", values.dtype, values.shape) for key, values in wanted.items()}


@pytest.mark.parametrize("kind", list(ROOM))
def test_thinning_changes_expression_and_totals_of_repeated_draws_alone(
    kind: type[SentRows], moved: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places of counts, counts and factorials stay those that were measured, which the likelihood wants."""
    monkeypatch.setattr(_device_rows, "free_bytes", lambda _: ROOM[kind])
    thinned, whole = (
        next(iter(splitter_of(order, FakeTrainer()).train_dataloader())) for order in ("thinned", "mixed")
    )
    assert [type(rows) for rows in moved] == [kind, kind]
    again = whole[_keys.DRAWN_AGAIN].squeeze(-1) == 1
    assert again.sum() == 8
    changed = {key for key, values in whole.items() if not torch.equal(thinned[key], values)}
    assert changed == {REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.SIZE_FACTOR_KEY}
    for key in changed:
        assert torch.equal(thinned[key][~again], whole[key][~again])
        assert (thinned[key][again] <= whole[key][again]).all()
    kept = (thinned[REGISTRY_KEYS.SIZE_FACTOR_KEY] / whole[REGISTRY_KEYS.SIZE_FACTOR_KEY])[again].squeeze(-1)
    assert ((kept >= 0.2) & (kept < 1)).all()
    # one share of its molecules for each cell, up to five standard deviations of a binomial
    found, measured = (batch[REGISTRY_KEYS.X_KEY][again].sum(1) for batch in (thinned, whole))
    assert ((found - kept * measured).abs() <= 5 * (measured * kept * (1 - kept)).sqrt()).all()


# -- what takes the usual way --------------------------------------------------------------------------------


def test_without_validation(moved: list[Any]) -> None:
    trained(train_size=1.0, check_val_every_n_epoch=None)
    assert len(moved) == 1


def test_what_is_no_count_takes_the_usual_way(moved: list[Any]) -> None:
    adata = small_adata()
    adata.X.data[:2] = 1e-9, 0.5  # the second shows that the first is no zero but for rounding
    VAE.setup_anndata(adata)
    VAE(adata, n_hidden=8, n_latent=2, check_input=False).train(max_epochs=1, batch_size=32, **QUIET)
    assert set(moved) == {None}


def test_dense_counts_take_the_usual_way(moved: list[Any]) -> None:
    trained(x=dense(small_adata().X))
    assert set(moved) == {None}


@pytest.mark.parametrize("fits", [True, False])
def test_backed_counts_move_where_they_fit(fits: bool, moved: list[Any], tmp_path: Path) -> None:
    """A small file is kept in memory, and with it on the device; a larger one is read block by block."""
    small_adata().write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    VAE.setup_anndata(adata)
    model = VAE(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, batch_size=32, datasplitter_kwargs={"buffer_rows": 200 if fits else 64}, **QUIET)
    assert len(moved) == 1
    assert isinstance(moved[0], SentRows) == fits
    adata.file.close()


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


def test_other_machines_take_the_usual_way(moved: list[Any]) -> None:
    splitter = on_device.DeviceSplitter(registered_manager(), train_size=0.8, batch_size=32)
    splitter.setup()
    for trainer in (FakeTrainer(kind="meta"), None):
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


# repeated draws are thinned by each process in its own way
@pytest.mark.parametrize("order", ORDERS.keys() - {"thinned"})
@pytest.mark.parametrize("world", [2, 3])
def test_mini_batches_of_several_processes_are_those_of_one_that_are_as_many_times_larger(
    order: str, world: int, moved: list[Any]
) -> None:
    """Regular turns and repeated draws, in training and with rows on the device of each."""
    expected = two_epochs(splitter_of(order, batch_size=10 * world))
    of_ranks = [two_epochs(splitter_of(order, FakeTrainer(rank, world), batch_size=10)) for rank in range(world)]
    assert len(moved) == world
    assert {type(rows) for rows in moved} <= {KeptRows, SentRows}
    n_validation = -(-28 // (10 * world))
    for number, whole in enumerate(expected[:-n_validation]):
        for key in (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.LABELS_KEY, _keys.DRAWN_AGAIN, _keys.FOLD):
            if key in whole:
                mine = torch.cat([batches[number][key] for batches in of_ranks])
                assert sorted(mine.tolist()) == sorted(whole[key].tolist()), key
    sizes = [[len(batch[REGISTRY_KEYS.X_KEY]) for batch in batches] for batches in of_ranks]
    assert len({len(of_rank) for of_rank in sizes}) == 1
    assert max(abs(a - b) for of_batch in zip(*sizes, strict=True) for a in of_batch for b in of_batch) <= 2


class FakeTrainer:
    """What a splitter asks of its trainer."""

    def __init__(self, rank: int = 0, world_size: int = 1, kind: str = "cpu") -> None:
        self.world_size, self.strategy, self.root_device = world_size, self, torch.device(kind)
        self.global_rank = rank

    def broadcast(self, value: Any) -> Any:
        return value


def registered_manager() -> Any:
    adata = small_adata()
    # every third cell has no label
    adata.obs["cell_type"] = np.where(np.arange(adata.n_obs) % 3 == 0, "Unknown", adata.obs["cell_type"])
    LABELVI.setup_anndata(adata, **SETUP, unlabeled_category="Unknown", size_factor_key="total_counts")
    return LABELVI(adata, n_hidden=8, n_latent=2).adata_manager
