"""Fixtures of the tests of training."""

from __future__ import annotations

from typing import Any

import pytest

from deltavi.train._lean_loop import LeanLoop


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of each mini-batch whose step was made without Lightning."""
    found: list[int] = []
    step = LeanLoop._step

    def noted(loop: LeanLoop, data_fetcher: Any) -> None:
        step(loop, data_fetcher)
        found.append(loop.batch_idx)

    monkeypatch.setattr(LeanLoop, "_step", noted)
    return found
