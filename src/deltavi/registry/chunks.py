"""Matrices of Dask: the files that their rows lie in where nothing else is done to these, else their chunks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from deltavi._compat import element_of, is_blockwise, parts_of_task
from deltavi._types import DaskArray, Rows, StoredMatrix, is_dask, is_sparse
from deltavi.registry.joined import (
    JoinedMatrix,
    Part,
    Place,
    Places,
    RowsOnDemand,
    joined_chunk,
    opened,
    path_in_store,
    stacked,
    store_of,
)
from deltavi.registry.whole import require_whole
from deltavi.registry.zarr_codecs import fast_codecs

# Beginnings of the names of layers that read files, and do nothing else.
READERS = ("make_dask_chunk-", f"{joined_chunk.__name__}-")


class DaskMatrix(RowsOnDemand):
    """Rows of a Dask array, of sparse or dense chunks; slices and increasing numbers of rows are read.

    The latest row of chunks is kept, so that rows in order are computed once.

    Parameters
    ----------
    x
        The array, of chunks of known size.
    rounds
        Round values to whole numbers.
    """

    def __init__(self, x: DaskArray, *, rounds: bool = False) -> None:
        self._x, self._rounds = x, rounds
        self.edges = np.cumsum([0, *map(int, x.chunks[0])])
        self.shape = (int(self.edges[-1]), int(x.shape[1]))
        self.dtype = x.dtype
        self._latest: tuple[int, Rows] = (-1, np.zeros((0, self.shape[1]), dtype=self.dtype))

    def __getitem__(self, chosen: slice | np.ndarray) -> Rows:
        return stacked([*self.pieces(np.arange(self.shape[0])[chosen])], self.shape[1], self.dtype)

    def paths(self) -> set[Path]:
        """Files and Zarr stores that rows are computed from."""
        return paths_in(self._x)

    @property
    def sources(self) -> list[object]:
        """Matrices of Zarr and arrays that rows are computed from."""
        return [part for part in files_in(self._x) if isinstance(part, zarr.Array | CSRDataset | CSCDataset)]

    def rounded(self) -> DaskMatrix:
        """The same with whole numbers."""
        return DaskMatrix(self._x, rounds=True)

    def pieces(self, rows: np.ndarray) -> Iterator[Rows]:
        """Increasing `rows`, those of each chunk together."""
        places = np.searchsorted(rows, self.edges)
        for number, (start, first, last) in enumerate(zip(self.edges, places, places[1:], strict=False)):
            if last > first:
                own, chunk = rows[first:last] - start, self._chunk(number)
                whole = len(own) == own[-1] - own[0] + 1
                yield chunk[own[0] : own[-1] + 1] if whole else chunk[own]

    def _chunk(self, number: int) -> Rows:
        # several threads may read: what one of them has keeps its number
        latest = self._latest
        if latest[0] == number:
            return latest[1]
        # the former one is not needed beside it
        self._latest = latest = (-1, latest[1][:0])
        found = self._x.blocks[number].compute()
        found = sparse.csr_matrix(found) if is_sparse(found) else np.asarray(found)
        if self._rounds:
            found = found.rint() if is_sparse(found) else np.rint(found)
        self._latest = (number, found)
        return found


def rowwise(x: StoredMatrix) -> StoredMatrix:
    """`x` itself; of a Dask array the matrix in a file, or in several, that it reads, else its chunks."""
    found = behind(x)
    return DaskMatrix(found) if is_dask(found) else found


def stretches(x: StoredMatrix, where: str = "The matrix") -> Callable[[int, int], StoredMatrix]:
    """Function from a row and a number of rows to these neighbouring rows of `x`, named `where` in messages.

    Those of a CSR matrix in a file are read here: anndata looks up the version of SciPy whenever it cuts some, which
    takes longer than to read them.
    """
    if not isinstance(x, CSRDataset):
        return lambda start, length: x[start : start + length]
    require_whole(x, where)
    with fast_codecs(x.group):
        starts, data, indices = (x.group[name] for name in ("indptr", "data", "indices"))

    def cut(start: int, length: int) -> sparse.csr_matrix:
        own = starts[start : start + length + 1]
        parts = (values[int(own[0]) : int(own[-1])] for values in (data, indices))
        return sparse.csr_matrix((*parts, own - own[0]), shape=(length, x.shape[1]), copy=False)

    return cut


def entries(block: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and value of every stored entry of a block."""
    if isinstance(block, np.ndarray):
        rows, columns = np.nonzero(np.ones(block.shape, dtype=bool)) if block.size else (np.array([], int),) * 2
        return rows, columns, block.reshape(-1)
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    return rows, block.indices, block.data


