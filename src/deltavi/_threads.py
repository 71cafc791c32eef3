"""Threads of torch, which libraries that start threads of their own set back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def kept_threads() -> Iterator[None]:
    """Let torch have as many threads after the block as before; numba sets them back when it first runs."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        # setting a number of threads takes time, and is seldom needed
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
