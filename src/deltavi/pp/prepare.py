"""Selection of genes for training, and normalisation, from raw counts of all genes."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from deltavi import _keys
from deltavi._cp10k import log1p_cp10k_rows
from deltavi._entries import one_name, shown, whole_number
from deltavi._errors import InputDataError, KeyClashError, examples, unknown_category
from deltavi._reading import known_arguments
from deltavi._threads import kept_threads
from deltavi._types import StoredMatrix, is_dask
from deltavi.pp._by_rows import (
    EntryCount,
    GeneMoments,
    by_variance_trend,
    genes_of,
    logs_by_rows,
    logs_of,
    whole,
    with_genes,
)
from deltavi.registry.counts import checked_counts, counts_of, exact_type, row_sums
from deltavi.registry.source import matrix_of
from deltavi.registry.tables import require_cells
from deltavi.registry.totals import cell_totals

logger = logging.getLogger("deltavi")

TOTAL_COUNTS = "total_counts"
MIN_GENES_FOR_TREND = 20


@known_arguments
def highly_variable_genes(
    adata: AnnData, *, n_top: int = 2000, condition_key: str | None = None, layer: str | None = None
) -> AnnData:
    """Keep the most variable genes, with raw counts, log-normalised values and the library over **all** genes.

    Variable genes are ranked within each condition and chosen over all of them, so that a gene is not kept merely
    because it differs between the conditions. They are found by scanpy's ``seurat_v3`` flavour on counts, or, where
    its trend cannot be fitted to so few cells, by Pearson residuals; an info message says so.

    Parameters
    ----------
    adata
        Raw counts of all genes, shape ``(n_cells, n_genes)``. It is not changed. What is backed by a file, read lazily,
        or a Dask array is read twice in blocks of rows.
    n_top
        Number of genes to keep; all of them when there are no more.
    condition_key
        Column of ``obs`` with the condition of every cell; None ranks all cells together.
    layer
        Layer that holds the raw counts; ``X`` when None.

    Returns
    -------
    AnnData, a copy of shape ``(n_cells, min(n_top, n_genes))`` with the genes in their order, and

    * ``X``: log1p of counts per 10,000, CSR, or a Dask array where the counts are one;
    * ``layers["counts"]``: raw counts, CSR or a Dask array as well;
    * ``obs["total_counts"]``: counts per cell over all genes of `adata`. Where the column exists and is nowhere below
      these sums, it comes from more genes (an earlier selection, say): it is kept and used instead;
    * ``uns["deltavi_total_counts"]``, the name of that column, where genes were left out: ``setup_anndata`` of a model
      of counts then uses it.

    Raises
    ------
    UnknownCategoryError
        If the layer or the column does not exist.
    InputDataError
        If the values are not raw counts, or a cell has no condition.
    KeyClashError
        If ``obs["total_counts"]`` exists and cannot be the total of these counts.
    DeltaviError
        If `n_top` is below one.
    """
    cells = require_cells(adata)
    n_top = whole_number("n_top", n_top, least=1)
    condition = _condition(cells, condition_key)
    x = matrix_of(cells, layer)
    if not (isinstance(x, np.ndarray) or sparse.issparse(x)):
        return _read_by_rows(adata, cells, layer, condition, n_top)
    counts = counts_of(adata, layer)
    total_counts = _total_counts(adata, row_sums(counts))
    logs = log1p_cp10k_rows(counts, total_counts)
    with kept_threads():
        keep = _variable_genes(counts, condition, n_top)
    selected = adata[:, keep].copy()
    selected.X = logs[:, keep]
    selected.layers[_keys.LAYER_COUNTS] = counts[:, keep]
    selected.obs[TOTAL_COUNTS] = total_counts
    if (total_counts > row_sums(selected.layers[_keys.LAYER_COUNTS])).any():
        selected.uns[_keys.UNS_TOTALS] = TOTAL_COUNTS
    return selected


def _read_by_rows(
    adata: AnnData, cells: AnnData, layer: str | None, condition: pd.Categorical | None, n_top: int
) -> AnnData:
    """The same where counts are not in memory, and are read in blocks of rows; `cells` have their tables in memory."""
    moments = GeneMoments(condition, (cells.n_obs, cells.n_vars))
    counts, scanned = checked_counts(cells, layer, moments.add)
    total_counts = _total_counts(cells, scanned.cell_totals)
    with kept_threads():
        keep = _variable_genes_by_rows(cells, counts, layer, moments, condition, n_top)
    x = whole(matrix_of(cells, layer), scanned.report)
    chosen = genes_of(x if is_dask(x) else counts, keep, np.dtype(exact_type(scanned.report)))
    # last, as anndata may close the file that it copies raw counts from
    selected = with_genes(adata, cells, keep)
    selected.X, selected.layers[_keys.LAYER_COUNTS] = logs_of(chosen, total_counts), chosen
    selected.obs[TOTAL_COUNTS] = total_counts
    if not keep.all() and (total_counts > cell_totals(chosen)).any():
        selected.uns[_keys.UNS_TOTALS] = TOTAL_COUNTS
    return selected


def _variable_genes_by_rows(
    cells: AnnData,
    counts: StoredMatrix,
    layer: str | None,
    moments: GeneMoments,
    condition: pd.Categorical | None,
    n_top: int,
) -> NDArray[np.bool_]:
    """Mark the genes to keep; where no trend can be fitted, the counts are read into memory."""
    if n_top >= cells.n_vars:
        return np.ones(cells.n_vars, dtype=bool)
    if (moments.variances > 0).sum(1).min() >= MIN_GENES_FOR_TREND:
        try:
            return by_variance_trend(counts, moments, n_top)
        except ValueError:  # of a local regression over nearly equal genes
            logger.info("The trend of variances cannot be fitted block by block: counts are read into memory.")
    return _variable_genes(counts_of(cells, layer), condition, n_top)


@known_arguments
def log_normalise(
    adata: AnnData, *, layer: str | None = None, size_factor_key: str | None = None, key_added: str = "log1p_cp10k"
) -> None:
    """Write log1p of counts per 10,000 into a layer; everything else is unchanged.

    Parameters
    ----------
    adata
        Raw counts, ``(n_cells, n_genes)``; of a Dask array the new layer is one as well. Those in a file are read in
        blocks of rows, and the new layer is in memory.
    layer
        Layer that holds the raw counts; ``X`` when None.
    size_factor_key
        obs column with each cell's total counts over all genes, where the matrix holds a selection; by default the sum
        over the genes.
    key_added
        Name of the new layer, CSR or a Dask array.

    Raises
    ------
    UnknownCategoryError
        If the layer or the column does not exist.
    KeyClashError
        If there is a layer of that name.
    InputDataError
        If the values are not raw counts.
    """
    cells = require_cells(adata)
    key_added = one_name("key_added", key_added)
    if key_added in adata.layers:
        raise KeyClashError(f"layers[{key_added!r}] exists; name another with key_added, or delete it.")
    x = matrix_of(cells, layer)
    if is_dask(x):
        scanned = checked_counts(cells, layer)[1]
        totals = scanned.cell_totals if size_factor_key is None else _totals_of(cells, size_factor_key)
        adata.layers[key_added] = logs_of(whole(x, scanned.report), totals)
        return
    if not (isinstance(x, np.ndarray) or sparse.issparse(x)):
        n_entries = EntryCount()
        stored, scanned = checked_counts(cells, layer, n_entries.add)
        totals = scanned.cell_totals if size_factor_key is None else _totals_of(cells, size_factor_key)
        dtype = np.dtype(exact_type(scanned.report))
        adata.layers[key_added] = logs_by_rows(stored, totals, n_entries=n_entries.found, dtype=dtype)
        return
    counts = counts_of(adata, layer)
    totals = row_sums(counts) if size_factor_key is None else _totals_of(adata, size_factor_key)
    adata.layers[key_added] = log1p_cp10k_rows(counts, totals)


def _totals_of(adata: AnnData, key: str) -> NDArray[np.float64]:
    """Total counts of each cell that a column of obs holds."""
    _require_column(adata, key, "size_factor_key")
    totals = np.asarray(pd.to_numeric(adata.obs[key], errors="coerce"), dtype=np.float64)
    wrong = ~(np.isfinite(totals) & (totals >= 0))
    if wrong.any():
        raise InputDataError(
            f"obs[{key!r}] must hold the total counts of each cell, and is no such number in {int(wrong.sum())} of "
            f"{len(totals)} cells (for example {examples(adata.obs_names[wrong])})."
        )
    return totals


def _require_column(adata: AnnData, key: object, name: str) -> None:
    if not isinstance(key, str) or key not in adata.obs:
        raise unknown_category(
            f"{name}: the obs column", key if isinstance(key, str) else shown(key), adata.obs.columns
        )


def _condition(adata: AnnData, condition_key: str | None) -> pd.Categorical | None:
    """Return the condition of every cell, complete, or None."""
    if condition_key is None:
        return None
    _require_column(adata, condition_key, "condition_key")
    column = adata.obs[condition_key]
    if column.isna().any():
        raise InputDataError(
            f"obs[{condition_key!r}] is missing in {int(column.isna().sum())} of {len(column)} cells; "
            "remove these cells or give them a condition."
        )
    return pd.Categorical(column.astype(str))


def _total_counts(adata: AnnData, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the genes of the matrix, or totals over more genes from their column."""
    if TOTAL_COUNTS not in adata.obs:
        return sums
    known = np.asarray(pd.to_numeric(adata.obs[TOTAL_COUNTS], errors="coerce"), dtype=np.float64)
    # QC tools store the column as float32
    below = ~(known >= sums * (1 - 1e-6))
    if below.any():
        raise KeyClashError(
            f"obs[{TOTAL_COUNTS!r}] exists and is below the sum of the counts, or missing, in {int(below.sum())} of "
            f"{len(known)} cells; rename or delete that column."
        )
    if (known > sums * (1 + 1e-6)).any():
        logger.info("obs[%r] exceeds the sums of the counts given and is kept as the library.", TOTAL_COUNTS)
    return known


