"""Which cells a caller means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deltavi._errors import DeltaviError, examples

Indices = Sequence[int] | np.ndarray


def positions(indices: Indices | None, n_cells: int) -> np.ndarray:
    """`indices` or a mask as positions ``(n_chosen,)``; all cells for ``None``.

    Raises
    ------
    DeltaviError
        If there are no such cells, or the array is neither of positions nor a mask.
    """
    if indices is None:
        return np.arange(n_cells)
    given = np.asarray(indices)
    is_mask = given.dtype.kind == "b"
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iub"):
        raise DeltaviError("indices must be a one-dimensional array of positions or a mask over all cells.")
    if is_mask and len(given) != n_cells:
        raise DeltaviError(f"The mask indices has {len(given)} entries for {n_cells} cells.")
    chosen: np.ndarray = np.flatnonzero(given) if is_mask else given.astype(np.int64)
    outside = chosen[(chosen < 0) | (chosen >= n_cells)]
    if len(outside):
        raise DeltaviError(
            f"{len(outside)} of {len(chosen)} indices lie outside 0..{n_cells - 1} (for example {examples(outside)})."
        )
    return chosen
