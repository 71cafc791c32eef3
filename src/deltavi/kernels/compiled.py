"""Compilation of kernels: at first use, kept on disk, and never an error.

A module of kernels names what it compiles in `SIGNATURES`. It calls no compiled function of another module: numba
looks for changes of a kernel in the file that holds it, and would go on using a former version of the other one.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, overload

from deltavi._threads import kept_threads

if TYPE_CHECKING:
    from numba.core.dispatcher import Dispatcher

logger = logging.getLogger("deltavi")
F = TypeVar("F", bound=Callable[..., object])

_lock = threading.RLock()
_found: dict[str, ModuleType | None] = {}
_allowed: ContextVar[bool] = ContextVar("allowed", default=True)


def kernels(name: str) -> ModuleType | None:
    """Module ``deltavi.kernels.<name>`` with all its kernels compiled; ``None`` where they cannot be used.

    The first use after an installation compiles, which is logged; later ones read what was kept on disk.

    Parameters
    ----------
    name
        Name of the module.
    """
    if not _allowed.get():
        return None
    if name not in _found:
        with _lock:
            if name not in _found:
                _found[name] = _loaded(f"{__package__}.{name}")
    return _found[name]


@contextmanager
def compiled(allowed: bool) -> Iterator[None]:
    """Use kernels in this block, or none of them; for comparisons.

    Parameters
    ----------
    allowed
        False to compute everything by NumPy and torch.
    """
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def jit(function: F) -> F:
    """Decorate a kernel: a function that numba compiles, and keeps on disk if a folder can be written."""
    return _jit(function)


@overload
def part(function: F) -> F: ...
@overload
def part(*, fastmath: set[str]) -> Callable[[F], F]: ...
def part(function=None, *, fastmath=None):
    """Decorate a part of kernels, which becomes a piece of each kernel that calls it.

    Without a copy of its own in each, a kernel that was just compiled would call the copy of another kernel, and one
    read from disk its own: both are right, and round in another order.

    Parameters
    ----------
    function
        Function to compile.
    fastmath
        Liberties of LLVM with floating-point numbers in this function; those of the functions it calls are their own.
    """
    if function is None:
        return partial(_jit, fastmath=fastmath, forceinline=True)
    return _jit(function, forceinline=True)


def _jit(function: F, *, fastmath: set[str] | None = None, forceinline: bool = False) -> F:
    from numba import njit

    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath or False, "forceinline": forceinline}
    try:
        found: F = njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder to write to
        found = njit(**options)(function)
    return found


def _loaded(name: str) -> ModuleType | None:
    try:
        from numba import config

        if config.DISABLE_JIT:
            return None
        module = importlib.import_module(name)
        signatures = module.SIGNATURES
        _announce(name, signatures)
        with kept_threads():
            for kernel, of_kernel in signatures.items():
                for signature in of_kernel:
                    kernel.compile(signature)
                # other types are an error, rather than seconds of compilation in the middle of work
                kernel.disable_compile()
    except Exception as error:  # a broken installation of numba must cost speed alone
        logger.warning("Kernels of %s cannot be compiled, and slower code is used: %r", name, error)
        return None
    return module


def _announce(name: str, dispatchers: Iterable[Dispatcher]) -> None:
    """Log that a while will pass, unless all was compiled before."""
    for kernel in dispatchers:
        folder = kernel.stats.cache_path
        if folder is None or not any(Path(folder).glob(f"*{kernel.py_func.__name__}*.nbi")):
            logger.info("Compiling %s for this computer, once per installation.", name)
            return
