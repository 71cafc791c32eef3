"""Counts at quantiles of a likelihood as sparse rows: most of them are zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from deltavi.kernels import kernels
from deltavi.likelihood._counts import CountLikelihood

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from deltavi.likelihood.base import Likelihood

Arrays = tuple[np.ndarray, ...]
MATRIX = 2
# Entries that positions of 32 bits can count.
MOST_ENTRIES = 2**31 - 1


def quantile_rows(likelihood: Likelihood, u: NDArray[np.float64]) -> sparse.csr_matrix:
    """As :meth:`Likelihood.quantile` of a likelihood of counts, as CSR without zeros.

    Parameters
    ----------
    likelihood
        Of counts.
    u
        ``(n_cells, n_genes)`` quantiles.
    """
    found, arrays = kernels("quantiles"), arrays_of(likelihood)
    if found is None or arrays is None or u.shape != likelihood.rate.shape:
        return sparse.csr_matrix(likelihood.quantile(u))
    u = np.ascontiguousarray(u, dtype=np.float64)
    return filled_rows(
        u.shape,
        lambda counts: (found.screen(u, arrays, counts), found.draw(u, arrays, counts))[1],
        lambda cells, genes: entries(likelihood, cells, genes).quantile(u[cells, genes]),
    )


def arrays_of(likelihood: Likelihood) -> Arrays | None:
    """A likelihood as :mod:`deltavi.kernels.quantiles` reads it; None of one that it does not know."""
    rate = _single(likelihood.rate)
    if not isinstance(likelihood, CountLikelihood) or rate is None or not 0 < rate.size <= MOST_ENTRIES:
        return None
    logits = getattr(likelihood, "dropout_logits", None)
    lost = np.zeros((0, 0), dtype=np.float32) if logits is None else _single(logits.expand(likelihood.rate.shape))
    thetas, rows = _thetas(likelihood, rate.shape)
    return None if thetas is None or lost is None else (rate, thetas, rows, lost)


def entries(likelihood: Likelihood, cells: np.ndarray, genes: np.ndarray) -> CountLikelihood:
    """Likelihood of counts of single entries."""
    assert isinstance(likelihood, CountLikelihood)
    return likelihood.at(cells, genes)


def filled_rows(
    shape: tuple[int, int],
    fill: Callable[[Arrays], int],
    plainly: Callable[[np.ndarray, np.ndarray], NDArray[np.float64]],
) -> sparse.csr_matrix:
    """Rows that a kernel fills, completed by what it leaves out.

    Parameters
    ----------
    shape
        Cells and genes.
    fill
        Writes starts, columns and values of the rows, and returns how many values it left out, which are NaN.
    plainly
        Values of single entries, by their cells and genes.
    """
    starts = np.empty(shape[0] + 1, dtype=np.int32)
    columns, values = (np.empty(shape[0] * shape[1] + 1, dtype=dtype) for dtype in (np.int32, np.float64))
    n_left = fill((starts, columns, values))
    # memory of the other entries was asked for, and never touched
    columns, values = columns[: starts[-1]].copy(), values[: starts[-1]].copy()
    rows = sparse.csr_matrix((values, columns, starts), shape=shape)
    if n_left:
        left = np.flatnonzero(np.isnan(values))
        cells = np.searchsorted(starts, left, side="right") - 1
        rows.data[left] = plainly(cells, columns[left])
        rows.eliminate_zeros()
    return rows


def _thetas(likelihood: CountLikelihood, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray]:
    """Rows of inverse dispersions, infinite of Poisson, and the row of each cell."""
    shared, dispersion = np.zeros(shape[0], dtype=np.int64), getattr(likelihood, "dispersion", None)
    if dispersion is None:
        return np.full((1, shape[1]), np.inf, dtype=np.float32), shared
    values = dispersion.values if dispersion.values.dim() == MATRIX else dispersion.values[None]
    if dispersion.row is None:
        each = len(values) == shape[0] and dispersion.values.dim() == MATRIX
        rows = np.arange(shape[0]) if each else shared
        return _single(values.expand(len(values), shape[1])), rows
    # negative ones count from the end
    rows = dispersion.row.cpu().numpy().astype(np.int64) % len(values)
    return _single(values), rows


def _single(values: Tensor) -> np.ndarray | None:
    """Values as a contiguous matrix, if they are one in single precision and in memory."""
    array = values.detach()
    if array.dim() != MATRIX or str(array.dtype) != "torch.float32" or array.device.type != "cpu":
        return None
    return np.ascontiguousarray(array.numpy())
