"""Messages of repeated work: the first of each kind, and a count."""

from __future__ import annotations

import logging
import threading

import pytest

from deltavi._logs import first_of_each, logger


def test_the_first_of_each_kind_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with first_of_each("see the table."):
        for i in range(5):
            logger.warning("pair %d is far", i)
            logger.warning("pair %d is weak", i)
    assert [r.getMessage() for r in caplog.records] == [
        "pair 0 is far",
        "pair 0 is weak",
        "8 further warnings like these were left out; see the table.",
    ]


def test_nothing_stays_behind(caplog: pytest.LogCaptureFixture) -> None:
    before = list(logger.filters)
    with pytest.raises(KeyError), first_of_each("see the table."):
        logger.warning("said")
        raise KeyError
    assert logger.filters == before
    logger.warning("said")
    assert [r.getMessage() for r in caplog.records] == ["said", "said"]


def test_other_threads_and_lower_levels_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="deltavi")
    with first_of_each("see the table."):
        for _ in range(2):
            other = threading.Thread(target=logger.warning, args=("elsewhere",))
            other.start()
            other.join()
            logger.info("told")
    assert sorted(r.getMessage() for r in caplog.records) == ["elsewhere", "elsewhere", "told", "told"]
