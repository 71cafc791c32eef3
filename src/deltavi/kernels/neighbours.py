"""Distance to the k-th nearest cell of a class, least over classes."""

from __future__ import annotations

import numpy as np

from deltavi.kernels.compiled import jit, part

# Single precision may be off by so much where a class is left out because it lies too far away.
MARGIN = np.float32(1e-4)


@part
def selected(values: np.ndarray, n: int, rank: int) -> np.float32:
    """Entry number `rank`, from zero, of the first `n` of `values` in order; these are rearranged."""
    low, high = 0, n - 1
    while low < high:
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        left, right = low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while values[right] > pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            break
    found: np.float32 = values[rank]
    return found


@part
def squared_distances(cell: np.ndarray, members: np.ndarray, out: np.ndarray) -> None:
    """Squared distances of a cell ``(n_features,)`` from ``(n_features, n_members)``, written to `out`."""
    for j in range(len(out)):
        out[j] = np.float32(0)
    for a in range(len(cell)):
        at, row = cell[a], members[a]
        for j in range(len(out)):
            apart = row[j] - at
            out[j] += apart * apart


@jit
def least_reach(
    cells: np.ndarray,
    own: np.ndarray,
    members: np.ndarray,
    starts: np.ndarray,
    ranks: np.ndarray,
    centres: np.ndarray,
    radii: np.ndarray,
    out: np.ndarray,
) -> None:
    """Least distance, over classes, to the member of that rank; see `deltavi.annotation`.

    A class is left out where too few of its members lie far enough from its centre to be within the least distance
    so far: only of the others are distances computed, and only of those that come nearer is one selected.
    """
    n_classes = len(ranks)
    near = np.empty(members.shape[1], dtype=np.float32)
    apart = np.empty(n_classes, dtype=np.float32)
    for i in range(len(cells)):
        squared_distances(cells[i], centres, apart)
        nearest, best = np.argmin(apart), np.float32(np.inf)
        for turn in range(n_classes):
            # the nearest class first, the others in their order
            group = nearest if turn == 0 else (turn - 1 if turn <= nearest else turn)
            if (np.sqrt(apart[group]) - np.sqrt(best)) > radii[group] + MARGIN * np.sqrt(apart[group]):
                continue
            size = starts[group + 1] - starts[group]
            rank = min(ranks[group] + (own[i] == group), size)
            squared_distances(cells[i], members[:, starts[group] : starts[group + 1]], near[:size])
            within = 0
            for j in range(size):
                within += near[j] < best
            if within < rank:
                continue
            kept = 0
            for j in range(size):
                if near[j] < best:
                    near[kept] = near[j]
                    kept += 1
            best = selected(near, kept, rank - 1)
        out[i] = np.sqrt(best)


_ROWS, _VALUES, _WHOLE = "float32[:, ::1]", "float32[::1]", "int64[::1]"
SIGNATURES = {
    least_reach: [f"void({_ROWS}, {_WHOLE}, {_ROWS}, {_WHOLE}, {_WHOLE}, {_ROWS}, {_VALUES}, {_VALUES})"],
}
