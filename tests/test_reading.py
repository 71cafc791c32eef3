"""Arguments are read by name before a function sees them, those it hands on among them."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from deltavi._entries import share
from deltavi._reading import either, one_of, optional, read_all, reads, real, setting, whole
from deltavi.errors import DeltaviError, UnknownArgumentError, UnknownCategoryError

READERS = {"n": whole(1, 10), "rate": share, "mode": one_of("a", "b"), "kind": optional(setting("x", "y"))}


class Thing:
    """With a constructor that hands arguments on."""

    @reads(READERS)
    def __init__(self, n: int, *, rate: float = 0.5, **kwargs: Any) -> None:
        self.seen = {"n": n, "rate": rate, **kwargs}

    @reads(READERS)
    def ask(self, n: int = 1, *, rate: float = 0.5) -> tuple[int, float]:
        """What was given."""
        return n, rate


def test_arguments_are_read_wherever_they_stand() -> None:
    thing = Thing(np.int64(2), rate=np.float32(0.5), mode="a", kind=None, other=np.int64(3))
    assert thing.seen == {"n": 2, "rate": 0.5, "mode": "a", "kind": None, "other": 3}
    assert [type(thing.seen[name]) for name in ("n", "rate", "other")] == [int, float, np.int64]
    assert thing.ask() == (1, 0.5)
    assert thing.ask(3.0) == (3, 0.5)
    assert list(inspect.signature(Thing.__init__).parameters) == ["self", "n", "rate", "kwargs"]
    assert Thing.ask.__doc__ == "What was given."


def test_wrong_ones_are_named() -> None:
    for wrong, words in (({"n": 0}, "n must be a whole number of at least 1"), ({"n": 11}, "n .* at most 10, not 11")):
        with pytest.raises(DeltaviError, match=words):
            Thing(**wrong)
    with pytest.raises(DeltaviError, match="mode must be one of"):
        Thing(1, mode="c")
    with pytest.raises(UnknownCategoryError, match="kind 'z' is not in the settings"):
        Thing(1, kind="z")
    with pytest.raises(UnknownCategoryError, match="Known: 'x', 'y'"):
        Thing(1, kind=["x"])
    with pytest.raises(UnknownArgumentError, match=r"Thing.ask has no argument 'rat'. Did you mean 'rate'"):
        Thing(1).ask(rat=1)  # type: ignore[call-arg]
    with pytest.raises(UnknownArgumentError, match=r"Thing: missing a required argument: 'n'"):
        Thing()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Thing.ask: too many positional"):
        Thing(1).ask(1, 2)  # type: ignore[misc]


def test_words_and_none_beside_a_kind() -> None:
    readers = {"size": either("all", real(above=0)), "limit": optional(real(least=0))}
    plain = {"size": "all", "limit": None, "rest": "kept"}
    assert read_all(readers, plain) == plain
    assert read_all(readers, {"size": np.float32(2), "limit": 0}) == {"size": 2.0, "limit": 0.0}
    for wrong in (0, -1, "most", None):
        with pytest.raises(DeltaviError, match=r"^size must be a "):
            read_all(readers, {"size": wrong})
