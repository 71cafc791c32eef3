"""Memory that was freed, and goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def return_freed() -> None:
    """Return what was freed to the system; does nothing where the C library has no call for it.

    The GNU C library keeps freed memory for later, up to several times the arrays that are in use where these are
    large and many small objects lie between them.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """The call of the GNU C library, if there is one."""
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found