def behind(x: StoredMatrix) -> StoredMatrix:
    """Matrix in a file, or in several, whose rows a Dask array reads unchanged; all else as it is."""
    parts = _parts(x) if is_dask(x) else None
    if parts is None:
        return x
    return parts.parts[0].stored if len(parts.parts) == 1 and parts.parts[0].genes is None else parts


def files_of(x: DaskArray) -> Places | None:
    """Files whose rows are all rows of `x` in order, by their paths; ``None`` if something else is done to them."""
    found = _parts(x)
    sources = None if found is None else _sources(x)
    if found is None or sources is None:
        return None
    if isinstance(sources, Places):
        return sources
    places = []
    for (source, element), part in zip(sources, found.parts, strict=True):
        stored = part.stored
        # anndata names an element of a Zarr store without the groups that it lies in
        path, name = (source, element) if isinstance(source, Path) else (store_of(source), path_in_store(source))
        if path is None or isinstance(stored, CSCDataset):
            return None
        places.append(Place(path, name, int(stored.shape[0])))
    return Places(tuple(places), found.shape[1])


def files_in(x: DaskArray) -> Iterator[object]:
    """Files and arrays of Zarr that the graph of `x` reads from, whatever is done to them."""
    for layer in x.dask.layers.values():
        # tasks of other layers may differ, as once they were fused
        tasks = itertools.islice(layer.values(), 1 if is_blockwise(layer) else None)
        for part in itertools.chain.from_iterable(map(parts_of_task, tasks)):
            if isinstance(part, partial) and part.func is joined_chunk:
                yield from (place.path for place in part.args[0].places)
            else:
                yield part if (found := element_of(part)) is None else found[0]


def paths_in(x: DaskArray) -> set[Path]:
    """Paths of the files and Zarr stores that the graph of `x` reads from."""
    found = {part if isinstance(part, Path) else store_of(part) for part in files_in(x)}
    return {path for path in found if path is not None}


def has_unknown_size(x: StoredMatrix) -> bool:
    """True of a Dask array whose chunks have sizes that are not known before they are computed."""
    return is_dask(x) and any(math.isnan(n) for n in x.shape)


def _parts(x: DaskArray) -> JoinedMatrix | None:
    """Matrices in files whose rows are all rows of `x` in order; ``None`` if something else is done to them."""
    if len(x.chunks) != 2 or (len(x.chunks[1]) > 1 and len(x.chunks[0]) > 1):
        return None
    try:
        sources = _sources(x)
    except (AttributeError, IndexError, KeyError, TypeError):
        # graphs of another version of dask
        return None
    found = None if sources is None else _joined(sources, int(x.shape[1]))
    return found if found is not None and found.shape == tuple(map(int, x.shape)) else None


def _joined(sources: list[tuple[object, str]] | Places, n_genes: int) -> JoinedMatrix | None:
    if isinstance(sources, Places):
        found = sources.opened()
    else:
        parts = [opened(place, name) if isinstance(place, Path) else place for place, name in sources]
        found = JoinedMatrix([Part(part) for part in parts], n_genes)
    is_one = len(found.parts) == 1 and found.parts[0].genes is None
    # rows of CSC are not read one by one
    return found if is_one or not any(isinstance(part.stored, CSCDataset) for part in found.parts) else None


def _sources(x: DaskArray) -> list[tuple[object, str]] | Places | None:
    """Files that the layers of the graph of `x` read, in the order of its chunks."""
    found: dict[str, list[int]] = {}
    for own in [(x.name, i, j) for i in range(len(x.chunks[0])) for j in range(len(x.chunks[1]))]:
        task: object = x.dask.layers[x.name][own] if len(x.dask.layers) > 1 else own
        # a chunk that another array has unchanged
        key: object = getattr(task, "target", task)
        if not isinstance(key, tuple) or len(key) != 3 or not isinstance(key[0], str):
            return None
        found.setdefault(key[0], []).append(key[1] + key[2])
    whole = all(numbers == [*range(len(numbers))] for numbers in found.values())
    if not whole or set(x.dask.layers) - {x.name} != set(found) - {x.name}:
        return None
    sources = [_source(x, name) for name in found]
    if len(sources) == 1 and isinstance(sources[0], Places):
        return sources[0]
    return [source for source in sources if isinstance(source, tuple)] if all(sources) else None


def _source(x: DaskArray, name: str) -> tuple[object, str] | Places | None:
    """File that a layer reads, or files, if it does nothing else: one that was joined with others has their name."""
    if not name.startswith(READERS):
        return None
    for part in parts_of_task(x.dask.layers[name][name, 0, 0]):
        if isinstance(part, partial) and part.func is joined_chunk:
            return part.args[0] if isinstance(part.args[0], Places) else None
        if (found := element_of(part)) is not None:
            return found
    return None
