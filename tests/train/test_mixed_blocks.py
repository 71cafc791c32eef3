"""Mini-batches of labelled cells from a file: every cell once, every label regularly, and the entries of memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.model import ACTINN, LABELVI, MIXVI
from deltavi.train import FoldSplitter, MixedSplitter
from deltavi.train._block_order import PoolSize, Turns
from deltavi.train._mixed import RepeatingDataset
from deltavi.train._mixed_blocks import MixedBlocks
from deltavi.train._order import cells_of_batch
from deltavi.train._streamed import BlockOrder, StreamedLoader
from tests.model.conftest import QUIET
from tests.train.test_streamed import assert_same, cells, manager_of, on_disk

SMALL = {"block_rows": 2, "buffer_rows": 64}


def blocks(
    codes: np.ndarray, *, batch_size: int = 16, pool: int = 64, n_repeated: int = 4, **turns: int
) -> MixedBlocks:
    size = PoolSize(block=2, pool=pool)
    return MixedBlocks(Turns(len(codes), batch_size, **turns), size, 0, codes=codes, n_repeated=n_repeated)


def epoch(order: MixedBlocks) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions of each mini-batch whose turn it is, and of those that are drawn again; what is read is checked."""
    found, pooled = [], np.zeros(0, dtype=np.int64)
    for reading in order.readings():
        np.testing.assert_array_equal(pooled[reading.carried], reading.cells[: len(reading.carried)])
        assert (np.diff(reading.to_read) > 0).all()
        pooled = reading.cells
        for places in reading.batches:
            positions = reading.cells[places]
            order.note(positions)
            n_own = len(places) - reading.n_again
            found.append((positions[:n_own], positions[n_own:]))
    return found


# -- the plan ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    codes=st.lists(st.integers(-1, 4), min_size=4, max_size=400),
    batch_size=st.integers(3, 40),
    pool=st.integers(32, 128),
    n_repeated=st.integers(0, 9),
)
def test_every_position_has_one_turn_an_epoch(codes: list[int], batch_size: int, pool: int, n_repeated: int) -> None:
    order = blocks(np.array(codes), batch_size=batch_size, pool=pool, n_repeated=n_repeated)
    for _ in range(2):
        found = epoch(order)
        assert len(found) == len(order)
        np.testing.assert_array_equal(np.sort(np.concatenate([own for own, _ in found])), np.arange(len(codes)))
        assert all(len(own) == batch_size for own, _ in found[:-1])
        expected = n_repeated if max(codes) >= 0 else 0
        assert all(len(again) == expected and (np.array(codes)[again] >= 0).all() for _, again in found)


