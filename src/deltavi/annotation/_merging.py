"""Merging of mixture components whose cells cannot be separated."""

from __future__ import annotations

import numpy as np

from deltavi._errors import DeltaviError


def merged_components(
    shares: np.ndarray, n_groups: int | None = None, *, max_overlap: float | None = None, n_apart: int = 0
) -> np.ndarray:
    """Group of every component, ``(n_components,)`` codes from 0 in the order of each group's first component.

    The probability that a cell of group j is taken for one of group k is estimated by the share of k in the cells
    that are most probably of j; the pair with the highest such probability is merged first (directly estimated
    misclassification probabilities; Hennig 2010). Components without cells join the group of the largest one.

    Parameters
    ----------
    shares
        ``(n_cells, n_components)`` responsibilities, rows summing to one.
    n_groups
        Groups to end with; by default as few as `max_overlap` leaves.
    max_overlap
        Merge no further once no two groups are confused with a higher probability; by default `n_groups` decides.
    n_apart
        The first so many components are never merged with each other.

    Raises
    ------
    DeltaviError
        If `n_groups` is not a number between `n_apart` (or 1) and the number of components, or `max_overlap` is no
        probability.
    """
    n_components, fewest = shares.shape[1], max(n_apart, 1)
    if n_groups is not None and not fewest <= n_groups <= n_components:
        raise DeltaviError(
            f"n_groups must lie between {fewest} and the number of components, {n_components}, not {n_groups}."
        )
    if max_overlap is not None and not 0 <= max_overlap <= 1:
        raise DeltaviError(f"max_overlap is a probability and must lie in [0, 1], not {max_overlap!r}.")
    groups, apart = np.arange(n_components), np.arange(n_components) < n_apart
    of_groups = np.asarray(shares, dtype=np.float64).copy()
    while len(of_groups.T) > (fewest if n_groups is None else n_groups):
        into, merged, overlap = _most_alike(of_groups, apart)
        if max_overlap is not None and overlap <= max_overlap:
            break
        of_groups[:, into] += of_groups[:, merged]
        of_groups, apart[into] = np.delete(of_groups, merged, axis=1), apart[into] | apart[merged]
        apart = np.delete(apart, merged)
        groups[groups == merged] = into
        groups[groups > merged] -= 1
    return groups


def _most_alike(of_groups: np.ndarray, apart: np.ndarray) -> tuple[int, int, float]:
    """The two groups, the earlier first, whose cells are most probably confused, and that probability."""
    n_groups = of_groups.shape[1]
    members = np.eye(n_groups)[of_groups.argmax(1)]
    sizes = members.sum(0)
    # share of group k in the cells of group j, relative to what j has in them itself
    confused = members.T @ of_groups
    confused = confused / np.maximum(np.diag(confused)[:, None], np.finfo(float).tiny)
    confused[sizes == 0] = 0
    alike = np.maximum(confused, confused.T)
    # a group without cells is confused with none: the largest takes it in
    alike[sizes == 0, sizes.argmax()] = alike[sizes.argmax(), sizes == 0] = np.inf
    alike[np.ix_(apart, apart)] = -np.inf
    np.fill_diagonal(alike, -np.inf)
    into, merged = sorted(np.unravel_index(int(alike.argmax()), alike.shape))
    return int(into), int(merged), float(alike.max())
