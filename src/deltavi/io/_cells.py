"""AnnData written whole, where anndata's own writer does not survive a disk that fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
from anndata import AnnData
from anndata.io import write_elem, write_h5ad

from deltavi.io._blocks import MAPPINGS, ROOT
from deltavi.io._watched import WatchedFile


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
    OSError
        If the disk fails, as where it is full.
    """
    packing = {"compression": compression, "compression_opts": compression_opts}
    if len(as_dense) or cells.isbacked:
        # dense copies, and raw counts in a file, are written by that function alone
        convert = {"convert_strings_to_categoricals": convert_strings_to_categoricals}
        write_h5ad(part, cells, as_dense=as_dense, **convert, **packing)
        return
    if convert_strings_to_categoricals:
        cells.strings_to_categoricals()
        if cells.raw is not None:
            cells.strings_to_categoricals(cells.raw.var)
    with WatchedFile(part) as file, h5py.File(file, "w") as root:
        root.attrs.update(ROOT)
        for name, entry in _entries(cells).items():
            write_elem(root, name, entry, dataset_kwargs=packing)
            file.check()
    file.check()


def _entries(cells: AnnData) -> dict[str, object]:
    """Parts of an AnnData by their names in a file, without those that it lacks."""
    tables = {name: getattr(cells, name) for name in ("X", "raw", "obs", "var")}
    # X may be listed among the layers, under no name
    mappings = {name: {key: x for key, x in getattr(cells, name).items() if key is not None} for name in MAPPINGS}
    return {name: entry for name, entry in {**tables, **mappings}.items() if entry is not None}
