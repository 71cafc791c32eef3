"""Predicted against real variances: the numbers drawn and written are those of the cells."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from deltavi.errors import DeltaviError, GeneMatchError, InputDataError
from deltavi.metrics import top_differential_genes
from deltavi.pl import reg_mean, reg_var

from .test_reg_mean import coloured, dense, drawn_points, words


def in_order(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T)]


def variances(real: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Population variances, (n_genes, 2), in order of their coordinates."""
    return in_order(np.column_stack([real.var(axis=0, dtype=float), predicted.var(axis=0, dtype=float)]))


class TestWhatIsDrawn:
    def test_one_point_per_gene(self, cells):
        ax = reg_var(cells["predicted"], cells["real"], show=False)
        np.testing.assert_allclose(
            drawn_points(ax), variances(dense(cells["real"]), dense(cells["predicted"])), atol=1e-6
        )

    def test_coloured_genes_are_those_whose_means_change(self, cells):
        ax = reg_var(cells["predicted"], cells["real"], control=cells["control"], n_top=30, show=False)
        top = top_differential_genes(cells["control"].X, cells["real"].X, n=30)
        expected = variances(dense(cells["real"])[:, top], dense(cells["predicted"])[:, top])
        np.testing.assert_allclose(in_order(coloured(ax)), expected, atol=1e-6)

    def test_r2_is_the_squared_correlation(self, cells):
        ax = reg_var(cells["predicted"], cells["real"], control=cells["control"], n_top=30, show=False)
        real, predicted = (dense(cells[name]).var(axis=0, dtype=float) for name in ("real", "predicted"))
        top = top_differential_genes(cells["control"].X, cells["real"].X, n=30)
        assert words(ax)[0] == f"R² = {stats.pearsonr(real, predicted)[0] ** 2:.3f}, all 200 genes"
        assert words(ax)[1] == f"R² = {stats.pearsonr(real[top], predicted[top])[0] ** 2:.3f}, 30 most changed"

    def test_axes_say_what_they_are(self, cells):
        ax = reg_var(cells["predicted"], cells["real"], title="B cells", show=False)
        assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("B cells", "real variance", "predicted variance")
        assert ax.get_xlim() == ax.get_ylim()

    def test_cells_that_are_too_alike_lie_below_the_diagonal(self, cells):
        even = np.repeat(dense(cells["real"]).mean(axis=0, keepdims=True), 20, axis=0)
        assert (drawn_points(reg_var(even, cells["real"], show=False))[:, 1] == 0).all()

    @settings(max_examples=20, deadline=None)
    @given(n_genes=st.integers(2, 12), n_cells=st.integers(2, 6), seed=st.integers(0, 2**32 - 1))
    def test_any_arrays(self, n_genes, n_cells, seed):
        control, real, predicted = np.random.default_rng(seed).exponential(size=(3, n_cells, n_genes))
        ax = reg_var(predicted, real, control=control, show=False)
        np.testing.assert_allclose(drawn_points(ax), variances(real, predicted))
        ax.figure.clear()

    @pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
    def test_same_picture_however_stored(self, cells, form):
        stored = AnnData(form(dense(cells["real"])), var=cells["real"].var[[]])
        ax, plain = (reg_var(cells["predicted"], real, show=False) for real in (stored, cells["real"]))
        np.testing.assert_allclose(drawn_points(ax), drawn_points(plain), atol=1e-6)


class TestNames:
    def test_worst_predicted_without_control(self, cells):
        ax = reg_var(cells["predicted"], cells["real"], n_label=2, show=False)
        error = np.abs(dense(cells["predicted"]).var(axis=0) - dense(cells["real"]).var(axis=0))
        assert set(words(ax)[1:]) == set(cells["real"].var_names[np.argsort(-error)[:2]])

    def test_names_are_chosen_as_by_the_plot_of_means(self, cells):
        top = top_differential_genes(cells["control"].X, cells["real"].X, n=4)
        for plot in (reg_mean, reg_var):
            ax = plot(cells["predicted"], cells["real"], control=cells["control"], n_label=4, show=False)
            assert set(words(ax)[2:]) <= set(cells["real"].var_names[top])

    def test_named_by_the_user(self, cells):
        largest = str(cells["real"].var_names[np.argmax(dense(cells["real"]).var(axis=0))])
        assert words(reg_var(cells["predicted"], cells["real"], genes=largest, show=False))[1:] == [largest]


class TestErrors:
    def test_unknown_gene(self, cells):
        with pytest.raises(GeneMatchError, match="1 of the genes to name are not among the genes: 'ISG15'"):
            reg_var(cells["predicted"], cells["real"], genes="ISG15")

    def test_raw_counts_beside_logs(self, cells):
        with pytest.raises(InputDataError, match="real looks like raw counts"):
            reg_var(cells["predicted"], cells["real"].layers["counts"])

    def test_numbers(self, cells):
        with pytest.raises(DeltaviError, match="n_label must be a whole number of at least 0"):
            reg_var(cells["predicted"], cells["real"], n_label=-1)
