"""Results made by a thread come in order, with their errors, and no thread outlives its reader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from contextvars import ContextVar

import pytest

from deltavi._ahead import Ahead, read_ahead

_seen_by: ContextVar[str] = ContextVar("seen_by", default="nobody")


def threads() -> set[threading.Thread]:
    """Threads that read ahead now."""
    return {thread for thread in threading.enumerate() if thread.name == "deltavi-reads-ahead"}


@pytest.mark.parametrize("items", [[], [1], [None, None], list(range(7))], ids=len)
def test_all_items_come_in_their_order(items: list[object]) -> None:
    assert list(read_ahead(iter(items))) == items


def test_the_next_item_is_made_while_this_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    with closing(read_ahead(items())) as ahead:
        assert next(ahead) == 0
        assert made[1].wait(10)
        # not further: one item at a time is in memory beside the one in use
        assert not made[2].wait(0.05)


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the file is gone")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the file is gone"):
        next(ahead)
    assert not threads()


def test_no_thread_is_left_where_reading_ends_early() -> None:
    before = threads()
    ahead = read_ahead(iter(range(5)))
    assert next(ahead) == 0
    ahead.close()
    assert threads() == before


def test_items_are_made_in_the_context_of_the_caller() -> None:
    def items() -> Iterator[str]:
        for _ in range(2):
            yield _seen_by.get()

    token = _seen_by.set("the caller")
    try:
        assert list(read_ahead(items())) == ["the caller"] * 2
    finally:
        _seen_by.reset(token)


def test_even_an_interruption_in_the_thread_is_raised_by_its_reader() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Ahead(interrupted).result()
