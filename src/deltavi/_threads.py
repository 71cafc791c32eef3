"""Threads: as many as torch uses, whatever libraries with threads of their own set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch

T = TypeVar("T")


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


def in_parts(function: Callable[[int, int], T], start: int, stop: int, *, least: int) -> list[T]:
    """Results of `function` for consecutive ranges, in order, by as many threads as torch uses.

    Parameters
    ----------
    function
        Function of the start and the end of a range, that works without the interpreter for most of its time.
    start, stop
        Range to be divided.
    least
        Length of a range for which another thread is worth starting.
    """
    n_parts = max(1, min(torch.get_num_threads(), (stop - start) // max(least, 1)))
    if n_parts == 1:
        return [function(start, stop)]
    bounds = [start + (stop - start) * part // n_parts for part in range(n_parts + 1)]
    return list(_pool(n_parts).map(function, *zip(*pairwise(bounds), strict=True)))


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="deltavi")


# a child process has none of its parent's threads
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
