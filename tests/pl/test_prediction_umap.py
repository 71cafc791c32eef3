"""The joint map: every cell is drawn once, in its colour, and a good prediction lies where it should."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.colors import to_rgb
from scipy import sparse
from scipy.spatial import cKDTree

from deltavi.datasets import simulate_perturbation
from deltavi.errors import DeltaviError, GeneMatchError, InputDataError, UnknownCategoryError
from deltavi.pl import prediction_umap
from deltavi.pl._figure import BLUE, GREY, VERMILION
from deltavi.pp import highly_variable_genes


def drawn(ax) -> dict[str, np.ndarray]:
    """Positions of the cells of each group in an overlay."""
    scatter = max(ax.collections, key=lambda c: len(c.get_offsets()))
    position, colour = np.asarray(scatter.get_offsets()), scatter.get_facecolor()[:, :3]
    groups = {"control": GREY, "real": BLUE, "predicted": VERMILION}
    return {name: position[np.isclose(colour, to_rgb(c)).all(axis=1)] for name, c in groups.items()}


def share_of_real_neighbours(ax) -> float:
    """Of the neighbours of predicted cells among control and real ones, how many are real."""
    groups = drawn(ax)
    tree = cKDTree(np.vstack([groups["real"], groups["control"]]))
    _, neighbours = tree.query(groups["predicted"], k=10)
    return float((neighbours < len(groups["real"])).mean())


class TestOverlay:
    def test_every_cell_is_drawn_once_in_its_colour(self, cells):
        ax = prediction_umap(cells["control"], cells["real"][:50], cells["predicted"][:40], show=False)
        assert {name: len(points) for name, points in drawn(ax).items()} == {"control": 60, "real": 50, "predicted": 40}

    def test_legend_names_and_counts_the_groups(self, cells):
        ax = prediction_umap(cells["control"], cells["real"][:50], cells["predicted"][:40], show=False)
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == ["control (60)", "real (50)", "predicted (40)"]

    def test_no_group_is_drawn_on_top_of_the_others(self, cells):
        ax = prediction_umap(cells["control"], cells["real"], cells["predicted"], show=False)
        scatter = max(ax.collections, key=lambda c: len(c.get_offsets()))
        is_real = np.isclose(scatter.get_facecolor()[:, :3], to_rgb(BLUE)).all(axis=1)
        thirds = [third.mean() for third in np.array_split(is_real, 3)]
        assert max(thirds) - min(thirds) < 0.4

    def test_units_without_meaning_are_not_written(self, cells):
        ax = prediction_umap(cells["control"], cells["real"], cells["predicted"], title="B", show=False)
        assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
        assert ax.get_title() == "B"


class TestPanels:
    def test_one_per_group_with_the_same_limits(self, cells):
        axes = prediction_umap(cells["control"], cells["real"][:50], cells["predicted"], layout="panels", show=False)
        assert [ax.get_title() for ax in axes] == ["control (60 cells)", "real (50 cells)", "predicted (60 cells)"]
        assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in axes}) == 1

    def test_all_cells_are_in_every_panel(self, cells):
        axes = prediction_umap(cells["control"], cells["real"], cells["predicted"], layout="panels", show=False)
        for ax in axes:
            sizes = sorted(len(c.get_offsets()) for c in ax.collections)
            assert sizes == [60, 120]

    def test_axes_of_the_user(self, cells):
        _, axes = plt.subplots(1, 3)
        given = prediction_umap(cells["control"], cells["real"], cells["predicted"], layout="panels", ax=axes)
        assert given == list(axes)
        with pytest.raises(DeltaviError, match="3 panels, but ax holds 1"):
            prediction_umap(cells["control"], cells["real"], cells["predicted"], layout="panels", ax=axes[0])


class TestMap:
    def test_seed_decides(self, cells):
        first, same, other = (
            drawn(prediction_umap(cells["control"], cells["real"], cells["predicted"], seed=s, show=False))
            for s in (0, 0, 1)
        )
        np.testing.assert_array_equal(first["real"], same["real"])
        assert not np.allclose(first["real"], other["real"])

    def test_perfect_prediction_lies_among_real_cells_and_no_change_does_not(self):
        adata = simulate_perturbation(n_genes=500, n_cell_types=1, n_batches=1, shared_effect=2)
        adata = highly_variable_genes(adata, n_top=500)
        control, real = (adata[(adata.obs["condition"] == c).to_numpy()] for c in ("control", "stimulated"))
        perfect = share_of_real_neighbours(prediction_umap(control[:50], real[:50], real[50:], show=False))
        no_change = share_of_real_neighbours(prediction_umap(control[:50], real[:50], control[50:], show=False))
        assert perfect > 0.9
        assert no_change < 0.1

    @pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csr_array])
    def test_arrays_and_sparse(self, cells, form):
        dense = [
            cells[k].X.toarray() if sparse.issparse(cells[k].X) else cells[k].X
            for k in ("control", "real", "predicted")
        ]
        ax = prediction_umap(*(form(x) for x in dense), show=False)
        assert {len(points) for points in drawn(ax).values()} == {60}

    def test_genes_are_matched_by_name(self, cells):
        shuffled = cells["real"][:, ::-1]
        straight, turned = (
            drawn(prediction_umap(cells["control"], real, cells["predicted"], show=False))
            for real in (cells["real"], shuffled)
        )
        np.testing.assert_allclose(straight["real"], turned["real"])

    @pytest.mark.parametrize(("n_cells", "n_genes", "n_pcs"), [(2, 40, 30), (20, 1, 30), (20, 2, 30), (4, 3, 1)])
    def test_few_cells_or_genes(self, n_cells, n_genes, n_pcs):
        rng = np.random.default_rng(0)
        groups = [AnnData(rng.exponential(size=(n_cells, n_genes)).astype(np.float32)) for _ in range(3)]
        ax = prediction_umap(*groups, n_pcs=n_pcs, show=False)
        assert {len(points) for points in drawn(ax).values()} == {n_cells}


class TestErrors:
    def test_too_few_cells(self):
        with pytest.raises(InputDataError, match="at least 5 cells, but there are 3"):
            prediction_umap(*(np.ones((1, 4)) * i for i in range(3)))

    def test_layout(self, cells):
        with pytest.raises(UnknownCategoryError, match="Did you mean 'panels'"):
            prediction_umap(cells["control"], cells["real"], cells["predicted"], layout="panel")

    @pytest.mark.parametrize("bad", [{"n_pcs": 0}, {"n_neighbors": 1}])
    def test_numbers(self, cells, bad):
        with pytest.raises(DeltaviError, match=f"{next(iter(bad))} must be a whole number of at least"):
            prediction_umap(cells["control"], cells["real"], cells["predicted"], **bad)

    def test_genes_that_do_not_match(self, cells):
        with pytest.raises(GeneMatchError, match="The numbers of genes differ"):
            prediction_umap(cells["control"], cells["real"], np.ones((3, 2)))
