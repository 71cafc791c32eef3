"""Blocks of a prediction put together: one AnnData in memory, or a file that is written block by block."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api.types import union_categoricals
from scipy import sparse

from deltavi import _keys
from deltavi._errors import NotHeldOutWarning, examples
from deltavi._logs import first_of_each
from deltavi._types import Rows, State
from deltavi.io import BlockFile
from deltavi.model._blocks import Block, Screen
from deltavi.model._together import asked_of, write_shared
from deltavi.model.request import drop_unused_categories
from deltavi.registry.source import layer_names
from deltavi.train.progress import progress_bar

COLUMNS = (_keys.VARM_CHANGE, _keys.VARM_LOWER, _keys.VARM_UPPER)


def in_memory(screen: Screen, *, layers: tuple[str, ...] | None, progress: bool) -> AnnData:
    """One AnnData of all blocks."""
    tables, blocks, columns = Tables(), [], []
    with _counting(screen, progress) as count:
        for block in _each(screen, layers, range(screen.n_blocks)):
            tables.add(block)
            blocks.append(block.cells)
            if block.perturbation is not None:
                columns.append(_columns(block.cells))
            count(block.perturbation is not None)
    first = blocks[0]
    found = AnnData(
        X=_stacked([one.X for one in blocks]),
        obs=tables.obs(),
        var=first.var.copy(),
        layers={name: _stacked([one.layers[name] for one in blocks]) for name in layer_names(first)},
        obsm={name: np.concatenate([one.obsm[name] for one in blocks]) for name in first.obsm},
    )
    for key in COLUMNS:
        given = [one.get(key) for one in columns]
        if any(values is not None for values in given):
            unknown = np.full(found.n_vars, np.nan, dtype=np.float32)
            found.varm[key] = np.stack([unknown if values is None else values for values in given], axis=1)
    found.uns[_keys.UNS_PREDICTION] = tables.uns()
    tables.warn()
    return found


def in_file(screen: Screen, target: Path, *, layers: tuple[str, ...] | None, progress: bool) -> Path:
    """File of all blocks, of which one is in memory at a time; it takes its place once it is complete.

    Several processes share the blocks.
    """
    tables = Tables()

    def write(part: Path, blocks: Iterable[Block]) -> None:
        with BlockFile(part, screen.n_cells) as file:
            for block in blocks:
                file.add(block.cells)
                if block.perturbation is not None:
                    for key, values in _columns(block.cells).items():
                        file.add_column(key, values, place=tables.n_pairs, n_columns=screen.n_pairs)
                tables.add(block)
                var = block.cells.var
                count(block.perturbation is not None)
            file.finish(obs=tables.obs(), var=var, uns={_keys.UNS_PREDICTION: tables.uns()})

    with _counting(screen, progress) as count:
        own = partial(_each, screen, layers)
        write_shared(target, own, write, n_blocks=screen.n_blocks, asked=partial(_asked, screen, layers))
    tables.warn()
    return target


@contextmanager
def _counting(screen: Screen, progress: bool) -> Iterator[Callable[[int], object]]:
    """Counter of pairs, in a block that logs each message once."""
    details = "deltavi.get.predictions and deltavi.get.weights have the figures of each pair."
    with first_of_each(details), progress_bar(screen.n_pairs, "predicting", wanted=progress) as bar:
        yield bar.update


def _each(screen: Screen, layers: tuple[str, ...] | None, numbers: range) -> Iterator[Block]:
    """Blocks of these numbers with the layers that are asked for."""
    for block in screen.blocks(numbers):
        for name in [name for name in layer_names(block.cells) if layers is not None and name not in layers]:
            del block.cells.layers[name]
        yield block


def _asked(screen: Screen, layers: tuple[str, ...] | None) -> dict[str, object]:
    """Description of the question."""
    question, request = screen.question, screen.controls.request
    pairs = [one.name for one in screen.perturbations], screen.controls.contexts, screen.with_controls
    settings = question.control.name, question.output, question.draws, question.n_samples, question.seed
    return asked_of(screen.model, request.adata.obs_names[request.cells], (*pairs, *settings, layers))


def _columns(cells: AnnData) -> dict[str, np.ndarray]:
    """Change of each gene and its interval, where the pair has them."""
    found = {key: cells.varm[key] for key in COLUMNS if key in cells.varm}
    return {key: table.iloc[:, 0].to_numpy(dtype=np.float32) for key, table in found.items()}


def _stacked(values: list[Rows]) -> Rows:
    if sparse.issparse(values[0]):
        return sparse.csr_matrix(sparse.vstack(values, format="csr"))
    return np.concatenate(values)


class Tables:
    """Tables of all blocks: obs of their cells, and a record of each pair."""

    def __init__(self) -> None:
        self._obs: list[pd.DataFrame] = []
        self._rows: list[State] = []
        self._tables: dict[str, list[pd.DataFrame]] = {}
        self._shared: State = {}
        self._described: list[str] = []

    @property
    def n_pairs(self) -> int:
        """Pairs so far."""
        return len(self._rows)

    def add(self, block: Block) -> None:
        """Add the rows of the next block."""
        self._obs.append(block.cells.obs)
        if block.perturbation is None:
            return
        held = dict(block.cells.uns[_keys.UNS_PREDICTION])
        name = held.pop("perturbation")
        for key, table in list(held.items()):
            if isinstance(table, pd.DataFrame):
                plain = held.pop(key)
                plain = plain.reset_index() if plain.index.name else plain.reset_index(drop=True)
                self._tables.setdefault(key, []).append(plain.assign(perturbation=name))
        self._shared = self._shared or held
        pair = {"perturbation": name, "context": block.context, "n_cells": block.cells.n_obs}
        self._rows.append({**pair, **block.record})
        if block.describes:
            self._described.append(f"{block.context} | {name}")

    def obs(self) -> pd.DataFrame:
        """Columns of all cells."""
        columns = {name: _joined([part[name] for part in self._obs]) for name in self._obs[0]}
        index = pd.Index(np.concatenate([part.index.to_numpy(dtype=object) for part in self._obs]))
        found = pd.DataFrame(columns, index=index)
        drop_unused_categories(found)
        return found

    def uns(self) -> State:
        """One record of all pairs."""
        tables = {key: pd.concat(parts, ignore_index=True) for key, parts in self._tables.items()}
        tables["pairs"] = pd.DataFrame(self._rows)
        for table in tables.values():
            table.index = table.index.astype(str)
        names = list(dict.fromkeys(row["perturbation"] for row in self._rows))
        return {**self._shared, "perturbations": np.array(names, dtype=object), **tables}

    def warn(self) -> None:
        """Warn once of all pairs whose answer describes training cells."""
        n_described = len(self._described)
        if n_described:
            warnings.warn(
                f"Measured cells under the perturbation were among the training cells in {n_described} of "
                f"{self.n_pairs} pairs, and weigh in the answer: {examples(self._described)}. It describes them rather "
                "than predicts them. deltavi.get.predictions has their weight, own_weight. To predict, train without "
                "these cells.",
                NotHeldOutWarning,
                stacklevel=5,
            )


def _joined(parts: list[pd.Series]) -> pd.Categorical | np.ndarray:
    """Values of one column in all blocks; a category stays one."""
    if all(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
        return union_categoricals(parts)
    return pd.concat(parts, ignore_index=True).to_numpy()
