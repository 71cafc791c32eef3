"""Zarr stores of version 2 written as the files that they consist of.

The package zarr hands every entry to a thread of its own and waits for it. An AnnData has hundreds of small ones, which
took as long as half of a prediction. anndata lays entries out in HDF5 in memory, and they are copied from there.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import h5py
import numpy as np
import zarr
from anndata.io import write_elem
from numcodecs import Blosc, VLenBytes
from scipy import sparse

from deltavi._types import State

GROUP, ARRAY, ATTRIBUTES, ALL = ".zgroup", ".zarray", ".zattrs", ".zmetadata"
OF_GROUP = {"zarr_format": 2}
TEXT = {"id": "vlen-utf8"}
# Bytes of a chunk of an array for which nothing else is asked.
CHUNK_BYTES = 2**24
NO_OPTIONS: Mapping[str, object] = {}
# Of numbers and truth values, which are the same in both.
PLAIN = "biuf"


class ZarrArray:
    """Array of a store, filled from its start in whole chunks; only what is written last may end within one.

    Parameters
    ----------
    folder
        Folder of the array, which has its attributes.
    shape, dtype
        Form of the array; text is of type object, as bytes in UTF-8.
    chunks
        Length of a chunk along each axis.
    is_packed
        Pack chunks.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        *,
        chunks: Sequence[int],
        is_packed: bool = True,
    ) -> None:
        self._folder, self._dtype, self._chunks = folder, dtype, tuple(chunks)
        self._codec = Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE) if is_packed else None
        self.resize(shape)

    def resize(self, shape: tuple[int, ...]) -> None:
        """Set the shape."""
        self.shape = shape
        is_text = self._dtype.kind == "O"
        described = {
            "shape": shape,
            "chunks": self._chunks,
            "dtype": "|O" if is_text else self._dtype.str,
            "fill_value": "" if is_text else np.zeros((), self._dtype).item(),
            "order": "C",
            "filters": [TEXT] if is_text else None,
            "dimension_separator": ".",
            "compressor": None if self._codec is None else self._codec.get_config(),
            "zarr_format": 2,
        }
        (self._folder / ARRAY).write_text(json.dumps(described))

    def __setitem__(self, key: slice | tuple[slice, int], values: np.ndarray) -> None:
        """Write rows, or a column; they begin where a chunk begins."""
        rows, column = key if isinstance(key, tuple) else (key, None)
        start = rows.start or 0
        if column is not None:
            self._write((start, column), values[:, None])
        else:
            self._write((start, *(0 for _ in self.shape[1:])), values)

    def fill(self, values: np.ndarray) -> None:
        """Write all of the array."""
        self._write((0,) * len(self.shape), values)

    def _write(self, place: tuple[int, ...], values: np.ndarray) -> None:
        """Write the chunks that `values` fill from `place` on."""
        steps = [range(0, length, chunk) for length, chunk in zip(values.shape, self._chunks, strict=True)]
        for corner in itertools.product(*steps):
            part = values[tuple(slice(at, at + n) for at, n in zip(corner, self._chunks, strict=True))]
            chunk = np.asarray(part, dtype=self._dtype)
            numbers = [(a + b) // n for a, b, n in zip(place, corner, self._chunks, strict=True)]
            self._write_chunk(".".join(map(str, numbers)) or "0", chunk)

    def _write_chunk(self, name: str, values: np.ndarray) -> None:
        whole = values
        if values.shape != self._chunks:
            whole = np.full(self._chunks, b"" if self._dtype.kind == "O" else 0, dtype=self._dtype)
            whole[tuple(slice(n) for n in values.shape)] = values
        is_text = self._dtype.kind == "O"
        data: memoryview = (
            memoryview(VLenBytes().encode(whole.ravel())) if is_text else np.ascontiguousarray(whole).data
        )
        with (self._folder / name).open("wb") as file:
            file.write(data if self._codec is None else self._codec.encode(data))


class ZarrFolder:
    """Group of a store.

    Parameters
    ----------
    folder
        Folder to make.
    attributes
        Its attributes.
    """

    def __init__(self, folder: Path, attributes: Mapping[str, object] = NO_OPTIONS) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / GROUP).write_text(json.dumps(OF_GROUP))
        self.update(attributes)

    def update(self, attributes: Mapping[str, object]) -> None:
        """Set attributes beside those there are."""
        _set_attributes(self.folder, attributes)

    def write(self, name: str, entry: object) -> None:
        """Write an entry of an AnnData, in the form that anndata gives it."""
        place = self.folder / name
        if isinstance(entry, np.ndarray) and entry.ndim and entry.dtype.kind in PLAIN:
            # without a copy in memory
            self.write(name, _Laid(entry[:0]))
            ZarrArray(place, entry.shape, entry.dtype, chunks=_chunks(entry.shape, entry.dtype)).fill(entry)
            return
        with h5py.File(uuid4().hex, "w", driver="core", backing_store=False) as laid:
            write_elem(laid, "entry", entry.entry if isinstance(entry, _Laid) else entry)
            is_whole = _copy(laid["entry"], place)
        if not is_whole:
            shutil.rmtree(place)
            write_elem(zarr.open_group(str(self.folder), mode="r+"), name, entry)

    def group(self, name: str) -> ZarrFolder:
        """Group that was written before."""
        return ZarrFolder(self.folder / name)

    def array(
        self, name: str, first: np.ndarray, shape: tuple[int, ...], *, chunks: Sequence[int], is_packed: bool
    ) -> ZarrArray:
        """New array like its rows `first`, to be filled."""
        self.write(name, first[:0])
        return ZarrArray(self.folder / name, shape, first.dtype, chunks=chunks, is_packed=is_packed)

    def csr(self, name: str, empty: sparse.csr_matrix, chunk: int) -> tuple[ZarrArray, ZarrArray, ZarrArray]:
        """Values, columns and pointers of a new matrix in compressed rows, to be filled, in chunks of that length."""
        self.write(name, empty)
        parts = {"data": empty.data, "indices": empty.indices, "indptr": empty.indptr}
        data, indices, pointers = (
            ZarrArray(self.folder / name / part, values.shape, values.dtype, chunks=(chunk,))
            for part, values in parts.items()
        )
        return data, indices, pointers

    def close(self) -> None:
        """Write what describes the store, of which this is the root, into one file, which readers look at first."""
        names = (GROUP, ARRAY, ATTRIBUTES)
        files = sorted(file for file in self.folder.rglob(".z*") if file.name in names)
        found = {file.relative_to(self.folder).as_posix(): json.loads(file.read_text()) for file in files}
        (self.folder / ALL).write_text(json.dumps({"metadata": found, "zarr_consolidated_format": 1}))


