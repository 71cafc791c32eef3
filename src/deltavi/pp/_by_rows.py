"""Variable genes of a matrix that is not in memory: two passes over blocks of rows, and sums of every gene."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from deltavi._cp10k import cp10k_factors, log1p_cp10k_rows
from deltavi._types import IntArray, Rows, StoredMatrix, is_dask
from deltavi.registry.checks import MatrixReport, row_blocks
from deltavi.registry.chunks import files_of
from deltavi.registry.joined import Place, Places
from deltavi.registry.source import layer_names
from deltavi.registry.tables import frame_of

SPAN = 0.3
PARTS = ("obsm", "varm", "obsp", "varp")


class GeneMoments:
    """Mean and variance of every gene within each condition, from blocks of rows.

    Parameters
    ----------
    condition
        Condition of every cell; ``None`` for one of all.
    shape
        Cells and genes.
    """

    def __init__(self, condition: pd.Categorical | None, shape: tuple[int, int]) -> None:
        codes = np.zeros(shape[0], dtype=int) if condition is None else np.asarray(condition.codes, dtype=int)
        self.codes, self.n_cells = codes, np.bincount(codes, minlength=1)
        self._sums, self._squares = np.zeros((2, len(self.n_cells), shape[1]))

    def add(self, rows: np.ndarray, block: Rows) -> None:
        """Take the cells `rows`."""
        counts = sparse.csr_matrix(block).astype(np.float64)
        present, member = self.members(rows)
        self._sums[present] += (member @ counts).toarray()
        self._squares[present] += (member @ counts.power(2)).toarray()

    def members(self, rows: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
        """Conditions of the cells `rows`, and the cells of each, ``(n_present, n_rows)``."""
        present, code = np.unique(self.codes[rows], return_inverse=True)
        ones = np.ones(len(rows)), (code, np.arange(len(rows)))
        return present, sparse.csr_matrix(ones, shape=(len(present), len(rows)))

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean counts, ``(n_conditions, n_genes)``."""
        return np.asarray(self._sums / self.n_cells[:, None])

    @property
    def variances(self) -> NDArray[np.float64]:
        """Variances, divided by the number of cells less one, ``(n_conditions, n_genes)``."""
        spread = self._squares - self.n_cells[:, None] * self.means**2
        # what is left of a gene with one value in all cells is the rounding of its sums
        spread[spread <= 1e-12 * self._squares] = 0
        return np.asarray(spread / np.maximum(self.n_cells - 1, 1)[:, None])


def by_variance_trend(x: StoredMatrix, moments: GeneMoments, n_top: int) -> NDArray[np.bool_]:
    """Mark the genes that scanpy's ``seurat_v3`` flavour chooses, ``(n_genes,)``, reading `x` once more.

    The variance of counts is divided by the one that a trend over the mean expects, where counts far above that are
    cut off (Stuart et al. 2019); genes are ranked within each condition, and by their median rank.

    Raises
    ------
    ValueError
        If the trend cannot be fitted.
    """
    expected = _expected_variances(moments)
    n, means = moments.n_cells[:, None], moments.means
    most = means + np.sqrt(n * expected)
    sums, squares = np.zeros((2, *means.shape))
    for rows, block in row_blocks(x):
        counts = sparse.csr_matrix(block).astype(np.float64)
        code = np.repeat(moments.codes[rows], np.diff(counts.indptr))
        counts.data = np.minimum(counts.data, most[code, counts.indices])
        present, member = moments.members(rows)
        sums[present] += (member @ counts).toarray()
        squares[present] += (member @ counts.power(2)).toarray()
    scores = (n * means**2 + squares - 2 * sums * means) / ((n - 1) * expected)
    return _ranked(scores, n_top)


def _expected_variances(moments: GeneMoments) -> NDArray[np.float64]:
    """Variance that the trend over the mean expects, one of genes that do not vary, ``(n_conditions, n_genes)``."""
    from skmisc.loess import loess

    found = np.zeros(moments.means.shape)
    for logs, mean, variance in zip(found, moments.means, moments.variances, strict=True):
        varies = variance > 0
        trend = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=SPAN, degree=2)
        trend.fit()
        logs[varies] = trend.outputs.fitted_values
    # a trend of very few points may rise beyond all numbers at its ends
    with np.errstate(over="ignore"):
        return np.asarray(10**found)


def _ranked(scores: NDArray[np.float64], n_top: int) -> NDArray[np.bool_]:
    """The `n_top` genes of the smallest median rank over the conditions in which they are among so many."""
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1).astype(float)
    ranks[ranks >= n_top] = np.nan
    inside = np.isfinite(ranks)
    table = pd.DataFrame({"rank": pd.DataFrame(ranks).median(axis=0, skipna=True), "conditions": inside.sum(0)})
    order = table.sort_values(["rank", "conditions"], ascending=[True, False], na_position="last").index
    found = np.zeros(scores.shape[1], dtype=bool)
    found[order[:n_top]] = True
    return found


