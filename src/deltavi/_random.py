"""Seeded randomness that leaves the global state of generators unchanged."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scvi
import torch

from deltavi._entries import seed_number

_turns = threading.RLock()


def _new_turns() -> None:
    global _turns
    _turns = threading.RLock()


if hasattr(os, "register_at_fork"):
    # a forked process has one thread, and the owner of the lock may be missing from it
    os.register_at_fork(after_in_child=_new_turns)


def model_seed(seed: int | None) -> int:
    """`seed` of a model; without one a number drawn from ``scvi.settings.seed``, or zero where that is not set.

    scvi-tools seeds the global generators with its setting: a model with that very seed would draw the numbers that
    the user draws.
    """
    if seed is not None:
        return seed_number("seed", seed)
    setting = scvi.settings.seed
    return 0 if setting is None else int(np.random.SeedSequence(int(setting)).generate_state(1)[0])


@contextmanager
def taking_turns() -> Iterator[None]:
    """Keep other threads of this process out of all such blocks; a thread may be in several of its own.

    Used where state is shared between threads: global generators, filters of warnings, columns of an AnnData that
    several models were set up on. Predictions in threads are thereby serialised, also with training; use
    processes for parallel work.
    """
    turns = _turns
    with turns:
        yield


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and Python inside the block, and put all three back as they were afterwards.

    Lightning and torch layers draw from global generators only; this is how a seed reaches them. One thread at a time
    is inside: two would draw from each other's seed, and put back each other's state.
    """
    with taking_turns(), _seeded(seed):
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - saved, then restored
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        # Python takes no numbers of NumPy
        seed = int(seed)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