def test_positions_are_noted_by_mini_batch() -> None:
    order = blocks(np.arange(200) // 50)
    for number, (own, _) in enumerate(epoch(order)):
        np.testing.assert_array_equal(order.positions_of(number), own)


def test_a_rare_label_is_drawn_again_as_often_as_a_frequent_one() -> None:
    codes = np.zeros(2000, dtype=np.int64)
    codes[1000:], codes[777] = 1, 2
    drawn = Counter(codes[np.concatenate([again for _, again in epoch(blocks(codes))])].tolist())
    # labels take turns in each of 32 pools, which begin with a label at random
    assert max(drawn.values()) - min(drawn.values()) <= 2 * 32


def test_labels_of_a_sorted_file_are_mixed_in_every_mini_batch() -> None:
    codes = np.arange(4000) // 1000
    shares = [np.bincount(codes[own], minlength=4) / len(own) for own, _ in epoch(blocks(codes, pool=512))]
    assert np.std(shares, axis=0).max() < np.sqrt(0.25 * 0.75 / 16)


def test_cells_that_are_drawn_again_differ_from_pool_to_pool() -> None:
    codes = np.arange(4000) // 1000
    again = np.concatenate([drawn for _, drawn in epoch(blocks(codes, pool=512))])
    assert len(np.unique(again)) > 0.5 * len(again)


def test_two_processes_have_all_cells_between_them() -> None:
    codes = np.arange(203) % 3
    shared = [epoch(blocks(codes, rank=rank, world=2)) for rank in range(2)]
    assert len(shared[0]) == len(shared[1])
    own = np.concatenate([part for found in shared for part, _ in found])
    np.testing.assert_array_equal(np.sort(own), np.arange(203))


# -- mini-batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_mini_batches_of_labelled_cells_are_those_of_memory(kind: str, tmp_path: Path) -> None:
    memory = cells()
    splitter = MixedSplitter(manager_of(on_disk(memory, tmp_path, kind)), batch_size=32, train_size=0.8, **SMALL)
    splitter.setup()
    loader = splitter.train_dataloader()
    assert isinstance(loader, StreamedLoader)
    expected = RepeatingDataset(manager_of(memory).create_torch_dataset(), memory.n_obs)
    order = loader.sampler
    assert isinstance(order, MixedBlocks)
    again = order.readings()
    order.n_epochs -= 1
    batches = [(reading.cells[places], reading.n_again) for reading in again for places in reading.batches]
    for (positions, n_again), batch in zip(batches, loader, strict=True):
        turns = np.sort(splitter.train_idx)[positions]
        turns[len(turns) - n_again :] += memory.n_obs
        assert_same(batch, expected[turns.tolist()])
    np.testing.assert_array_equal(cells_of_batch(loader, 1), np.sort(splitter.train_idx)[batches[1][0][:-8]])
    splitter.teardown()


def test_mini_batches_with_folds_are_those_of_memory(tmp_path: Path) -> None:
    memory = cells()
    folds = np.arange(memory.n_obs) % 5
    options: dict[str, Any] = {"folds": folds, "batch_size": 32, "train_size": 0.8}
    splitter = FoldSplitter(manager_of(on_disk(memory, tmp_path)), **options, **SMALL)
    splitter.setup()
    loader = splitter.train_dataloader()
    assert isinstance(loader, StreamedLoader)
    assert isinstance(loader.sampler, BlockOrder)
    seen = []
    for number, batch in enumerate(loader):
        chosen = cells_of_batch(loader, number)
        seen.append(chosen)
        np.testing.assert_array_equal(batch["fold"].numpy().ravel(), folds[chosen])
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.sort(splitter.train_idx))
    splitter.teardown()


# -- models ------------------------------------------------------------------------------------------------------


def fitted(model_class: Any, adata: Any, *, streamed: bool, **options: Any) -> Any:
    adata.obs["given"] = adata.obs["label"].astype(str).where(np.arange(adata.n_obs) % 10 < 5, "unknown")
    model_class.setup_anndata(adata, labels_key="given", unlabeled_category="unknown")
    model = model_class(adata, seed=0, **options)
    loading = {"datasplitter_kwargs": {"block_rows": 4, "buffer_rows": 256}} if streamed else {}
    model.train(max_epochs=8, batch_size=64, seed=0, **loading, **QUIET)
    return model


@pytest.mark.parametrize("model_class", [LABELVI, MIXVI, ACTINN])
def test_labels_learned_from_a_sorted_file_are_those_of_memory(model_class: Any, tmp_path: Path) -> None:
    memory = cells(1200)
    options = {} if model_class is ACTINN else {"n_latent": 5, "n_hidden": 32}
    held = fitted(model_class, memory, streamed=False, **options)
    truth = memory.obs["label"].to_numpy()
    backed = on_disk(memory, tmp_path)
    found = fitted(model_class, backed, streamed=True, **options)
    right = [(model.predict().to_numpy() == truth).mean() for model in (held, found)]
    # the error of a share of 1,200 cells
    assert right[1] > right[0] - 3 * np.sqrt(0.25 / 1200)
    assert right[1] > 0.8
    backed.file.close()


def test_training_from_a_file_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    memory = cells(600)
    weights = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        backed = on_disk(memory, tmp_path / str(number))
        model = fitted(LABELVI, backed, streamed=True, n_latent=3, n_hidden=8)
        weights.append([value.numpy().copy() for value in model.module.state_dict().values()])
        backed.file.close()
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)
