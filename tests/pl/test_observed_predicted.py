"""Observed against predicted: every point in its place, refused ones grey and out of the score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from deltavi.errors import DeltaviError
from deltavi.pl import observed_predicted

BLUE, GREY = "#0072b2", "#8c8c8c"
RNG = np.random.default_rng(0)
OBSERVED = RNG.normal(0, 1, 40)
PREDICTED = OBSERVED + RNG.normal(0, 0.4, 40)
REFUSED = np.arange(40) < 7


def offsets(ax: Axes, color: str) -> np.ndarray:
    found = [c for c in ax.collections if len(c.get_offsets()) > 1 and to_hex(c.get_facecolor()[0]) == color]
    return np.concatenate([np.asarray(c.get_offsets()) for c in found] or [np.empty((0, 2))])


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_points_and_colours() -> None:
    ax = observed_predicted(OBSERVED, PREDICTED, refused=REFUSED, show=False)
    every = np.column_stack([OBSERVED, PREDICTED])
    np.testing.assert_allclose(offsets(ax, BLUE), every[~REFUSED])
    np.testing.assert_allclose(offsets(ax, GREY), every[REFUSED])


def test_refused_points_are_counted_and_not_scored() -> None:
    wild = np.where(REFUSED, -10.0, PREDICTED)
    ax = observed_predicted(OBSERVED, wild, refused=REFUSED, show=False)
    r = np.corrcoef(OBSERVED[~REFUSED], PREDICTED[~REFUSED])[0, 1]
    assert texts(ax) == [f"r = {r:.3f}, 33 predicted", "7 refused"]


def test_intervals() -> None:
    ax = observed_predicted(
        OBSERVED, PREDICTED, refused=REFUSED, lower=PREDICTED - 0.5, upper=PREDICTED + 0.5, show=False
    )
    inside = (np.abs(OBSERVED - PREDICTED) <= 0.5)[~REFUSED]
    assert f"{100 * inside.mean():.0f} % within the interval" in texts(ax)
    assert sum(len(c.get_segments()) for c in ax.collections if hasattr(c, "get_segments")) == 40


def test_too_many_intervals_are_not_drawn_but_counted() -> None:
    x = np.linspace(0, 1, 1000)
    ax = observed_predicted(x, x + 0.1, lower=x - 1, upper=x + 1, show=False)
    assert "100 % within the interval" in texts(ax)
    assert not [c for c in ax.collections if hasattr(c, "get_segments") and len(c.get_segments())]
    assert ax.get_xlim()[1] < 1.3


def test_missing_values_are_left_out() -> None:
    observed = np.where(np.arange(40) == 20, np.nan, OBSERVED)
    ax = observed_predicted(observed, PREDICTED, refused=REFUSED, show=False)
    assert len(offsets(ax, BLUE)) == 32


def test_farthest_points_are_named_and_refused_ones_not() -> None:
    names = [f"p{i}" for i in range(40)]
    wild = np.where(REFUSED, 3.0, PREDICTED)
    ax = observed_predicted(OBSERVED, wild, refused=REFUSED, names=names, n_label=3, show=False)
    far = np.argsort(-np.abs(np.where(REFUSED, 0, PREDICTED - OBSERVED)))[:3]
    assert set(texts(ax)[2:]) == {names[i] for i in far}


def test_axes_agree_and_say_what_they_show() -> None:
    ax = observed_predicted(OBSERVED, PREDICTED, name="size", show=False)
    assert ax.get_xlim() == ax.get_ylim()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("observed size", "predicted size")


@pytest.mark.parametrize("n", [1, 2])
def test_few_points_have_no_correlation(n: int) -> None:
    ax = observed_predicted(np.zeros(n), np.zeros(n), show=False)
    ax.figure.draw_without_rendering()
    assert texts(ax) == [f"{n} predicted"]


def test_all_refused() -> None:
    assert texts(observed_predicted(OBSERVED, PREDICTED, refused=np.ones(40), show=False)) == [
        "0 predicted",
        "40 refused",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"predicted": [1.0]}, "predicted must hold one number per point: 3 points, but has shape"),
        ({"observed": []}, "observed must hold one number per point"),
        ({"observed": ["a", "b", "c"]}, "observed must hold one number per point"),
        ({"observed": [np.nan] * 3}, "No point has both"),
        ({"refused": [0, 1]}, "refused must hold one number per point: 3 points"),
        ({"refused": [0, 1, 2]}, "refused must hold true or false only"),
        ({"lower": [0, 0, 0]}, "pass both, or none"),
        ({"lower": [0, 0, 9], "upper": [1, 1, 1]}, "lower is above upper for 1 of 3 points"),
        ({"names": ["a"]}, "names must name each of 3 points, but holds 1"),
        ({"n_label": -1}, "n_label must be a whole number of at least 0"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"observed": [1.0, 2.0, 3.0], "predicted": [1.0, 2.0, 3.0]}
    with pytest.raises(DeltaviError, match=words):
        observed_predicted(**(good | change))


def test_series_of_other_points_are_refused() -> None:
    one, other = pd.Series([1.0, 2.0], ["a", "b"]), pd.Series([1.0, 2.0], ["b", "a"])
    with pytest.raises(
        DeltaviError, match=r"observed and predicted name other points.*predicted.loc\[observed.index\]"
    ):
        observed_predicted(one, other)
    assert observed_predicted(one, other.loc[one.index], show=False) is not None
