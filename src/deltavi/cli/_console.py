"""Output of commands: results on standard output, all else on standard error, one line each."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from types import FrameType
from typing import TextIO

from deltavi._errors import DeltaviWarning


class Console:
    """Lines of a command.

    Parameters
    ----------
    command
        Name that errors begin with.
    quiet
        True to show results and errors alone.
    """

    def __init__(self, command: str, *, quiet: bool = False) -> None:
        self.command = command
        self.quiet = quiet
        self._results: TextIO | None = sys.stdout
        self._shown: set[str] = set()

    def result(self, text: str) -> None:
        """Print a result; a closed pipe, as after ``head``, does not keep files from being written."""
        if self._results is None:
            return
        try:
            print(text, file=self._results, flush=True)
        except OSError as error:
            _discard(self._results)
            self._results = None
            if not isinstance(error, BrokenPipeError):
                self.warn(f"Results cannot be printed: {error.strerror}. They are in the files.")

    def note(self, text: str) -> None:
        """Print a line on progress."""
        if not self.quiet:
            _to_standard_error(text)

    def warn(self, text: str) -> None:
        """Print a warning, once."""
        line = one_line(text)
        if line not in self._shown:
            self._shown.add(line)
            self.note(f"warning: {line}")

    def error(self, text: str) -> None:
        """Print the error that ended the command."""
        _to_standard_error(f"{' '.join(('deltavi', self.command)).strip()}: {one_line(text)}")


def one_line(text: object) -> str:
    """`text` without line breaks."""
    return " ".join(str(text).split())


def _discard(stream: TextIO) -> None:
    """Let what the closed standard output of this process still holds go nowhere: at exit it is flushed once more."""
    if stream is sys.__stdout__:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _to_standard_error(text: str) -> None:
    with suppress(OSError, AttributeError):  # the pipe is closed
        print(text, file=sys.stderr, flush=True)


@contextmanager
def shown(console: Console) -> Iterator[None]:
    """Show warnings of this package, and none of other libraries; all settings are restored afterwards.

    Output printed in the block goes to standard error, except for results.
    """

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, DeltaviWarning):
            console.warn(str(message))

    ours, handler = logging.getLogger("deltavi"), _Lines(console.warn)
    ours.addHandler(handler)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO() if console.quiet else sys.stderr):
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DeltaviWarning)
            warnings.showwarning = show
            yield
    finally:
        ours.removeHandler(handler)


class _Lines(logging.Handler):
    """Handler that forwards warnings one by one."""

    def __init__(self, pass_on: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._pass_on = pass_on

    def emit(self, record: logging.LogRecord) -> None:
        """Forward the text of `record`."""
        self._pass_on(record.getMessage())


class Terminated(SystemExit):
    """Termination of the process by SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` on SIGTERM, so that files in progress are removed."""

    def stop(_: int, __: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
