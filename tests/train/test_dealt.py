"""Cells dealt out to several processes, and what these processes add up and compare, without any processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from scvi.module.base import LossOutput
from torch import nn
from torch.utils.data import BatchSampler, RandomSampler

from deltavi.errors import DeltaviError
from deltavi.train import LastGoodEpoch, MixedBatches, _ranks
from deltavi.train._block_order import PoolSize, Turns, in_file_order, shuffled
from deltavi.train._dealt import DealtBatches, SharedOrder
from deltavi.train._epoch_means import EpochMeans
from deltavi.train._launch import launch_of, share_options
from deltavi.train._ranks import ALONE, Ranks, differences, digest, lost_process
from deltavi.train._shared_training import HistoryOfRank, SharedStop

WORLDS = [(n_cells, world) for world in (2, 3, 5) for n_cells in (3 * world, 31, 64, 97, 240, 341)]


def turns_of(n_cells: int, world: int, batch_size: int = 8, **options: Any) -> list[Turns]:
    return [Turns(n_cells, batch_size, rank=rank, world=world, **options) for rank in range(world)]


# -- mini-batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("n_cells", "world"), WORLDS)
def test_every_cell_is_dealt_once_in_equally_many_mini_batches(n_cells: int, world: int, drop_last: bool) -> None:
    turns = turns_of(n_cells, world, drop_last=drop_last)
    dealt = [DealtBatches(range(n_cells), of_rank) for of_rank in turns]
    batches = [list(of_rank) for of_rank in dealt]
    assert {len(of_rank) for of_rank in batches} == {len(turns[0])}
    cells = [cell for of_rank in batches for batch in of_rank for cell in batch]
    assert len(cells) == len(set(cells))
    assert len(cells) == (len(turns[0]) * 8 * world if drop_last else n_cells)
    for of_rank, sampler in zip(batches, dealt, strict=True):
        assert all(len(batch) >= 3 for batch in of_rank)
        assert [sampler.positions_of(i).tolist() for i in range(len(sampler))] == of_rank


@pytest.mark.parametrize(("n_cells", "world"), WORLDS)
def test_the_weighted_mean_over_processes_is_that_over_cells(n_cells: int, world: int) -> None:
    values = np.random.default_rng(0).normal(size=n_cells)
    turns = turns_of(n_cells, world)
    batches = [list(DealtBatches(range(n_cells), of_rank)) for of_rank in turns]
    for number, of_ranks in enumerate(zip(*batches, strict=True)):
        weighted = [t.weight(number) * values[cells].mean() for t, cells in zip(turns, of_ranks, strict=True)]
        every = values[[cell for cells in of_ranks for cell in cells]].mean()
        np.testing.assert_allclose(np.mean(weighted), every, rtol=1e-12)


@pytest.mark.parametrize(("n_cells", "world"), WORLDS)
def test_weights_are_those_of_the_blocks_of_a_file_as_well(n_cells: int, world: int) -> None:
    for of_rank in turns_of(n_cells, world):
        readings = shuffled(of_rank, PoolSize(2, 64), np.random.default_rng(0))
        sizes = [len(batch) for reading in readings for batch in reading.batches]
        before = (len(of_rank) - 1) * 8
        assert sizes == [8] * (len(of_rank) - 1) + [of_rank.n_own - before]
        assert of_rank.weight(len(sizes) - 1) == sizes[-1] * world / (n_cells - before * world)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_of_a_file_is_dealt_in_its_order(world: int) -> None:
    read = [list(in_file_order(turns, PoolSize(4, 32))) for turns in turns_of(100, world)]
    cells = [reading.cells[places] for of_rank in read for reading in of_rank for places in reading.batches]
    np.testing.assert_array_equal(np.concatenate(cells), np.arange(100))


def test_the_order_is_that_of_a_loader_of_one_process() -> None:
    torch.manual_seed(4)
    shared = SharedOrder(50, torch.Generator().manual_seed(4))
    expected = []
    for _ in range(2):
        # of the loader
        torch.empty((), dtype=torch.int64).random_()
        expected.append([cell for batch in BatchSampler(RandomSampler(range(50)), 8, False) for cell in batch])
    assert [list(shared), list(shared)] == expected
    assert expected[0] != expected[1]


@pytest.mark.parametrize("world", [2, 3])
def test_mixed_mini_batches_weigh_by_their_regular_turns(world: int) -> None:
    codes = np.arange(97) % 4 - 1
    made = [
        MixedBatches(
            np.arange(97),
            codes,
            n_cells=97,
            batch_size=8 * world,
            n_repeated=2 * world,
            generator=np.random.default_rng(0),
            smallest_batch=3 * world,
            ranks=Ranks(rank, world),
        )
        for rank in range(world)
    ]
    batches = [list(of_rank) for of_rank in made]
    for number, of_ranks in enumerate(zip(*batches, strict=True)):
        regular = [sum(cell < 97 for cell in batch) for batch in of_ranks]
        assert [len(batch) - n for batch, n in zip(of_ranks, regular, strict=True)] == [2] * world
        weights = [of_rank.turns.weight(number) for of_rank in made]
        np.testing.assert_allclose(weights, np.array(regular) * world / sum(regular))


# -- sums and comparisons ------------------------------------------------------------------------------------------


def output(loss: float, n_cells: int) -> LossOutput:
    return LossOutput(
        loss=torch.tensor(loss), reconstruction_loss=torch.full((n_cells,), loss), kl_local=torch.zeros(n_cells)
    )


def test_metrics_of_processes_are_those_of_all_cells() -> None:
    parts, whole = [EpochMeans("train") for _ in range(2)], EpochMeans("train")
    for i, (loss, n_cells) in enumerate([(1.0, 5), (2.0, 3), (4.0, 5), (8.0, 2)]):
        parts[i % 2].add(output(loss, n_cells))
        whole.add(output(loss, n_cells))
    vectors: list[torch.Tensor] = []
    for part in parts:
        with pytest.raises(StopIteration):
            part.take(None, summed=lambda mine: vectors.append(mine) or next(iter(())))
    total = vectors[0] + vectors[1]
    found, expected = parts[0].take(None, summed=lambda _: total), whole.take(None)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=0)


def test_a_digest_sees_weights_and_buffers() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    found = [digest(module)]
    with torch.no_grad():
        module[0].bias[1] += 1
    found.append(digest(module))
    module[1].running_mean[0] = 1
    found.append(digest(module))
    assert len(set(found)) == 3
    assert digest(module) == found[-1]


def test_differences_name_what_differs_and_where() -> None:
    same = {"cells": 5, "seed": 0}
    assert differences([same, same]) == ""
    found = differences([same, {"cells": 5, "seed": 1}, {"cells": 4, "seed": 2}])
    assert sorted(found.split("; ")) == ["cells: 5 on rank 0, 4 on rank 2", "seed: 0 on rank 0, 1 on rank 1"]


GONE = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:429")


@pytest.mark.parametrize(
    ("ranks", "error", "expected"),
    [
        (ALONE, GONE, None),
        (Ranks(0, 2), RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (Ranks(0, 2), KeyboardInterrupt("gloo"), None),
        (Ranks(0, 2), GONE, "Rank 1 ended or failed, and rank 0 cannot"),
        (Ranks(1, 2), GONE, "Rank 0 ended or failed, and rank 1 cannot"),
        (Ranks(2, 4), GONE, "Another of the 4 processes ended or failed, and rank 2 cannot"),
    ],
)
def test_a_lost_process_is_told_from_other_errors(
    ranks: Ranks, error: BaseException, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ranks, "present_ranks", lambda: ranks)
    found = lost_process(error)
    assert found is None if expected is None else (found or "").startswith(expected)


def test_the_last_good_epoch_raises_what_all_agree_on() -> None:
    guard = LastGoodEpoch(nn.Linear(2, 2), None, agree=lambda mine: f"Rank 1: {mine}")
    with pytest.raises(DeltaviError, match="Rank 1: None"):
        guard.on_train_epoch_end(None, None)
    assert guard.n_epochs == 0


# -- options -------------------------------------------------------------------------------------------------------


def launched(trainer: dict[str, Any], devices: Any = 2, *, finds_unused: bool = False) -> Any:
    return launch_of(trainer, accelerator="cpu", devices=devices, finds_unused=finds_unused)


@pytest.mark.parametrize("strategy", [None, "auto", "ddp", "ddp_find_unused_parameters_false"])
def test_several_devices_are_several_processes(strategy: str | None) -> None:
    found = launched({"strategy": strategy})
    assert found.ranks == Ranks(0, 2)
    assert isinstance(found.strategy, DDPStrategy)


@pytest.mark.parametrize("devices", ["auto", 1, "1", [0], np.int64(1)])
def test_one_device_is_one_process(devices: Any) -> None:
    found = launched({}, devices)
    assert found.ranks == ALONE
    assert found.strategy is None
    assert found.devices is devices


@pytest.mark.parametrize(
    ("strategy", "finds", "expected"),
    [("ddp", False, False), ("ddp", True, True), ("ddp_find_unused_parameters_true", False, True)],
)
def test_unused_weights_are_looked_for_where_there_may_be_any(strategy: str, finds: bool, expected: bool) -> None:
    found = launched({"strategy": strategy}, finds_unused=finds).strategy
    assert found._ddp_kwargs["find_unused_parameters"] is expected


def test_a_strategy_of_the_users_own_is_used_as_it_is() -> None:
    own = DDPStrategy()
    found = launched({"strategy": own})
    assert found.strategy is own
    assert own.accelerator is None


def test_options_are_shared() -> None:
    callbacks: list[Any] = []
    logger = CSVLogger("unused")
    trainer = {"early_stopping": True, "early_stopping_patience": 3, "logger": [logger], "enable_progress_bar": True}
    share_options(trainer, launched({}), callbacks)
    (stop,) = callbacks
    assert isinstance(stop, SharedStop)
    assert (stop.patience, stop.monitor) == (3, "validation_loss")
    assert "early_stopping" not in trainer
    assert isinstance(trainer["logger"][0], HistoryOfRank)
    assert trainer["logger"][1:] == [logger]
    assert trainer["enable_progress_bar"]
    assert trainer["use_distributed_sampler"] is False


def test_options_of_one_process_stay() -> None:
    trainer = {"early_stopping": True, "logger": None}
    share_options(trainer, launched({}, 1), [])
    assert trainer == {"early_stopping": True, "logger": None}
