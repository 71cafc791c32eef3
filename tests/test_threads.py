"""Work in as many threads as torch uses."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import chain

import pytest
import torch

from deltavi._threads import in_parts, kept_threads


@pytest.fixture(params=[1, 2, 3])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Number of threads of torch during a test."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.mark.parametrize("length", [0, 1, 2, 7, 100])
def test_ranges_are_in_order_and_leave_nothing_out(n_threads: int, length: int) -> None:
    found = in_parts(lambda start, stop: list(range(start, stop)), 5, 5 + length, least=1)
    assert [*chain(*found)] == list(range(5, 5 + length))
    assert len(found) == max(1, min(n_threads, length))


def test_short_ranges_stay_in_this_thread(n_threads: int) -> None:
    assert in_parts(lambda *_: threading.get_ident(), 0, 10, least=11) == [threading.get_ident()]
    assert in_parts(lambda *_: threading.get_ident(), 0, 10, least=0)[0] is not None


def test_errors_are_raised() -> None:
    def fails(start: int, stop: int) -> None:
        raise ValueError(f"{start} to {stop}")

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="0 to 2"):
            in_parts(fails, 0, 4, least=1)
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_process_starts_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    try:
        assert in_parts(lambda start, stop: stop - start, 0, 4, least=1) == [2, 2]
        child = os.fork()
        if child == 0:
            # a pool without its threads would wait for ever
            os._exit(0 if in_parts(lambda start, stop: stop - start, 0, 4, least=1) == [2, 2] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(1)


def test_the_number_of_threads_is_restored() -> None:
    with pytest.raises(RuntimeError, match="stop"), kept_threads():
        torch.set_num_threads(2)
        raise RuntimeError("stop")
    assert torch.get_num_threads() == 1
