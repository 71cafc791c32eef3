"""Split of the cells of a data module: by shares, or of the user's own."""

from __future__ import annotations

import numpy as np

from deltavi._entries import share
from deltavi._errors import DeltaviError, examples
from deltavi._types import State
from deltavi.train import CellSplit, given_split, split_cells

DEFAULT_TRAIN_SIZE = 0.9


def split_of(n_cells: int, *, shares: State, parts: State, batch_size: int, seed: int) -> CellSplit:
    """Cells to train, validate and test on.

    Parameters
    ----------
    n_cells
        Number of cells.
    shares
        ``train_size`` and ``validation_size``, or ``None``.
    parts
        ``train_indices`` and ``validation_indices``, or ``None``.
    batch_size
        Cells of a mini-batch.
    seed
        Seed of a random split.

    Raises
    ------
    DeltaviError
        If there are two splits, or the one there is makes no sense.
    """
    given = {name: value for name, value in {**shares, **parts}.items() if value is not None}
    if given.keys() & shares.keys() and given.keys() & parts.keys():
        raise DeltaviError(f"{examples(list(given))} are several ways to split the cells: pass one of them.")
    if given.keys() & parts.keys():
        return given_split(n_cells, **parts)
    sizes = {name: None if value is None else share(name, value) for name, value in shares.items()}
    train_size = DEFAULT_TRAIN_SIZE if sizes["train_size"] is None else sizes["train_size"]
    return split_cells(
        n_cells,
        train_size=train_size,
        validation_size=sizes["validation_size"],
        batch_size=batch_size,
        generator=np.random.default_rng(seed),
    )
