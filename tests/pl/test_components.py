"""Components of a mixture: bars, segments, order, colours and notes are those of the responsibilities."""

from __future__ import annotations

import re
from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer

from deltavi import pl
from deltavi.errors import DeltaviError
from deltavi.latent import Usage
from deltavi.pl._calibration import COLORS
from deltavi.pl._figure import GREY, PALE

LONG = ("CD4-positive, CD25-positive, alpha-beta regulatory T cell", "CD8+/CD45RA+ naive cytotoxic T lymphocyte", "B")


def frame(shares, names=None) -> pd.DataFrame:
    """Responsibilities of cells c0, c1 and so on."""
    shares = np.asarray(shares, dtype=float)
    names = [f"component {k}" for k in range(shares.shape[1])] if names is None else names
    return pd.DataFrame(shares, index=[f"c{i}" for i in range(len(shares))], columns=names)


def random_frame(n_cells: int, n_components: int, seed: int = 0, names=None) -> pd.DataFrame:
    return frame(np.random.default_rng(seed).dirichlet(np.full(n_components, 0.3), n_cells), names)


def rows(ax) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def columns(ax) -> list[str]:
    return [text.get_text() for text in ax.get_xticklabels()]


def segments(ax) -> pd.DataFrame:
    """Length of every segment, labels by components."""
    bars = [c for c in ax.containers if isinstance(c, BarContainer)]
    widths = [[patch.get_width() for patch in container] for container in bars]
    names = [re.sub(r" \([\d,]+\)$", "", c.get_label()) for c in bars]
    return pd.DataFrame(widths, index=names, columns=rows(ax))


def legend(ax) -> dict[str, tuple[str, str]]:
    """Colour and hatch by entry."""
    box = ax.get_legend()
    fills = [(to_hex(patch.get_facecolor()).upper(), patch.get_hatch() or "") for patch in box.get_patches()]
    return dict(zip([text.get_text() for text in box.get_texts()], fills, strict=True))


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def notes(ax) -> list[str]:
    return [text for text in texts(ax) if text.startswith("+")]


def drawn(ax) -> pd.DataFrame:
    """The values behind the colours of a map."""
    (image,) = ax.images
    return pd.DataFrame(np.asarray(image.get_array()), index=rows(ax), columns=columns(ax))


