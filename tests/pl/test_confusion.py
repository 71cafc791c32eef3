"""Confusion of labels: colours, numbers, order and margins are those of the cells."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from sklearn.metrics import confusion_matrix

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.pl import confusion


def names(ax) -> tuple[list[str], list[str]]:
    """True and predicted labels, as drawn."""
    return [t.get_text() for t in ax.get_yticklabels()], [t.get_text() for t in ax.get_xticklabels()]


def drawn(ax) -> pd.DataFrame:
    """The values behind the colours."""
    (image,) = ax.images
    rows, columns = names(ax)
    return pd.DataFrame(np.asarray(image.get_array()), index=rows, columns=columns)


def written(ax) -> dict[tuple[str, str], str]:
    """Numbers within the map, by true and predicted label."""
    rows, columns = names(ax)
    inside = [text for text in ax.texts if text.get_transform() == ax.transData]
    return {(rows[int(y)], columns[int(x)]): t.get_text() for t in inside for x, y in [t.get_position()]}


def margins(ax) -> tuple[dict[str, str], dict[str, str]]:
    """Numbers on the right by true label, and on top by predicted label."""
    rows, columns = names(ax)
    outside = [text for text in ax.texts if text.get_transform() != ax.transData and text.get_text() != "cells"]
    right = {rows[int(t.xy[1])]: t.get_text() for t in outside if t.xycoords == ("axes fraction", "data")}
    return right, {columns[int(t.xy[0])]: t.get_text() for t in outside if t.xycoords == ("data", "axes fraction")}


def contrast(*colors: tuple[float, ...]) -> float:
    """Ratio of luminances as the guidelines for accessible web pages define it, from 1 to 21."""
    linear = np.array(colors)
    linear = np.where(linear <= 0.03928, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    low, high = np.sort(linear @ [0.2126, 0.7152, 0.0722]) + 0.05
    return float(high / low)


@pytest.fixture
def confused() -> tuple[np.ndarray, np.ndarray]:
    """A and C are often taken for each other, B and D too; E is new and mostly unassigned."""
    table = {
        ("A", "A"): 60, ("A", "C"): 40, ("C", "C"): 150, ("C", "A"): 50,
        ("B", "B"): 1199, ("B", "unassigned"): 1, ("D", "D"): 30, ("D", "B"): 20,
        ("E", "unassigned"): 9, ("E", "D"): 1,
    }  # fmt: skip
    pairs = np.array([pair for pair, n in table.items() for _ in range(n)], dtype=object)
    pairs = np.random.default_rng(0).permutation(pairs)
    return pairs[:, 0], pairs[:, 1]


class TestMap:
    def test_colours_are_shares_of_the_true_label(self, confused):
        shares = drawn(confusion(*confused, show=False))
        assert shares.sum(axis=1).to_numpy() == pytest.approx(1)
        assert shares.loc["A", "C"] == pytest.approx(0.4)
        assert shares.loc["C", "A"] == pytest.approx(0.25)
        assert shares.loc["E", "unassigned"] == pytest.approx(0.9)

    def test_colours_are_counts(self, confused):
        ax = confusion(*confused, normalize=None, show=False)
        rows, columns = names(ax)
        labels = ["A", "B", "C", "D", "E", "unassigned"]
        expected = pd.DataFrame(confusion_matrix(*confused, labels=labels), index=labels, columns=labels)
        np.testing.assert_array_equal(drawn(ax), expected.loc[rows, columns])
        assert ax.images[0].get_clim() == (0, 1199)

    def test_percent_are_written_unless_next_to_none(self, confused):
        texts = written(confusion(*confused, show=False))
        assert texts["A", "A"] == "60"
        assert texts["B", "B"] == "100"
        assert texts["E", "unassigned"] == "90"
        assert ("B", "unassigned") not in texts
        assert len(texts) == 9

    def test_counts_are_written(self, confused):
        texts = written(confusion(*confused, normalize=None, show=False))
        assert texts["B", "B"] == "1,199"
        assert texts["B", "unassigned"] == "1"
        assert len(texts) == 10

    def test_numbers_of_cells_stand_in_the_margins(self, confused):
        right, above = margins(confusion(*confused, show=False))
        assert right == {"A": "100", "B": "1,200", "C": "200", "D": "50", "E": "10"}
        assert above == {"A": "110", "B": "1,219", "C": "190", "D": "31", "unassigned": "10"}

    def test_title_says_what_is_drawn(self, confused):
        assert confusion(*confused, show=False).get_title() == "% of true label"
        assert confusion(*confused, normalize=None, show=False).get_title() == "number of cells"

    def test_numbers_can_be_read_on_every_colour(self):
        truth = np.repeat([f"{i:03}" for i in range(0, 101, 4)], 100)
        ax = confusion(
            truth, ["right" if i % 100 < int(label) else "wrong" for i, label in enumerate(truth)], show=False
        )
        (image,) = ax.images
        inside = [text for text in ax.texts if text.get_transform() == ax.transData]
        assert len(inside) == 2 * 26 - 2
        for text in inside:
            x, y = map(int, text.get_position())
            background = image.cmap(image.norm(image.get_array()[y, x]))
            assert contrast(to_rgb(text.get_color()), background[:3]) > 3

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdefu")), min_size=1, max_size=60))
    def test_any_cells(self, pairs):
        truth, predicted = zip(*pairs, strict=True)
        ax = confusion(truth, predicted, normalize=None, unassigned="u", show=False)
        counts = drawn(ax)
        assert counts.to_numpy().sum() == len(pairs)
        for label, found in set(pairs):
            assert counts.loc[label, found] == pairs.count((label, found))
        assert (counts.sum(axis=1) > 0).all()
        assert (counts.sum(axis=0) > 0).all()
        plt.close("all")


class TestOrder:
    def test_labels_taken_for_each_other_are_neighbours(self, confused):
        rows, columns = names(confusion(*confused, show=False))
        assert abs(rows.index("A") - rows.index("C")) == 1
        assert abs(rows.index("B") - rows.index("D")) == 1
        assert rows[:4] == columns[:4]

    def test_new_and_unassigned_come_last(self, confused):
        rows, columns = names(confusion(*confused, show=False))
        assert rows[-1] == "E"
        assert columns[-1] == "unassigned"
        assert "E" not in columns

    def test_order_of_cells_does_not_matter(self, confused):
        order = np.random.default_rng(1).permutation(len(confused[0]))
        one = confusion(*confused, show=False)
        other = confusion(*(labels[order] for labels in confused), show=False)
        pd.testing.assert_frame_equal(drawn(one), drawn(other))

    def test_given(self, confused):
        rows, columns = names(confusion(*confused, labels=["E", "D", "F", "C", "B", "A"], show=False))
        assert rows == ["E", "D", "C", "B", "A"]
        assert columns == ["E", "D", "C", "B", "A", "F", "unassigned"]

    def test_clusters_against_types(self):
        ax = confusion(["B", "B", "T", "T"], ["1", "2", "2", "2"], show=False)
        assert names(ax) == (["B", "T"], ["1", "2"])
        np.testing.assert_array_equal(drawn(ax), [[0.5, 0.5], [0, 1]])

    def test_unassigned_truth_is_the_last_row(self):
        rows, columns = names(confusion(["a", "unknown", "z"], ["z", "a", "unknown"], unassigned="unknown", show=False))
        assert (rows[-1], columns[-1]) == ("unknown", "unknown")

    def test_missing_predictions_are_unassigned(self):
        for missing in (None, np.nan, pd.NA):
            ax = confusion(["a", "b", "b"], pd.Series(["a", missing, "b"], dtype=object), show=False)
            assert names(ax)[1] == ["a", "b", "unassigned"]
            assert drawn(ax).loc["b", "unassigned"] == 0.5

    def test_line_sets_unassigned_apart(self, confused):
        (line,) = confusion(*confused, show=False).lines
        assert list(line.get_xdata()) == [3.5, 3.5]
        assert not confusion(["a", "b"], ["a", "b"], show=False).lines

    @pytest.mark.parametrize("form", [list, np.array, pd.Series, pd.Categorical, pd.Index])
    def test_forms_of_input(self, confused, form):
        pd.testing.assert_frame_equal(
            drawn(confusion(*map(form, confused), show=False)), drawn(confusion(*confused, show=False))
        )


class TestRoom:
    LONG = ("CD8+/CD45RA+ Naive Cytotoxic", "CD4-positive, CD25-positive, alpha-beta regulatory T cell", "B")

    def test_long_names_are_whole_and_within_the_figure(self):
        ax = confusion(self.LONG, self.LONG[::-1], show=False)
        assert set(names(ax)[0]) == set(names(ax)[1]) == set(self.LONG)
        figure = ax.figure
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert box.x0 >= -0.01
        assert box.y0 >= -0.01
        assert box.x1 <= figure.get_figwidth() + 0.01
        assert box.y1 <= figure.get_figheight() + 0.01

    def test_no_text_covers_another(self, confused):
        n_cells = 40
        ax = confusion(*(np.repeat(labels, n_cells) for labels in confused), normalize=None, show=False)
        ax.figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in [*ax.texts, ax.title] if text.get_text()]
        overlaps = [(i, j) for i, one in enumerate(boxes) for j in range(i) if one.overlaps(boxes[j])]
        assert not overlaps

    @pytest.mark.parametrize(("size", "n_written"), [((9, 9), 30), ((1.2, 9), 0), ((9, 1.2), 0)])
    def test_numbers_are_left_out_of_small_axes(self, size, n_written):
        labels = [f"{i}" for i in range(30)]
        _, ax = plt.subplots(figsize=size)
        confusion(labels, labels, ax=ax, show=False)
        assert len(written(ax)) == n_written

    def test_many_labels_take_less_room_each(self):
        few, many = ([f"{i}" for i in range(n)] for n in (15, 45))
        widths = [confusion(labels, labels, show=False).figure.get_figwidth() for labels in (few, many)]
        assert widths[1] < 2.5 * widths[0]


class TestErrors:
    def test_normalize(self):
        with pytest.raises(UnknownCategoryError, match="normalize 'pred' is not in the choices"):
            confusion(["a"], ["a"], normalize="pred")

    def test_lengths(self):
        with pytest.raises(DeltaviError, match=r"shapes \(2,\) and \(1,\)"):
            confusion(["a", "b"], ["a"])
        with pytest.raises(DeltaviError, match=r"one label per cell"):
            confusion([], [])

    def test_missing_truth(self):
        with pytest.raises(DeltaviError, match=r"truth is missing for 1 of 2 cells \(for example 1\)"):
            confusion(["a", None], ["a", "a"])

    def test_labels_that_lack_some(self, confused):
        with pytest.raises(UnknownCategoryError, match="labels lacks 2 labels of the data: 'D', 'E'"):
            confusion(*confused, labels=["A", "B", "C"])

    def test_labels_named_twice(self, confused):
        with pytest.raises(DeltaviError, match=r"labels names .* more than once"):
            confusion(*confused, labels=["A", "B", "C", "D", "E", "A"])
