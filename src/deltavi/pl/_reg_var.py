"""Predicted against real gene variances."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from deltavi._reading import known_arguments
from deltavi._types import FloatArray, Rows
from deltavi.metrics import r2_of_variances
from deltavi.metrics.significance import moments
from deltavi.pl._expression import Expression
from deltavi.pl._figure import PlotResult, SaveTarget
from deltavi.pl._regression import Choice, Statistic, draw_regression


def _variances(matrix: Rows) -> FloatArray:
    """Population variance of every gene, zero where it is but rounding, ``(n_genes,)``."""
    return moments(matrix).spread


VARIANCE = Statistic("variance", _variances, r2_of_variances)


@known_arguments
def reg_var(
    predicted: Expression,
    real: Expression,
    *,
    control: Expression | None = None,
    genes: Sequence[str] | None = None,
    n_label: int = 10,
    n_top: int = 100,
    layer: str | None = None,
    gene_names: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: SaveTarget | None = None,
) -> PlotResult:
    """Draw the variance of every gene over the predicted cells against its variance over the real cells.

    Genes on the diagonal vary as much between predicted cells as between real ones; below it predicted cells are too
    alike. The R² is blind to size: read the slope, or :func:`deltavi.metrics.variance_ratio`, beside it. With
    `control`, the genes whose means really change most are coloured and named.

    Parameters
    ----------
    predicted, real
        Predicted and real cells of the perturbed condition: AnnData or arrays of shape ``(n_cells, n_genes)``, on one
        scale, usually log1p CP10k. AnnData are matched by gene name.
    control
        Real cells of the control condition, used to find the genes that change most (largest Welch ``|t|`` between
        `control` and `real`, see :func:`deltavi.metrics.top_differential_genes`).
    genes
        Names of the genes to write. When None: the `n_label` genes that change most or, without `control`, whose
        variance is predicted worst.
    n_label
        How many genes to name when `genes` is None. A name for which there is no room is left out.
    n_top
        How many of the most changed genes to colour and to give an R² of their own.
    layer
        Layer to take from every AnnData; ``X`` when None.
    gene_names
        Names of the columns, where only arrays are given.
    title
        Title of the plot.
    ax
        Axes to draw on; a new figure when None.
    show
        True shows the figure and returns nothing, False returns the axes; None shows in interactive use only.
    save
        Path of a file to write.

    Returns
    -------
    The axes, unless the figure was shown.

    Raises
    ------
    GeneMatchError
        If the genes do not match, or a name in `genes` is unknown.
    InputDataError
        If values are missing or infinite, scales are mixed, or `control` is given and a set has a single cell.
    """
    choice = Choice(genes, n_label, n_top, layer, gene_names)
    return draw_regression(VARIANCE, predicted, real, control, choice, title=title, ax=ax, show=show, save=save)
