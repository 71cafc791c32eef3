"""Move observed expression from one likelihood to another, keeping what makes a cell differ from its mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from deltavi.kernels import kernels
from deltavi.likelihood import Gaussian, Likelihood
from deltavi.likelihood.base import to_numpy
from deltavi.likelihood.rows import arrays_of, entries, filled_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


def couple(
    observed: NDArray[np.floating], source: Likelihood, target: Likelihood, *, uniform: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Map each observed value to the same quantile of another distribution.

    A value that lies at quantile u of what the model expects of the cell as it is goes to quantile u of what it
    expects after the perturbation: the monotone coupling of the two distributions, which moves values least
    (Santambrogio 2015, ch. 2), and the counterfactual of a model whose noise is the quantile. A count covers a range
    of quantiles, from P(X < x) to P(X <= x), and `uniform` is the position in it; so zeros stay zeros as often as
    the target distribution has them, and the mean is that of the target where the source fits.

    Parameters
    ----------
    observed
        ``(n_cells, n_genes)`` raw counts, or log-normalised expression for a Gaussian.
    source, target
        Likelihoods of the same cells before and after, of the same kind.
    uniform
        ``(n_cells, n_genes)`` draws from [0, 1); a Gaussian needs none.

    Returns
    -------
    ``(n_cells, n_genes)`` counts, or expression clipped at zero for a Gaussian.
    """
    return coupling(observed, source, uniform=uniform)(target)


def coupling(
    observed: NDArray[np.floating], source: Likelihood, *, uniform: NDArray[np.float64]
) -> Callable[[Likelihood], NDArray[np.float64]]:
    """As `couple`, for several targets: a function of the target likelihood; quantiles are looked up once."""
    if isinstance(source, Gaussian):
        return partial(_couple_gaussian, observed, source)
    observed = np.asarray(observed, dtype=np.float64)
    # greys of a Bernoulli variable are detected or not
    observed = observed if source.of_counts else np.rint(observed)
    lower = np.where(observed > 0, source.cdf(observed - 1), 0.0)
    # quantiles of the upper half are counted from above: near one they would all round to the same number
    in_tail = lower > 0.5
    u = np.where(in_tail, 0.0, lower + uniform * (source.cdf(observed) - lower))
    if not in_tail.any():
        return lambda target: target.quantile(u)
    above = source.survival(observed)
    s = np.where(in_tail, above + (1.0 - uniform) * (source.survival(observed - 1) - above), 1.0)
    return lambda target: np.where(in_tail, target.upper_quantile(s), target.quantile(u))


def count_coupling(
    observed: NDArray[np.floating], source: Likelihood, *, uniform: NDArray[np.float64], n_targets: int = 1
) -> Callable[[Likelihood], sparse.csr_matrix]:
    """As `coupling` of counts, which come out as CSR without zeros.

    Parameters
    ----------
    observed, source, uniform
        As of `couple`.
    n_targets
        Likelihoods that are to be asked about; what is found out for the first one is kept if there are several.
    """
    found, arrays = kernels("quantiles"), arrays_of(source)
    if found is None or arrays is None or observed.dtype != np.float32 or observed.shape != uniform.shape:
        plain = coupling(observed, source, uniform=uniform)
        return lambda target: sparse.csr_matrix(plain(target))
    observed, uniform = np.ascontiguousarray(observed), np.ascontiguousarray(uniform)
    places = np.full(observed.shape if n_targets > 1 else (0, 0), np.nan)

    def one_by_one(target: Likelihood, cells: np.ndarray, genes: np.ndarray) -> NDArray[np.float64]:
        here = (cells, genes)
        plain = coupling(observed[here], entries(source, *here), uniform=uniform[here])
        return plain(entries(target, *here))

    def coupled(target: Likelihood) -> sparse.csr_matrix:
        there = arrays_of(target)
        if there is None:
            return sparse.csr_matrix(coupling(observed, source, uniform=uniform)(target))
        return filled_rows(
            observed.shape,
            lambda counts: (
                found.screen_pairs(observed, uniform, arrays, there, counts),
                found.couple(observed, uniform, places, arrays, there, counts),
            )[1],
            partial(one_by_one, target),
        )

    return coupled


def _couple_gaussian(observed: NDArray[np.floating], source: Gaussian, target: Likelihood) -> NDArray[np.float64]:
    """Closed form: the standardised residual is kept; log-normalised expression is never negative."""
    stretch = np.sqrt(to_numpy(target.variance) / to_numpy(source.variance))
    moved = to_numpy(target.mean) + stretch * (np.asarray(observed, dtype=np.float64) - to_numpy(source.mean))
    return np.asarray(np.maximum(moved, 0.0))
