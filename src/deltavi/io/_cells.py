"""AnnData written whole, where anndata's own writer does not survive a disk that fails."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

import h5py
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import write_elem
from scipy import sparse

from deltavi._errors import DeltaviError
from deltavi._types import State
from deltavi.io._blocks import MAPPINGS, ROOT
from deltavi.io._watched import WatchedFile

# What anndata says of a dense matrix.
DENSE = {"encoding-type": "array", "encoding-version": "0.2.0"}
ROWS_AT_ONCE = 1000


def write_cells(
    part: Path,
    cells: AnnData,
    *,
    convert_strings_to_categoricals: bool = True,
    compression: str | None = None,
    compression_opts: object = None,
    as_dense: Sequence[str] = (),
) -> None:
    """Write an h5ad file; the AnnData stays on the file that it may be backed by.

    Parameters
    ----------
    part
        File to make.
    cells
        AnnData to write.
    convert_strings_to_categoricals, compression, compression_opts, as_dense
        As in :meth:`anndata.AnnData.write_h5ad`.

    Raises
    ------
    DeltaviError
        If `as_dense` names what cannot be written dense.
    OSError
        If the disk fails, as where it is full.
    """
    packing: State = {"compression": compression, "compression_opts": compression_opts}
    dense = _dense_names(cells, as_dense)
    if convert_strings_to_categoricals:
        cells.strings_to_categoricals()
        if cells.raw is not None:
            cells.strings_to_categoricals(cells.raw.var)
    with WatchedFile(part) as file, h5py.File(file, "w") as root:
        root.attrs.update(ROOT)
        for name, entry in _entries(cells, dense).items():
            if name in dense:
                _write_dense(root, name, entry, packing)
            else:
                # anndata takes no paths
                folder, _, key = name.rpartition("/")
                write_elem(root.require_group(folder) if folder else root, key, entry, dataset_kwargs=packing)
            file.check()
    file.check()


def _dense_names(cells: AnnData, as_dense: Sequence[str]) -> set[str]:
    """Names in the file of the sparse matrices that are to be written dense."""
    given = [as_dense] if isinstance(as_dense, str) else list(as_dense)
    names = {"raw/X" if name == "raw.X" else name for name in given}
    if not names <= {"X", "raw/X"}:
        raise DeltaviError(f"as_dense is {given!r}; 'X' and 'raw/X' are what can be written dense.")
    if "raw/X" in names and cells.raw is None:
        raise DeltaviError("as_dense names 'raw/X', and the cells have no raw: leave it out.")
    sources = {"X": cells.X, "raw/X": None if cells.raw is None else cells.raw.X}
    return {name for name in names if _is_sparse(sources[name])}


def _is_sparse(x: object) -> bool:
    return bool(sparse.issparse(x)) or isinstance(x, CSRDataset | CSCDataset)


def _write_dense(root: h5py.Group, name: str, x: sparse.csr_matrix, packing: State) -> None:
    """Write a sparse matrix dense, some rows at a time, or columns of one in compressed columns."""
    made, by_columns = root.create_dataset(name, shape=x.shape, dtype=x.dtype, **packing), x.format == "csc"
    made.attrs.update(DENSE)
    for start in range(0, x.shape[by_columns], ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        part = (slice(None), some) if by_columns else (some, slice(None))
        made[part] = x[part].toarray()


def _entries(cells: AnnData, dense: Container[str] = ()) -> State:
    """Parts of an AnnData by their names in a file, without those that it lacks."""
    raw: dict[str, object] = {"raw": cells.raw}
    if "raw/X" in dense:
        raw = {"raw/X": cells.raw.X, "raw/var": cells.raw.var, "raw/varm": dict(cells.raw.varm)}
    tables = {"X": cells.X, **raw, "obs": cells.obs, "var": cells.var}
    # X may be listed among the layers, under no name
    mappings = {name: {key: x for key, x in getattr(cells, name).items() if key is not None} for name in MAPPINGS}
    return {name: entry for name, entry in {**tables, **mappings}.items() if entry is not None}
