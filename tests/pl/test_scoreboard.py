"""Comparison tables as bars: lengths, best, ceiling and order are those of the table."""

from __future__ import annotations

from dataclasses import fields

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.colors import to_hex

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.metrics import PredictionScore
from deltavi.perturbation import SPLIT_HALF, compare
from deltavi.pl import scoreboard
from deltavi.pl._figure import BLUE, PALE, VERMILION
from deltavi.pl._scoreboard import DRAWN
from deltavi.tl import PerturbationEvaluation


def bars(ax) -> dict[str, tuple[float, str]]:
    """Length and colour of the bar of every method."""
    names = [tick.label1.get_text() for tick in ax.yaxis.get_major_ticks()]
    return {
        name: (patch.get_width(), to_hex(patch.get_facecolor()).upper())
        for name, patch in zip(names, ax.patches, strict=True)
    }


def values_written(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text() and not text.get_text()[0].isalpha()]


def dashed(ax) -> list[float]:
    return [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]


def from_top_to_bottom(ax) -> list[str]:
    assert ax.yaxis_inverted()
    return list(bars(ax))


class TestBars:
    def test_length_is_the_score(self, table):
        r2, mse = scoreboard(table, show=False)
        assert {name: length for name, (length, _) in bars(r2).items()} == table["r2_of_means"].to_dict()
        assert {name: length for name, (length, _) in bars(mse).items()} == table["mse_top"].to_dict()

    def test_values_are_written_beside_them(self, table):
        ax = scoreboard(table, metrics=["r2_of_means"], show=False)
        assert values_written(ax) == ["0.990", "0.900", "0.800", "0.400"]

    @pytest.mark.parametrize(
        ("scores", "written"),
        [([349.04, 2.5], ["349.0", "2.5"]), ([12345.6, 1], ["12346", "1"]), ([-0.061, 0.1], ["0.100", "-0.061"])],
    )
    def test_as_many_digits_as_mean_something(self, scores, written):
        assert values_written(scoreboard(pd.DataFrame({"m": scores}, index=["a", "b"]), show=False)) == written

    def test_best_is_coloured_and_bold(self, table):
        r2, mse = scoreboard(table.drop(index="half vs half"), show=False)
        assert {name: colour for name, (_, colour) in bars(r2).items()} == {
            "mean shift": BLUE, "model": PALE, "no change": PALE,
        }  # fmt: skip
        assert bars(mse)["model"][1] == BLUE
        assert [text.get_text() for text in r2.texts if text.get_fontweight() == "bold"] == ["0.900"]
        assert [text.get_text() for text in mse.texts if text.get_fontweight() == "bold"] == ["0.100"]

    def test_ties_are_all_best(self):
        ax = scoreboard(pd.DataFrame({"m": [1.0, 1.0, 0.5]}, index=list("abc")), show=False)
        assert [colour for _, colour in bars(ax).values()] == [BLUE, BLUE, PALE]

    @pytest.mark.parametrize(("better", "best"), [("higher", {"c"}), ("lower", {"a"}), (1.0, {"b"}), (None, set())])
    def test_what_is_better_can_be_said(self, better, best):
        table = pd.DataFrame({"score": [0.2, 0.9, 1.3]}, index=list("abc"))
        ax = scoreboard(table, better={"score": better}, show=False)
        assert {name for name, (_, colour) in bars(ax).items() if colour == BLUE} == best

    @pytest.mark.parametrize(
        ("metric", "title"),
        [
            ("r2_of_means", "R2 of means"),
            ("e_distance", "E-distance\n(lower is better)"),
            ("variance_ratio", "variance ratio\n(best is 1)"),
            ("zero_fraction", "zero fraction"),
            ("my_own_score", "my own score"),
        ],
    )
    def test_title_says_what_is_better(self, metric, title):
        assert scoreboard(pd.DataFrame({metric: [1.0, 2.0]}, index=["a", "b"]), show=False).get_title() == title

    def test_highlight(self, table):
        r2, _ = scoreboard(table, highlight="model", show=False)
        assert bars(r2)["model"][1] == VERMILION
        assert [label.get_text() for label in r2.get_yticklabels() if label.get_fontweight() == "bold"] == ["model"]

    def test_missing_value(self):
        table = pd.DataFrame({"m": [np.nan, 1.0]}, index=["a", "b"])
        ax = scoreboard(table, show=False)
        assert "no value" in [text.get_text() for text in ax.texts]
        assert bars(ax) == {"b": (1.0, BLUE), "a": (0.0, PALE)}

    def test_nothing_but_missing_values(self):
        ax = scoreboard(pd.DataFrame({"m": [np.nan, np.nan]}, index=["a", "b"]), show=False)
        ax.figure.draw_without_rendering()
        assert [text.get_text() for text in ax.texts] == ["no value", "no value"]

    @settings(max_examples=25, deadline=None)
    @given(hnp.arrays(float, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(-1e3, 1e3)))
    def test_any_table(self, scores):
        table = pd.DataFrame(scores, index=[f"m{i}" for i in range(len(scores))]).add_prefix("metric ")
        axes = scoreboard(table, show=False)
        for ax, name in zip([axes] if scores.shape[1] == 1 else axes, table, strict=True):
            assert {method: length for method, (length, _) in bars(ax).items()} == table[name].to_dict()
        plt.close("all")


