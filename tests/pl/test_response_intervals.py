"""Intervals of changes: ends, dots and counts are those of the prediction and of the cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.pl import response_intervals
from deltavi.pl._figure import BLUE, VERMILION

from .test_response_heatmap import change, genes


def dots(ax, colour: str) -> np.ndarray:
    """Positions of the dots of one colour along the axis, (n_genes,)."""
    found = [line for line in ax.lines if line.get_marker() in "oD" and line.get_color() == colour]
    return np.concatenate([np.asarray(line.get_xdata()) for line in found]) if found else np.zeros(0)


def bands(ax) -> np.ndarray:
    """Ends of the intervals, (n_genes, 2)."""
    segments = [segment for collection in ax.collections for segment in collection.get_segments()]
    return np.array([segment[:, 0] for segment in segments]).reshape(-1, 2)


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.fixture
def draw(several):
    """The plot of one of the two types, with or without real cells."""

    def plot(real: bool = True, **options):
        cells = several["real"] if real else None
        settings = {"label": "B", "labels_key": "cell_type", "show": False, **options}
        return response_intervals(several["predicted"], cells, **settings)

    return plot


class TestWhatIsDrawn:
    def test_dots_and_bands_are_those_of_the_prediction(self, several, draw):
        ax = draw(real=False)
        varm = several["predicted"].varm
        np.testing.assert_allclose(dots(ax, BLUE), varm["deltavi_change"].loc[genes(ax), "B"])
        expected = np.column_stack([varm[f"deltavi_{end}"].loc[genes(ax), "B"] for end in ("lower", "upper")])
        np.testing.assert_allclose(bands(ax), expected)
        assert legend(ax) == ["90 % interval", "predicted"]

    def test_measured_changes_are_those_of_the_cells(self, several, draw):
        ax = draw()
        np.testing.assert_allclose(dots(ax, VERMILION), change(several, "real", "B")[genes(ax)], atol=1e-5)
        assert legend(ax) == ["90 % interval", "predicted", "measured"]

    def test_genes_that_change_most_from_rise_to_fall(self, several, draw):
        ax = draw(n_genes=6)
        held = several["predicted"].varm["deltavi_change"]["B"]
        assert set(genes(ax)) == set(held.abs().sort_values().index[-6:])
        assert (np.diff(dots(ax, BLUE)) <= 0).all()
        assert ax.yaxis_inverted()

    def test_genes_that_really_change_most(self, several, draw):
        ax = draw(n_genes=6, rank_by="real")
        assert set(genes(ax)) == set(change(several, "real", "B").abs().sort_values().index[-6:])

    def test_genes_of_the_user(self, draw):
        assert genes(draw(genes=["GENE0009", "GENE0001"])) == ["GENE0009", "GENE0001"]

    def test_label_with_a_slash(self, several, draw):
        ax = draw(label="CD4/CD8")
        np.testing.assert_allclose(
            dots(ax, BLUE), several["predicted"].varm["deltavi_change"].loc[genes(ax), "CD4%2FCD8"]
        )
        assert ax.get_title().startswith("CD4/CD8\n")

    def test_zero_is_marked(self, draw):
        assert [0.0, 0.0] in [list(line.get_xdata()) for line in draw(real=False).lines]


class TestCoverage:
    def test_measured_changes_within_are_counted(self, several, draw):
        ax = draw(n_genes=12)
        varm, real = several["predicted"].varm, change(several, "real", "B")
        inside = (real >= varm["deltavi_lower"]["B"]) & (real <= varm["deltavi_upper"]["B"])
        assert 0 < inside.mean() < 1
        assert ax.get_title() == (
            f"B\n{inside[genes(ax)].sum()} of 12 within the interval,\n{100 * inside.mean():.0f} % of all 60 genes"
        )

    def test_nothing_is_counted_without_real_cells(self, draw):
        assert draw(real=False).get_title() == "B"

    def test_title_of_the_user(self, draw):
        assert draw(title="held out").get_title().startswith("held out\n")

    def test_interval_without_width_holds_its_own_value(self, several):
        predicted, real = several["predicted"].copy(), several["real"].copy()
        exact = change(several, "real", "B")
        for key in ("deltavi_lower", "deltavi_upper"):
            predicted.varm[key] = predicted.varm[key].assign(B=exact)
        ax = response_intervals(predicted, real, label="B", labels_key="cell_type", show=False)
        assert ax.get_title().endswith("100 % of all 60 genes")

    @settings(max_examples=15, deadline=None)
    @given(width=st.floats(0, 2), n_cells=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
    def test_any_prediction(self, width, n_cells, seed):
        x = np.random.default_rng(seed).exponential(size=(2, n_cells, 9))
        tables = {
            name: pd.DataFrame({"B": x[0].mean(0) + by}, index=[f"g{i}" for i in range(9)])
            for name, by in (("change", 0), ("lower", -width), ("upper", width))
        }
        predicted, real = (AnnData(cells, var=tables["change"][[]]) for cells in x)
        predicted.varm.update({f"deltavi_{name}": table for name, table in tables.items()})
        ax = response_intervals(predicted, real, n_genes=9, show=False)
        within = np.abs(x[1].mean(0) - x[0].mean(0)) <= width + 1e-6
        assert f"\n{within.sum()} of 9 within" in ax.get_title()
        ax.figure.clear()


class TestFewTrainingLabels:
    def test_changes_alone_and_why(self, several):
        predicted = several["predicted"].copy()
        for key in ("deltavi_lower", "deltavi_upper"):
            predicted.varm[key] = predicted.varm[key] * np.nan
        ax = response_intervals(predicted, several["real"], label="B", labels_key="cell_type", show=False)
        assert len(bands(ax)) == 0
        assert len(dots(ax, BLUE)) == len(dots(ax, VERMILION)) == 20
        assert ax.get_title() == "B\nno intervals: they need three training labels"

    def test_label_that_was_not_measured(self, several, draw):
        real = several["real"][(several["real"].obs["cell_type"] == "B").to_numpy()]
        ax = response_intervals(several["predicted"], real, label="CD4/CD8", labels_key="cell_type", show=False)
        assert len(dots(ax, VERMILION)) == 0
        assert ax.get_title() == "CD4/CD8"


class TestErrors:
    def test_no_intervals(self, cells, several):
        with pytest.raises(DeltaviError, match="no varm 'deltavi_change', 'deltavi_lower', 'deltavi_upper'"):
            response_intervals(cells["predicted"])
        predicted = several["predicted"].copy()
        del predicted.varm["deltavi_upper"]
        with pytest.raises(DeltaviError, match="no varm 'deltavi_upper'"):
            response_intervals(predicted, label="B")

    def test_several_labels_and_none_named(self, several):
        with pytest.raises(DeltaviError, match=r"2 labels were predicted \('B', 'CD4/CD8'\): name the one"):
            response_intervals(several["predicted"])

    def test_unknown_names(self, draw):
        with pytest.raises(UnknownCategoryError, match=r"label 'CD4' .* Did you mean 'CD4/CD8'"):
            draw(label="CD4")
        with pytest.raises(GeneMatchError, match="'ISG15'"):
            draw(genes="ISG15")
        with pytest.raises(UnknownCategoryError, match="labels_key 'celltype'"):
            draw(labels_key="celltype")

    def test_labels_of_real_cells_are_not_known(self, draw):
        with pytest.raises(DeltaviError, match="pass labels_key"):
            draw(labels_key=None)

    @pytest.mark.parametrize("bad", [None, np.eye(3)])
    def test_no_anndata(self, bad):
        with pytest.raises(InputDataError, match="predicted must be an AnnData"):
            response_intervals(bad)
