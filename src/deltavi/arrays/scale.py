"""Scales of expression: raw counts and other unlogged values, distinguished from log1p CP10k."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deltavi._errors import InputDataError
from deltavi._types import Rows, is_sparse

# No cell scaled to ten thousand counts can hold more, and larger scales are rare: beyond a million it is not a log.
LARGEST_LOG = float(np.log1p(1e6))
# No log1p CP10k value of whole numbers only reaches this; raw counts of thousands of genes do.
LARGEST_WHOLE_LOG = 10.0
LARGEST_COUNT = 2.0**31
# Values that are tested before all of them: these suffice to recognise most logarithms.
SAMPLE = 1000


def are_whole(matrix: Rows) -> bool:
    """True if a finite matrix, dense or sparse, holds whole numbers only."""
    values = np.ravel(matrix.data if is_sparse(matrix) else matrix)
    if values.dtype.kind in "iub":
        return True
    return all(np.array_equal(part, np.rint(part)) for part in (values[:SAMPLE], values))


def look_raw(matrix: Rows) -> bool:
    """True if a matrix holds raw counts: non-negative whole numbers only, some too large for logarithms."""
    if matrix.dtype.kind == "b" or not are_whole(matrix):
        return False
    # beyond the largest count there are only whole numbers in floating point
    return bool(LARGEST_WHOLE_LOG < matrix.max() <= LARGEST_COUNT and matrix.min() >= 0)


def require_one_scale(matrices: Mapping[str, Rows]) -> None:
    """Raise InputDataError if some matrices hold raw counts and others do not."""
    raw = [name for name, matrix in matrices.items() if look_raw(matrix)]
    if raw and len(raw) < len(matrices):
        raise InputDataError(
            f"{' and '.join(raw)} looks like raw counts, unlike the rest. Bring all to one scale first, for example "
            "log1p CP10k with deltavi.pp.highly_variable_genes or scanpy, or name a layer that all have."
        )


def require_logs(matrix: Rows, name: str, *, negative: bool = False) -> None:
    """Raise InputDataError unless finite values can be log1p CP10k.

    Parameters
    ----------
    matrix
        (n_cells, n_genes), dense or sparse.
    name
        Name of the matrix in errors.
    negative
        True if negative values, as in predictions, are accepted.
    """
    values = np.asarray(matrix.data if is_sparse(matrix) else matrix)
    smallest, largest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if smallest < 0 and not negative:
        n_negative = int(np.count_nonzero(values < 0))
        raise InputDataError(f"{name} holds {n_negative} negative values. Use log1p CP10k without centring or scaling.")
    if largest > LARGEST_LOG or (largest >= 2 and are_whole(matrix)):
        raise InputDataError(
            f"{name} looks like counts or other unlogged values (largest {largest:g}). "
            "Run scanpy.pp.normalize_total(adata, target_sum=1e4) and scanpy.pp.log1p(adata) first."
        )