class TestOrder:
    def test_best_at_the_top(self, table):
        assert from_top_to_bottom(scoreboard(table, metrics=["mse_top"], show=False)) == [
            "half vs half", "model", "mean shift", "no change",
        ]  # fmt: skip

    def test_as_in_the_table(self, table):
        axes = scoreboard(table, sort=False, show=False)
        assert from_top_to_bottom(axes[0]) == list(table.index)

    def test_same_in_all_panels(self, table):
        r2, mse = scoreboard(table, show=False)
        assert from_top_to_bottom(r2) == from_top_to_bottom(mse)

    def test_methods_are_named_once_per_row_of_panels(self):
        table = pd.DataFrame(np.eye(5), index=list("abcde")).add_prefix("m")
        axes = scoreboard(table, show=False)
        assert [len(ax.get_yticklabels()) for ax in axes] == [5, 0, 0, 5, 0]

    def test_each_of_the_users_axes_that_stands_alone_names_its_methods(self, table):
        ax = plt.figure().add_axes((0.3, 0.1, 0.6, 0.8))
        assert len(scoreboard(table, metrics="mse_top", ax=ax, show=False).get_yticklabels()) == 4


class TestCeiling:
    def test_row_becomes_a_line(self, table):
        r2, mse = scoreboard(table, split_half="half vs half", show=False)
        assert dashed(r2) == [0.99]
        assert dashed(mse) == [0.01]
        assert "half vs half" not in bars(r2)
        assert "ceiling 0.99" in [text.get_text() for text in r2.texts]
        assert "floor 0.01" in [text.get_text() for text in mse.texts]

    def test_values_per_metric(self, table):
        r2, mse = scoreboard(table, split_half={"r2_of_means": 1.2}, show=False)
        assert dashed(r2) == [1.2]
        assert r2.get_xlim()[1] > 1.2
        assert dashed(mse) == []
        assert r2.get_ylim() == mse.get_ylim()

    def test_below_zero(self, table):
        ax = scoreboard(table, metrics="mse_top", split_half={"mse_top": -2}, show=False)
        assert ax.get_xlim()[0] < -2

    def test_row_of_a_comparison_is_found(self, cells):
        table = compare({"no change": cells["control"], "shift": cells["predicted"]}, cells["real"], cells["control"])
        axes = scoreboard(table, show=False)
        assert len(axes) == len(DRAWN)
        assert all(dashed(ax) == [table.loc[SPLIT_HALF, name]] for name, ax in zip(DRAWN, axes, strict=True))
        assert bars(axes[0])["shift"][1] == BLUE


