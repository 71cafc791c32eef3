"""Logging of work that is done many times: of messages that repeat only the first is logged, and their number."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("deltavi")


class _FirstOfEach(logging.Filter):
    """Filter for the first warning of each kind of this thread, by its text before values are filled in."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide on one message."""
        if record.thread != self._thread or record.levelno < logging.WARNING:
            return True
        self.counts[str(record.msg)] += 1
        return self.counts[str(record.msg)] == 1


@contextmanager
def first_of_each(where: str) -> Iterator[None]:
    """Log repeated warnings once while the block runs, and afterwards how many there were.

    Parameters
    ----------
    where
        Place that has the details of each.
    """
    once = _FirstOfEach()
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)
        repeated = sum(count - 1 for count in once.counts.values())
        if repeated:
            logger.warning("%d further warnings like these were left out; %s", repeated, where)
