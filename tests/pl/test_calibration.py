"""Reliability diagrams: points, numbers of cells and texts are those of the records drawn."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from deltavi import metrics
from deltavi.errors import DeltaviError
from deltavi.metrics import Calibration
from deltavi.pl import calibration


@pytest.fixture
def one(labelled) -> Calibration:
    return metrics.calibration(labelled["probabilities"], labelled["truth"])


@pytest.fixture
def another(labelled) -> Calibration:
    sharpened = labelled["probabilities"] ** 4
    return metrics.calibration(sharpened.div(sharpened.sum(axis=1), axis=0), labelled["truth"], n_bins=8)


def curves(ax) -> list[np.ndarray]:
    """Confidence and accuracy of every curve, ``(n_bins, 2)`` each."""
    return [line.get_xydata() for line in ax.lines if line.get_marker() not in ("None", "")]


def steps(ax) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of cells and edges of every histogram of the inset."""
    (counts,) = ax.child_axes
    return [patch.get_data()[:2] for patch in counts.patches]


class TestContent:
    def test_points_are_the_bins_that_hold_cells(self, one):
        (curve,) = curves(calibration(one, show=False))
        np.testing.assert_array_equal(curve, one.table[["confidence", "accuracy"]].dropna())
        assert len(curve) < len(one.table)

    def test_numbers_of_cells_stand_under_them(self, one):
        ((n_cells, edges),) = steps(calibration(one, show=False))
        np.testing.assert_array_equal(np.nan_to_num(n_cells), one.table["n_cells"])
        np.testing.assert_array_equal(edges, [*one.table["lower"], 1])

    def test_inset_lies_under_the_diagram_on_the_same_scale(self, one):
        ax = calibration(one, show=False)
        ax.figure.draw_without_rendering()
        (counts,) = ax.child_axes
        assert counts.get_xlim() == ax.get_xlim()
        inset, zero = counts.get_window_extent(), ax.transData.transform((0, 0))
        assert inset.y1 < zero[1]
        assert inset.x0 == pytest.approx(zero[0])
        assert inset.x1 == pytest.approx(ax.transData.transform((1, 0))[0])

    def test_every_bin_is_seen_on_the_scale_of_counts(self, one, another):
        (counts,) = calibration({"one": one, "another": another}, show=False).child_axes
        low, high = counts.get_ylim()
        assert counts.get_yscale() == "log"
        assert 0 < low < 1
        assert high > max(one.table["n_cells"].max(), another.table["n_cells"].max())

    def test_diagonal(self, one):
        ax = calibration(one, show=False)
        (dashed,) = [line for line in ax.lines if line.get_linestyle() == "--"]
        np.testing.assert_array_equal(dashed.get_xydata(), [[0, 0], [1, 1]])

    def test_single_record_is_summed_up_above(self, one):
        ax = calibration(one, show=False)
        assert ax.get_title() == (
            f"ECE {one.ece:.3f} (confidence {one.mean_confidence:.3f}, accuracy {one.accuracy:.3f})"
        )
        assert ax.get_legend() is None

    @settings(max_examples=15, deadline=None)
    @given(codes=st.lists(st.integers(0, 2), min_size=1, max_size=5), n_bins=st.integers(1, 20))
    def test_any_record_can_be_drawn(self, codes, n_bins):
        record = metrics.calibration(np.eye(3)[[0] * len(codes)], codes, n_bins=n_bins)
        ax = calibration(record, show=False)
        ax.figure.draw_without_rendering()
        assert len(curves(ax)[0]) == 1
        plt.close("all")


class TestSeveral:
    def test_each_has_its_curve_and_its_line_in_the_legend(self, one, another):
        ax = calibration({"model": one, "sharpened model": another}, show=False)
        for curve, record in zip(curves(ax), (one, another), strict=True):
            np.testing.assert_array_equal(curve, record.table[["confidence", "accuracy"]].dropna())
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [
            f"model\nECE {one.ece:.3f}",
            f"sharpened model\nECE {another.ece:.3f}",
        ]
        assert ax.get_title() == ""

    def test_colours_and_markers_tell_them_apart(self, one):
        ax = calibration({f"model {i}": one for i in range(12)}, show=False)
        lines = [line for line in ax.lines if line.get_marker() not in ("None", "")]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == 12
        (counts,) = ax.child_axes
        assert [to_hex(patch.get_edgecolor()).upper() for patch in counts.patches] == [
            line.get_color().upper() for line in lines
        ]

    def test_long_names_stay_within_the_figure(self, one):
        names = [f"logistic regression on {i} principal components, calibrated" for i in range(6)]
        figure = calibration(dict.fromkeys(names, one), show=False).figure
        figure.draw_without_rendering()
        assert figure.get_tightbbox().width <= figure.get_figwidth()
        assert figure.get_tightbbox().height <= figure.get_figheight()


class TestErrors:
    @pytest.mark.parametrize("nothing", [{}, None, 0.5, []])
    def test_nothing_to_draw(self, nothing):
        with pytest.raises(DeltaviError, match="a Calibration, or at least one of them by name"):
            calibration(nothing)

    def test_something_else(self, one):
        with pytest.raises(DeltaviError, match="'model' is a float, no Calibration"):
            calibration({"good": one, "model": 0.05})
