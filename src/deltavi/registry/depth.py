"""Total counts of each cell over all genes, if the matrix holds a selection of genes: found, or warned of."""

from __future__ import annotations

import logging
import re
import warnings

import numpy as np
from anndata import AnnData
from anndata.abc import CSCDataset

from deltavi import _keys
from deltavi._entries import scalar
from deltavi._errors import DeltaviError, LibrarySizeWarning
from deltavi._types import StoredMatrix
from deltavi.registry.checks import scan_matrix
from deltavi.registry.chunks import rowwise
from deltavi.registry.columns import numbers
from deltavi.registry.matrix import read_from
from deltavi.registry.source import matrix_name, matrix_of, rows_to_look_at, some_rows
from deltavi.registry.totals import cell_totals

logger = logging.getLogger("deltavi")

# Names of columns of totals in scanpy, Seurat, scater, Monocle and pipelines, without case and punctuation.
TOTALS = (
    *("totalcounts", "totalcount", "totalcountsrna", "totalumis", "totalumi", "totalumicounts", "ncounts", "ncount"),
    *("ncountrna", "ncountsrna", "ncountoriginalexp", "ncountsall", "numi", "numis", "numicounts", "umis", "umi"),
    *("umicount", "umicounts", "librarysize", "libsize", "sumcounts", "sum", "total", "countdepth", "ntranscripts"),
    *("totaltranscripts", "nmolecules"),
)
# Totals that exceed the sums by less than this share differ by a few rare genes, which has no effect.
SMALLEST_EXCESS = 0.01
# QC tools store totals in single precision.
ROUNDING = 1e-6
# With fewer of the genes of adata.raw than this share, genes were selected rather than cleaned up.
MOST_GENES_KEPT = 0.8
WAYS_OUT = "Pass {pass_it}; size_factor_key=False takes the sums over the genes of the matrix."


def chosen_size_factor(adata: AnnData, layer: str | None, asked: object) -> object:
    """Column of totals to register, or None: the requested one, or the one that ``highly_variable_genes`` wrote.

    A :class:`LibrarySizeWarning` names other columns, or ``adata.raw``, whose totals cover more genes.

    Parameters
    ----------
    adata
        Cells to be set up.
    layer
        Layer with the expression; ``None`` for X.
    asked
        `size_factor_key` as it was passed: a column, ``None`` to look for one, or ``False`` for none.
    """
    asked = scalar(asked)
    if asked is True:
        raise DeltaviError("size_factor_key names a column of obs; False leaves totals out.")
    if asked is not None:
        return asked or None
    marked = adata.uns.get(_keys.UNS_TOTALS)
    columns = [key for key in adata.obs.columns if _folded(key) in TOTALS]
    more_genes = adata.raw is not None and adata.raw.n_vars > adata.n_vars
    if marked is None and not columns and not more_genes:
        return None
    x = matrix_of(adata, layer)
    with read_from(x, matrix_name(layer)):
        sample = _sampled_sums(x)
    if sample is None:
        return None
    if marked is not None and _is_intact(adata, str(marked), *sample):
        return str(marked)
    found = [key for key in columns if _excess(_column(adata, key)[sample[0]], sample[1]) > SMALLEST_EXCESS]
    if found:
        _point_at_column(adata, found[0])
    elif more_genes:
        _point_at_raw(adata, *sample)
    return None


def _folded(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).casefold())


def _sampled_sums(x: StoredMatrix) -> tuple[np.ndarray, np.ndarray] | None:
    """Numbers of some rows of `x` and their sums, ``(n_rows,)`` each; None where they hold no counts."""
    x = rowwise(x)
    if isinstance(x, CSCDataset):
        return np.arange(x.shape[0]), cell_totals(x)
    rows = some_rows(x)
    report = None if rows is None else scan_matrix(rows)
    # zeros and ones are detection, which has no sequencing depth
    if report is None or report.n_nan or report.n_infinite or not report.are_counts or report.max_value <= 1:
        return None
    return rows_to_look_at(x), cell_totals(rows)


def _column(adata: AnnData, key: str) -> np.ndarray:
    """Numbers of a column; NaN where it holds none, or there are several of its name."""
    return numbers(adata, key) if adata.obs.columns.to_list().count(key) == 1 else np.full(adata.n_obs, np.nan)


def _excess(totals: np.ndarray, sums: np.ndarray) -> float:
    """Share by which `totals` exceed `sums` in half of the cells; 0 where one lies below."""
    counted = sums > 0
    if not counted.any() or not (totals >= sums * (1 - ROUNDING)).all():
        return 0.0
    return float(np.median(totals[counted] / sums[counted]) - 1)


def _is_intact(adata: AnnData, key: str, rows: np.ndarray, sums: np.ndarray) -> bool:
    """Check the column that ``highly_variable_genes`` wrote: log its use, or warn of the reason against it."""
    totals = _column(adata, key) if key in adata.obs else np.zeros(0)
    if not len(totals):
        reason = "is gone"
    elif not (np.isfinite(totals) & (totals > 0)).all():
        cells = int((~(totals > 0)).sum())
        reason = f"is zero or missing for {cells} of {len(totals)} cells, which are to be left out"
    elif not (totals[rows] >= sums * (1 - ROUNDING)).all():
        reason = "lies below the sums of the genes in the matrix"
    else:
        logger.info("size_factor_key=%r: each cell's total over all genes, which highly_variable_genes stored.", key)
        return True
    _warn(
        f"obs[{key!r}], each cell's total over all genes as highly_variable_genes stored it, "
        f"{reason}, and is not used.",
        "size_factor_key=... once it is restored",
    )
    return False


def _point_at_column(adata: AnnData, key: str) -> None:
    _warn(
        f"obs[{key!r}] exceeds the sums of the {adata.n_vars} genes of the matrix, as totals over more genes do. "
        "Without them a cell's sequencing depth is taken to be what is left of it in these genes.",
        f"size_factor_key={key!r}",
    )


def _point_at_raw(adata: AnnData, rows: np.ndarray, sums: np.ndarray) -> None:
    raw = adata.raw
    of_raw = _sampled_sums(raw.X)
    if of_raw is not None and not np.array_equal(of_raw[0], rows):
        # one of the two is in memory, where other rows are looked at
        of_raw = rows, cell_totals(raw.X, rows)
    reason = f"adata.raw has {raw.n_vars} genes and the matrix {adata.n_vars}: genes were selected. "
    if of_raw is None:
        if adata.n_vars < MOST_GENES_KEPT * raw.n_vars:
            _warn(
                f"{reason}A cell's sequencing depth is taken to be what is left of it in these genes, and adata.raw "
                "holds no counts to take it from.",
                "size_factor_key=..., a column with the totals over all genes",
            )
    elif _excess(of_raw[1], sums if len(of_raw[1]) == len(sums) else np.zeros(0)) > SMALLEST_EXCESS:
        _warn(
            f"{reason}Without its totals a cell's sequencing depth is taken to be what is left of it in these genes: "
            "adata.obs['n_counts'] = np.asarray(adata.raw.X.sum(1)).ravel().",
            "size_factor_key='n_counts'",
        )


def _warn(what: str, pass_it: str) -> None:
    warnings.warn(f"{what} {WAYS_OUT.format(pass_it=pass_it)}", LibrarySizeWarning, stacklevel=6)
