"""Former names of arguments and values: refused, with today's."""

from __future__ import annotations

import pytest

from deltavi._entries import choice, known_keywords
from deltavi._former_names import ARGUMENTS, VALUES
from deltavi.errors import DeltaviError, UnknownArgumentError
from deltavi.model import MIXVI, SCGEN
from deltavi.perturbation import estimate_shift
from deltavi.tl import Method

FORMER = [(old, new) for old, names in ARGUMENTS.items() for new in names]


@pytest.mark.parametrize(("old", "new"), FORMER)
def test_a_former_argument_is_refused_with_the_new_name(old: str, new: str) -> None:
    with pytest.raises(UnknownArgumentError, match=f"has no argument {old!r}. Did you mean {new!r}"):
        known_keywords([old], ["a", new], among="f")
    # where no argument took its place the nearest is offered, or none
    with pytest.raises(UnknownArgumentError, match="Known: 'something'"):
        known_keywords([old], ["something"], among="f")


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, names in VALUES.items() for new in names])
def test_a_former_value_is_refused_with_the_new_one(old: str, new: str) -> None:
    with pytest.raises(DeltaviError, match=f"Did you mean {new!r}"):
        choice("output", old, ["something", new])


@pytest.mark.parametrize("model", [SCGEN, MIXVI])
def test_a_prediction_in_former_words_is_told_today_s(model: type) -> None:
    with pytest.raises(UnknownArgumentError, match="Did you mean 'empirical_weight'"):
        Method(model, predict={"": {"consensus": 0.5}})
    with pytest.raises(DeltaviError, match="Did you mean 'mean'"):
        Method(model, predict={"": {"output": "decoded"}})


def test_functions_of_arrays_tell_as_well() -> None:
    with pytest.raises(UnknownArgumentError, match="Did you mean 'bandwidth'"):
        estimate_shift([[0.0]], is_control=[True], temperature=0.2)
