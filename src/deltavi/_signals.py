"""SIGTERM, as batch systems send it, raised as an error that ends the program once work in progress is in order."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from deltavi._errors import Terminated

logger = logging.getLogger("deltavi")


@contextmanager
def sigterm_raises(ended: Callable[[], Terminated]) -> Iterator[Callable[[], None]]:
    """Raise `ended` where SIGTERM comes, and log it; a handler of the user's own stays.

    Only the main thread hears signals; in any other one nothing is changed.

    Parameters
    ----------
    ended
        Maker of the error.

    Yields
    ------
    Function that raises the error again if it was raised before, for libraries that lose errors of functions they call.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or handler is not signal.SIG_DFL:
        yield lambda: None
        return
    heard: list[Terminated] = []

    def end(_: int, __: FrameType | None) -> None:
        # once: what follows puts things in order
        if not heard:
            heard.append(ended())
            raise heard[0]

    def again() -> None:
        if heard:
            raise heard[0]

    signal.signal(signal.SIGTERM, end)
    try:
        yield again
    except BaseException as error:
        if heard:
            logger.error(error if isinstance(error, Terminated) else heard[0])
            if isinstance(error, Exception):
                # one of a library that was interrupted
                raise heard[0] from error
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
