"""Randomness that is asked for by seed and leaves the user's global state alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and Python inside the block, and put all three back as they were afterwards.

    Lightning and torch layers draw from global generators only; this is how a seed reaches them.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - saved, then restored
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
