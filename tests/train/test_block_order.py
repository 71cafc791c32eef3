"""Order of cells of a file: every cell once in each epoch, in one process, and pools of enough blocks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from deltavi.train._block_order import (
    COMPRESSED,
    FEWEST_BLOCKS,
    PLAIN,
    POOL_BYTES,
    PoolSize,
    Reading,
    Turns,
    in_file_order,
    shuffled,
)

FEW = settings(max_examples=40, deadline=None)
SIZES = st.builds(PoolSize, block=st.integers(1, 70), pool=st.integers(1, 300))
TURNS = {"n_cells": st.integers(1, 700), "batch_size": st.integers(1, 90)}


def epoch(turns: Turns, size: PoolSize, seed: int | None = 0) -> list[Reading]:
    return list(in_file_order(turns, size) if seed is None else shuffled(turns, size, np.random.default_rng(seed)))


def batches(readings: list[Reading]) -> list[list[int]]:
    return [reading.cells[places].tolist() for reading in readings for places in reading.batches]


def ranks(n_cells: int, batch_size: int, world: int, **options: Any) -> list[Turns]:
    return [Turns(n_cells, batch_size=batch_size, rank=rank, world=world, **options) for rank in range(world)]


# -- every cell once ---------------------------------------------------------------------------------------------


@FEW
@given(**TURNS, size=SIZES, seed=st.one_of(st.none(), st.integers(0, 99)))
def test_every_cell_is_in_one_mini_batch(n_cells: int, batch_size: int, size: PoolSize, seed: int | None) -> None:
    turns = Turns(n_cells, batch_size=batch_size)
    found = batches(epoch(turns, size, seed))
    assert sorted(itertools.chain(*found)) == list(range(n_cells))
    # of the sizes that torch cuts
    expected = [len(batch) for batch in BatchSampler(range(n_cells), batch_size, drop_last=False)]
    assert [len(batch) for batch in found] == expected
    assert len(turns) == len(expected)


@FEW
@given(**TURNS, size=SIZES)
def test_the_last_mini_batch_is_left_out_as_by_torch(n_cells: int, batch_size: int, size: PoolSize) -> None:
    turns = Turns(n_cells, batch_size=batch_size, drop_last=True)
    found = batches(epoch(turns, size))
    assert [len(batch) for batch in found] == [batch_size] * (n_cells // batch_size)
    assert len(turns) == len(found)
    drawn = list(itertools.chain(*found))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(n_cells))


@FEW
@given(**TURNS, size=SIZES, world=st.integers(1, 5), seed=st.integers(0, 99))
def test_processes_share_the_cells(n_cells: int, batch_size: int, size: PoolSize, world: int, seed: int) -> None:
    assume(n_cells >= 3 * world)
    own = [batches(epoch(turns, size, seed)) for turns in ranks(n_cells, batch_size, world)]
    cells = [set(itertools.chain(*found)) for found in own]
    assert set.union(*cells) == set(range(n_cells))
    assert sum(map(len, cells)) == n_cells
    assert max(map(len, cells)) - min(map(len, cells)) <= 1
    assert {len(found) for found in own} == {len(turns) for turns in ranks(n_cells, batch_size, world)}
    assert all(len(batch) == batch_size for found in own for batch in found[:-1])
    if world > 1 and batch_size >= 3:
        # three cells are the fewest that can be normalised, which may make the last mini-batch larger
        assert all(3 <= len(found[-1]) < batch_size + 4 for found in own)


@FEW
@given(**TURNS, size=SIZES, world=st.integers(2, 4))
def test_processes_leave_out_as_many(n_cells: int, batch_size: int, size: PoolSize, world: int) -> None:
    own = [batches(epoch(turns, size)) for turns in ranks(n_cells, batch_size, world, drop_last=True)]
    assert {len(found) for found in own} == {n_cells // world // batch_size}
    assert all(len(batch) == batch_size for found in own for batch in found)
    drawn = list(itertools.chain(*itertools.chain(*own)))
    assert len(set(drawn)) == len(drawn)


# -- what is in memory -------------------------------------------------------------------------------------------


@FEW
@given(**TURNS, size=SIZES, seed=st.one_of(st.none(), st.integers(0, 99)))
def test_pools_hold_what_their_mini_batches_need(
    n_cells: int, batch_size: int, size: PoolSize, seed: int | None
) -> None:
    before = np.zeros(0, dtype=int)
    read: list[int] = []
    for reading in epoch(Turns(n_cells, batch_size=batch_size), size, seed):
        assert (np.diff(reading.to_read) > 0).all()
        np.testing.assert_array_equal(reading.cells, np.concatenate([before[reading.carried], reading.to_read]))
        assert 0 < len(reading.to_read) <= size.pool
        # what is carried on makes no mini-batch, but for one that may have to be the last
        assert len(reading.carried) < 2 * batch_size
        read += reading.to_read.tolist()
        before = reading.cells
    assert sorted(read) == list(range(n_cells))


@FEW
@given(n_cells=st.integers(1, 5000), pool=st.integers(64, 700), block=st.integers(1, 64), seed=st.integers(0, 9))
def test_pools_mix_enough_blocks(n_cells: int, pool: int, block: int, seed: int) -> None:
    readings = epoch(Turns(n_cells, batch_size=16), PoolSize(block=block, pool=pool), seed)
    sizes = [len(reading.to_read) for reading in readings]
    assert max(sizes) - min(sizes) <= 1
    if len(readings) == 1:
        # mixed as a whole
        return
    # cells of which the next one is in another pool: at most one in each block
    pool_of = np.concatenate([np.full(size, i) for i, size in enumerate(sizes)])
    pool_of = pool_of[np.argsort(np.concatenate([reading.to_read for reading in readings]))]
    longest = max(min(block, min(sizes) // FEWEST_BLOCKS), 1)
    starts = [part[0] for part in np.array_split(np.arange(n_cells), -(-n_cells // longest))]
    inside = np.setdiff1d(np.arange(1, n_cells), starts)
    # but for blocks that two pools share at their ends
    assert (pool_of[inside] != pool_of[inside - 1]).sum() < len(readings)
    assert all(len(np.unique(np.searchsorted(starts, r.to_read, side="right"))) >= FEWEST_BLOCKS for r in readings)


def test_cells_that_fit_are_mixed_as_a_whole() -> None:
    n = 2000
    (reading,) = epoch(Turns(n, batch_size=100), PoolSize(block=64, pool=n))
    np.testing.assert_array_equal(reading.to_read, np.arange(n))
    means = [np.mean(batch) for batch in batches([reading])]
    # means of 100 of the numbers to 2000 without blocks: five standard deviations
    assert np.abs(np.array(means) - (n - 1) / 2).max() < 5 * n / np.sqrt(12 * 100)


def test_cells_of_a_pool_are_mixed_within_it() -> None:
    turns, size = Turns(4096, batch_size=64), PoolSize(block=8, pool=1024)
    for reading in epoch(turns, size):
        order = np.concatenate(reading.batches)
        assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 5 / np.sqrt(len(order))


# -- the same and another order ----------------------------------------------------------------------------------


@FEW
@given(**TURNS, size=SIZES, seed=st.integers(0, 99))
def test_a_seed_gives_one_order(n_cells: int, batch_size: int, size: PoolSize, seed: int) -> None:
    turns = Turns(n_cells, batch_size=batch_size)
    found = batches(epoch(turns, size, seed))
    assert found == batches(epoch(turns, size, seed))
    if n_cells > 20:
        assert found != batches(epoch(turns, size, seed + 100))


def test_the_order_of_the_file() -> None:
    found = batches(epoch(Turns(10, batch_size=4), PoolSize(block=1, pool=3), None))
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_nothing_global_is_drawn_from() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    epoch(Turns(100, batch_size=7), PoolSize(block=2, pool=64))
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


# -- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_compressed", "default"), [(False, PLAIN), (True, COMPRESSED)])
def test_default_sizes(is_compressed: bool, default: PoolSize) -> None:
    assert default.pool == 128 * default.block
    assert PoolSize.of(is_compressed=is_compressed, n_bytes=100.0) == default
    assert PoolSize.of(is_compressed=is_compressed, n_bytes=0.0) == default


@FEW
@given(is_compressed=st.booleans(), n_bytes=st.floats(0, 1e9))
def test_pools_are_small_in_memory(is_compressed: bool, n_bytes: float) -> None:
    size = PoolSize.of(is_compressed=is_compressed, n_bytes=n_bytes)
    assert size.pool >= FEWEST_BLOCKS * size.block
    assert size.pool == FEWEST_BLOCKS or size.pool * n_bytes <= POOL_BYTES
