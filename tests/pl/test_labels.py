"""Names beside points: none overlaps another, none leaves the axes, the first come first."""

from __future__ import annotations

import logging

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.text import Text

from deltavi.pl._labels import _crosses_leader, _n_passed, _overlap, place_labels


def axes_between(low: float = 0.0, high: float = 1.0):
    _, ax = plt.subplots(figsize=(4, 4))
    ax.set(xlim=(low, high), ylim=(low, high))
    return ax


def text_boxes(texts) -> np.ndarray:
    """Extents of the words alone, without the leaders, in pixels."""
    for figure in {text.figure for text in texts}:
        figure.draw_without_rendering()
    # an annotation's own extent would include its leader
    return np.array([Text.get_window_extent(text).extents for text in texts]).reshape(-1, 4)


def n_overlapping_pairs(boxes: np.ndarray) -> int:
    return sum(int(_overlap(boxes[i + 1 :], [box]).sum()) for i, box in enumerate(boxes))


class TestPlacement:
    @settings(max_examples=25, deadline=None)
    @given(points=hnp.arrays(float, (8, 2), elements=st.floats(0, 1)))
    def test_names_never_overlap_nor_leave_the_axes(self, points):
        ax = axes_between()
        boxes = text_boxes(place_labels(ax, points, [f"GENE{i}" for i in range(8)]))
        frame = ax.get_window_extent().extents
        assert n_overlapping_pairs(boxes) == 0
        assert (boxes[:, :2] >= frame[:2] - 1).all()
        assert (boxes[:, 2:] <= frame[2:] + 1).all()
        plt.close("all")

    def test_a_free_point_gets_its_name_at_the_nearest_place(self):
        ax = axes_between()
        (text,) = place_labels(ax, [[0.5, 0.5]], ["ISG15"])
        (box,) = text_boxes([text])
        target = ax.transData.transform([0.5, 0.5])
        gap = np.maximum(box[:2] - target, target - box[2:]).max()
        assert 0 < gap < 15 * ax.figure.dpi / 72
        assert text.get_text() == "ISG15"

    def test_every_name_is_written_where_there_is_room(self):
        points = np.array([[0.2, 0.2], [0.2, 0.8], [0.8, 0.2], [0.8, 0.8], [0.5, 0.5]])
        names = ["A1", "B2", "C3", "D4", "E5"]
        assert [text.get_text() for text in place_labels(axes_between(), points, names)] == names

    def test_one_point_named_many_times_has_room_for_some(self, caplog):
        names = [f"LONGNAME{i}" for i in range(60)]
        with caplog.at_level(logging.INFO, logger="deltavi"):
            texts = place_labels(axes_between(), np.full((60, 2), 0.5), names)
        assert 3 < len(texts) < 60
        assert n_overlapping_pairs(text_boxes(texts)) == 0
        assert texts[0].get_text() == "LONGNAME0"
        assert "There is no room to name" in caplog.text

    def test_texts_to_avoid_are_avoided(self):
        ax = axes_between()
        taken = [ax.text(0.45, y, "taken", ha="left", va="center") for y in (0.45, 0.5, 0.55)]
        boxes = text_boxes(place_labels(ax, [[0.5, 0.5]], ["GENE"], avoid=taken))
        taken_boxes = [text.get_window_extent().extents for text in taken]
        assert not _overlap(boxes, taken_boxes).any()

    def test_markers_are_rather_not_covered(self):
        rng = np.random.default_rng(0)
        ax = axes_between()
        markers = np.column_stack([rng.uniform(0.5, 1.0, 4000), rng.uniform(0, 1, 4000)])
        (text,) = place_labels(ax, [[0.5, 0.5]], ["GENE"], markers=markers)
        (box,) = text_boxes([text])
        assert box[2] < ax.transData.transform([0.5, 0.5])[0]

    def test_nothing_to_name(self):
        assert place_labels(axes_between(), np.empty((0, 2)), []) == []

    def test_a_point_outside_the_axes_does_no_harm(self):
        place_labels(axes_between(), [[5.0, 5.0], [0.5, 0.5]], ["far", "near"])

    def test_position_holds_when_saved_at_another_resolution(self, tmp_path):
        ax = axes_between()
        texts = place_labels(ax, np.tile([[0.5, 0.5]], (5, 1)) + np.arange(5)[:, None] * 0.02, list("ABCDE"))
        ax.figure.set_dpi(300)
        assert n_overlapping_pairs(text_boxes(texts)) == 0


class TestGeometry:
    @pytest.mark.parametrize(
        ("centre", "crosses"), [((10.0, 10.0), True), ((10.0, -10.0), False), ((3.0, 3.0), False), ((-9.0, 9.0), False)]
    )
    def test_lines_that_cross(self, centre, crosses):
        leader = np.array([[0.0, 10.0], [5.0, 5.0], [10.0, 0.0]])
        assert _crosses_leader(np.zeros(2), np.array([centre]), leader).tolist() == [crosses]

    def test_points_on_the_way(self):
        others = np.array([[5.0, 0.5], [5.0, 4.0], [15.0, 0.0], [-5.0, 0.0]])
        centres = np.array([[10.0, 0.0], [0.0, 10.0]])
        assert _n_passed(np.zeros(2), centres, others, radius=1.0).tolist() == [1, 0]

    def test_boxes_that_touch_do_not_overlap(self):
        boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 2.0, 2.0]])
        assert _overlap(boxes, [np.array([1.0, 0.0, 2.0, 1.0])]).tolist() == [False, True]
