"""Number of threads of torch, which libraries with threads of their own reset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def kept_threads() -> Iterator[None]:
    """Restore the number of threads of torch after the block, since numba resets it at its first run."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        # setting a number of threads takes time, and is seldom needed
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
