"""Cells of several files as one AnnData, whose matrices stay in the files."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.abc import CSCDataset
from anndata.io import read_elem

from deltavi._entries import choice, one_name, share
from deltavi._errors import DeltaviError, GeneMatchError, InputDataError, InputDataWarning, examples
from deltavi._reading import known_arguments
from deltavi.registry.checks import MatrixReport
from deltavi.registry.genes import require_unique_genes, suggest_vocabulary
from deltavi.registry.joined import Place, Places, opened, root_of
from deltavi.registry.source import sampled

logger = logging.getLogger("deltavi")

PathLike = str | os.PathLike[str]
UNREADABLE = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


@known_arguments
def concat_lazy(
    files: Mapping[str, PathLike] | Sequence[PathLike],
    *,
    join: Literal["inner", "outer"] = "inner",
    label: str | None = None,
    index_unique: str | None = None,
    min_overlap: float = 0.5,
) -> AnnData:
    """Cells of several files as one AnnData: tables are read, matrices stay in the files as Dask arrays.

    It is what :func:`anndata.concat` makes of the files in memory. Models train from it in blocks of rows, as from one
    file; all else that takes Dask arrays, such as scanpy, reads it as well. It needs the extra ``scale``.

    Parameters
    ----------
    files
        Paths of h5ad files and Zarr stores, in any mixture; a mapping names each of them, as ``keys`` does in anndata.
        Those of a sequence are named ``"0"``, ``"1"`` and so on.
    join
        Genes, and columns of obs, that all files have, or that any has; genes that a file lacks have zeros.
    label
        Column of obs for the name of the file of each cell, such as a batch.
    index_unique
        Text between the name of a cell and that of its file; by default names of cells stay as they are.
    min_overlap
        Smallest share of the genes of the file with the fewest that all files have.

    Returns
    -------
    AnnData ``(n_cells, n_genes)`` of all cells in the order of the files, with X and the layers that each file has,
    obs, and the names of the genes. A warning names matrices that some file lacks,
    and that are left out.

    Raises
    ------
    GeneMatchError
        If files share too few genes, or names of genes repeat in one.
    InputDataError
        If a file cannot be read or has no matrix, a matrix is stored by genes (CSC), or some hold counts and others do
        not, by a sample of their cells.
    DeltaviError
        If names of cells repeat without `index_unique`, keys are one text, no file is given, or Dask is not installed.

    Examples
    --------
    >>> import deltavi
    >>> cells = deltavi.pp.concat_lazy({"a": "a.h5ad", "b": "b.zarr"}, label="batch")  # doctest: +SKIP
    >>> deltavi.model.VAE.setup_anndata(cells, batch_key="batch")  # doctest: +SKIP
    """
    choice("join", join, known=("inner", "outer"))
    min_overlap = share("min_overlap", min_overlap)
    label = None if label is None else one_name("label", label)
    sources = [_Source.of(key, path, name) for key, path, name in _told_apart(_named(files))]
    _require_genes(sources, min_overlap)
    keys = [source.key for source in sources]
    tables = [AnnData(obs=source.obs, var=pd.DataFrame(index=source.genes)) for source in sources]
    if index_unique is None:
        _require_cells(sources)
    _report_left_out(sources, keeps_columns=join == "outer")
    found = anndata.concat(tables, join=join, label=label, keys=keys, index_unique=index_unique)
    for element in sorted(sources[0].elements.intersection(*(source.elements for source in sources))):
        matrix = _joined(sources, element, found.var_names)
        if element == "X":
            found.X = matrix
        else:
            found.layers[element.removeprefix("layers/")] = matrix
    return found


@dataclass(frozen=True, eq=False)
class _Source:
    """Tables of a file, and the places of its matrices."""

    key: str
    path: Path
    # in messages
    name: str
    obs: pd.DataFrame
    genes: pd.Index
    elements: frozenset[str]

    @classmethod
    def of(cls, key: str, path: Path, name: str) -> _Source:
        if not path.exists():
            raise InputDataError(f"{path} is not there. Name h5ad files or Zarr stores.")
        try:
            root = root_of(path)
            obs, var = read_elem(root["obs"]), read_elem(root["var"])
            layers = [f"layers/{name}" for name in _names_in(root, "layers")]
        except UNREADABLE as error:
            raise InputDataError(
                f"{path} cannot be read as h5ad file or Zarr store of an AnnData ({type(error).__name__}: {error}). If "
                "it was not written to the end, write it again."
            ) from error
        if "X" not in root and not layers:
            raise InputDataError(f"{path} holds no X and no layer: there is no expression to read.")
        genes = pd.Index(var.index.astype(str))
        require_unique_genes(genes, where=str(path))
        return cls(key, path, name, obs, genes, frozenset([*(["X"] if "X" in root else []), *layers]))


def _names_in(root: h5py.Group | zarr.Group, group: str) -> list[str]:
    """Names of the elements of a group, if it is there."""
    found = root.get(group)
    return list(found.keys()) if isinstance(found, h5py.Group | zarr.Group) else []


def _named(files: object) -> dict[str, PathLike]:
    """Paths by name."""
    if isinstance(files, str | os.PathLike) or not isinstance(files, Mapping | Sequence) or not len(files):
        raise DeltaviError(f"files are the paths of one file or more, in a list or by name in a dictionary: {files!r}.")
    pairs = [*files.items()] if isinstance(files, Mapping) else [*enumerate(files)]
    found = {str(key): path for key, path in pairs}
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        same = next(key for place, key in enumerate(keys) if str(key) in map(str, keys[:place]))
        raise DeltaviError(
            f"Keys of two files are both {str(same)!r} as text: {keys}. Give each file a name of its own."
        )
    for path in found.values():
        if not isinstance(path, str | os.PathLike):
            raise DeltaviError(f"files must be paths, not {type(path).__name__}: anndata.concat joins AnnData.")
    return found


def _told_apart(files: Mapping[str, PathLike]) -> list[tuple[str, Path, str]]:
    """Key and path of each file, and the end of the path that no other file has, as short as may be."""
    paths = [Path(path).expanduser() for path in files.values()]
    longest = max(len(path.parts) for path in paths)
    for length in range(1, longest + 1):
        names = [str(Path(*path.parts[-length:])) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return list(zip(files, paths, names, strict=True))


def _require_genes(sources: list[_Source], min_overlap: float) -> None:
    """Raise where a file shares too few of its genes with all others."""
    first = sources[0]
    shared = first.genes
    for source in sources[1:]:
        shared = shared.intersection(source.genes)
    # of a file with many more genes than others this is no measure
    fewest = min(sources, key=lambda source: len(source.genes))
    if len(shared) >= max(min_overlap * len(fewest.genes), 1):
        return
    other = min(sources[1:], key=lambda source: len(first.genes.intersection(source.genes)))
    found = len(shared) / max(len(fewest.genes), 1)
    raise GeneMatchError(
        f"{len(sources)} files have {len(shared)} genes in common, {found:.0%} of the {len(fewest.genes)} in "
        f"{fewest.name}; min_overlap={min_overlap:g} are needed. {first.name}: "
        f"{examples(first.genes)}. {other.name}: {examples(other.genes)}."
        f"{suggest_vocabulary(other.genes, first.genes)}"
    )


def _require_cells(sources: list[_Source]) -> None:
    """Raise where cells of two files have the same name."""
    for place, source in enumerate(sources):
        for other in sources[place + 1 :]:
            same = source.obs.index[source.obs.index.isin(other.obs.index)]
            if len(same):
                raise DeltaviError(
                    f"{len(same)} cells of {source.name} have names that cells of {other.name} have as well "
                    f"(for example {examples(same)}). Pass index_unique='-', which puts the name of the file behind "
                    "that of each cell."
                )


def _report_left_out(sources: list[_Source], *, keeps_columns: bool) -> None:
    """Warn of matrices that some file lacks; log columns of obs that are left out as they were asked to be."""
    lost = _lacking({source.name: {_place(element) for element in source.elements} for source in sources})
    if lost:
        warnings.warn(
            f"{lost}: not in all {len(sources)} files, and left out. Write them to all files to keep them.",
            InputDataWarning,
            stacklevel=4,
        )
    columns = _lacking({source.name: {f"obs[{column!r}]" for column in source.obs} for source in sources})
    if columns and not keeps_columns:
        logger.info("%s: not in all files, and left out; join='outer' keeps them.", columns)


def _lacking(held: Mapping[str, set[str]]) -> str:
    """Names that some file lacks, each with the files that have it; empty if there are none."""
    every = [*held.values()]
    lost = every[0].union(*every) - every[0].intersection(*every)
    return _some([f"{name} (in {_some([file for file in held if name in held[file]])})" for name in sorted(lost)], 10)


def _some(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, without quotes, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _place(element: str) -> str:
    """Name of a matrix in messages."""
    return "X" if element == "X" else f"layers[{element.removeprefix('layers/')!r}]"


def _joined(sources: list[_Source], element: str, genes: pd.Index) -> object:
    """Dask array of a matrix in all files, with `genes` in order."""
    parts, reports, kinds = [], {}, []
    for source in sources:
        stored = opened(source.path, element)
        if isinstance(stored, CSCDataset):
            raise InputDataError(_by_genes(element, source.path))
        shape = tuple(map(int, stored.shape))
        if shape != (len(source.obs), len(source.genes)):
            raise InputDataError(
                f"{element} of {source.path} is {shape[0]} x {shape[1]}, and its tables have {len(source.obs)} cells "
                f"and {len(source.genes)} genes. The file is damaged: write it again."
            )
        reports[source.name] = sampled(stored)
        kinds.append(np.dtype(stored.dtype))
        to = genes.get_indexer(source.genes)
        same = np.array_equal(to, np.arange(len(genes)))
        parts.append(Place(source.path.absolute(), element, shape[0], None if same else tuple(to.tolist())))
    _require_one_scale(element, reports)
    try:
        return Places(tuple(parts), len(genes)).as_array(np.result_type(*kinds))
    except ModuleNotFoundError as error:
        raise DeltaviError(f"concat_lazy needs Dask ({error}): pip install 'deltavi[scale]'.") from error


def _by_genes(element: str, path: Path) -> str:
    """Error for a matrix whose cells cannot be read without all others."""
    place = _place(element)
    read, write = ("read_zarr", "write_zarr") if path.is_dir() else ("read_h5ad", "write_h5ad")
    return (
        f"{place} of {path} is stored by genes (CSC): no cell can be read without the whole matrix. Store it by cells: "
        f"adata = anndata.{read}({str(path)!r}); adata.{place} = adata.{place}.tocsr(); adata.{write}(...) to another "
        "path."
    )


def _require_one_scale(element: str, reports: Mapping[str, MatrixReport | None]) -> None:
    """Raise where some files hold counts, and others do not."""
    known = {name: report for name, report in reports.items() if report is not None and report.n_nonzero}
    counts = [name for name, report in known.items() if report.are_counts]
    others = [name for name in known if name not in counts]
    if counts and others:
        raise InputDataError(
            f"{element} holds counts in {examples(counts)}, and fractional or negative values, up to "
            f"{known[others[0]].max_value:.3g}, in {examples(others)}: files of one scale are needed. Where the counts "
            "lie in a layer or in raw of those, write them to X."
        )
