"""Categories of any kind have one text, whatever their column is made of."""

from __future__ import annotations

import datetime
import enum
import uuid
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi._text import as_text, folded_text, meant, names_of, texts_of
from deltavi.errors import InputDataError, UnknownCategoryError
from deltavi.registry.columns import category_names, codes_of, column, require_known, used_categories


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Sample:
    """An object of a user."""


UUID = uuid.UUID(int=7)
TEXTS = [
    (0, "0"),
    (0.0, "0"),
    (-0.0, "0"),
    (10.0, "10"),
    (0.1, "0.1"),
    (np.float32(0.1), "0.1"),
    (np.int64(3), "3"),
    (True, "True"),
    (np.bool_(False), "False"),
    ("a", "a"),
    (np.str_("a"), "a"),
    (b"a", "a"),
    (np.bytes_(b"a"), "a"),
    (b"\xff", "\\xff"),
    (Colour.RED, "red"),
    (Level.LOW, "1"),
    (Decimal("1.50"), "1.5"),
    (Decimal("2.00"), "2"),
    (Fraction(1, 3), "1/3"),
    (UUID, str(UUID)),
    (PurePosixPath("a/b"), "a/b"),
    (datetime.date(2023, 1, 5), "2023-01-05"),
    (datetime.datetime(2023, 1, 5), "2023-01-05"),
    (datetime.datetime(2023, 1, 5, 12, 30), "2023-01-05 12:30:00"),
    (pd.Timestamp("2023-01-05", tz="UTC"), "2023-01-05 00:00:00+00:00"),
    (np.datetime64("2023-01-05", "ns"), "2023-01-05"),
    (datetime.timedelta(hours=1), "0 days 01:00:00"),
    (np.timedelta64(1, "h"), "0 days 01:00:00"),
    (pd.Period("2023-01", freq="M"), "2023-01"),
    (datetime.time(3, 4), "03:04:00"),
]


@pytest.mark.parametrize(("value", "text"), TEXTS, ids=[f"{type(v).__name__}-{t}" for v, t in TEXTS])
def test_text_of_a_value(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("written", ["0", "0.0", "0.", "-0.0", "+0.0", "0.000"])
def test_zero_is_zero_in_any_spelling(written: str) -> None:
    assert folded_text(written) == folded_text(0) == folded_text(0.0) == "0"


@pytest.mark.parametrize("written", ["1.5", "1e3", "v1.0", "1.0.0", "0.10", "1.10"])
def test_what_is_no_whole_number_is_left_alone(written: str) -> None:
    assert folded_text(written) == written


def test_midnight_is_the_day() -> None:
    days = [
        "2023-01-05",
        "2023-01-05 00:00:00",
        "2023-01-05T00:00",
        pd.Timestamp("2023-01-05"),
        np.datetime64("2023-01-05"),
    ]
    assert {folded_text(day) for day in days} == {"2023-01-05"}
    assert folded_text("2023-01-05 00:00:01") == "2023-01-05 00:00:01"


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False, width=32), st.text(), st.booleans()))
def test_text_of_a_text_is_itself(value: Any) -> None:
    assert as_text(as_text(value)) == as_text(value)
    assert folded_text(folded_text(value)) == folded_text(value)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_precision_does_not_change_the_text(value: float) -> None:
    assert as_text(np.float32(value)) == as_text(float(np.float32(value)))
    assert float(np.float32(as_text(value))) == value


KINDS: dict[str, st.SearchStrategy[Any]] = {
    "whole": st.integers(-9, 9),
    "float": st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.25]),
    "truth": st.booleans(),
    "text": st.text("ab0.", min_size=1, max_size=4),
    "bytes": st.binary(min_size=1, max_size=2),
    "date": st.dates(datetime.date(2020, 1, 1), datetime.date(2020, 1, 9)),
    "moment": st.datetimes(datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1)),
    "duration": st.timedeltas(datetime.timedelta(0), datetime.timedelta(9)),
    "decimal": st.decimals(-5, 5, places=2),
    "fraction": st.fractions(-2, 2, max_denominator=5),
    "uuid": st.uuids(),
    "enum": st.sampled_from([Colour.RED, Level.LOW]),
}


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_codes_find_every_category_again_in_its_text(kind: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(KINDS[kind], min_size=1, max_size=8))
    cells = pd.Series(pd.array(values, dtype=object), index=[f"c{i}" for i in range(len(values))])
    categories = used_categories(cells, "run")
    assert {type(category) for category in categories} <= {str, bool, int, float}
    codes = codes_of(cells, categories)
    assert (codes >= 0).all()
    assert len(set(codes)) == len(categories)
    texts = pd.Series([as_text(value) for value in values], index=cells.index)
    assert np.array_equal(codes_of(texts, categories), codes)
    assert list(category_names(cells, categories)) == [as_text(categories[code]) for code in codes]


