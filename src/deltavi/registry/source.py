"""Expression matrix of an AnnData, and other places in it that may hold the values that are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.abc import CSCDataset
from numpy.typing import NDArray
from scipy import sparse

from deltavi._entries import one_name, require_anndata
from deltavi._errors import DeltaviError, InputDataError, UnknownCategoryError, unknown_category
from deltavi._types import Rows, StoredMatrix, is_sparse
from deltavi.registry.checks import Kind, MatrixReport, scan_matrix
from deltavi.registry.chunks import rowwise
from deltavi.registry.relative import require_there
from deltavi.registry.stored_rows import places_of

# Cells that are sampled where a guess is enough.
SAMPLED_CELLS = 512
# Layers that hold the counts of all molecules, the more usual names first; velocyto's are a part of them each.
USUAL_LAYERS = ("counts", "raw_counts", "raw", "count", "umi", "umis", "matrix", "spliced")


def matrix_name(layer: str | None) -> str:
    """Name of X, or of a layer, in messages."""
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def matrix_of(adata: AnnData, layer: str | None = None, *, kind: Kind = "counts") -> StoredMatrix:
    """X, or a layer, as `adata` holds it; `kind` names the expected values in errors.

    Raises
    ------
    UnknownCategoryError
        If there is no such layer.
    InputDataError
        If there is no X, or values are masked.
    DeltaviError
        If it was opened by a relative path that is not in the working folder.
    """
    require_anndata(adata, lazy=True)
    require_there(places_of(adata))
    layer = None if layer is None else one_name("layer", layer, layer_names(adata))
    if layer is not None and layer not in adata.layers:
        error = unknown_category("layer", layer, layer_names(adata))
        raise UnknownCategoryError(f"{error}{elsewhere(adata, layer, kind)}")
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        found = elsewhere(adata, layer, kind) or " Pass layer=... if it is there."
        raise InputDataError(f"{matrix_name(layer)} is empty: there is no expression matrix to read.{found}")
    refuse_mask(adata, layer)
    return x


def with_tables(adata: AnnData, columns: Sequence[str], layer: str | None = None) -> AnnData:
    """`adata`; one read lazily as an AnnData with these columns of obs in memory, and the matrix where it is.

    Parameters
    ----------
    adata
        In memory, backed, or of ``anndata.experimental.read_lazy``.
    columns
        Columns that are needed; where one does not exist all are read, for the error that says so.
    layer
        Layer that is needed, by default X.
    """
    read = getattr(adata.obs, "to_memory", None) if isinstance(adata, AnnData) else None
    if read is None:
        return adata
    if set(columns) <= set(adata.obs.columns):
        read = getattr(adata.obs[list(columns)], "to_memory", read)
    layers = {name: adata.layers[name] for name in layer_names(adata) if name == layer}
    x = adata.X if layer is None else None
    return AnnData(X=x, obs=read(), var=pd.DataFrame(index=adata.var_names.astype(str)), layers=layers)


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; anndata may list X among them, under no name."""
    return [name for name in adata.layers if name is not None]


def refuse_mask(adata: AnnData, layer: str | None) -> None:
    """Raise where values of X, or of a layer, are hidden by a mask."""
    # a view returns plain arrays; the mask is that of its parent
    whole = adata._adata_ref if adata.is_view else adata
    x = whole.X if layer is None else whole.layers[layer]
    if isinstance(x, np.ma.MaskedArray):
        name = matrix_name(layer)
        raise InputDataError(
            f"{name} is a masked array, {x.size - int(x.count())} of whose {x.size} values are hidden: a model "
            f"would read the hidden values. Fill them, for example {name} = {name}.filled(0), or leave "
            "those cells or genes out."
        )


def refuse_view_of_file(adata: AnnData) -> None:
    """Raise where a view cannot become an AnnData of its own, as its matrix is in a file."""
    if adata.isbacked:
        raise DeltaviError(
            f"adata is a view of {adata.n_obs} cells and {adata.n_vars} genes of a backed file, which cannot be set "
            "up. Read them into memory, adata = adata.to_memory(), or write them to a file of their own, adata = "
            "adata.copy(filename='subset.h5ad')."
        )


def elsewhere(adata: AnnData, layer: str | None, kind: Kind, *, for_model: bool = False) -> str:
    """Name other places in `adata` that hold values of a `kind`, with the line to write; "" if there are none.

    Parameters
    ----------
    adata
        AnnData whose matrix holds something else.
    layer
        Layer that was read; ``None`` for X.
    kind
        Kind of values that is needed.
    for_model
        True for a trained model, which reads `layer` and takes no other.
    """
    places, reads = [], matrix_name(layer)
    if adata.raw is not None and holds(adata.raw.X, kind):
        line = "adata.raw.to_adata()"
        line += f" with its X copied to layers[{layer!r}]" if layer is not None and for_model else ""
        places.append(f"adata.raw holds {kind} of {adata.raw.n_vars} genes: pass {line}.")
    found = [name for name in layer_names(adata) if name != layer and holds(adata.layers[name], kind)]
    if found:
        best = min(found, key=_unusual)
        line = f"{reads} = adata.layers[{best!r}].copy()" if for_model else f"pass layer={best!r}"
        places.append(f"adata.layers[{best!r}] holds {kind}: {line}.")
    if layer is not None and holds(adata.X, kind):
        places.append(f"adata.X holds {kind}: {f'{reads} = adata.X.copy()' if for_model else 'leave out layer'}.")
    return "".join(f" {one}" for one in places)


def _unusual(name: str) -> int:
    return USUAL_LAYERS.index(name.lower()) if name.lower() in USUAL_LAYERS else len(USUAL_LAYERS)


def holds(x: StoredMatrix, kind: Kind) -> bool:
    """True if a sample of the cells of `x` holds values of a `kind`, and not zeros alone."""
    report = sampled(x)
    if report is None or report.n_nonzero == 0:
        return False
    return report.are_counts if kind == "counts" else report.look_log_normalised


def sampled(x: StoredMatrix, n: int = SAMPLED_CELLS) -> MatrixReport | None:
    """Scan of up to `n` cells of `x`; None if it holds no numbers."""
    rows = some_rows(x, n)
    return None if rows is None else scan_matrix(rows)


def rows_to_look_at(x: StoredMatrix, n: int = SAMPLED_CELLS) -> NDArray[np.intp]:
    """Numbers of up to `n` rows: evenly spaced in a matrix in memory, else the first, which are contiguous."""
    in_memory = isinstance(x, np.ndarray) or sparse.issparse(x)
    n_rows = int(x.shape[0])
    last = max(n_rows - 1, 0) if in_memory else min(n, n_rows) - 1
    return np.unique(np.linspace(0, last, min(n, n_rows)).astype(np.intp))


def some_rows(x: StoredMatrix, n: int = SAMPLED_CELLS) -> Rows | None:
    """Those rows of `x`; None if it holds no numbers, or rows cannot be read without the rest."""
    x = rowwise(x)
    if getattr(x, "ndim", len(getattr(x, "shape", ()))) != 2 or isinstance(x, CSCDataset):
        return None
    if np.dtype(getattr(x, "dtype", object)).kind not in "biuf":
        return None
    rows = rows_to_look_at(x, n)
    if is_sparse(x):
        return sparse.csr_matrix(x)[rows] if x.format != "csc" else x[rows]
    return x[rows] if isinstance(x, np.ndarray) else x[: len(rows)]
