"""Groups of an HDF5 file and of a Zarr store, as far as an AnnData is written block by block to either."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Protocol

import h5py
import numpy as np
from anndata.io import write_elem
from scipy import sparse

from deltavi._types import State


class Array(Protocol):
    """Array that is filled from its start, or column by column."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each axis."""

    def resize(self, shape: tuple[int, ...], /) -> None:
        """Set the shape."""

    def __setitem__(self, key: slice | tuple[slice, int], values: np.ndarray, /) -> None: ...


class Group(Protocol):
    """Group that entries are written to."""

    def write(self, name: str, entry: object) -> None:
        """Write an entry of an AnnData."""

    def group(self, name: str) -> Group:
        """Group that was written before."""

    def array(
        self, name: str, first: np.ndarray, shape: tuple[int, ...], *, chunks: Sequence[int], is_packed: bool
    ) -> Array:
        """New array like its rows `first`, to be filled."""

    def csr(self, name: str, empty: sparse.csr_matrix, chunk: int) -> tuple[Array, Array, Array]:
        """Values, columns and pointers of a new matrix in compressed rows, to be filled, in chunks of that length."""

    def update(self, attributes: Mapping[str, object]) -> None:
        """Set attributes beside those there are."""

    def close(self) -> None:
        """Write what is left of the file or store, of which this is the root."""


class H5Group:
    """Group of an HDF5 file.

    Parameters
    ----------
    group
        The group.
    """

    def __init__(self, group: h5py.Group) -> None:
        self._group = group

    @classmethod
    def root(cls, file: io.FileIO, attributes: Mapping[str, object]) -> H5Group:
        """Root of a new file."""
        found = cls(h5py.File(file, "w"))
        found.update(attributes)
        return found

    def write(self, name: str, entry: object) -> None:
        """Write an entry of an AnnData."""
        write_elem(self._group, name, entry)

    def group(self, name: str) -> H5Group:
        """Group that was written before."""
        return H5Group(self._group[name])

    def array(
        self, name: str, first: np.ndarray, shape: tuple[int, ...], *, chunks: Sequence[int], is_packed: bool
    ) -> Array:
        """New array like its rows `first`, to be filled."""
        packing: State = {"compression": "gzip", "compression_opts": 1} if is_packed else {}
        write_elem(self._group, name, first[:0], dataset_kwargs={"chunks": chunks, "maxshape": (None, None), **packing})
        made: Array = self._group[name]
        made.resize(shape)
        return made

    def csr(self, name: str, empty: sparse.csr_matrix, chunk: int) -> tuple[Array, Array, Array]:
        """Values, columns and pointers of a new matrix in compressed rows, to be filled, in chunks of that length."""
        write_elem(self._group, name, empty, dataset_kwargs={"chunks": (chunk,)})
        made = self._group[name]
        return made["data"], made["indices"], made["indptr"]

    def update(self, attributes: Mapping[str, object]) -> None:
        """Set attributes beside those there are."""
        self._group.attrs.update(attributes)

    def close(self) -> None:
        """Close the file."""
        self._group.file.close()
