"""Weights of training labels: the map holds the table, the texts beside it the uncertainties."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.text import Annotation

from deltavi.errors import DeltaviError, InputDataError, UnknownCategoryError
from deltavi.pl import shift_weights
from deltavi.pl._figure import DARK, VERMILION


def drawn(ax) -> pd.DataFrame:
    """The values behind the colours."""
    (image,) = ax.images
    rows, columns = ([text.get_text() for text in found] for found in (ax.get_yticklabels(), ax.get_xticklabels()))
    return pd.DataFrame(np.asarray(image.get_array()), rows, columns)


def expected(weights: pd.DataFrame) -> pd.DataFrame:
    return weights.pivot(index="query", columns="training_label", values="weight").fillna(0.0)


def written(ax) -> dict[tuple[int, int], str]:
    """Text in every cell of the map."""
    inside = [text for text in ax.texts if not isinstance(text, Annotation)]
    return {text.get_position()[::-1]: text.get_text() for text in inside}


def beside(ax) -> list[tuple[str, str]]:
    """Texts right of the map with their colours, in the order written."""
    return [(text.get_text(), text.get_color()) for text in ax.texts if isinstance(text, Annotation)]


@pytest.fixture
def weights(several) -> pd.DataFrame:
    return several["predicted"].uns["deltavi"]["weights"]


@pytest.fixture
def joined(several) -> AnnData:
    """A prediction of a perturbation that joins two conditions."""
    predicted = AnnData(np.ones((1, 1)))
    held = several["predicted"].uns["deltavi"]
    parts = [held["weights"].assign(training_label=held["weights"]["training_label"] + f" ({p})") for p in ("A", "B+")]
    predicted.uns["deltavi"] = {"weights": pd.concat(parts), "perturbation": "A + B+", "shift": "paired"}
    return predicted


class TestMap:
    def test_colours_are_the_weights(self, several, weights):
        found = drawn(shift_weights(several["predicted"], show=False))
        pd.testing.assert_frame_equal(found, expected(weights).loc[found.index, found.columns], check_names=False)

    def test_table_alone_is_the_same_map(self, several, weights):
        one, other = shift_weights(several["predicted"], show=False), shift_weights(weights, show=False)
        pd.testing.assert_frame_equal(drawn(one), drawn(other))
        assert beside(other) == []
        assert other.get_title() == ""

    def test_order_is_that_of_the_prediction(self, several):
        found = drawn(shift_weights(several["predicted"], show=False))
        assert list(found.index) == ["CD4/CD8", "B"]
        assert list(found.columns) == ["NK", "Mono", "T"]

    def test_numbers_are_written_with_their_sign(self, several):
        found = written(shift_weights(several["predicted"], show=False))
        assert found == {
            (0, 0): "0.80", (0, 1): "0.25", (0, 2): "-0.05", (1, 0): "0.20", (1, 1): "0.30", (1, 2): "0.50",
        }  # fmt: skip

    def test_next_to_nothing_is_not_written(self, weights):
        assert len(written(shift_weights(weights.assign(weight=[1.0, 1e-4, 0, 1, 0, 0]), show=False))) == 2

    def test_absent_weights_are_zero(self, weights):
        found = drawn(shift_weights(weights.drop(index=1), show=False))
        assert found.loc["CD4/CD8", "Mono"] == 0

    @pytest.mark.parametrize("largest", [0.3, 1.0, 2.5])
    def test_zero_is_the_middle(self, weights, largest):
        (image,) = shift_weights(weights.assign(weight=weights["weight"] * largest / 0.8), show=False).images
        low, high = image.get_clim()
        assert -low == high == pytest.approx(max(1.0, largest))

    @pytest.mark.parametrize("seed", range(3))
    def test_any_weights(self, seed):
        rng = np.random.default_rng(seed)
        n, m = rng.integers(1, 9, 2)
        values = pd.DataFrame(rng.normal(size=(n, m)), [f"q{i}" for i in range(n)], [f"t{i}" for i in range(m)])
        table = values.rename_axis(index="query").reset_index().melt("query", var_name="training_label")
        ax = shift_weights(table.rename(columns={"value": "weight"}), show=False)
        pd.testing.assert_frame_equal(drawn(ax), values, check_names=False)
        ax.figure.draw_without_rendering()


class TestUncertainty:
    def test_stands_beside_its_row(self, several):
        texts = beside(shift_weights(several["predicted"], show=False))
        assert [text for text, _ in texts] == ["uncertainty", "training", "0.40", "0.90", "1.70", "0.90"]

    def test_large_uncertainty_is_set_apart(self, several):
        texts = dict(beside(shift_weights(several["predicted"], show=False)))
        assert texts["1.70"] == VERMILION
        assert texts["0.40"] == texts["0.90"] == DARK

    def test_unknown_uncertainty(self, several):
        predicted = several["predicted"].copy()
        held = predicted.uns["deltavi"]
        held["uncertainty"] = held["uncertainty"].assign(max_training_uncertainty=np.nan)
        texts = beside(shift_weights(predicted, show=False))
        assert [text for text, _ in texts][2:] == ["0.40", "unknown", "1.70", "unknown"]
        assert all(colour == DARK for text, colour in texts[2:])

    def test_prediction_without_uncertainty(self, joined):
        assert beside(shift_weights(joined, show=False)) == []

    def test_headings_do_not_meet_the_title(self, several):
        ax = shift_weights(several["predicted"], title="a title that is a good deal wider than its map", show=False)
        ax.figure.draw_without_rendering()
        boxes = [t.get_window_extent() for t in ax.texts if isinstance(t, Annotation)]
        assert not any(ax.title.get_window_extent().overlaps(box) for box in boxes)


class TestSeveralConditions:
    def test_a_line_parts_them(self, joined):
        ax = shift_weights(joined, show=False)
        assert [line.get_xdata()[0] for line in ax.lines] == [2.5]
        assert list(drawn(ax).columns) == ["NK (A)", "Mono (A)", "T (A)", "NK (B+)", "Mono (B+)", "T (B+)"]

    def test_title_names_shift_and_target(self, joined):
        assert shift_weights(joined, show=False).get_title() == "weights of the paired shift, A + B+"

    def test_one_condition_has_no_line(self, several):
        assert not shift_weights(several["predicted"], show=False).lines

    def test_weights_of_each_condition_sum_to_one(self, joined):
        found = drawn(shift_weights(joined, show=False))
        np.testing.assert_allclose(found.T.groupby(lambda name: name.split("(")[1]).sum(), 1.0)


class TestErrors:
    @pytest.mark.parametrize("bad", [None, 3, AnnData(np.ones((1, 1))), {"weights": 1}])
    def test_no_prediction(self, bad):
        with pytest.raises(InputDataError, match=r"uns\['deltavi'\]\['weights'\]"):
            shift_weights(bad)

    def test_columns(self, weights):
        with pytest.raises(UnknownCategoryError, match="column 'weight' is not in the table of weights"):
            shift_weights(weights.rename(columns={"weight": "share"}))

    def test_nothing(self, weights):
        with pytest.raises(DeltaviError, match="no cell was predicted"):
            shift_weights(weights.iloc[:0])

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_missing_weights(self, weights, value):
        weights = weights.copy()
        weights.loc[1, "weight"] = value
        with pytest.raises(InputDataError, match="Weights of 'Mono' are missing or infinite"):
            shift_weights(weights)

    def test_repeated_weights(self, weights):
        with pytest.raises(InputDataError, match="'CD4/CD8 from NK' more than once"):
            shift_weights(pd.concat([weights, weights.iloc[:1]]))
