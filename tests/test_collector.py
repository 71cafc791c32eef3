"""The garbage collector is spared while a model trains, and then as before."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from deltavi._collector import spared_collector
from deltavi.model import VAE
from tests.model.conftest import QUIET, small_adata


class Node:
    """Something that holds itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    assert gc.get_freeze_count() == 0
    yield
    gc.unfreeze()


class Look(Callback):
    """Notes what is set aside in every mini-batch, and may fail."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.counts: list[int] = []
        self.error = error

    def on_train_batch_end(self, *_: Any) -> None:
        self.counts.append(gc.get_freeze_count())
        if self.error is not None:
            raise self.error


def train(callback: Callback) -> None:
    adata = small_adata()
    VAE.setup_anndata(adata)
    VAE(adata, n_hidden=8, n_latent=2).train(max_epochs=1, batch_size=32, callbacks=[callback], **QUIET)


def test_training_sets_aside_what_exists_and_gives_it_back() -> None:
    look = Look()
    train(look)
    assert min(look.counts) > 10_000
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


@pytest.mark.parametrize("error", [ZeroDivisionError, NameError, SystemExit])
def test_an_error_gives_it_back_as_well(error: type[BaseException]) -> None:
    with pytest.raises(error):
        train(Look(error))
    assert gc.get_freeze_count() == 0


def test_a_heap_that_is_frozen_already_stays_so() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    look = Look()
    train(look)
    # objects that were set aside may go, but none is added and none given back
    assert max(look.counts) <= before
    assert 0.9 * before < gc.get_freeze_count() <= before


def test_blocks_may_be_nested() -> None:
    with spared_collector():
        outer = gc.get_freeze_count()
        with spared_collector():
            assert gc.get_freeze_count() <= outer
        assert gc.get_freeze_count() > 0.9 * outer
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_on_or_off_as_it_was(enabled: bool) -> None:
    if not enabled:
        gc.disable()
    try:
        with spared_collector():
            assert gc.isenabled() == enabled
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_garbage_of_the_block_is_collected_and_that_of_before_afterwards() -> None:
    gc.disable()
    try:
        before = Node()
        old = weakref.ref(before)
        with spared_collector():
            within = Node()
            new = weakref.ref(within)
            del before, within
            gc.collect()
            assert new() is None
            assert old() is not None
        gc.collect()
        assert old() is None
    finally:
        gc.enable()
