"""Control, real and predicted cells in one map."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import sparse

from deltavi._entries import seed_number, whole_number
from deltavi._errors import InputDataError, unknown_category
from deltavi._reading import known_arguments
from deltavi._threads import kept_threads
from deltavi._types import FloatArray
from deltavi.pl._expression import AlignedExpression, Expression, Matrix, align_expression
from deltavi.pl._figure import BLUE, GREY, PALE, VERMILION, PlotResult, SaveTarget, axes_for, figure_file, finish

COLORS = {"control": GREY, "real": BLUE, "predicted": VERMILION}
LAYOUTS = ("overlay", "panels")
MIN_CELLS = 5


@known_arguments
def prediction_umap(
    control: Expression,
    real: Expression,
    predicted: Expression,
    *,
    n_pcs: int = 30,
    n_neighbors: int = 15,
    seed: int = 0,
    layout: Literal["overlay", "panels"] = "overlay",
    layer: str | None = None,
    title: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw control, real perturbed and predicted perturbed cells in one UMAP of their joint principal components.

    A good prediction lies among the real cells; no change lies among the control cells. A map shows neighbourhoods,
    not distances: read :func:`deltavi.metrics.score_prediction` beside it.

    Parameters
    ----------
    control, real, predicted
        AnnData or arrays of shape ``(n_cells, n_genes)``, on one scale, usually log1p CP10k. AnnData are matched by
        gene name. They are not changed.
    n_pcs
        Principal components to keep; as many as there can be where cells or genes are fewer.
    n_neighbors
        Neighbours of a cell in the graph that the map is drawn from.
    seed
        Seed of the map and of the order in which cells are drawn; the same seed gives the same picture.
    layout
        ``"overlay"`` draws all cells in one panel, in random order so that no group hides another; ``"panels"`` draws
        a panel per group, the other cells in pale grey.
    layer
        Layer to take from every AnnData; ``X`` when None.
    title
        Title of the plot, or of the first panel.
    ax
        Axes to draw on, three for ``"panels"``; a new figure when None.
    show
        True shows the figure and returns nothing, False returns the axes; None shows in interactive use only.
    save
        Path of a file to write.

    Returns
    -------
    The axes (a list of three for ``"panels"``), unless the figure was shown.

    Raises
    ------
    GeneMatchError
        If no gene is common.
    InputDataError
        If values are missing or infinite, scales are mixed, or there are fewer than five cells.
    UnknownCategoryError
        If `layout` is neither of the two.
    """
    save = figure_file(save)
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise unknown_category("layout", layout, LAYOUTS)
    n_pcs, n_neighbors = whole_number("n_pcs", n_pcs, least=1), whole_number("n_neighbors", n_neighbors, least=2)
    seed = seed_number("seed", seed)
    cells = align_expression({"control": control, "real": real, "predicted": predicted}, layer=layer)
    group = np.repeat(list(COLORS), [cells[name].shape[0] for name in COLORS])
    if len(group) < MIN_CELLS:
        raise InputDataError(f"A map needs at least {MIN_CELLS} cells, but there are {len(group)}.")
    position = _joint_umap(cells, n_pcs, n_neighbors, seed)
    axes = axes_for(1 if layout == "overlay" else len(COLORS), ax, panel_size=(4.4, 3.8))
    if layout == "overlay":
        _draw_overlay(axes[0], position, group, np.random.default_rng(seed))
    else:
        for panel, name in zip(axes, COLORS, strict=True):
            _draw_group(panel, position, group == name, name)
    for panel in axes:
        _frame(panel, position)
    if title is not None:
        axes[0].set_title(title)
    return finish(axes, made_here=ax is None, show=show, save=save)


def _joint_umap(cells: AlignedExpression, n_pcs: int, n_neighbors: int, seed: int) -> FloatArray:
    """Positions of all cells, control first, then real, then predicted: shape ``(n_cells, 2)``."""
    import scanpy

    joint = AnnData(_stack([cells[name] for name in COLORS]))
    n_pcs = min(n_pcs, min(joint.shape) - 1)
    with kept_threads(), warnings.catch_warnings():
        # umap warns at import of an absent optional part, which is not used
        warnings.simplefilter("ignore", ImportWarning)
        if n_pcs > 0:
            scanpy.pp.pca(joint, n_comps=n_pcs, random_state=seed)
        scanpy.pp.neighbors(
            joint,
            n_neighbors=min(n_neighbors, joint.n_obs - 1),
            use_rep="X_pca" if n_pcs > 0 else "X",
            random_state=seed,
        )
        scanpy.tl.umap(joint, random_state=seed)
    return np.asarray(joint.obsm["X_umap"], dtype=np.float64)


def _stack(matrices: Sequence[Matrix]) -> Matrix:
    """All cells in one matrix, which is sparse only if every part is."""
    if all(sparse.issparse(matrix) for matrix in matrices):
        return sparse.csr_matrix(sparse.vstack(matrices), dtype=np.float32)
    dense = [matrix.toarray() if isinstance(matrix, sparse.csr_matrix) else matrix for matrix in matrices]
    return np.vstack(dense).astype(np.float32)


def _marker_area(n_cells: int) -> float:
    """Marker area in square points: smaller the more cells, but never invisible."""
    return float(np.clip(12_000 / n_cells, 2.0, 25.0))


def _draw_overlay(ax: Axes, position: FloatArray, group: NDArray[np.str_], generator: np.random.Generator) -> None:
    order = generator.permutation(len(group))
    colors = np.array([COLORS[name] for name in group])
    area = _marker_area(len(group))
    x, y = position[order].T
    ax.scatter(x, y, s=area, c=colors[order], alpha=0.7, linewidths=0, rasterized=True)
    for name, color in COLORS.items():  # empty, for the legend: its markers keep one size
        ax.scatter([], [], s=30, color=color, label=f"{name} ({int((group == name).sum()):,})")
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.2)


def _draw_group(ax: Axes, position: FloatArray, members: NDArray[np.bool_], name: str) -> None:
    area = _marker_area(len(members))
    x, y = position.T
    ax.scatter(x[~members], y[~members], s=area, color=PALE, linewidths=0, rasterized=True)
    ax.scatter(x[members], y[members], s=area, color=COLORS[name], alpha=0.7, linewidths=0, rasterized=True)
    ax.set_title(f"{name} ({int(members.sum()):,} cells)", fontsize="medium")


def _frame(ax: Axes, position: FloatArray) -> None:
    """Same limits in every panel; the units of a map have no meaning, so none are written."""
    low, high = position.min(axis=0), position.max(axis=0)
    margin = 0.04 * (high - low)
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
