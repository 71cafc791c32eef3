"""Mini-batches cut from a sparse matrix."""

from __future__ import annotations

from deltavi.kernels.compiled import jit


@jit
def cut(starts, indices, data, rows, dense, places, value):
    """Write rows of a CSR matrix in full, and their entries one after another.

    Parameters
    ----------
    starts, indices, data
        The matrix: the ``(n_cells + 1,)`` places where each row begins, and gene and value of each entry.
    rows
        ``(n_rows,)`` rows to cut.
    dense
        ``(n_rows, n_genes)`` to be filled.
    places, value
        ``(2, n_entries)`` row and gene, and ``(n_entries,)`` value of each entry, to be filled.
    """
    n = 0
    for r in range(len(rows)):
        dense[r] = 0
        for k in range(starts[rows[r]], starts[rows[r] + 1]):
            gene = indices[k]
            # negative zero becomes zero, as in a sum
            dense[r, gene] += data[k]
            places[0, n], places[1, n], value[n] = r, gene, data[k]
            n += 1


def _with(index: str) -> str:
    """Signature for a matrix with indices of this type."""
    ours = "int64[::1], float32[:, ::1], int64[:, ::1], float32[::1]"
    return f"void({index}[::1], {index}[::1], float32[::1], {ours})"


SIGNATURES = {cut: [_with("int32"), _with("int64")]}
