"""Python's garbage collector, kept from walking over everything that was imported at every few training steps."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def spared_collector() -> Iterator[None]:
    """Set aside what exists now, so that collections inside the block look at what the block makes.

    Afterwards everything is as before; a caller who has set objects aside already is left alone.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