def _variable_genes(counts: sparse.csr_matrix, condition: pd.Categorical | None, n_top: int) -> NDArray[np.bool_]:
    """Mark the genes to keep, shape ``(n_genes,)``."""
    if n_top >= counts.shape[1]:
        return np.ones(counts.shape[1], dtype=bool)
    lean = AnnData(X=counts)
    lean.obs["condition"] = "all" if condition is None else condition
    reason = _why_no_variance_trend(lean)
    if reason is None:
        try:
            return _by_variance_trend(lean, n_top)
        except ValueError as error:  # a local regression over nearly equal genes is singular
            reason = f"the trend cannot be fitted ({error})"
    logger.info("Variable genes are found by Pearson residuals: %s.", reason)
    return _by_pearson_residuals(lean, n_top)


def _why_no_variance_trend(lean: AnnData) -> str | None:
    """Give the reason not to fit a trend of variance on mean, if there is one."""
    groups = lean.obs.groupby("condition", observed=True).indices.values()
    n_varying = min(_n_varying_genes(lean.X[rows]) for rows in groups)
    # the compiled regression ends the process with fewer than four points
    return f"only {n_varying} genes vary within a condition" if n_varying < MIN_GENES_FOR_TREND else None


def _n_varying_genes(counts: sparse.csr_matrix) -> int:
    """Count the genes that are not the same in all cells."""
    return int((counts.max(axis=0) != counts.min(axis=0)).sum())


def _by_variance_trend(lean: AnnData, n_top: int) -> NDArray[np.bool_]:
    import scanpy

    # a trend of very few points may rise beyond all numbers at its ends
    with np.errstate(over="ignore"):
        table = scanpy.pp.highly_variable_genes(
            lean, flavor="seurat_v3", n_top_genes=n_top, batch_key="condition", inplace=False
        )
    return _chosen(table, lean)


def _by_pearson_residuals(lean: AnnData, n_top: int) -> NDArray[np.bool_]:
    import scanpy

    table = scanpy.experimental.pp.highly_variable_genes(
        lean, flavor="pearson_residuals", n_top_genes=n_top, batch_key="condition", inplace=False
    )
    return _chosen(table, lean)


def _chosen(table: pd.DataFrame, lean: AnnData) -> NDArray[np.bool_]:
    """Restore the order of the genes, since scanpy sorts its table by rank."""
    return np.asarray(table.loc[lean.var_names, "highly_variable"], dtype=bool)
