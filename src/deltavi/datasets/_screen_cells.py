"""Cells of a simulated screen: their groups and libraries, and sparse counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from deltavi._types import FloatArray, IntArray
from deltavi.datasets._screen_parameters import ScreenParameters

# Genes whose largest group has fewer expected counts per cell than this are drawn event by event.
RARE = 0.8


@dataclass(frozen=True, eq=False)
class ScreenCells:
    """Group and library of every cell, ``(n_cells,)`` each; condition 0 is the control."""

    context: IntArray
    condition: IntArray
    batch: IntArray
    library: FloatArray


def draw_group_sizes(parameters: ScreenParameters, n_conditions: int, generator: np.random.Generator) -> IntArray:
    """Numbers of cells, ``(n_contexts, 1 + n_conditions)``, the control first.

    Perturbed groups that are present have ``n_cells_per_group`` cells on average, exactly, and one at least.
    """
    p = parameters
    n_groups = p.n_contexts * n_conditions
    weight = np.exp(p.unevenness * generator.standard_normal(n_groups))
    n_absent = min(int(np.floor(p.absent_fraction * n_groups)), n_groups - 1)
    absent = generator.permutation(n_groups)[:n_absent]
    weight[absent] = 0.0
    present = weight > 0
    sizes = present + _allocate(weight, (p.n_cells_per_group - 1) * int(present.sum()))
    control = np.full((p.n_contexts, 1), p.control_cells())
    return np.hstack([control, sizes.reshape(p.n_contexts, n_conditions)])


def _allocate(weight: FloatArray, total: int) -> IntArray:
    """Divide `total` in proportion to `weight`, by largest remainders."""
    exact = total * weight / weight.sum()
    sizes: IntArray = np.floor(exact).astype(np.intp)
    order = np.argsort(sizes - exact, kind="stable")
    sizes[order[: total - sizes.sum()]] += 1
    return sizes


def draw_screen_cells(parameters: ScreenParameters, n_conditions: int, generator: np.random.Generator) -> ScreenCells:
    """Draw groups, batches and libraries; cells are in the order of contexts, conditions and batches."""
    p = parameters
    sizes = draw_group_sizes(p, n_conditions, generator).ravel()
    context, condition = np.divmod(np.repeat(np.arange(sizes.size), sizes), 1 + n_conditions)
    batch = generator.integers(p.n_batches, size=len(context))
    order = np.lexsort([batch, condition, context])
    library = p.median_library() * np.exp(p.library_sd * generator.standard_normal(len(context)))
    return ScreenCells(context[order], condition[order], batch[order], library)


def draw_group_counts(
    shares: FloatArray, group: IntArray, library: FloatArray, theta: FloatArray, generator: np.random.Generator
) -> sparse.csr_matrix:
    """Negative binomial counts, ``(n_cells, n_genes)``, in time that follows the number of counts.

    Parameters
    ----------
    shares
        Expected counts relative to the library, ``(n_groups, n_genes)``.
    group, library
        ``(n_cells,)`` row of `shares`, in increasing order, and library of each cell.
    theta
        ``(n_genes,)`` inverse dispersion.
    """
    rare = shares.max(axis=0) * library.mean() < RARE
    blocks = [
        _draw_rare(shares[:, rare], group, library, theta[rare], generator),
        _draw_frequent(shares[:, ~rare], group, library, theta[~rare], generator),
    ]
    counts = sparse.hstack(blocks, format="csc")
    order = np.argsort(np.concatenate([np.flatnonzero(rare), np.flatnonzero(~rare)]))
    return sparse.csr_matrix(counts[:, order])


def _draw_frequent(
    shares: FloatArray, group: IntArray, library: FloatArray, theta: FloatArray, generator: np.random.Generator
) -> sparse.csc_matrix:
    """Poisson counts whose mean is Gamma distributed, gene by gene."""
    counts = np.empty((len(theta), len(library)), dtype=np.float32)
    for g, inverse_dispersion in enumerate(theta):
        noise = generator.standard_gamma(inverse_dispersion, size=len(library), dtype=np.float32)
        counts[g] = generator.poisson(noise * (library * shares[group, g] / inverse_dispersion))
    return sparse.csr_matrix(counts).T


def _draw_rare(
    shares: FloatArray, group: IntArray, library: FloatArray, theta: FloatArray, generator: np.random.Generator
) -> sparse.csc_matrix:
    """Counts as a Poisson number of events, each worth a logarithmic number of counts.

    A negative binomial count of mean m is such a sum with ``theta * log(1 + m / theta)`` events on average. Events are
    proposed at the rate m, for all cells of a group at once, and kept with the ratio of the two rates.
    """
    ends = np.cumsum(np.bincount(group, minlength=len(shares)))
    before = np.concatenate([[0.0], np.cumsum(library)])
    first, last = before[np.concatenate([[0], ends[:-1]])], before[ends]
    n_events = generator.poisson(shares * (last - first)[:, None])
    of_group, of_gene = np.divmod(np.repeat(np.arange(n_events.size), n_events.ravel()), shares.shape[1])
    place = first[of_group] + (last - first)[of_group] * generator.random(len(of_group))
    cell = np.clip(np.searchsorted(before, place, side="right") - 1, 0, len(library) - 1)
    ratio = library[cell] * shares[of_group, of_gene] / theta[of_gene]
    kept = generator.random(len(ratio)) * ratio < np.log1p(ratio)
    worth = generator.logseries(ratio[kept] / (1 + ratio[kept]))
    places = (cell[kept], of_gene[kept])
    return sparse.coo_matrix((worth.astype(np.float32), places), shape=(len(library), len(theta))).tocsc()
