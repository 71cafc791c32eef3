"""Genes of a prediction: places are fold changes and false sign rates, colours the calls, rows the surest genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Annotation

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.perturbation import GeneTable
from deltavi.pl import ranked_genes, volcano
from deltavi.pl._volcano import SMALLEST_RATE

RED, BLUE, GREY = "#d55e00", "#0072b2", "#8c8c8c"


def offsets(ax: Axes, color: str) -> np.ndarray:
    found = [np.asarray(c.get_offsets()) for c in ax.collections if to_hex(c.get_facecolor()[0]) == color]
    return np.concatenate([points for points in found if len(points)] or [np.empty((0, 2))])


def written(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if isinstance(text, Annotation)]


class TestVolcano:
    def test_places(self, gene_predictions: GeneTable) -> None:
        frame = gene_predictions.to_frame()
        ax = volcano(gene_predictions, show=False)
        expected = np.column_stack([frame["log2_fold_change"], -np.log10(frame["local_false_sign_rate"])])
        found = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0))

    def test_colours_are_the_calls(self, gene_predictions: GeneTable) -> None:
        ax = volcano(gene_predictions, max_fdr=0.05, show=False)
        called = gene_predictions.false_discovery_rate <= 0.05
        rises = gene_predictions.change > 0
        assert len(offsets(ax, RED)) == (called & rises).sum() >= 5
        assert len(offsets(ax, BLUE)) == (called & ~rises).sum() >= 4
        assert len(offsets(ax, GREY)) == (~called).sum()
        up, down = (called & rises).sum(), (called & ~rises).sum()
        assert ax.get_title() == f"{up} up, {down} down at an expected FDR of 5 %"

    def test_surest_genes_are_named(self, gene_predictions: GeneTable) -> None:
        surest = gene_predictions.to_frame().sort_values("local_false_sign_rate").index
        assert set(written(volcano(gene_predictions, n_label=3, show=False))) == set(surest[:3])
        assert written(volcano(gene_predictions, n_label=0, show=False)) == []

    def test_genes_of_the_user_are_named(self, gene_predictions: GeneTable) -> None:
        assert written(volcano(gene_predictions, genes=["GENE30"], show=False)) == ["GENE30"]

    def test_frame_and_table_are_the_same(self, gene_predictions: GeneTable) -> None:
        one, other = (volcano(t, show=False) for t in (gene_predictions, gene_predictions.to_frame()))
        np.testing.assert_array_equal(offsets(one, RED), offsets(other, RED))

    def test_genes_may_be_a_column(self, gene_predictions: GeneTable) -> None:
        frame = gene_predictions.to_frame().rename_axis("gene").reset_index().assign(group="NK | A")
        assert written(volcano(frame, show=False)) == written(volcano(gene_predictions, show=False)) != []

    def test_certain_signs_have_a_place(self, gene_predictions: GeneTable) -> None:
        frame = gene_predictions.to_frame()
        frame.loc["GENE00", "local_false_sign_rate"] = 0.0
        ax = volcano(frame, show=False)
        assert offsets(ax, RED)[:, 1].max() == pytest.approx(-np.log10(SMALLEST_RATE))

    def test_no_call_and_no_change(self, gene_predictions: GeneTable) -> None:
        frame = gene_predictions.to_frame().assign(log2_fold_change=0.0, false_discovery_rate=1.0)
        ax = volcano(frame, show=False)
        ax.figure.draw_without_rendering()
        assert ax.get_title().startswith("0 up, 0 down")

    def test_genes_without_values_are_left_out(self, gene_predictions: GeneTable) -> None:
        frame = gene_predictions.to_frame()
        frame.iloc[5:8, 3] = np.nan
        assert sum(len(c.get_offsets()) for c in volcano(frame, show=False).collections) == 57


class TestRankedGenes:
    def test_rows_are_the_most_probable_calls(self, gene_predictions: GeneTable) -> None:
        ax = ranked_genes(gene_predictions, n_genes=8, show=False)
        rows = [text.get_text() for text in ax.get_yticklabels()]
        frame = gene_predictions.to_frame()
        assert set(rows) == set(frame.sort_values("probability_called").index[-8:])
        assert (np.diff(frame.loc[rows, "probability_called"]) <= 0).all()

    def test_dots_intervals_and_probabilities(self, gene_predictions: GeneTable) -> None:
        ax = ranked_genes(gene_predictions, genes=["GENE01", "GENE07", "GENE20"], show=False)
        drawn = gene_predictions.to_frame().loc[["GENE01", "GENE07", "GENE20"]]
        bars, dots = ax.collections
        np.testing.assert_allclose([s[:, 0] for s in bars.get_segments()], drawn[["lower", "upper"]])
        np.testing.assert_allclose(np.asarray(dots.get_offsets())[:, 0], drawn["change"])
        assert [to_hex(c) for c in dots.get_facecolor()] == [RED, BLUE, GREY]
        assert written(ax) == [*(f"{100 * p:.0f} %" for p in drawn["probability_called"]), "called"]
        assert ax.get_ylim()[0] > ax.get_ylim()[1]


@pytest.mark.parametrize("plot", [volcano, ranked_genes])
class TestBadInput:
    def test_no_table(self, plot: Any) -> None:
        with pytest.raises(DeltaviError, match="table must be a GeneTable or its DataFrame"):
            plot(np.eye(3))

    def test_several_groups(self, plot: Any, gene_predictions: GeneTable) -> None:
        frame = gene_predictions.to_frame().rename_axis("gene").reset_index()
        both = pd.concat([frame.assign(group="B | A"), frame.assign(group="NK | A")])
        with pytest.raises(InputDataError, match=r"2 groups \('B | A', 'NK | A'\)"):
            plot(both)

    def test_columns(self, plot: Any, gene_predictions: GeneTable) -> None:
        frame = gene_predictions.to_frame().drop(columns="local_false_sign_rate")
        with pytest.raises(UnknownCategoryError, match="column 'local_false_sign_rate' is not in table"):
            plot(frame)

    def test_rates(self, plot: Any, gene_predictions: GeneTable) -> None:
        with pytest.raises(DeltaviError, match=r"'false_discovery_rate'.* must lie between 0 and 1"):
            plot(gene_predictions.to_frame().assign(false_discovery_rate=5.0))

    def test_no_values(self, plot: Any, gene_predictions: GeneTable) -> None:
        with pytest.raises(InputDataError, match="no gene that has a value"):
            plot(gene_predictions.to_frame().assign(local_false_sign_rate=np.nan))

    def test_genes(self, plot: Any, gene_predictions: GeneTable) -> None:
        with pytest.raises(GeneMatchError, match="ISG15"):
            plot(gene_predictions, genes=["ISG15"])
        frame = gene_predictions.to_frame()
        with pytest.raises(DeltaviError, match="repeats rows: 'GENE00'"):
            plot(pd.concat([frame, frame.iloc[:1]]))

    def test_max_fdr(self, plot: Any, gene_predictions: GeneTable) -> None:
        with pytest.raises(DeltaviError, match="max_fdr must be a number from 0 to 1"):
            plot(gene_predictions, max_fdr=5)
