"""Distributions of conformal p-values: histograms, line, order and shares are those of the cells."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.pl import open_set
from deltavi.pl._figure import BLUE, VERMILION


def rows(ax) -> list[str]:
    assert ax.yaxis_inverted()
    return [label.get_text() for label in ax.get_yticklabels()]


def shares(ax) -> dict[str, str]:
    """What is written beside each row."""
    at = {text.xy[1]: text.get_text() for text in ax.texts if "%" in text.get_text()}
    return {name: at[i] for i, name in enumerate(rows(ax))}


def histograms(ax) -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    """Heights in units of the fullest bin, edges and colour of each row."""
    found = {}
    for name, patch in zip(rows(ax), [p for p in ax.patches if isinstance(p, StepPatch)], strict=True):
        tops, edges, floor = patch.get_data()
        heights = floor - tops
        found[name] = (heights / heights.max(), edges, to_hex(patch.get_facecolor()).upper())
    return found


def threshold(ax) -> float:
    (line,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    return line.get_xdata()[0]


@pytest.fixture
def p_values() -> np.ndarray:
    """Cells 0 to 9 are known, one of them rejected; cells 10 to 13 are new, three of them rejected."""
    return np.array([0.05, *np.linspace(0.12, 0.92, 9), 0.01, 0.02, 0.03, 0.4])


IS_NEW = np.arange(14) >= 10
GROUPS = np.array(list("aaaaabbbbb") + ["c"] * 3 + ["d"])


class TestRows:
    def test_known_and_new(self, p_values):
        ax = open_set(p_values, is_new=IS_NEW, show=False)
        assert shares(ax) == {"known cells": "10.0 % of 10", "new cells": "75.0 % of 4"}
        assert [colour for *_, colour in histograms(ax).values()] == [BLUE, VERMILION]

    def test_all_alike(self, p_values):
        assert shares(open_set(p_values, show=False)) == {"all cells": "28.6 % of 14"}

    def test_groups_by_share_rejected_known_first(self, p_values):
        ax = open_set(p_values, is_new=IS_NEW, groups=GROUPS, show=False)
        assert rows(ax) == ["b", "a", "d (new)", "c (new)"]
        assert list(shares(ax).values()) == ["0.0 % of 5", "20.0 % of 5", "0.0 % of 1", "100.0 % of 3"]
        assert [colour for *_, colour in histograms(ax).values()] == [BLUE, BLUE, VERMILION, VERMILION]

    def test_group_of_known_and_new_cells_is_drawn_twice(self, p_values):
        ax = open_set(p_values, is_new=IS_NEW, groups=["donor"] * 14, show=False)
        assert shares(ax) == {"donor": "10.0 % of 10", "donor (new)": "75.0 % of 4"}

    def test_histograms(self, labelled):
        ax = open_set(labelled["p_values"], is_new=labelled["is_new"], groups=labelled["truth"], show=False)
        for name, (heights, edges, _) in histograms(ax).items():
            members = labelled["truth"] == name.removesuffix(" (new)")
            counts = np.histogram(labelled["p_values"][members], edges)[0]
            np.testing.assert_allclose(heights, counts / counts.max(), atol=1e-12)
            assert (edges[0], edges[-1]) == (0, 1)
            assert np.isclose(edges, 0.05).any()

    def test_rows_do_not_overlap(self, labelled):
        ax = open_set(labelled["p_values"], groups=labelled["truth"], show=False)
        patches = [p for p in ax.patches if isinstance(p, StepPatch)]
        for i, patch in enumerate(patches):
            tops, _, floor = patch.get_data()
            assert i - 0.5 < tops.min() < floor < i + 0.5

    @settings(max_examples=25, deadline=None)
    @given(
        cells=st.lists(
            st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=30
        ),
        reject=st.floats(0.01, 0.99),
    )  # fmt: skip
    def test_any_cells(self, cells, reject):
        values, is_new, groups = (np.array(column) for column in zip(*cells, strict=True))
        written = shares(open_set(values, is_new=is_new, groups=groups, reject=reject, show=False))
        for new in (False, True):
            for name in set(groups[is_new == new]):
                members = values[(is_new == new) & (groups == name)]
                expected = f"{100 * np.mean(members <= reject):.1f} % of {len(members)}"
                assert written[f"{name} (new)" if new else name] == expected
        plt.close("all")


class TestThreshold:
    @pytest.mark.parametrize("reject", [0.01, 0.05, 0.2])
    def test_line_stands_where_it_is_told(self, p_values, reject):
        ax = open_set(p_values, is_new=IS_NEW, reject=reject, show=False)
        assert threshold(ax) == reject
        assert f"reject p ≤ {reject:g}" in [text.get_text() for text in ax.texts]

    def test_strangeness_is_rejected_above_the_quantile_of_known_cells(self):
        values = np.concatenate([np.arange(1.0, 101), [95.0, 95.5, 200, 300]])
        is_new = np.arange(104) >= 100
        ax = open_set(values, is_new=is_new, kind="novelty_score", show=False)
        assert threshold(ax) == 95
        assert shares(ax) == {"known cells": "5.0 % of 100", "new cells": "75.0 % of 4"}
        assert "reject > 95" in [text.get_text() for text in ax.texts]
        assert ax.get_xlim() == (1, 300)
        assert ax.get_xlabel() == "novelty score"

    @settings(max_examples=40, deadline=None)
    @given(values=st.lists(st.floats(-50, 50), min_size=1, max_size=40), reject=st.floats(0.01, 0.99))
    def test_no_more_known_cells_are_rejected_than_may_be(self, values, reject):
        is_new = np.zeros(len(values), dtype=bool)
        ax = open_set(values, is_new=is_new, kind="novelty_score", reject=reject, show=False)
        assert float(shares(ax)["known cells"].split(" ")[0]) <= 100 * reject + 0.05
        plt.close("all")

    def test_text_stays_within_the_axes(self, p_values):
        ax = open_set(p_values, reject=0.9, show=False)
        ax.figure.draw_without_rendering()
        (text,) = [text for text in ax.texts if text.get_text().startswith("reject p")]
        assert text.get_window_extent().x1 <= ax.get_window_extent().x1


class TestErrors:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([0.1, 1.5, -1], r"2 of 3 scores are outside \[0, 1\] \(for example those of cells 1, 2\)"),
            ([0.1, 1.5, np.nan], r"1 of 3 scores are missing or infinite \(for example those of cells 2\)"),
            ([-0.1], 'Pass kind="novelty_score"'),
            ([], r"one number per cell, but have shape \(0,\)"),
            ([[0.1]], r"shape \(1, 1\)"),
        ],
    )
    def test_p_values(self, values, message):
        with pytest.raises(DeltaviError, match=message):
            open_set(values)

    def test_strangeness(self):
        with pytest.raises(DeltaviError, match="1 of 2 scores are missing or infinite"):
            open_set([1.0, np.inf], is_new=[False, True], kind="novelty_score")
        for is_new in (None, [True, True]):
            with pytest.raises(DeltaviError, match="pass is_new, false for at least one cell"):
                open_set([1.0, 2.0], is_new=is_new, kind="novelty_score")

    @pytest.mark.parametrize("reject", [0, 1, -0.1, 5])
    def test_reject(self, p_values, reject):
        with pytest.raises(DeltaviError, match="reject must lie between 0 and 1"):
            open_set(p_values, reject=reject)

    def test_kind(self, p_values):
        with pytest.raises(UnknownCategoryError, match="Did you mean 'p_value'"):
            open_set(p_values, kind="p-value")

    def test_other_entries(self, p_values):
        with pytest.raises(DeltaviError, match=r"is_new must hold one entry per cell: 14 scores, but shape \(3,\)"):
            open_set(p_values, is_new=[True, False, True])
        with pytest.raises(DeltaviError, match="groups must hold one entry per cell"):
            open_set(p_values, groups=["a"])
        with pytest.raises(DeltaviError, match=r"groups is missing for 1 of 14 cells \(for example 2\)"):
            open_set(p_values, groups=pd.Series(["a", "b", None] + ["a"] * 11))
        with pytest.raises(DeltaviError, match="is_new must hold true or false only, not 'no'"):
            open_set(p_values, is_new=[True] * 13 + ["no"])
