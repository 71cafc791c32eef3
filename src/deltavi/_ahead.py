"""Work of a thread that is done while its result is not needed yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextvars import copy_context
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """A result that a thread makes while something else goes on; the thread ends with it.

    Parameters
    ----------
    make
        Makes the result.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._found: list[T] = []
        self._error: BaseException | None = None
        # not kept here: it may hold what came before
        self._thread = threading.Thread(target=self._run, args=(make,), name="deltavi-reads-ahead")
        self._thread.start()

    def _run(self, make: Callable[[], T]) -> None:
        try:
            self._found.append(make())
        except BaseException as error:
            # raised where the result is needed
            self._error = error

    def wait(self) -> None:
        """Wait for the thread."""
        self._thread.join()

    def result(self) -> T:
        """The result, once; an error of the thread is raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._found.pop()


def read_ahead(items: Iterator[T]) -> Generator[T]:
    """The same items, the next of which a thread makes while this one is used.

    Parameters
    ----------
    items
        What is made one after the other, in the context of the caller.
    """
    context = copy_context()

    def following() -> list[T]:
        return context.run(list, islice(items, 1))

    coming = Ahead(following)
    try:
        while item := coming.result():
            coming = Ahead(following)
            yield from item
    finally:
        coming.wait()