def with_genes(adata: AnnData, cells: AnnData, keep: NDArray[np.bool_]) -> AnnData:
    """Copy of `adata` with the genes that are kept, with all but X.

    Parameters
    ----------
    adata
        Backed, read lazily, or in memory with a Dask array.
    cells
        The same with obs and var in memory.
    keep
        ``(n_genes,)`` mask.
    """
    if adata.isbacked and adata.raw is not None:
        # only anndata copies raw counts from a file
        return adata[:, keep].to_memory()
    parts = {name: {key: frame_of(x) for key, x in getattr(adata, name).items()} for name in PARTS}
    layers = {name: adata.layers[name] for name in layer_names(adata)}
    uns = {**adata.uns}
    bare = AnnData(obs=cells.obs, var=cells.var, uns=uns, layers=layers, raw=adata.raw, **parts)
    return bare[:, keep].copy()


# -- chosen genes ------------------------------------------------------------------------------------------------


def genes_of(x: StoredMatrix, keep: NDArray[np.bool_], dtype: np.dtype[np.generic]) -> StoredMatrix:
    """Columns of `x` that are kept: of a Dask array one of them, from its files if it reads any, else CSR in memory."""
    if not is_dask(x):
        blocks = [sparse.csr_matrix(block, dtype=dtype)[:, keep] for _, block in row_blocks(x)]
        return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
    places = files_of(x)
    if places is None:
        return x[slice(None), np.flatnonzero(keep)]
    to = np.where(keep, np.cumsum(keep) - 1, -1)
    chosen = [Place(p.path, p.element, p.n_cells, tuple(_onwards(p.genes, to).tolist())) for p in places.places]
    return Places(tuple(chosen), int(keep.sum())).as_array(x.dtype)


def _onwards(genes: tuple[int, ...] | None, to: IntArray) -> IntArray:
    """Positions of columns among the kept genes."""
    if genes is None:
        return to
    first = np.array(genes, dtype=int)
    return np.where(first >= 0, to[first], -1)


def whole(x: StoredMatrix, report: MatrixReport) -> StoredMatrix:
    """`x`; a Dask array of whole numbers but for rounding, by its `report`, as whole numbers."""
    return x.map_blocks(_whole, dtype=x.dtype, meta=x._meta) if is_dask(x) and report.n_rounding else x


def _whole(counts: Rows) -> Rows:
    return np.rint(counts) if isinstance(counts, np.ndarray) else counts.rint()


def logs_of(counts: StoredMatrix, totals: NDArray[np.float64]) -> StoredMatrix:
    """Log1p of counts per ten thousand, of CSR in memory or, chunk by chunk, of a Dask array."""
    if not is_dask(counts):
        return log1p_cp10k_rows(sparse.csr_matrix(counts), totals)
    import dask.array

    chunks = counts.chunks[0], 1
    columns = dask.array.from_array(totals[:, None], chunks=chunks)  # type: ignore[no-untyped-call]
    return counts.rechunk({1: -1}).map_blocks(_logs, columns, dtype=np.float32, meta=counts._meta.astype(np.float32))


class EntryCount:
    """Number of stored entries, or of values of a dense matrix that are not zero, from blocks of rows."""

    def __init__(self) -> None:
        self.found = 0

    def add(self, _: np.ndarray, block: Rows) -> None:
        """Count those of the next rows."""
        self.found += int(np.count_nonzero(block)) if isinstance(block, np.ndarray) else block.nnz


def logs_by_rows(
    counts: StoredMatrix, totals: NDArray[np.float64], *, n_entries: int, dtype: np.dtype[np.generic]
) -> sparse.csr_matrix:
    """Log1p of counts per ten thousand, of counts in a file of which a block of rows is in memory at a time.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)``.
    totals
        ``(n_cells,)`` total of each cell.
    n_entries
        Entries of all cells, or more.
    dtype
        Type of the counts, and of their logarithms.
    """
    shape = (int(counts.shape[0]), int(counts.shape[1]))
    places = np.int32 if max(n_entries, shape[1]) <= np.iinfo(np.int32).max else np.int64
    indices, data, starts = np.empty(n_entries, places), np.empty(n_entries, dtype), np.zeros(shape[0] + 1, places)
    n_filled = 0
    for rows, block in row_blocks(counts):
        logs = log1p_cp10k_rows(sparse.csr_matrix(block, dtype=dtype), totals[rows])
        to = slice(n_filled, n_filled + logs.nnz)
        indices[to], data[to], starts[rows + 1] = logs.indices, logs.data, n_filled + logs.indptr[1:]
        n_filled += logs.nnz
    return sparse.csr_matrix((data[:n_filled], indices[:n_filled], starts), shape=shape, copy=False)


def _logs(counts: Rows, totals: np.ndarray) -> Rows:
    if isinstance(counts, np.ndarray):
        return np.log1p(counts * cp10k_factors(totals)).astype(np.float32)
    return log1p_cp10k_rows(sparse.csr_matrix(counts).astype(np.float32), totals.ravel())
