"""Predicted against real means: the numbers drawn and written are those of the cells."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from scipy import sparse, stats

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.metrics import top_differential_genes
from deltavi.pl import reg_mean
from deltavi.pl._figure import VERMILION


def drawn_points(ax) -> np.ndarray:
    """All points of the scatter, (n_points, 2), in order of their coordinates."""
    points = np.vstack([collection.get_offsets() for collection in ax.collections])
    return points[np.lexsort(points.T)]


def expected_points(real: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    points = np.column_stack([real.mean(axis=0), predicted.mean(axis=0)])
    return points[np.lexsort(points.T)]


def coloured(ax) -> np.ndarray:
    """Points drawn as changed."""
    return np.vstack(
        [c.get_offsets() for c in ax.collections if np.allclose(c.get_facecolor()[0, :3], to_rgb(VERMILION))]
    )


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


class TestWhatIsDrawn:
    def test_one_point_per_gene(self, cells):
        ax = reg_mean(cells["predicted"], cells["real"], show=False)
        expected = expected_points(dense(cells["real"]), dense(cells["predicted"]))
        np.testing.assert_allclose(drawn_points(ax), expected, rtol=1e-5)

    def test_control_adds_colour_and_loses_no_point(self, cells):
        ax = reg_mean(cells["predicted"], cells["real"], control=cells["control"], n_top=30, show=False)
        assert len(drawn_points(ax)) == 200
        top = top_differential_genes(cells["control"].X, cells["real"].X, n=30)
        expected = expected_points(dense(cells["real"])[:, top], dense(cells["predicted"])[:, top])
        points = coloured(ax)
        np.testing.assert_allclose(points[np.lexsort(points.T)], expected, rtol=1e-5)

    def test_r2_is_the_squared_correlation(self, cells):
        ax = reg_mean(cells["predicted"], cells["real"], control=cells["control"], n_top=30, show=False)
        real, predicted = dense(cells["real"]).mean(axis=0), dense(cells["predicted"]).mean(axis=0)
        top = top_differential_genes(cells["control"].X, cells["real"].X, n=30)
        assert words(ax)[0] == f"R² = {stats.pearsonr(real, predicted)[0] ** 2:.3f}, all 200 genes"
        assert words(ax)[1] == f"R² = {stats.pearsonr(real[top], predicted[top])[0] ** 2:.3f}, 30 most changed"

    def test_diagonal_has_equal_limits(self, cells):
        ax = reg_mean(cells["predicted"], cells["real"], show=False)
        assert ax.get_xlim() == ax.get_ylim()
        assert ax.get_aspect() == 1
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())
        points = drawn_points(ax)
        assert points.min() > ax.get_xlim()[0]
        assert points.max() < ax.get_xlim()[1]

    def test_title_and_axis_names(self, cells):
        ax = reg_mean(cells["predicted"], cells["real"], title="B cells", show=False)
        assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("B cells", "real mean", "predicted mean")

    @settings(max_examples=20, deadline=None)
    @given(
        n_genes=st.integers(2, 12), n_cells=st.integers(2, 6), scale=st.floats(0.01, 8), seed=st.integers(0, 2**32 - 1)
    )
    def test_any_arrays(self, n_genes, n_cells, scale, seed):
        rng = np.random.default_rng(seed)
        control, real, predicted = rng.exponential(scale, (3, n_cells, n_genes))
        ax = reg_mean(predicted, real, control=control, show=False)
        np.testing.assert_allclose(drawn_points(ax), expected_points(real, predicted))
        ax.figure.clear()

    @pytest.mark.parametrize("value", [0.0, 3.5])
    def test_constant_means(self, value):
        cells = np.full((3, 4), value)
        ax = reg_mean(cells, cells, control=cells, show=False)
        ax.figure.draw_without_rendering()
        assert words(ax)[0] == "R² = 0.000, all 4 genes"

    def test_many_genes_are_rasterised(self):
        cells = np.random.default_rng(0).exponential(size=(3, 6000))
        assert all(c.get_rasterized() for c in reg_mean(cells, cells, show=False).collections[:1])


class TestNames:
    def test_most_changed_genes_are_named(self, cells):
        ax = reg_mean(cells["predicted"], cells["real"], control=cells["control"], n_label=3, show=False)
        top = top_differential_genes(cells["control"].X, cells["real"].X, n=3)
        assert set(words(ax)[2:]) == set(cells["real"].var_names[top])

    def test_worst_predicted_without_control(self, cells):
        ax = reg_mean(cells["predicted"], cells["real"], n_label=2, show=False)
        error = np.abs(dense(cells["predicted"]).mean(axis=0) - dense(cells["real"]).mean(axis=0))
        assert set(words(ax)[1:]) == set(cells["real"].var_names[np.argsort(-error)[:2]])

    def test_names_that_were_asked_for(self, cells):
        expressed = np.argsort(-dense(cells["real"]).mean(axis=0))[[0, 5]]
        names = list(cells["real"].var_names[expressed])
        ax = reg_mean(cells["predicted"], cells["real"], genes=names, show=False)
        assert set(words(ax)[1:]) == set(names)
        for one in (names[0], [names[0], names[0]]):
            assert words(reg_mean(cells["predicted"], cells["real"], genes=one, show=False))[1:] == names[:1]

    def test_no_names(self, cells):
        assert len(words(reg_mean(cells["predicted"], cells["real"], n_label=0, show=False))) == 1

    def test_arrays_have_names_when_given(self, cells):
        arrays = dense(cells["predicted"]), dense(cells["real"])
        assert len(words(reg_mean(*arrays, show=False))) == 1
        named = words(reg_mean(*arrays, gene_names=list(cells["real"].var_names), n_label=2, show=False))
        assert named[1:] == words(reg_mean(cells["predicted"], cells["real"], n_label=2, show=False))[1:]

    def test_unknown_names(self, cells):
        with pytest.raises(GeneMatchError, match="1 of the genes to name are not among the genes: 'ISG15'"):
            reg_mean(cells["predicted"], cells["real"], genes=["GENE0001", "ISG15"])
        with pytest.raises(GeneMatchError, match="arrays have no gene names"):
            reg_mean(dense(cells["predicted"]), dense(cells["real"]), genes=["GENE0001"])


class TestInput:
    @pytest.mark.parametrize(
        "form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, lambda x: x, lambda x: x.astype(np.float64)]
    )
    def test_same_picture_however_stored(self, cells, form):
        plain = reg_mean(cells["predicted"], cells["real"], control=cells["control"], show=False)
        stored = [AnnData(form(dense(cells[k])), var=cells[k].var[[]]) for k in ("predicted", "real", "control")]
        ax = reg_mean(stored[0], stored[1], control=stored[2], show=False)
        np.testing.assert_allclose(drawn_points(ax), drawn_points(plain), rtol=1e-5)
        assert words(ax) == words(plain)

    def test_genes_are_matched_by_name(self, cells, caplog):
        shuffled = cells["real"][:, np.random.default_rng(0).permutation(200)[:150]]
        with caplog.at_level(logging.INFO, logger="deltavi"):
            ax = reg_mean(cells["predicted"], shuffled, show=False)
        straight = reg_mean(cells["predicted"][:, shuffled.var_names], shuffled, show=False)
        np.testing.assert_allclose(drawn_points(ax), drawn_points(straight))
        assert "150 genes are common to predicted, real" in caplog.text
        assert words(ax)[0].endswith("all 150 genes")

    def test_views_and_backed_files(self, cells, tmp_path):
        cells["real"].write_h5ad(tmp_path / "real.h5ad")
        backed = anndata.read_h5ad(tmp_path / "real.h5ad", backed="r")
        ax = reg_mean(cells["predicted"][:], backed, show=False)
        np.testing.assert_allclose(
            drawn_points(ax), drawn_points(reg_mean(cells["predicted"], cells["real"], show=False))
        )
        backed.file.close()

    def test_layer(self, cells):
        ax = reg_mean(cells["predicted"], cells["real"], layer="expected_stimulated", show=False)
        layers = [np.asarray(cells[k].layers["expected_stimulated"]) for k in ("real", "predicted")]
        np.testing.assert_allclose(drawn_points(ax), expected_points(*layers), rtol=1e-5)

    def test_array_beside_anndata(self, cells):
        ax = reg_mean(dense(cells["predicted"]), cells["real"], n_label=2, show=False)
        assert len(words(ax)) == 3

    def test_real_cells(self, kang_path):
        from deltavi.datasets import kang
        from deltavi.pp import highly_variable_genes

        adata = highly_variable_genes(kang(kang_path), condition_key="condition")
        groups = {
            c: adata[(adata.obs["condition"] == c) & (adata.obs["cell_type"] == "CD4T")]
            for c in ("control", "stimulated")
        }
        ax = reg_mean(groups["control"], groups["stimulated"], control=groups["control"], show=False)
        assert {"ISG15", "IFI6", "IFIT3"} <= set(words(ax))


class TestErrors:
    def test_no_common_gene(self, cells):
        other = cells["real"].copy()
        other.var_names = [f"other{i}" for i in range(200)]
        with pytest.raises(GeneMatchError, match="No gene is common to predicted, real"):
            reg_mean(cells["predicted"], other)

    def test_repeated_gene_names(self, cells):
        other = AnnData(dense(cells["real"])[:, :2], var=pd.DataFrame(index=["GENE0001", "GENE0002"]))
        other.var_names = ["GENE0001", "GENE0001"]
        with pytest.raises(GeneMatchError, match="more than once"):
            reg_mean(cells["predicted"], other)

    def test_numbers_of_genes_differ(self, cells):
        with pytest.raises(GeneMatchError, match=r"'predicted': 199, 'real': 200"):
            reg_mean(dense(cells["predicted"])[:, 1:], cells["real"])
        with pytest.raises(GeneMatchError, match="'gene_names': 1"):
            reg_mean(dense(cells["predicted"]), dense(cells["real"]), gene_names=["GENE0001"])

    def test_an_array_cannot_follow_another_order(self, cells):
        with pytest.raises(GeneMatchError, match="an array cannot follow"):
            reg_mean(cells["predicted"], cells["real"][:, ::-1].copy(), control=dense(cells["control"]))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
    def test_missing_values(self, cells, value, form):
        bad = dense(cells["real"]).copy()
        bad[3, 5] = value
        with pytest.raises(InputDataError, match="real holds 1 missing or infinite"):
            reg_mean(cells["predicted"], form(bad))

    def test_raw_counts_beside_logs(self, cells):
        counts = AnnData(cells["real"].layers["counts"], var=cells["real"].var[[]])
        with pytest.raises(InputDataError, match="real looks like raw counts, unlike the rest"):
            reg_mean(cells["predicted"], counts)

    def test_raw_counts_throughout_are_fine(self, cells):
        reg_mean(cells["predicted"], cells["real"], layer="counts", show=False)

    @pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((2, 2, 2)), np.array([["a", "b"]]), "text"])
    def test_not_a_matrix(self, cells, bad):
        with pytest.raises(InputDataError, match="predicted must be numbers of shape"):
            reg_mean(bad, cells["real"])

    def test_no_cells(self, cells):
        with pytest.raises(InputDataError, match="real is empty: 0 cells"):
            reg_mean(cells["predicted"], cells["real"][:0])

    def test_one_cell_cannot_rank_genes(self, cells):
        with pytest.raises(InputDataError, match="control has 1 cell"):
            reg_mean(cells["predicted"], cells["real"], control=cells["control"][:1])

    def test_unknown_layer(self, cells):
        with pytest.raises(UnknownCategoryError, match="layer of predicted 'count' is not in the data"):
            reg_mean(cells["predicted"], cells["real"], layer="count")

    @pytest.mark.parametrize("bad", [{"n_label": -1}, {"n_top": 0}])
    def test_numbers(self, cells, bad):
        with pytest.raises(DeltaviError, match=f"{next(iter(bad))} must be a whole number of at least"):
            reg_mean(cells["predicted"], cells["real"], **bad)
