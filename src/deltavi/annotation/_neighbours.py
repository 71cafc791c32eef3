"""Distance of a cell from the classes: to the k-th nearest cell of the class where that is least."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from sklearn.neighbors import NearestNeighbors

from deltavi.kernels import kernels

# Neighbour in a class whose distance estimates the local density; half of a small class at most.
N_NEIGHBOURS = 50


def least_reach(cells: np.ndarray, members: np.ndarray, codes: np.ndarray, *, own: np.ndarray | None) -> np.ndarray:
    """Distance to the k-th nearest member of a class, least over classes, ``(n_cells,)``.

    Parameters
    ----------
    cells
        ``(n_cells, n_features)`` single precision.
    members
        ``(n_members, n_features)`` single precision.
    codes
        ``(n_members,)`` class of each.
    own
        ``(n_cells,)`` class of each cell where the cells are the members themselves, and no neighbours of their own;
        ``None`` for other cells.
    """
    found = kernels("neighbours")
    single = cells.dtype == members.dtype == np.float32
    # what is not finite is an error of the search for neighbours
    if found is None or not single or not (np.isfinite(cells).all() and np.isfinite(members).all()):
        return _by_search(cells, members, codes, own)
    return _by_kernel(found, cells, members, codes, own)


def rank_of(n_members: int) -> int:
    """Rank of the neighbour that counts in a class of this size."""
    return min(N_NEIGHBOURS, -(-n_members // 2))


def _by_search(cells: np.ndarray, members: np.ndarray, codes: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    distances = np.full(len(cells), np.inf)
    for code in np.unique(codes):
        of_class = members[codes == code]
        k, themselves = rank_of(len(of_class)), own is not None
        search = NearestNeighbors(n_neighbors=min(k + themselves, len(of_class))).fit(of_class)
        reach = search.kneighbors(cells)[0]
        # a cell is its own nearest neighbour in its own class only
        is_own = np.zeros(len(cells), dtype=bool) if own is None else own == code
        distances = np.minimum(distances, np.where(is_own, reach[:, -1], reach[:, k - 1]))
    return distances


def _by_kernel(
    found: ModuleType, cells: np.ndarray, members: np.ndarray, codes: np.ndarray, own: np.ndarray | None
) -> np.ndarray:
    classes, sizes = np.unique(codes, return_counts=True)
    starts = np.concatenate([[0], sizes.cumsum()])
    sorted_members = members[np.argsort(codes, kind="stable")]
    parts = np.split(sorted_members, starts[1:-1])
    ranks = np.array([rank_of(len(part)) for part in parts])
    centres = np.array([part.mean(0) for part in parts])
    # so far from the centre lie no fewer members than the rank, and no more that are not tied
    radii = [np.partition(np.linalg.norm(p - c, axis=1), -k)[-k] for p, c, k in zip(parts, centres, ranks, strict=True)]
    out = np.empty(len(cells), dtype=np.float32)
    found.least_reach(
        np.ascontiguousarray(cells),
        np.full(len(cells), -1) if own is None else np.searchsorted(classes, own),
        np.ascontiguousarray(sorted_members.T),
        starts,
        ranks,
        np.ascontiguousarray(centres.T),
        np.array(radii, dtype=np.float32),
        out,
    )
    return out.astype(np.float64)
