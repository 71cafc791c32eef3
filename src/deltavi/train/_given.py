"""A split of the user's own: positions or masks of training and validation cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deltavi._entries import positions
from deltavi._errors import DeltaviError, examples
from deltavi.train._plan import SMALLEST_BATCH, CellSplit


def given_split(n_cells: int, **parts: object) -> CellSplit:
    """Split as given; cells in no part are for testing.

    Parameters
    ----------
    n_cells
        Cells of the data set.
    **parts
        Training, validation and, if any, test cells by the name of their argument, in this order: positions, masks or
        ``None``. Without training cells all but those for validation are trained on.

    Raises
    ------
    DeltaviError
        If a cell is in two parts or twice in one, or too few are left to train on.
    """
    chosen = {name: _distinct(name, indices, n_cells) for name, indices in parts.items()}
    names = list(chosen)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            _require_apart(name, chosen[name], other, chosen[other])
    train, validation, *test = chosen.values()
    if parts[names[0]] is None:
        train = np.setdiff1d(np.arange(n_cells), validation)
    rest = np.setdiff1d(np.arange(n_cells), np.concatenate([train, validation, *test]))
    if len(rest) and any(len(cells) for cells in test):
        raise DeltaviError(
            f"{len(rest)} cells are in no part of the split (for example {examples(rest)}). Leave out {names[2]}, "
            "and all of these are test cells."
        )
    if len(train) < SMALLEST_BATCH:
        raise DeltaviError(f"{names[0]} leaves {len(train)} cells to train on; at least {SMALLEST_BATCH} are needed.")
    return CellSplit(train=train, validation=validation, test=np.concatenate([*test, rest]))


def indexing_parts(external_indexing: object) -> dict[str, object]:
    """Parts of the list that scvi-tools calls ``external_indexing``: training, validation and test cells."""
    if (
        not isinstance(external_indexing, Sequence)
        or isinstance(external_indexing, str)
        or not 1 <= len(external_indexing) <= 3
    ):
        raise DeltaviError(
            "external_indexing must be a list of one to three arrays: cells to train, validate and test on."
        )
    parts = {f"external_indexing[{i}]": indices for i, indices in enumerate(external_indexing)}
    return parts if len(parts) > 1 else {**parts, "external_indexing[1]": None}


def whole_batches(n_train: int, batch_size: int) -> int:
    """`batch_size`, or the next size that leaves no mini-batch too small for batch normalisation."""
    while 0 < n_train % batch_size < SMALLEST_BATCH and batch_size < n_train:
        batch_size += 1
    return batch_size


def require_labels(codes: np.ndarray, split: CellSplit, label_names: np.ndarray) -> list[str]:
    """Raise where training cells of a split hold fewer than two labels; names of the labels that they lack.

    Parameters
    ----------
    codes
        ``(n_cells,)`` label of each cell, -1 where it is unknown.
    split
        The user's split.
    label_names
        Label of each code.
    """
    trained = np.unique(codes[split.train])
    if (trained >= 0).sum() < min(2, len(label_names)):
        raise DeltaviError(
            f"The {len(split.train)} training cells of the split hold {int((trained >= 0).sum())} labels, of "
            f"{len(label_names)} that the cells have: at least two are needed to learn from."
        )
    return [str(name) for name in np.delete(label_names, trained[trained >= 0])]


def _distinct(name: str, indices: object, n_cells: int) -> np.ndarray:
    if indices is None:
        return np.zeros(0, dtype=np.int64)
    found = positions(indices, n_cells, name=name)
    distinct, times = np.unique(found, return_counts=True)
    if (times > 1).any():
        raise DeltaviError(
            f"{name} holds {int((times > 1).sum())} cells more than once (for example {examples(distinct[times > 1])})."
        )
    return found


def _require_apart(name: str, cells: np.ndarray, other: str, others: np.ndarray) -> None:
    both = np.intersect1d(cells, others)
    if len(both):
        raise DeltaviError(f"{len(both)} cells are in both {name} and {other} (for example {examples(both)}).")
