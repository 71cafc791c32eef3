"""Every call of the system that an action makes fails once, before it takes effect or after, or the process dies."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

OF_OS = (
    *("open", "fsync", "mkdir", "rmdir", "replace", "rename", "unlink", "remove", "chmod", "utime", "link", "symlink"),
    *("scandir", "listdir", "truncate", "ftruncate"),
)


class Refused(OSError):
    """An error of the system, told from those of other origin."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "Input/output error")


def refuse() -> None:
    raise Refused


def interrupt() -> None:
    raise KeyboardInterrupt


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Calls:
    """Calls of the system, counted.

    Parameters
    ----------
    at
        Number of the call at which `fault` strikes, from zero; none for a number below.
    fault
        What happens then.
    after
        Whether the call has taken effect by then.
    """

    at: int = -1
    fault: Callable[[], None] = refuse
    after: bool = False
    names: list[str] = field(default_factory=list)

    def through(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        struck = len(self.names) == self.at
        self.names.append(name)
        if struck and not self.after:
            self.fault()
        try:
            found = call(*args, **kwargs)
        except OSError:  # of its own
            if struck:
                self.fault()
            raise
        if struck:
            if hasattr(found, "close"):
                found.close()
            self.fault()
        return found


class Watched:
    """An open file whose writes are counted."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self._file, self._calls = file, calls

    def write(self, data: Any) -> Any:
        return self._calls.through("write", self._file.write, data)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._calls.through("close", self._file.close)
        finally:  # where the system refuses to close a file, it is closed
            self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def watched(calls: Calls) -> Iterator[None]:
    """Count the calls of the block, and let one of them fail; what is synced is not waited for."""
    real = {name: getattr(os, name) for name in OF_OS if hasattr(os, name)} | {"fsync": lambda _: None}
    opened = io.open

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        found = calls.through(f"open {mode}", opened, file, mode, *args, **kwargs)
        return Watched(found, calls) if set(mode) & set("wxa+") else found

    with pytest.MonkeyPatch.context() as patch:
        for name, call in real.items():
            patch.setattr(os, name, lambda *a, _name=name, _call=call, **k: calls.through(_name, _call, *a, **k))
        patch.setattr(io, "open", opening)
        yield


Tree = dict[str, bytes | None]


def tree(folder: Path) -> Tree:
    """Content of every file below `folder` by path, and None for every folder; a link is what it leads to."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else None
    return found


@dataclass(frozen=True)
class Struck:
    """What came of an action with one fault in it.

    Parameters
    ----------
    name
        The call that failed, its number, and how.
    error
        What was raised, if anything.
    """

    name: str
    error: BaseException | None


def strikes(
    place: Path, prepare: Callable[[], None], act: Callable[[], object], *, dies: bool = False
) -> Iterator[Struck]:
    """Act once for each call and each fault, every time on `place` prepared anew; what came of it is to be examined."""
    count = Calls()
    _renew(place, prepare)
    with watched(count):
        act()
    assert {"replace", "write"} <= {name.split()[0] for name in count.names}
    faults = [("dies", die)] if dies else [("refuses", refuse), ("is interrupted", interrupt)]
    for at, call in enumerate(count.names):
        for word, fault in faults:
            for after in (False, True):
                _renew(place, prepare)
                calls = Calls(at, fault, after)
                name = f"{call} ({at} of {len(count.names)}) {word}{' after' if after else ''}"
                yield Struck(name, _death(act, calls) if dies else _error(act, calls))


def _renew(place: Path, prepare: Callable[[], None]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    prepare()


def _error(act: Callable[[], object], calls: Calls) -> BaseException | None:
    try:
        with watched(calls):
            act()
    except (Exception, KeyboardInterrupt) as error:
        return error
    return None


def _death(act: Callable[[], object], calls: Calls) -> None:
    """Act in a process of its own, which is killed."""
    child = os.fork()
    if child == 0:
        try:
            with watched(calls):
                act()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