class TestRepeats:
    @pytest.fixture
    def repeated(self) -> pd.DataFrame:
        return pd.DataFrame({"method": ["a", "b", "a", "b", "c"], "score": [0.1, 0.5, 0.3, 0.7, 0.2]})

    def test_bar_is_the_mean_and_dots_are_the_rows(self, repeated):
        ax = scoreboard(repeated, show=False)
        assert {name: round(length, 9) for name, (length, _) in bars(ax).items()} == {"b": 0.6, "a": 0.2, "c": 0.2}
        dots = [sorted(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
        assert dots == [[0.5, 0.7], [0.1, 0.3]]

    def test_dots_lie_within_the_axes(self, repeated):
        repeated["score"] *= [1, 1, -30, 1, 1]
        ax = scoreboard(repeated, show=False)
        assert ax.get_xlim()[0] < -9

    def test_ceiling_is_a_mean_too(self, repeated):
        assert dashed(scoreboard(repeated, split_half="b", show=False)) == [0.6]


class TestWhatIsDrawn:
    """Which columns are drawn where none is named."""

    @pytest.fixture
    def scores(self) -> pd.DataFrame:
        names = [score.name for score in fields(PredictionScore)]
        return pd.DataFrame(np.linspace(0, 1, 2 * len(names)).reshape(2, -1), index=["a", "b"], columns=names)

    def test_six_of_all_scores(self, scores):
        axes = scoreboard(scores, show=False)
        assert [[length for length, _ in bars(ax).values()] for ax in axes] == [
            sorted(scores[name], key=lambda value: -value) for name in DRAWN
        ]
        assert axes[0].get_subplotspec().get_gridspec().ncols == 3

    def test_those_that_there_are(self, scores):
        axes = scoreboard(scores[["mmd", "mse_top", "e_distance"]], show=False)
        assert [ax.get_title().split("\n")[0] for ax in axes] == ["E-distance", "MMD"]

    def test_all_where_there_is_none_of_them(self, scores):
        assert len(scoreboard(scores[["mse_top", "mse_top20", "zero_fraction"]], show=False)) == 3

    def test_others_when_named(self, scores):
        assert scoreboard(scores, metrics="mse_top20", show=False).get_title().startswith("mse top20")


class TestEvaluation:
    @pytest.fixture
    def evaluation(self) -> PerturbationEvaluation:
        rng = np.random.default_rng(0)
        methods = {"SCGEN": "model", "no change": "baseline", SPLIT_HALF: "split_half"}
        case = pd.DataFrame(
            [(label, label, "stimulated", 0, name, kind) for label in "BT" for name, kind in methods.items()],
            columns=["hold_out", "label", "perturbation", "seed", "method", "kind"],
        ).assign(n_control=20, n_real=30, seconds=1.0)
        names = [score.name for score in fields(PredictionScore)]
        return PerturbationEvaluation(case.join(pd.DataFrame(rng.random((6, len(names))), columns=names)))

    def test_bars_are_means_over_hold_outs(self, evaluation):
        axes = scoreboard(evaluation, show=False)
        means = evaluation.table.groupby("method")[list(DRAWN)].mean()
        for name, ax in zip(DRAWN, axes, strict=True):
            assert {method: length for method, (length, _) in bars(ax).items()} == pytest.approx(
                means[name].drop(SPLIT_HALF).to_dict()
            )
            assert dashed(ax) == pytest.approx([means.loc[SPLIT_HALF, name]])

    def test_metrics_and_highlight(self, evaluation):
        ax = scoreboard(evaluation, metrics=["mse_top"], highlight="SCGEN", show=False)
        assert bars(ax)["SCGEN"][1] == VERMILION

    def test_its_own_plot_is_the_same(self, evaluation):
        one, other = scoreboard(evaluation, show=False), evaluation.plot(show=False)
        assert [bars(ax) for ax in one] == [bars(ax) for ax in other]


class TestErrors:
    @pytest.mark.parametrize("bad", [None, 3, {"a": 1}, np.eye(2)])
    def test_neither_table_nor_evaluation(self, bad):
        with pytest.raises(DeltaviError, match="a PerturbationEvaluation, not a "):
            scoreboard(bad)

    def test_unknown_names(self, table):
        with pytest.raises(
            UnknownCategoryError, match=r"metric 'r2_of_mean' is not in the data\. Did you mean 'r2_of_means'"
        ):
            scoreboard(table, metrics=["r2_of_mean"])
        with pytest.raises(UnknownCategoryError, match="metric 'name'"):
            scoreboard(table, metrics=["name"])
        with pytest.raises(UnknownCategoryError, match=r"method 'modl' is not in the data\. Did you mean 'model'"):
            scoreboard(table, highlight="modl")
        with pytest.raises(UnknownCategoryError, match="split_half 'half' is not in the data"):
            scoreboard(table, split_half="half")

    def test_nothing_to_draw(self, table):
        with pytest.raises(DeltaviError, match="at least one method and one column of numbers"):
            scoreboard(table[["name"]])
        with pytest.raises(DeltaviError, match="at least one method"):
            scoreboard(table.iloc[:0])
        with pytest.raises(DeltaviError, match="no method but the ceiling"):
            scoreboard(table.loc[["model"]], split_half="model")
