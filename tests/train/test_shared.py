"""Parts of training in several processes, one process at a time: noise, validation cells, and running statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor, nn

from deltavi import _keys
from deltavi.train import _ranks
from deltavi.train._mixed import MixedOrder
from deltavi.train._ranks import Ranks, average_buffers
from deltavi.train._shared_training import SharedTraining
from deltavi.train.on_device import DeviceSplitter
from tests.model.conftest import small_adata
from tests.train.test_on_device import FakeTrainer, registered_manager

TWO = [Ranks(0, 2), Ranks(1, 2)]


# -- noise -----------------------------------------------------------------------------------------------------


def thinned(ranks: Ranks) -> np.ndarray:
    """Counts of the same cells, each of which is drawn again."""
    order = MixedOrder(seed=3, thinning=0.2)
    manager = registered_manager()
    cells, _ = order.drawn(manager, np.arange(60), 16, ranks=ranks)
    loaded: Any = cells[list(range(len(cells), len(cells) + 60))]
    assert np.asarray(loaded[_keys.DRAWN_AGAIN]).all()
    return np.asarray(loaded[REGISTRY_KEYS.X_KEY])


def test_each_process_thins_repeated_draws_in_its_own_way() -> None:
    first, second = map(thinned, TWO)
    assert (first != second).any()
    np.testing.assert_array_equal(first, thinned(TWO[0]))


# -- validation cells --------------------------------------------------------------------------------------------


def validated(n_cells: int, rank: int, world: int) -> list[int]:
    """Validation cells of one of several processes."""
    splitter = DeviceSplitter(registered_manager(), train_size=0.5, batch_size=2)
    splitter.trainer = FakeTrainer(rank, world)  # type: ignore[assignment]
    splitter.setup()
    splitter.val_idx, splitter.n_val = np.arange(10, 10 + n_cells), n_cells
    loader: Any = splitter.val_dataloader()
    counts = np.asarray(small_adata().X.toarray())
    batches = [np.asarray(batch[REGISTRY_KEYS.X_KEY]) for batch in loader]
    return [int(np.flatnonzero((counts == row).all(1))[0]) for batch in batches for row in batch]


@pytest.mark.parametrize("n_cells", [1, 2])
def test_each_process_has_all_validation_cells_where_these_are_fewer_than_processes(n_cells: int) -> None:
    expected = [*range(10, 10 + n_cells)]
    assert [validated(n_cells, rank, 3) for rank in range(3)] == [expected] * 3


@pytest.mark.parametrize("n_cells", [3, 7])
def test_validation_cells_are_dealt_out_where_there_is_one_for_each_process(n_cells: int) -> None:
    of_ranks = [validated(n_cells, rank, 3) for rank in range(3)]
    assert all(of_ranks)
    assert sorted(cell for cells in of_ranks for cell in cells) == [*range(10, 10 + n_cells)]


# -- running statistics ------------------------------------------------------------------------------------------


def connected(monkeypatch: pytest.MonkeyPatch, *others: float | None) -> None:
    """Let other processes add these values everywhere, or what this process has."""

    def add(total: Tensor) -> None:
        own = total.clone()
        for value in others:
            total += own if value is None else value

    monkeypatch.setattr(_ranks.dist, "all_reduce", add)
    monkeypatch.setattr(_ranks.dist, "get_world_size", lambda: 1 + len(others))


def normalising(values: Tensor) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(len(values))
    layer.running_mean.copy_(values)  # type: ignore[union-attr]
    return layer


@pytest.mark.parametrize("n_others", [4, 6, 10])
def test_statistics_that_are_the_same_in_all_processes_stay_as_they_are(
    n_others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last digit: a mean in single precision would be another number for some of them."""
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    connected(monkeypatch, *[None] * n_others)
    layer = normalising(values)
    average_buffers(layer)
    assert layer.running_mean is not None
    assert torch.equal(layer.running_mean, values)


@pytest.mark.parametrize("hook", ["on_validation_start", "on_train_epoch_end"])
def test_statistics_are_averaged_before_validation_and_at_the_end_of_an_epoch(
    hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, 3.0)
    layer = normalising(torch.tensor([1.0, 5.0]))
    callback = SharedTraining(layer, TWO[0], seed=0, described={})
    trainer: Any = None
    getattr(callback, hook)(trainer, trainer)
    assert layer.running_mean is not None
    assert layer.running_mean.tolist() == [2.0, 4.0]
    # counts are no statistics
    assert layer.num_batches_tracked == torch.tensor(0)
