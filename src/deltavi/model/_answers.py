"""Answers that have a row for each cell, computed block by block: joined in memory, or written to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData

import deltavi
from deltavi import _keys
from deltavi._entries import Indices, positions
from deltavi._random import isolated_randomness
from deltavi._types import Rows, State
from deltavi.io import BlockFile, PathLike
from deltavi.model._together import asked_of, seed_of_rank, write_shared
from deltavi.model.request import drop_unused_categories
from deltavi.registry.manager import one_data_set
from deltavi.registry.writable import writable_columns
from deltavi.train.progress import progress_bar

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

T = TypeVar("T")
# Cells of a block, as whole mini-batches: a loader is made for each block, and memory holds the expression of one.
CELLS_OF_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Answered:
    """Answer for some cells, a row for each.

    Parameters
    ----------
    profile
        ``(n_cells, n_genes)`` expression, where the answer is of that kind; of draws ``(n_draws, n_cells, n_genes)``.
    obsm
        ``(n_cells, n)`` arrays by their keys in obsm.
    obs
        ``(n_cells,)`` columns by their names in obs.
    """

    profile: Rows | None = None
    obsm: Mapping[str, np.ndarray] = field(default_factory=dict)
    obs: Mapping[str, np.ndarray] = field(default_factory=dict)


LATENT: Mapping[str, object] = {"verb": "get_latent_representation"}
# Answer for the cells at some positions ``(n_cells,)``.
Answer = Callable[[np.ndarray], Answered]


@dataclass(frozen=True, eq=False)
class AskedCells:
    """Cells that a trained model is asked about.

    Parameters
    ----------
    model
        A trained model.
    adata
        AnnData in the model's form.
    cells
        ``(n_cells,)`` positions of the cells.
    """

    model: CountModel
    adata: AnnData
    cells: np.ndarray

    @classmethod
    def of(cls, model: CountModel, adata: AnnData | None, indices: Indices | None) -> AskedCells:
        """Cells of a question: those of the model where `adata` is None, and all of them without `indices`."""
        aligned = model._validate_anndata(adata)
        return cls(model, aligned, positions(indices, aligned.n_obs))

    @property
    def names(self) -> pd.Index:
        """Names of the cells, ``(n_cells,)``."""
        names: pd.Index = self.adata.obs_names[self.cells]
        return names

    def delivered(
        self,
        path: PathLike | None,
        answer: Answer,
        in_memory: Callable[[Answered], T],
        *,
        progress: bool,
        batch_size: int | None,
        record: Mapping[str, object],
        genes: np.ndarray | None = None,
    ) -> T | Path:
        """File of the answer for all cells, or without `path` what `in_memory` makes of it.

        Parameters
        ----------
        path
            File to write, as :func:`deltavi.io.require_store` gives it.
        answer, progress, batch_size
            See :meth:`joined`.
        in_memory
            Function from the answer for all cells to what is returned.
        record, genes
            See :meth:`written`.
        """
        how: State = {"progress": progress, "batch_size": batch_size}
        if path is None:
            return in_memory(self.joined(answer, **how))
        return self.written(Path(path), answer, record=record, genes=genes, **how)

    def joined(self, answer: Answer, *, progress: bool, batch_size: int | None) -> Answered:
        """Answer for all cells in memory; without a progress bar it is asked for at once.

        Parameters
        ----------
        answer
            Answer for some of them.
        progress
            Show a progress bar, if standard error is a terminal or in a notebook.
        batch_size
            Cells of a mini-batch.
        """
        if not progress:
            return answer(self.cells)
        size = _block_size(batch_size)
        with self._working(progress, self.model.seed) as count:
            parts = list(self._counted(self._blocks(answer, size, range(self._n_blocks(size))), size, count))
        profiles = [part.profile for part in parts if part.profile is not None]
        return Answered(
            # cells are the last axis but one
            np.concatenate(profiles, axis=-2) if profiles else None,
            {name: np.concatenate([part.obsm[name] for part in parts]) for name in parts[0].obsm},
            {name: np.concatenate([part.obs[name] for part in parts]) for name in parts[0].obs},
        )

    def written(
        self,
        path: Path,
        answer: Answer,
        *,
        progress: bool,
        batch_size: int | None,
        record: Mapping[str, object],
        genes: np.ndarray | None = None,
    ) -> Path:
        """File of the answer for all cells, of which a block is in memory at a time, with their obs and var.

        Several processes share the blocks; what is drawn in another than rank 0 has a seed of its own.

        Parameters
        ----------
        path
            File to write, as :func:`deltavi.io.require_store` gives it.
        answer, progress, batch_size
            See :meth:`joined`.
        record
            Settings of the answer, for uns.
        genes
            Positions of the genes of the answer among those of the model; None for all.
        """
        size, uns = _block_size(batch_size), {_keys.UNS_PREDICTION: self._record(record)}

        def write(part: Path, blocks: Iterable[Answered]) -> None:
            obs = writable_columns(self.adata.obs.iloc[self.cells])
            columns: dict[str, list[np.ndarray]] = {}
            with BlockFile(part, len(self.cells)) as file:
                for found in self._counted(blocks, size, count):
                    file.add_rows(found.profile, {}, found.obsm)
                    for name, values in found.obs.items():
                        columns.setdefault(name, []).append(values)
                for name, parts in columns.items():
                    obs[name] = _column(np.concatenate(parts))
                drop_unused_categories(obs)
                file.finish(obs=obs, var=self._var(genes), uns=uns)

        with self._working(progress, seed_of_rank(self.model.seed)) as count:
            write_shared(
                path,
                partial(self._blocks, answer, size),
                write,
                n_blocks=self._n_blocks(size),
                asked=lambda: asked_of(self.model, self.names, record),
            )
        return path

    @contextmanager
    def _working(self, progress: bool, seed: int) -> Iterator[Callable[[int], object]]:
        """Counter of cells; all blocks share one random state, so that draws are those of a single pass."""
        bar = progress_bar(len(self.cells), "answering", wanted=progress)
        with isolated_randomness(seed), one_data_set(), bar:
            yield bar.update

    def _n_blocks(self, size: int) -> int:
        """Number of blocks; of no cells there is one without cells."""
        return max(1, -(-len(self.cells) // size))

    def _blocks(self, answer: Answer, size: int, numbers: range) -> Iterator[Answered]:
        """Answers for the blocks of these numbers."""
        for number in numbers:
            yield answer(self.cells[number * size : (number + 1) * size])

    def _counted(self, blocks: Iterable[T], size: int, count: Callable[[int], object]) -> Iterator[T]:
        """All blocks, whose cells are counted once they are used."""
        for number, block in enumerate(blocks):
            yield block
            count(min(size, len(self.cells) - number * size))

    def _var(self, genes: np.ndarray | None) -> pd.DataFrame:
        var = writable_columns(self.adata.var)
        return var if genes is None else var.iloc[genes]

    def _record(self, record: Mapping[str, object]) -> State:
        own = {"model": type(self.model).__name__, "deltavi_version": deltavi.__version__}
        return {**own, **{name: value for name, value in record.items() if value is not None}}


def latent_arrays(
    model: CountModel, found: np.ndarray | tuple[np.ndarray, ...], what: str = ""
) -> dict[str, np.ndarray]:
    """Latent positions, and their variances where there are such, by their keys in obsm: ``"X_scgen"`` of SCGEN."""
    key = f"X_{type(model).__name__.lower()}{what}"
    arrays = found if isinstance(found, tuple) else (found,)
    return dict(zip((key, f"{key}_variance"), arrays, strict=False))


def arrays_of(found: Answered) -> np.ndarray | tuple[np.ndarray, ...]:
    """Latent positions of :func:`latent_arrays`, with their variances where there are such."""
    arrays = tuple(found.obsm.values())
    return arrays if len(arrays) > 1 else arrays[0]


def only_array(found: Answered) -> np.ndarray:
    """Latent positions of :func:`latent_arrays`, which are without variances."""
    return next(iter(found.obsm.values()))


def _block_size(batch_size: int | None) -> int:
    """Cells of a block of whole mini-batches."""
    size = scvi.settings.batch_size if batch_size is None else batch_size
    return size * max(1, CELLS_OF_BLOCK // size)


def loaders_of_one_pass() -> Iterator[State]:
    """Options of the loaders of consecutive blocks.

    A loader draws once from the global generator when it begins. That of the first block alone does, so that what is
    drawn for the cells is what a single loader of all of them would see.
    """
    return chain([{}], repeat({"generator": torch.Generator()}))


def _column(values: np.ndarray) -> np.ndarray | pd.Categorical:
    """Values of a column of obs, text as categories."""
    return pd.Categorical(values) if values.dtype == object else values


__all__ = [
    "LATENT",
    "Answer",
    "Answered",
    "AskedCells",
    "arrays_of",
    "latent_arrays",
    "loaders_of_one_pass",
    "only_array",
]
