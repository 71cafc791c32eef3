"""Context managers for long work without output or warnings, which restore threads and loggers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from deltavi._errors import DeltaviWarning

LIGHTNING = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch and the linear algebra to one thread: sums then do not depend on the machine's cores."""
    threads = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def quiet_trainer() -> Iterator[None]:
    """Keep notices of lightning from the screen: hardware, tips and advertisements."""
    levels = {name: logging.getLogger(name).level for name in LIGHTNING}
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Keep warnings from the screen; the list holds the messages of this package, once the block has ended."""
    messages: list[str] = []
    collector = _Collector(messages)
    ours = logging.getLogger("deltavi")
    ours.addHandler(collector)
    try:
        with quiet_trainer(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
    finally:
        ours.removeHandler(collector)
    messages += [str(warning.message) for warning in caught if issubclass(warning.category, DeltaviWarning)]
    messages[:] = list(dict.fromkeys(messages))


class _Collector(logging.Handler):
    """Appends messages to a list; where there is no other handler, logging prints nothing of its own accord."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
