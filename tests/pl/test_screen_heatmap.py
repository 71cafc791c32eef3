"""The map of a screen: colours are the responses, hatches their uncertainty, dots what was measured."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from deltavi.errors import DeltaviError, UnknownCategoryError
from deltavi.perturbation import ResponseModel
from deltavi.pl import screen_heatmap
from tests.perturbation.crossed_scenes import structured


def image(ax: Axes) -> np.ndarray:
    (drawn,) = ax.images
    return np.ma.filled(drawn.get_array().astype(float), np.nan)


def names(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_xticklabels()]


def hatched(ax: Axes, hatch: str) -> set[tuple[int, int]]:
    return {(round(p.get_y() + 0.5), round(p.get_x() + 0.5)) for p in ax.patches if p.get_hatch() == hatch}


def legend(ax: Axes) -> list[str]:
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


class TestWhatIsDrawn:
    def test_colours_are_the_responses(self, screen: dict[str, pd.DataFrame]) -> None:
        ax = screen_heatmap(screen["responses"], show=False)
        np.testing.assert_allclose(image(ax), screen["responses"][names(ax)])
        assert [text.get_text() for text in ax.get_yticklabels()] == list(screen["responses"].index)
        assert ax.images[0].get_clim() == (0, screen["responses"].max().max())
        assert legend(ax) == []

    def test_largest_perturbations_come_first(self, screen: dict[str, pd.DataFrame]) -> None:
        size = screen["responses"].mean().sort_values(ascending=False)
        assert names(screen_heatmap(screen["responses"], show=False)) == list(size.index)
        assert names(screen_heatmap(screen["responses"], n_perturbations=2, show=False)) == list(size.index[:2])

    def test_hatches_are_the_uncertainty(self, screen: dict[str, pd.DataFrame]) -> None:
        ax = screen_heatmap(screen["responses"], screen["uncertainty"], show=False)
        drawn = names(ax)
        ratio = (screen["uncertainty"] / screen["responses"])[drawn].to_numpy()
        assert hatched(ax, "////") == set(map(tuple, np.argwhere((ratio > 0.5) & (ratio <= 1)).tolist()))
        assert hatched(ax, "xxxx") == set(map(tuple, np.argwhere(ratio > 1).tolist()))
        assert legend(ax) == ["uncertainty > 0.5 × response", "uncertainty > 1 × response"]

    def test_thresholds_of_the_user(self, screen: dict[str, pd.DataFrame]) -> None:
        ax = screen_heatmap(screen["responses"], screen["uncertainty"], doubtful=(0.3, 0.5), show=False)
        ratio = (screen["uncertainty"] / screen["responses"])[names(ax)].to_numpy()
        assert hatched(ax, "xxxx") == set(map(tuple, np.argwhere(ratio > 0.5).tolist()))

    def test_no_uncertainty_stated_is_not_certainty(self, screen: dict[str, pd.DataFrame]) -> None:
        screen["uncertainty"].iloc[0, 0] = np.nan
        ax = screen_heatmap(screen["responses"], screen["uncertainty"], show=False)
        assert (0, names(ax).index("ATF4")) in hatched(ax, "xxxx")

    def test_pairs_without_a_value_are_grey_and_not_hatched(self, screen: dict[str, pd.DataFrame]) -> None:
        ax = screen_heatmap(screen["responses"], screen["uncertainty"], show=False)
        place = (1, names(ax).index("BAK1+JUN"))
        assert np.isnan(image(ax)[place])
        assert to_hex(ax.get_facecolor()).upper() == "#D0D0D0"
        assert place not in hatched(ax, "////") | hatched(ax, "xxxx")

    def test_measured_pairs_carry_a_dot(self, screen: dict[str, pd.DataFrame]) -> None:
        ax = screen_heatmap(screen["responses"], measured=screen["measured"], show=False)
        found = {(int(y), int(x)) for dots in ax.collections for x, y in dots.get_offsets()}
        assert found == set(map(tuple, np.argwhere(screen["measured"][names(ax)].to_numpy()).tolist()))
        assert legend(ax) == ["measured"]

    def test_tables_are_matched_by_name(self, screen: dict[str, pd.DataFrame]) -> None:
        one, other = (
            screen_heatmap(screen["responses"], table, show=False)
            for table in (screen["uncertainty"], screen["uncertainty"].iloc[::-1, ::-1])
        )
        for hatch in ("////", "xxxx"):
            assert hatched(one, hatch) == hatched(other, hatch)

    def test_signed(self, screen: dict[str, pd.DataFrame]) -> None:
        values = screen["responses"] - 2
        ax = screen_heatmap(values, signed=True, name="change of JUN", show=False)
        low, high = ax.images[0].get_clim()
        assert low == -high == -values.abs().max().max()
        assert ax.figure.axes[1].get_ylabel() == "change of JUN"

    def test_nothing_but_zeros(self) -> None:
        ax = screen_heatmap(pd.DataFrame(np.zeros((2, 2))), pd.DataFrame(np.zeros((2, 2))), show=False)
        ax.figure.draw_without_rendering()
        assert not hatched(ax, "////")


@pytest.fixture(scope="module")
def model() -> ResponseModel:
    return ResponseModel.fit(structured(0))


class TestOfAModel:
    def test_it_is_drawn_as_its_tables(self, model: ResponseModel) -> None:
        ax = screen_heatmap(model, show=False)
        summary = model.summary().set_index(["context", "perturbation"])
        rows = [text.get_text() for text in ax.get_yticklabels()]
        assert rows == list(model.table.contexts)
        expected = [[summary.loc[(row, name), "size"] for name in names(ax)] for row in rows]
        np.testing.assert_allclose(image(ax), expected)
        assert sum(len(points.get_offsets()) for points in ax.collections) == model.table.n_pairs
        crossed = {(rows[i], names(ax)[j]) for i, j in hatched(ax, "xxxx")}
        assert crossed == set(summary.index[summary["error"] > summary["size"]])

    def test_it_brings_its_own_tables(self, model: ResponseModel, screen: dict[str, pd.DataFrame]) -> None:
        for given in ({"uncertainty": screen["uncertainty"]}, {"signed": True}):
            with pytest.raises(DeltaviError, match="brings its own"):
                screen_heatmap(model, **given)


@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (20, 60)])
@pytest.mark.parametrize("length", [2, 30])
def test_names_and_legend_lie_within_the_figure(shape: tuple[int, int], length: int) -> None:
    values = pd.DataFrame(np.random.default_rng(0).uniform(0, 1, shape))
    values = values.set_axis([f"{'c' * length}{i}" for i in range(shape[0])], axis=0)
    values = values.set_axis([f"{'p' * length}{i}" for i in range(shape[1])], axis=1)
    ax = screen_heatmap(values, values * 0.7, measured=values > 0.5, title="title", show=False)
    ax.figure.draw_without_rendering()
    box = ax.figure.get_tightbbox()
    assert min(box.x0, box.y0) > -0.05
    assert box.x1 <= ax.figure.get_figwidth() + 0.05
    assert box.y1 <= ax.figure.get_figheight() + 0.05
    assert not ax.get_legend().get_window_extent().overlaps(ax.title.get_window_extent())
    plt.close("all")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"responses": np.eye(3)}, DeltaviError, "responses must be a DataFrame"),
        ({"responses": pd.DataFrame()}, DeltaviError, "responses is empty"),
        ({"responses": pd.DataFrame([["a"]])}, DeltaviError, "responses must hold numbers"),
        ({"responses": pd.DataFrame([[np.nan]])}, DeltaviError, "responses holds no finite number"),
        ({"responses": pd.DataFrame([[-1.0]])}, DeltaviError, "pass signed=True"),
        ({"responses": pd.DataFrame([[1.0, 2]], columns=["a", "a"])}, DeltaviError, "responses repeats columns: 'a'"),
        (
            {"uncertainty": pd.DataFrame([[1.0]], ["x"], ["y"])},
            UnknownCategoryError,
            "row of responses 'line A' is not",
        ),
        ({"doubtful": (1, 0.5)}, DeltaviError, "doubtful must be two increasing numbers"),
        ({"doubtful": 1}, DeltaviError, "doubtful must be two numbers"),
        ({"n_perturbations": 0}, DeltaviError, "n_perturbations must be a whole number of at least 1"),
        ({"signed": "yes"}, DeltaviError, "signed must be True or False"),
    ],
)
def test_bad_input(screen: dict[str, pd.DataFrame], change: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        screen_heatmap(**(screen | change))


def test_negative_uncertainty(screen: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(DeltaviError, match="uncertainty holds negative numbers"):
        screen_heatmap(screen["responses"], -screen["uncertainty"])