def overlaps(ax) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other."""
    ax.figure.draw_without_rendering()
    box = ax.get_legend()
    entries = [] if box is None else [*box.get_texts(), box.get_title()]
    found = [*ax.texts, ax.title, ax.xaxis.label, *ax.get_yticklabels(), *entries]
    # tilted names fill less than their boxes; their neighbours in a row of one angle cannot meet
    found += [text for text in ax.get_xticklabels() if not text.get_rotation()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in found if text.get_text()]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]


def assert_within_figure(ax) -> None:
    figure = ax.figure
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0) >= -0.01
    assert box.x1 <= figure.get_figwidth() + 0.01
    assert box.y1 <= figure.get_figheight() + 0.01


@pytest.fixture
def mixture() -> tuple[pd.DataFrame, pd.Series]:
    """B uses two components, T and NK share one, which NK has another beside; two components are empty."""
    shares = {
        "B": (30, [0.6, 0.4, 0, 0, 0, 0]), "T": (50, [0, 0, 1, 0, 0, 0]), "NK": (20, [0, 0, 0.3, 0.7, 0, 0]),
    }  # fmt: skip
    cells = [(label, share) for label, (n, share) in shares.items() for _ in range(n)]
    cells = [cells[i] for i in np.random.default_rng(0).permutation(len(cells))]
    table = frame([share for _, share in cells])
    return table, pd.Series([label for label, _ in cells], index=table.index, name="label")


class TestBars:
    def test_lengths_are_sums_and_the_largest_comes_first(self, mixture):
        table, _ = mixture
        ax = pl.components(table, show=False)
        assert rows(ax) == ["component 2", "component 0", "component 3", "component 1"]
        assert [patch.get_width() for patch in ax.patches] == pytest.approx([56, 18, 14, 12])
        assert ax.yaxis_inverted()
        assert ax.get_legend() is None

    def test_numbers_and_shares_are_written(self, mixture):
        written = texts(pl.components(mixture[0].iloc[:, :4], show=False))
        assert written == ["cells", "56", "18", "14", "12", "share", "56.0 %", "18.0 %", "14.0 %", "12.0 %"]

    def test_small_numbers_have_a_decimal_and_large_ones_commas(self):
        written = texts(pl.components(frame([[0.75, 0.25]] * 10 + [[1, 0]] * 1990), show=False))
        assert written[1:3] == ["1,998", "2.5"]

    def test_segments_are_sums_by_label(self, mixture):
        table, labels = mixture
        ax = pl.components(table, labels, show=False)
        expected = table.groupby(labels).sum().loc[["T", "B", "NK"], rows(ax)]
        pd.testing.assert_frame_equal(segments(ax), expected, check_names=False)
        assert list(legend(ax)) == ["T (50)", "B (30)", "NK (20)"]

    def test_segments_begin_where_others_end(self, mixture):
        ax = pl.components(*mixture, show=False)
        starts = np.array([[patch.get_x() for patch in bars] for bars in ax.containers])
        ends = starts + segments(ax).to_numpy()
        np.testing.assert_allclose(starts[0], 0)
        np.testing.assert_allclose(starts[1:], ends[:-1])

    @pytest.mark.parametrize("seed", range(3))
    def test_labels_do_not_change_lengths(self, seed):
        table = random_frame(200, 7, seed)
        labels = np.random.default_rng(seed).choice(list("abcde"), 200)
        plain, stacked = pl.components(table, show=False), pl.components(table, labels, show=False)
        assert rows(plain) == rows(stacked)
        assert segments(stacked).sum().tolist() == pytest.approx([patch.get_width() for patch in plain.patches])

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
    def test_all_cells_are_drawn_or_noted(self, n_cells, n_components, n_labels, seed):
        table = random_frame(n_cells, n_components, seed)
        labels = np.random.default_rng(seed).choice([None, *"abcdef"[:n_labels]], n_cells)
        ax = pl.components(table, labels, show=False)
        usage = table.sum().sort_values(ascending=False, kind="stable")
        assert segments(ax).sum().to_dict() == pytest.approx(usage[: len(rows(ax))].to_dict())
        n_left = n_components - len(rows(ax))
        assert notes(ax) == ([f"+ {n_left} component{'s' * (n_left > 1)} without cells"] if n_left else [])
        plt.close("all")

    def test_effective_number_is_that_of_the_model(self, mixture):
        for table in (mixture[0], random_frame(100, 12)):
            number = Usage(tuple(table.mean())).effective_number
            title = pl.components(table, show=False).get_title()
            assert title == f"effective number of components: {number:.1f} of {table.shape[1]}"

    def test_title(self, mixture):
        assert pl.components(*mixture, title="PBMC", show=False).get_title().startswith("PBMC\neffective number")

    def test_one_component(self):
        ax = pl.components(frame(np.ones((9, 1))), list("aaabbbccc"), show=False)
        assert segments(ax)["component 0"].tolist() == [3, 3, 3]
        assert ax.get_title() == "effective number of components: 1.0 of 1"
        assert "100.0 %" in texts(ax)
        bar, height = ax.patches[0].get_window_extent(), ax.get_window_extent().height
        assert bar.height < height / 3

    def test_names_are_those_of_labels_where_the_model_has_them(self, mixture):
        table = mixture[0].set_axis(["T", "T", "B", "component 3", "x", 7], axis=1)
        assert rows(pl.components(table, show=False)) == ["B", "T", "component 3", "T"]


class TestLeftOut:
    def test_components_without_cells_are_noted(self, mixture):
        assert notes(pl.components(*mixture, show=False)) == ["+ 2 components without cells"]

    def test_less_than_a_cell_is_none(self):
        ax = pl.components(frame([[0.6, 0.39, 0.01, 0]] * 50), show=False)
        assert rows(ax) == ["component 0", "component 1"]
        assert notes(ax) == ["+ 2 components without cells"]

    def test_a_whole_cell_in_single_precision_is_one(self):
        table = frame([[1, 0], [1, 0], [1e-7, 1 - 1e-7]]).astype("float32")
        assert len(rows(pl.components(table, show=False))) == 2

    def test_small_components_are_noted(self, mixture):
        ax = pl.components(*mixture, min_share=0.15, show=False)
        assert rows(ax) == ["component 2", "component 0"]
        assert notes(ax) == ["+ 2 components below 15 %, 26 cells in all", "+ 2 components without cells"]

    def test_the_largest_is_always_drawn(self, mixture):
        assert rows(pl.components(*mixture, min_share=0.9, show=False)) == ["component 2"]
        assert rows(pl.components(frame([[0.3, 0.7]]), show=False)) == ["component 1"]

    def test_notes_lie_below_the_bars_and_on_the_axes(self, mixture):
        ax = pl.components(*mixture, min_share=0.15, show=False)
        ax.figure.draw_without_rendering()
        lowest = min(patch.get_window_extent().y0 for patch in ax.patches)
        for text in ax.texts:
            if text.get_text().startswith("+"):
                box = text.get_window_extent()
                assert box.y1 < lowest
                assert box.y0 > ax.get_window_extent().y0


class TestLabels:
    def test_missing_ones_are_unlabelled_and_last(self, mixture):
        table, labels = mixture
        for missing in (None, np.nan, pd.NA):
            ax = pl.components(table, labels.astype(object).where(labels != "T", missing), show=False)
            assert list(legend(ax)) == ["B (30)", "NK (20)", "unlabelled (50)"]
            assert legend(ax)["unlabelled (50)"] == (PALE, "")

    def test_all_missing(self, mixture):
        table, _ = mixture
        assert list(legend(pl.components(table, [None] * 100, show=False))) == ["unlabelled (100)"]
        ax = pl.responsibilities(table, [None] * 100, show=False)
        assert drawn(ax).loc["unlabelled"].to_dict() == pytest.approx({"2": 0.56, "0": 0.18, "3": 0.14, "1": 0.12})

    def test_rare_ones_are_drawn_as_one(self):
        labels = np.repeat([f"label {i}" for i in range(30)], np.arange(31, 1, -1))
        table = random_frame(len(labels), 5)
        ax = pl.components(table, labels, show=False)
        parts = segments(ax)
        assert list(parts.index) == [*(f"label {i}" for i in range(14)), "16 other labels"]
        rare = table[np.isin(labels, [f"label {i}" for i in range(14, 30)])].sum()
        assert parts.loc["16 other labels"].to_dict() == pytest.approx(rare.to_dict())
        assert parts.sum().to_dict() == pytest.approx(table.sum().to_dict())
        assert legend(ax)[f"16 other labels ({np.arange(17, 1, -1).sum()})"] == (GREY, "")

    def test_one_rare_label(self):
        ax = pl.components(frame(np.ones((6, 1))), list("aaabbc"), max_labels=2, show=False)
        assert list(legend(ax)) == ["a (3)", "b (2)", "1 other label (1)"]

    def test_fills_can_be_told_apart(self):
        labels = [f"label {i}" for i in range(28)]
        fills = legend(pl.components(random_frame(28, 3), labels, max_labels=28, show=False))
        assert len(fills) == len(set(fills.values())) == 28
        assert [color for color, _ in list(fills.values())[:7]] == list(COLORS)

    def test_legend_stands_beside_the_axes_where_there_is_room(self, mixture):
        for width, is_beside in ((9, True), (2, False)):
            _, ax = plt.subplots(figsize=(width, 4))
            pl.components(*mixture, ax=ax, show=False)
            ax.figure.draw_without_rendering()
            assert (ax.get_legend().get_window_extent().x0 > ax.get_window_extent().x1) == is_beside

    def test_order_is_by_name_where_numbers_are_equal(self):
        names = list(legend(pl.components(frame(np.ones((6, 1))), list("cabbac"), show=False)))
        assert names == ["a (2)", "b (2)", "c (2)"]

    @pytest.mark.parametrize("plot", [pl.components, pl.responsibilities])
    def test_a_series_is_matched_by_name(self, mixture, plot):
        table, labels = mixture
        read = segments if plot is pl.components else drawn
        expected = read(plot(table, labels, show=False))
        for form in (labels.iloc[::-1], labels.to_numpy(), list(labels), labels.astype("category")):
            pd.testing.assert_frame_equal(read(plot(table, form, show=False)), expected)

    def test_names_need_not_be_unique_in_the_same_order(self, mixture):
        table, labels = (values.set_axis(["cell"] * 100, axis=0) for values in mixture)
        assert segments(pl.components(table, labels, show=False)).sum(axis=1).tolist() == pytest.approx([50, 30, 20])

    def test_labels_that_are_numbers(self):
        ax = pl.responsibilities(frame(np.eye(2)), pd.Series([1, 0], index=["c0", "c1"]), show=False)
        assert sorted(rows(ax)) == ["0", "1"]


class TestMap:
    def test_colours_are_means(self, mixture):
        table, labels = mixture
        ax = pl.responsibilities(table, labels, show=False)
        means = table.groupby(labels).mean().rename(columns=lambda name: name.removeprefix("component "))
        pd.testing.assert_frame_equal(drawn(ax), means.loc[rows(ax), columns(ax)], check_names=False)
        assert ax.images[0].get_clim() == (0, 1)

    def test_components_lie_below_the_label_that_uses_them(self, mixture):
        ax = pl.responsibilities(*mixture, show=False)
        assert abs(rows(ax).index("T") - rows(ax).index("NK")) == 1
        blocks = {"B": ["0", "1"], "T": ["2"], "NK": ["3"]}
        assert columns(ax) == [name for label in rows(ax) for name in blocks[label]]

    def test_diagonal_where_there_is_one(self):
        codes = np.repeat(np.arange(9), 5)
        order = np.random.default_rng(2).permutation(9)
        ax = pl.responsibilities(frame(np.eye(9)[order[codes]]), [f"label {i}" for i in codes], show=False)
        np.testing.assert_array_equal(drawn(ax), np.eye(9))

    def test_unlabelled_cells_are_the_last_row(self, mixture):
        table, labels = mixture
        ax = pl.responsibilities(table, labels.where(np.arange(100) % 4 > 0), show=False)
        assert rows(ax)[-1] == "unlabelled"
        assert sorted(rows(ax)[:-1]) == ["B", "NK", "T"]

    def test_components_without_cells_are_left_out_and_counted(self, mixture):
        ax = pl.responsibilities(*mixture, show=False)
        assert len(columns(ax)) == 4
        assert ax.get_xlabel() == "component (2 without cells left out)"
        assert pl.responsibilities(mixture[0].iloc[:, :4], mixture[1], show=False).get_xlabel() == "component"

    def test_percent_are_written_unless_next_to_none(self, mixture):
        ax = pl.responsibilities(*mixture, show=False)
        inside = [text for text in ax.texts if text.get_transform() == ax.transData]
        places = {(rows(ax)[int(y)], columns(ax)[int(x)]): t for t in inside for x, y in [t.get_position()]}
        assert {place: text.get_text() for place, text in places.items()} == {
            ("B", "0"): "60", ("B", "1"): "40", ("T", "2"): "100", ("NK", "2"): "30", ("NK", "3"): "70",
        }  # fmt: skip
        assert places["T", "2"].get_color() == "white"
        assert places["NK", "2"].get_color() != "white"

    def test_numbers_of_cells_stand_in_the_margins(self, mixture):
        ax = pl.responsibilities(*mixture, show=False)
        beside = {rows(ax)[t.xy[1]]: t.get_text() for t in ax.texts if getattr(t, "xycoords", 0) != "axes fraction"
                  and hasattr(t, "xy") and t.xycoords[1] == "data"}  # fmt: skip
        above = {columns(ax)[t.xy[0]]: t.get_text() for t in ax.texts if hasattr(t, "xy") and t.xycoords[0] == "data"}
        assert beside == {"B": "30", "T": "50", "NK": "20"}
        assert above == {"0": "18", "1": "12", "2": "56", "3": "14"}

    def test_names_are_whole_where_some_are_labels(self, mixture):
        table = mixture[0].set_axis(["B", *(f"component {k}" for k in range(1, 6))], axis=1)
        assert sorted(columns(pl.responsibilities(table, mixture[1], show=False))) == [
            "B", "component 1", "component 2", "component 3",
        ]  # fmt: skip

    def test_numbers_are_left_out_of_small_axes(self, mixture):
        for size in ((0.4, 5), (5, 0.4)):
            _, ax = plt.subplots(figsize=size)
            pl.responsibilities(*mixture, ax=ax, show=False)
            assert not [text for text in ax.texts if text.get_transform() == ax.transData]

    def test_names_stay_apart_in_small_axes(self):
        _, ax = plt.subplots(figsize=(2, 4))
        pl.responsibilities(frame(np.eye(20)), [f"label {i}" for i in range(20)], ax=ax, show=False)
        ax.figure.draw_without_rendering()
        boxes = sorted((text.get_window_extent() for text in ax.get_xticklabels()), key=lambda box: box.x0)
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))

    def test_title(self, mixture):
        assert pl.responsibilities(*mixture, show=False).get_title() == "mean responsibility, %"
        assert pl.responsibilities(*mixture, title="PBMC", show=False).get_title() == "PBMC\nmean responsibility, %"

    def test_one_component(self):
        ax = pl.responsibilities(frame(np.ones((4, 1))), list("aabc"), show=False)
        np.testing.assert_array_equal(drawn(ax), np.ones((3, 1)))
        assert pl.responsibilities(frame(np.ones((1, 1))), ["a"], show=False).has_data()


@pytest.mark.parametrize("plot", [pl.components, pl.responsibilities])
class TestRoom:
    @pytest.mark.parametrize(("n_components", "n_labels"), [(30, 20), (1, 30), (40, 4), (3, 1), (2, 3)])
    @pytest.mark.parametrize("named", [False, True])
    def test_no_text_covers_another_or_leaves_the_figure(self, plot, n_components, n_labels, named):
        names = [f"{LONG[k % 3]} {k}" for k in range(n_components)] if named else None
        table = random_frame(600, n_components, names=names)
        labels = np.array([f"{LONG[i % 3]} {i}" for i in range(n_labels)])[np.arange(600) % n_labels].astype(object)
        labels[::50] = None
        ax = plot(table, labels, title="a title of its own", show=False)
        assert not overlaps(ax)
        assert_within_figure(ax)

    def test_millions_of_cells(self, plot):
        table = frame(np.tile([0.7, 0.25, 0.05], (1_500_000, 1)))
        ax = plot(table, np.repeat(["a", "b"], 750_000), show=False)
        assert "1,050,000" in texts(ax)
        assert not overlaps(ax)

    def test_settings_and_data_stay_as_they_are(self, plot, mixture, tmp_path):
        table, labels = mixture
        kept, before = (table.copy(), labels.copy()), dict(matplotlib.rcParams)
        _, ax = plt.subplots()
        n_figures = len(plt.get_fignums())
        assert plot(table, labels, ax=ax, show=False, save=tmp_path / "plot.png") is ax
        assert len(plt.get_fignums()) == n_figures
        assert dict(matplotlib.rcParams) == before
        pd.testing.assert_frame_equal(table, kept[0])
        pd.testing.assert_series_equal(labels, kept[1])


@pytest.mark.parametrize("plot", [pl.components, pl.responsibilities])
class TestErrors:
    def test_no_frame_or_an_empty_one(self, plot):
        with pytest.raises(DeltaviError, match=r"a frame of cells by components.* are ndarray of shape \(2, 2\)"):
            plot(np.eye(2), ["a", "b"])
        for shape in ((0, 3), (3, 0)):
            with pytest.raises(DeltaviError, match=rf"at least one of each.*\({shape[0]}, {shape[1]}\)"):
                plot(frame(np.ones(shape)), ["a"] * shape[0])

    def test_text(self, plot):
        with pytest.raises(DeltaviError, match="numbers only"):
            plot(pd.DataFrame({"component 0": ["a", "b"]}), ["a", "b"])

    @pytest.mark.parametrize(
        ("row", "what"),
        [
            ([0.5, 0.4], "sum is not 1"),
            ([0.8, 0.8], "sum is not 1"),
            ([1.2, -0.2], "negative"),
            ([np.nan, 1], "NaN or infinite"),
            ([np.inf, 1], "NaN or infinite"),
            ([np.inf, -np.inf], "NaN or infinite"),
        ],
    )
    def test_rows_that_are_no_distributions(self, plot, row, what):
        with pytest.raises(DeltaviError, match=rf"1 of 3 cells (hold|have) .*{what}.*\(for example 'c1'\).*Leave"):
            plot(frame([[1, 0], row, [0, 1]]), list("aab"))

    def test_missing_values_of_pandas(self, plot):
        table = frame(np.eye(2)).astype("Float64")
        table.iloc[0, 0] = pd.NA
        with pytest.raises(DeltaviError, match="1 of 2 cells hold NaN"):
            plot(table, ["a", "b"])

    def test_number_of_labels(self, plot, mixture):
        table, labels = mixture
        for wrong, shape in ((labels[:99], r"\(99,\)"), ([list("ab")] * 100, r"\(100, 2\)"), ("T", r"\(\)")):
            with pytest.raises(DeltaviError, match=rf"labels has shape {shape}, but there are 100 cells.*labels\.loc"):
                plot(table, wrong)

    def test_labels_of_other_cells(self, plot, mixture):
        table, labels = mixture
        with pytest.raises(DeltaviError, match=r"labels lacks 1 of 100 cells: 'c99'.*labels\.to_numpy\(\)"):
            plot(table, labels.rename({"c99": "x"}))
        with pytest.raises(DeltaviError, match="labels lacks 100 of 100 cells: 'c0', 'c1', 'c10' and 97 more"):
            plot(table, labels.reset_index(drop=True))

    def test_labels_of_repeated_names(self, plot):
        table = frame(np.eye(3)).set_axis(["c0", "c0", "c1"], axis=0)
        with pytest.raises(DeltaviError, match=r"labels repeats cell names.*labels\.to_numpy\(\)"):
            plot(table, pd.Series(list("abc"), index=["c0", "c1", "c1"]))


class TestOptions:
    @pytest.mark.parametrize("min_share", [-0.1, 1, np.nan])
    def test_min_share(self, mixture, min_share):
        with pytest.raises(DeltaviError, match=rf"min_share must be .*, not {min_share}"):
            pl.components(*mixture, min_share=min_share)

    @pytest.mark.parametrize("max_labels", [0, 29])
    def test_max_labels(self, mixture, max_labels):
        with pytest.raises(DeltaviError, match=rf"max_labels must be a .* from 1 to 28, not {max_labels}"):
            pl.components(*mixture, max_labels=max_labels)