DAYS = pd.to_datetime(["2023-01-05", "2023-02-07", "2023-01-05"])
DATES = {
    "datetime64": DAYS,
    "date objects": [day.date() for day in DAYS],
    "text": ["2023-01-05", "2023-02-07", "2023-01-05"],
    "text with midnight": [str(day) for day in DAYS],
    "categories": pd.Categorical(DAYS),
    "arrow": pd.array([day.date() for day in DAYS], dtype="date32[pyarrow]"),
}


@pytest.mark.parametrize("trained", DATES)
@pytest.mark.parametrize("asked", DATES)
def test_dates_of_training_and_query_match_in_any_storage(trained: str, asked: str) -> None:
    categories = used_categories(pd.Series(DATES[trained]), "run")
    assert list(codes_of(pd.Series(DATES[asked]), categories)) == [0, 1, 0]


DOSES = {
    "whole": [0, 10, 0],
    "float": [0.0, 10.0, 0.0],
    "text": ["0", "10", "0"],
    "text of floats": ["0.0", "10.0", "0.0"],
    "half": np.array([0, 10, 0], dtype=np.float16),
    "sparse": pd.arrays.SparseArray([0, 10, 0]),
    "nullable": pd.array([0, 10, 0], dtype="Int64"),
    "arrow": pd.array([0, 10, 0], dtype="double[pyarrow]"),
    "mixed": [0, "10.0", "0"],
    "decimals": [Decimal("0.0"), Decimal(10), Decimal(0)],
}


@pytest.mark.parametrize("trained", DOSES)
@pytest.mark.parametrize("asked", DOSES)
def test_doses_match_in_any_storage(trained: str, asked: str) -> None:
    obs = pd.DataFrame({"trained": DOSES[trained], "asked": DOSES[asked]})
    cells = AnnData(np.ones((3, 1)), obs=obs.set_axis(["a", "b", "c"]))
    categories = used_categories(column(cells, "trained"), "trained")
    assert len(categories) == 2
    codes = codes_of(column(cells, "asked"), categories)
    assert codes[0] == codes[2] != codes[1]
    assert (codes >= 0).all()


def test_single_precision_is_the_number_that_was_written() -> None:
    for dtype in (np.float16, np.float32):
        assert (
            names_of(
                column(AnnData(np.ones((1, 1)), obs=pd.DataFrame({"dose": np.array([0.1], dtype)}, ["a"])), "dose")
            )[0]
            == "0.1"
        )


def test_spellings_that_stand_side_by_side_are_different() -> None:
    values = pd.Series(["0", "0.0", "1"])
    assert list(codes_of(values, used_categories(values, "dose"))) == [0, 1, 2]
    assert meant("0", ["0", "0.0"]) == "0"
    assert meant("0.", ["0", "0.0"]) is None
    # a third spelling may be either of two
    assert list(codes_of(pd.Series(["0.00", "0", "1.0"]), np.array(["0", "0.0", "1"], dtype=object))) == [-1, 0, -1]
    assert list(codes_of(pd.Series(["0.00", "0", "1.0"]), np.array(["0", "1"], dtype=object))) == [0, 0, 1]


def test_mixed_columns_know_numbers_by_value() -> None:
    positions, texts = texts_of(pd.Series([0, "0.0", "a", None], dtype=object))
    assert list(positions) == [0, 0, 1, -1]
    assert texts == ["0", "a"]


def test_zero_and_nothing_are_names_like_others() -> None:
    assert require_known("condition", 0, [0.0, 10.0]) == "0"
    assert require_known("condition", False, [False, True]) == "False"
    assert require_known("condition", "", ["", "a"]) == ""
    with pytest.raises(UnknownCategoryError, match="condition 3 is not in the data"):
        require_known("condition", 3, [0.0, 10.0])


UNREADABLE = {
    "objects": [Sample(), Sample()],
    "tuples": [(1, 2), (3, 4)],
    "lists": [[1], [2]],
    "complex": [1j, 2j],
    "categories of tuples": pd.Categorical([(1, 2), (3, 4)]),
    "categories of objects": pd.Categorical([Sample(), Sample()]),
    "dictionaries": [{}, {}],
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_values_without_a_text_of_their_own_are_refused(kind: str) -> None:
    obs = pd.DataFrame({"run": pd.Series(UNREADABLE[kind], index=["a", "b"])})
    with pytest.raises(InputDataError, match=r"obs\['run'\] holds values of type .*text or a number"):
        column(AnnData(np.ones((2, 1)), obs=obs), "run")


def test_ordered_and_interval_categories() -> None:
    ranges = pd.Series(pd.cut(np.arange(4), 2))
    categories = used_categories(ranges, "depth")
    assert list(categories) == sorted(str(one) for one in ranges.cat.categories)
    assert np.array_equal(codes_of(ranges, categories), codes_of(ranges.astype(str), categories))
    ordered = pd.Series(pd.Categorical(["b", "a"], categories=["b", "a"], ordered=True))
    assert set(used_categories(ordered, "stage")) == {"a", "b"}
