"""Reader of cells from a file, by its content rather than its name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deltavi._errors import DeltaviError, nearest, unknown_category
from deltavi.cli._console import one_line

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

H5AD, TENX, LOOM, MUDATA = "h5ad", "10x", "loom", "MuData"
# first bytes of files that are taken for h5ad
BEGINNINGS = {b"\x1f\x8b": "compressed with gzip", b"PK\x03\x04": "a zip archive", b"BZh": "compressed with bzip2"}
LONGEST_REASON = 160


class DataReadError(DeltaviError):
    """A file of cells is missing, or of a format that cannot be read."""


def read_cells(path: Path, *, note: Callable[[str], None]) -> AnnData:
    """Cells of an h5ad file, or of the ``.h5`` file that Cell Ranger writes.

    Parameters
    ----------
    path
        The file; its format is recognised by its content.
    note
        Function that takes a line on each change of the data.

    Raises
    ------
    DataReadError
        If there is no such file, or it holds something else; the message explains how to convert it to h5ad.
    """
    import anndata
    import scanpy

    _require_file(path)
    kind = _kind_of(path)
    with _readable(path, kind):
        if kind == H5AD:
            return anndata.read_h5ad(path)
        with warnings.catch_warnings():  # of names that repeat, which get a number below
            warnings.simplefilter("ignore", UserWarning)
            adata = scanpy.read_10x_h5(path)
    n_repeated = int(adata.var_names.duplicated().sum())
    if n_repeated:
        adata.var_names_make_unique()
        note(f"{path} names {n_repeated} genes like others; these got a number.")
    return adata


def add_columns(adata: AnnData, path: Path) -> None:
    """Add the columns of a table to obs, by the names of cells in its first column.

    Raises
    ------
    DataReadError
        If the table cannot be read, has none of the cells or one twice, or a column is in obs already.
    """
    table = _table(path)
    repeated = table.index[table.index.duplicated()].unique()
    if len(repeated):
        raise DataReadError(f"{path} names {len(repeated)} cells more than once, such as {repeated[0]!r}: keep one.")
    known = adata.obs_names.isin(table.index)
    if not known.all():
        raise DataReadError(
            f"{path} lacks {int((~known).sum())} of {adata.n_obs} cells, such as {adata.obs_names[~known][0]!r}; its "
            f"first column begins with {', '.join(map(repr, table.index[:3])) or 'nothing'}. It must name every cell."
        )
    clash = [name for name in table.columns if name in adata.obs]
    if clash:
        raise DataReadError(f"{path} has a column {clash[0]!r}, which the cells have already: rename or leave it out.")
    for name in table.columns:
        adata.obs[name] = table[name].reindex(adata.obs_names).astype("category")


def require_columns(adata: AnnData, **keys: str) -> None:
    """Raise where obs lacks a column; `keys` are options of the command line.

    Raises
    ------
    UnknownCategoryError
        If there is no such column.
    """
    for option, key in keys.items():
        if key in adata.obs:
            continue
        if not len(adata.obs.columns):
            raise DataReadError(
                "The cells have no columns of condition and label. Pass a table of them with --obs, or add them to "
                "adata.obs and write an h5ad file."
            )
        raise unknown_category(f"--{option.replace('_', '-')}", key, adata.obs.columns, among="obs")


def _table(path: Path) -> pd.DataFrame:
    """A table as text, with the first column as index."""
    import pandas as pd

    _require_file(path)
    with _readable(path, "table"):
        table = pd.read_csv(path, sep=None, engine="python", index_col=0, dtype=str)
        table.index = table.index.astype(str)
    return table


def _require_file(path: Path) -> None:
    """Raise if there is no file, or a folder in its place, which the message describes."""
    if path.is_dir():
        raise DataReadError(f"{path} is {_kind_of_folder(path)}")
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else None
        close = None if folder is None else nearest(path.name, os.listdir(folder))
        hint = "" if folder is None or close is None else f" Did you mean {folder / close}?"
        raise DataReadError(f"{path} is not a file.{hint}")
    if not path.is_file():
        raise DataReadError(f"{path} is not a file but a device or pipe: write the cells to an h5ad file.")
    with _readable(path, "file"), path.open("rb"):
        if not path.stat().st_size:
            raise DataReadError(f"{path} is empty.")


def _kind_of_folder(path: Path) -> str:
    """Describe the content of a folder, and its conversion to h5ad."""
    with _readable(path, "folder"):
        names = set(os.listdir(path))
    if names & {".zgroup", ".zattrs", "zarr.json"}:
        return f"a zarr store: write it with anndata.read_zarr({str(path)!r}).write_h5ad('cells.h5ad')."
    if any(name.startswith(("matrix.mtx", "barcodes.tsv")) for name in names):
        return (
            f"a folder of a matrix: read it with scanpy.read_10x_mtx({str(path)!r}), add columns of condition and "
            "label to obs, and write an h5ad file."
        )
    files = sorted(name for name in names if name.endswith((".h5ad", ".h5")))
    return f"a folder, not a file.{f' Did you mean {path / files[0]}?' if files else ''}"


def _kind_of(path: Path) -> str:
    """Describe the content of an HDF5 file, by its groups."""
    import h5py

    with _readable(path, H5AD):
        if not h5py.is_hdf5(path):
            raise DataReadError(f"{path} cannot be read as h5ad: {_kind_of_bytes(path)}")
        with h5py.File(path) as file:
            names = set(file)
            versions = [name for name in names if isinstance(file[name], h5py.Group) and "barcodes" in file[name]]
            if {"X", "obs", "var"} <= names or file.attrs.get("encoding-type") == "anndata":
                return H5AD
    if "mod" in names:
        raise DataReadError(
            f"{path} is a MuData file: write the modality with the counts, mudata.read({str(path)!r})['rna']"
            ".write_h5ad('rna.h5ad')."
        )
    if {"row_attrs", "col_attrs"} <= names:
        raise DataReadError(
            f"{path} is a loom file: write it with anndata.io.read_loom({str(path)!r}).write_h5ad('cells.h5ad')."
        )
    if "matrix" in names or versions:
        return TENX
    raise DataReadError(
        f"{path} is an HDF5 file, but neither h5ad nor of 10x: it holds {sorted(names)[:5] or 'nothing'}."
    )


def _kind_of_bytes(path: Path) -> str:
    """Describe the format of a file that is not HDF5, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(512)
    known = next((kind for mark, kind in BEGINNINGS.items() if start.startswith(mark)), None)
    if known is not None:
        return f"it is {known}. Unpack it, and write an h5ad file with anndata."
    if start.startswith(b"\x89HDF") or b"\0" in start:
        return "it is no HDF5 file, or one that was cut short."
    return "it is text. Read it with scanpy.read_csv, add columns to obs, and write an h5ad file."


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Name the file in any error that a parser raises on it."""
    try:
        yield
    except DeltaviError:
        raise
    except MemoryError:
        raise DataReadError(f"{path} does not fit into memory.") from None
    # parsers may raise any error on foreign files
    except Exception as error:
        raise DataReadError(f"{path} cannot be read as {kind}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Reason for which a file could not be read, in few words."""
    text = one_line(getattr(error, "strerror", None) or error) or type(error).__name__
    text = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."
    return text if text.endswith(".") else f"{text}."
