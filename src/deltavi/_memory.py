"""Memory that was freed, and goes back to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

# Bytes by which a process may grow before what it freed goes back: memory that is asked for again is zeroed by the
# system page by page, which takes a tenth of a training epoch where it is done after every block.
MARGIN = 48 * 2**20
STATM = Path("/proc/self/statm")


def return_freed() -> None:
    """Return what was freed to the system; does nothing where the C library has no call for it.

    The GNU C library keeps freed memory for later, up to several times the arrays that are in use where these are
    large and many small objects lie between them.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


class Growth:
    """Memory of this process since it was last returned, so that little is returned that is soon asked for again.

    Parameters
    ----------
    margin
        Bytes by which the process may grow.
    """

    def __init__(self, margin: int) -> None:
        self.margin = margin
        self._least: int | None = None

    def bound(self) -> None:
        """Return what was freed, if the process has grown by more than the margin since it was smallest."""
        size = resident()
        if size is None:
            return_freed()
        elif self._least is None or size > self._least + self.margin:
            return_freed()
            self._least = resident()
        else:
            self._least = min(self._least, size)


_growth = Growth(MARGIN)


def bound_freed() -> None:
    """Return what was freed to the system once the process has grown by :data:`MARGIN`."""
    _growth.bound()


def resident() -> int | None:
    """Resident memory of this process in bytes; ``None`` where the system does not tell."""
    try:
        pages = STATM.read_bytes().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@cache
def _trim() -> Callable[[int], int] | None:
    """The call of the GNU C library, if there is one."""
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found
