"""Size of a response beside the noise of its measurement, by permutation of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from deltavi._entries import seed_number, whole_number
from deltavi._reading import known_arguments
from deltavi._types import Rows, is_sparse
from deltavi.arrays.matrix import dense
from deltavi.arrays.tables import align
from deltavi.metrics.significance import check_two_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deltavi.arrays.matrix import Matrix, Vector

LEAST_SIGNAL = 3.0
"""Signal z below which a response is too small to rank methods by."""

# Permutations at a time; the weights of all cells in each are in memory at once.
AT_ONCE = 25
# A noise of this share of the mean squared expression is the rounding of cells that do not vary.
ROUNDING = 1e-12


@known_arguments
def signal_z(real: Matrix, control: Matrix, *, n_permutations: int = 200, seed: int = 0) -> float:
    """Standard deviations by which the squared size of a response is above its noise.

    The statistic is ``t = |mean(real) - mean(control)|^2 / noise``, with the noise the squared standard errors of both
    means, summed over genes: about 1 without a response. It is taken again with the two names shuffled among the
    cells, and the result is ``(t - mean of the shuffled) / standard deviation of the shuffled``.

    Parameters
    ----------
    real, control
        Perturbed and control cells, (n_cells, n_genes), log1p CP10k, dense or sparse. Their order does not matter.
    n_permutations
        Number of times that the names are shuffled, at least 20.
    seed
        Seed of the shuffling.

    Returns
    -------
    The number: around 0 without a response. Below 3 the response is too small to rank any method by. Infinite where
    neither group varies and the two differ.

    Raises
    ------
    InputDataError
        A matrix has a single cell, is empty, or holds NaN or infinite values.
    GeneMatchError
        The numbers of genes differ.
    DeltaviError
        `n_permutations` or `seed` is no such number.

    Notes
    -----
    It misleads where cells are not independent: two donors, or two batches, differ without any perturbation, and that
    difference is a response here. It grows with the number of cells, and says that there is a response, not that it is
    large. The shuffled sizes are skewed, so that 3 is exceeded by chance more often than a normal variable would.
    References for the statistic: Janssen (1997), Statistics & Probability Letters 36, for permutation of a quotient by
    its own noise, which holds where the two groups vary unequally.

    Examples
    --------
    >>> import numpy as np
    >>> from deltavi.metrics import signal_z
    >>> rng = np.random.default_rng(0)
    >>> control, same, moved = rng.normal(2, 0.5, (3, 100, 50))
    >>> bool(signal_z(same, control) < 3 < signal_z(moved + 0.2, control))
    True
    """
    n_permutations = whole_number("n_permutations", n_permutations, least=20)
    rng = np.random.default_rng(seed_number("seed", seed))
    x, y = align({"real": real, "control": control}).matrices
    check_two_cells(real=x, control=y)
    return signal_of_cells(x, y, n_permutations, rng)


def signal_of_cells(real: Rows, control: Rows, n_permutations: int, rng: np.random.Generator) -> float:
    """Signal z of two checked matrices, (n_cells, n_genes)."""
    cells, squares = _pooled(real, control)
    is_real = np.repeat([True, False], [real.shape[0], control.shape[0]])
    # cells in an order of their own, so that shuffling does not depend on the one given
    order = np.argsort(squares, kind="stable")
    cells, squares, is_real = cells[order], squares[order], is_real[order]
    found = float(_size_by_noise(cells, squares, is_real[None])[0])
    if not np.isfinite(found):
        return float("inf")
    starts = range(0, n_permutations, AT_ONCE)
    blocks = [
        np.stack([rng.permutation(is_real) for _ in range(min(AT_ONCE, n_permutations - start))]) for start in starts
    ]
    shuffled = np.concatenate([_size_by_noise(cells, squares, block) for block in blocks])
    shuffled = shuffled[np.isfinite(shuffled)]
    spread = float(shuffled.std(ddof=1))
    return float((found - shuffled.mean()) / spread) if spread > 0 else 0.0


def _pooled(real: Rows, control: Rows) -> tuple[Rows, Vector]:
    """Cells of both groups in double precision, (n_cells, n_genes), and the sum of squares of each, (n_cells,)."""
    if is_sparse(real) and is_sparse(control):
        cells = sp.csr_matrix(sp.vstack([real, control]), dtype=np.float64)
        return cells, np.asarray(cells.multiply(cells).sum(axis=1)).ravel()
    together = np.concatenate([dense(real), dense(control)])
    return together, np.einsum("ij,ij->i", together, together)


def _size_by_noise(cells: Rows, squares: Vector, is_real: NDArray[np.bool_]) -> Vector:
    """Squared difference of two means by its noise, for each row of names, (n_names,); 0 where nothing varies.

    Parameters
    ----------
    cells
        (n_cells, n_genes).
    squares
        Sum of squares of each cell, (n_cells,).
    is_real
        True where a cell is named real, (n_names, n_cells).
    """
    noise, means = np.zeros(len(is_real)), []
    for group in (is_real, ~is_real):
        weights = group / group.sum(axis=1, keepdims=True)
        mean = np.asarray((cells.T @ weights.T).T)
        spread = weights @ squares - np.einsum("ij,ij->i", mean, mean)
        noise += np.where(spread <= ROUNDING * squares.mean(), 0.0, spread) / (group.sum(axis=1) - 1)
        means.append(mean)
    difference = means[0] - means[1]
    size = np.einsum("ij,ij->i", difference, difference)
    size = np.where(size <= ROUNDING * squares.mean(), 0.0, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size == 0, 0.0, size / noise)
