"""Changes as colours: the values behind them are differences of means, the genes those that change most."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.pl import response_heatmap


def genes(ax) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def image(ax) -> np.ndarray:
    """The values behind the colours, (n_genes, n_columns)."""
    (drawn,) = ax.images
    return np.ma.filled(drawn.get_array().astype(float), np.nan)


def labels(ax) -> list[str]:
    """Names above the columns."""
    (above,) = ax.child_axes
    return [text.get_text() for text in above.get_xticklabels()]


def means(adata: AnnData, label: str | None = None) -> pd.Series:
    chosen = adata if label is None else adata[(adata.obs["cell_type"] == label).to_numpy()]
    return pd.Series(np.asarray(chosen.X.astype(float).mean(axis=0)).ravel(), index=adata.var_names)


def change(cells, name: str, label: str) -> pd.Series:
    return means(cells[name], label) - means(cells["control"], label)


class TestFromPrediction:
    def test_colours_are_the_changes_it_holds(self, several):
        ax = response_heatmap(several["predicted"], n_genes=60, show=False)
        np.testing.assert_allclose(image(ax), several["predicted"].varm["deltavi_change"].loc[genes(ax)])

    def test_labels_have_their_own_names_again(self, several):
        ax = response_heatmap(several["predicted"], show=False)
        assert [text.get_text() for text in ax.get_xticklabels()] == ["B", "CD4/CD8"]

    def test_measured_changes_stand_beside_them(self, several):
        ax = response_heatmap(several["predicted"], several["real"], labels_key="cell_type", show=False)
        columns = [("predicted", "B"), ("real", "B"), ("predicted", "CD4/CD8"), ("real", "CD4/CD8")]
        for j, (name, label) in enumerate(columns):
            np.testing.assert_allclose(image(ax)[:, j], change(several, name, label)[genes(ax)], atol=1e-5)
        assert labels(ax) == ["B", "CD4/CD8"]
        assert [text.get_text() for text in ax.get_xticklabels()] == ["predicted", "real"] * 2

    def test_control_cells_give_the_same(self, several):
        one, other = (
            response_heatmap(
                several["predicted"], several["real"], control=control, labels_key="cell_type", genes=names, show=False
            )
            for control, names in ((None, ["GENE0003", "GENE0007"]), (several["control"], ["GENE0003", "GENE0007"]))
        )
        order = [labels(one).index(label) for label in labels(other)]
        columns = [2 * i + j for i in order for j in (0, 1)]
        np.testing.assert_allclose(image(one)[:, columns], image(other), atol=1e-5)

    def test_one_label_needs_no_key(self, several):
        held = several["predicted"][(several["predicted"].obs["cell_type"] == "B").to_numpy()].copy()
        for key in list(held.varm):
            held.varm[key] = held.varm[key][["B"]]
        real = several["real"][(several["real"].obs["cell_type"] == "B").to_numpy()]
        ax = response_heatmap(held, real, show=False)
        np.testing.assert_allclose(image(ax)[:, 1], change(several, "real", "B")[genes(ax)], atol=1e-5)
        assert labels(ax) == ["B"]

    def test_label_that_was_not_measured_is_grey(self, several):
        real = several["real"][(several["real"].obs["cell_type"] == "B").to_numpy()]
        ax = response_heatmap(several["predicted"], real, labels_key="cell_type", show=False)
        assert np.isnan(image(ax)).all(axis=0).tolist() == [False, False, False, True]


class TestFromCells:
    def test_cells_without_labels(self, cells):
        ax = response_heatmap(cells["predicted"], cells["real"], control=cells["control"], show=False)
        for j, name in enumerate(("predicted", "real")):
            expected = (means(cells[name]) - means(cells["control"]))[genes(ax)]
            np.testing.assert_allclose(image(ax)[:, j], expected, atol=1e-5)
        assert labels(ax) == ["all cells"]

    @pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
    def test_same_picture_however_stored(self, cells, form):
        dense = {
            name: AnnData(form(adata.X.toarray() if sparse.issparse(adata.X) else adata.X), var=adata.var[[]])
            for name, adata in cells.items()
        }
        one, other = (response_heatmap(c["predicted"], control=c["control"], show=False) for c in (cells, dense))
        assert genes(one) == genes(other)
        np.testing.assert_allclose(image(one), image(other), atol=1e-5)

    def test_genes_are_matched_by_name(self, cells):
        one, other = (
            response_heatmap(cells["predicted"], real, control=cells["control"], show=False)
            for real in (cells["real"], cells["real"][:, ::-1])
        )
        np.testing.assert_allclose(image(one), image(other))


class TestChoice:
    @pytest.mark.parametrize("rank_by", ["predicted", "real"])
    def test_genes_are_those_that_change_most(self, several, rank_by):
        ax = response_heatmap(
            several["predicted"], several["real"], labels_key="cell_type", n_genes=7, rank_by=rank_by, show=False
        )
        size = pd.concat([change(several, rank_by, label).abs() for label in ("B", "CD4/CD8")], axis=1).max(axis=1)
        assert set(genes(ax)) == set(size.sort_values().index[-7:])

    def test_rises_are_above_falls(self, several):
        drawn = image(response_heatmap(several["predicted"], n_genes=10, show=False)).mean(axis=1)
        assert (np.diff(drawn) <= 1e-9).all()

    def test_genes_and_labels_of_the_user(self, several):
        ax = response_heatmap(several["predicted"], labels="CD4/CD8", genes=["GENE0005", "GENE0002"], show=False)
        assert genes(ax) == ["GENE0005", "GENE0002"]
        held = several["predicted"].varm["deltavi_change"]["CD4%2FCD8"]
        np.testing.assert_allclose(image(ax)[:, 0], held[genes(ax)])

    def test_order_of_labels(self, several):
        ax = response_heatmap(several["predicted"], labels=["CD4/CD8", "B", "B"], show=False)
        assert [text.get_text() for text in ax.get_xticklabels()] == ["CD4/CD8", "B"]

    def test_genes_are_chosen_among_the_labels_drawn(self, several):
        ax = response_heatmap(several["predicted"], labels=["B"], n_genes=3, show=False)
        held = several["predicted"].varm["deltavi_change"]["B"].abs()
        assert set(genes(ax)) == set(held.sort_values().index[-3:])


class TestColours:
    def test_zero_is_the_middle(self, several):
        (drawn,) = response_heatmap(several["predicted"], show=False).images
        low, high = drawn.get_clim()
        assert low == -high
        assert high == pytest.approx(np.abs(np.asarray(drawn.get_array())).max())
        np.testing.assert_allclose(drawn.cmap(drawn.norm(0.0))[:3], 1.0, atol=0.05)

    def test_no_change_at_all(self, cells):
        ax = response_heatmap(cells["control"], control=cells["control"], n_genes=3, show=False)
        ax.figure.draw_without_rendering()
        assert ax.images[0].get_clim() == (-1, 1)

    def test_scale_says_what_it_shows(self, several):
        ax = response_heatmap(several["predicted"], show=False)
        assert ax.figure.axes[1].get_ylabel() == "change of mean, log1p CP10k"


class TestReadable:
    @pytest.mark.parametrize("n_genes", [1, 60])
    @pytest.mark.parametrize("length", [1, 45])
    def test_long_names_lie_within_the_figure_and_apart(self, several, n_genes, length):
        predicted = several["predicted"].copy()
        columns = ["x" * length + str(i) for i in range(7)]
        held = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 7)), predicted.var_names, columns)
        predicted.obs["cell_type"] = [columns[i % 7] for i in range(predicted.n_obs)]
        predicted.varm["deltavi_change"] = held
        real = several["real"].copy()
        real.obs["cell_type"] = [columns[i % 7] for i in range(real.n_obs)]
        ax = response_heatmap(predicted, real, labels_key="cell_type", n_genes=n_genes, show=False)
        ax.figure.draw_without_rendering()
        box = ax.figure.get_tightbbox()
        assert min(box.x0, box.y0) > -0.01
        assert box.x1 <= ax.figure.get_figwidth() + 0.01
        assert box.y1 <= ax.figure.get_figheight() + 0.01
        boxes = [text.get_window_extent() for text in ax.get_yticklabels()]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        plt.close("all")


class TestErrors:
    def test_no_changes(self, cells):
        with pytest.raises(DeltaviError, match=r"no varm\['deltavi_change'\].*pass control="):
            response_heatmap(cells["predicted"])

    @pytest.mark.parametrize("bad", [np.eye(3), None, "cells"])
    def test_no_anndata(self, several, bad):
        with pytest.raises(InputDataError, match="predicted must be an AnnData"):
            response_heatmap(bad)
        if bad is not None:
            with pytest.raises(InputDataError, match="real must be an AnnData"):
                response_heatmap(several["predicted"], bad)

    def test_labels_of_real_cells_are_not_known(self, several):
        with pytest.raises(DeltaviError, match=r"2 labels \('B', 'CD4/CD8'\): pass labels_key"):
            response_heatmap(several["predicted"], several["real"])

    def test_unknown_column_or_label(self, several):
        with pytest.raises(UnknownCategoryError, match="labels_key 'type' is not in the obs of predicted"):
            response_heatmap(several["predicted"], several["real"], labels_key="type")
        with pytest.raises(UnknownCategoryError, match="label 'NK' is not in the prediction"):
            response_heatmap(several["predicted"], labels=["NK"])
        with pytest.raises(DeltaviError, match="labels is empty"):
            response_heatmap(several["predicted"], labels=[])

    def test_missing_labels(self, several):
        real = several["real"].copy()
        real.obs["cell_type"] = real.obs["cell_type"].astype(object).where(np.arange(real.n_obs) > 1)
        with pytest.raises(InputDataError, match="of real is missing for 2 of 60 cells"):
            response_heatmap(several["predicted"], real, labels_key="cell_type")

    def test_no_shared_label(self, several):
        real = several["real"].copy()
        real.obs["cell_type"] = "NK"
        with pytest.raises(UnknownCategoryError, match="real holds no cell of 'B', 'CD4/CD8', but of 'NK'"):
            response_heatmap(several["predicted"], real, labels_key="cell_type")

    def test_label_without_control_cells(self, several):
        control = several["control"][(several["control"].obs["cell_type"] == "B").to_numpy()]
        with pytest.raises(UnknownCategoryError, match="control holds no cell of 'CD4/CD8'"):
            response_heatmap(several["predicted"], control=control, labels_key="cell_type")

    def test_genes(self, several):
        with pytest.raises(GeneMatchError, match="'ISG15'"):
            response_heatmap(several["predicted"], genes=["ISG15"])
        with pytest.raises(DeltaviError, match="n_genes must be a whole number of at least 1"):
            response_heatmap(several["predicted"], n_genes=0)

    def test_ranks(self, several):
        with pytest.raises(UnknownCategoryError, match="rank_by 'truth' is not in the choices"):
            response_heatmap(several["predicted"], rank_by="truth")
        with pytest.raises(DeltaviError, match="rank_by='real' needs real cells"):
            response_heatmap(several["predicted"], rank_by="real")

    def test_raw_counts_beside_logs(self, several):
        real = AnnData(several["real"].layers["counts"] * 5, obs=several["real"].obs, var=several["real"].var[[]])
        with pytest.raises(InputDataError, match="real looks like raw counts"):
            response_heatmap(several["predicted"], real, labels_key="cell_type")
