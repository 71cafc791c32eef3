"""Cells whose expression a model can use."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from deltavi._entries import flag
from deltavi._reading import known_arguments
from deltavi.registry.checks import ROUNDED_ZERO, differ_by_rounding, row_blocks
from deltavi.registry.chunks import entries
from deltavi.registry.matrix import loadable
from deltavi.registry.source import matrix_name, matrix_of


@known_arguments
def valid_cells(adata: AnnData, *, layer: str | None = None, counts: bool = True) -> np.ndarray:
    """Cells whose expression a model can use.

    Parameters
    ----------
    adata
        AnnData to check; backed files are read in blocks.
    layer
        Layer to check instead of X.
    counts
        Also require non-negative whole numbers.

    Returns
    -------
    Boolean mask ``(n_cells,)``, False where a cell holds NaN, infinite or (with `counts`) negative or
    fractional values; whole numbers but for rounding are none.

    Raises
    ------
    UnknownCategoryError
        If there is no such layer.
    InputDataError
        If there is no matrix, or it holds no numbers.
    """
    counts = flag("counts", counts)
    x = loadable(matrix_of(adata, layer), where=matrix_name(layer), quiet=True)
    good = np.ones(x.shape[0], dtype=bool)
    for numbers, block in row_blocks(x):
        rows, _, values = entries(block)
        values = np.asarray(values, dtype=np.float64)
        wrong = ~np.isfinite(values)
        if counts:
            with np.errstate(invalid="ignore"):
                wrong |= (values < -ROUNDED_ZERO) | ((values != np.floor(values)) & ~differ_by_rounding(values))
        good[numbers[np.unique(rows[wrong])]] = False
    return good