class _Laid:
    """Array that is written as other entries are."""

    def __init__(self, entry: np.ndarray) -> None:
        self.entry = entry


def _copy(source: h5py.Group | h5py.Dataset, folder: Path) -> bool:
    """Copy an entry from HDF5 into a store; False if part of it is neither text, numbers nor truth values."""
    attributes = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in source.attrs.items()}
    if isinstance(source, h5py.Group):
        ZarrFolder(folder, attributes)
        return all(_copy(part, folder / name) for name, part in source.items())
    folder.mkdir(exist_ok=True)
    _set_attributes(folder, attributes)
    dtype = np.dtype(bool) if source.shape is None else source.dtype
    if source.shape is None:
        # a value that is missing
        ZarrArray(folder, (), dtype, chunks=())
    elif dtype.kind in PLAIN or (dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None):
        # text as bytes, in which both hold it
        ZarrArray(folder, source.shape, dtype, chunks=_chunks(source.shape, dtype)).fill(np.asarray(source[()], dtype))
    else:
        return False
    return True


def _set_attributes(folder: Path, attributes: Mapping[str, object]) -> None:
    file = folder / ATTRIBUTES
    known: State = json.loads(file.read_text()) if file.exists() else {}
    if known or attributes:
        file.write_text(json.dumps({**known, **attributes}))


def _chunks(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> tuple[int, ...]:
    """Whole rows, of so many bytes at most."""
    if not shape:
        return ()
    rest = tuple(max(1, n) for n in shape[1:])
    rows = max(1, CHUNK_BYTES // max(1, int(np.prod(rest)) * dtype.itemsize))
    return (max(1, min(shape[0], rows)), *rest)
