"""Control of Python's garbage collector, so that it does not traverse all imported objects every few training steps."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def spared_collector() -> Iterator[None]:
    """Freeze existing objects, so that collections inside the block traverse only new ones.

    Objects are unfrozen afterwards; nothing is done if the caller has frozen objects already.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
