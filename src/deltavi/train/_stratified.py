"""Split that gives every label its share of training and validation cells."""

from __future__ import annotations

import math

import numpy as np

from deltavi._errors import DeltaviError
from deltavi.train._plan import SMALLEST_BATCH, CellSplit

# A label with this many cells has one in validation, even if its share rounds to none.
ENOUGH_FOR_VALIDATION = 4


def split_labelled(
    codes: np.ndarray,
    *,
    train_size: float,
    validation_size: float | None,
    batch_size: int,
    generator: np.random.Generator,
    shuffle: bool = True,
) -> CellSplit:
    """Random split, label by label; unlabelled cells are split like one more label.

    Every label has a cell in training, and the only cell of a label is there; a label of four cells or more has one
    in validation, if there is a validation part. The training part leaves no mini-batch of one or two cells:
    such a tail is removed from the most frequent label.

    Parameters
    ----------
    codes
        ``(n_cells,)`` label of each cell, -1 where it is unknown.
    train_size, validation_size
        Shares of the cells; the rest is for testing. Without `validation_size` the rest is for validation.
    batch_size
        Size of a mini-batch; a tail too small for batch normalisation goes to validation, or out.
    generator
        Source of the permutations.
    shuffle
        Split every label at random; else its last cells are those for validation and testing.

    Raises
    ------
    DeltaviError
        If the shares are invalid or too few cells are left to train on.
    """
    _check_shares(train_size, validation_size)
    mixed = generator.permutation if shuffle else np.asarray
    strata = [mixed(np.flatnonzero(codes == code)) for code in np.unique(codes)]
    sizes = np.array([_sizes(len(cells), train_size, validation_size) for cells in strata], dtype=int).reshape(-1, 3)
    n_train = int(sizes[:, 0].sum())
    if n_train < SMALLEST_BATCH:
        raise DeltaviError(f"{len(codes)} cells are too few to train on; at least {SMALLEST_BATCH} are needed.")
    tail = n_train % batch_size
    if 0 < tail < SMALLEST_BATCH <= n_train - tail:
        for _ in range(tail):
            sizes[sizes[:, 0].argmax()] += [-1, 1, 0] if validation_size is None else [-1, 0, 1]
    parts = [np.split(cells, ends[:2]) for cells, ends in zip(strata, sizes.cumsum(1), strict=True)]
    return CellSplit(*(mixed(np.concatenate(part)) for part in zip(*parts, strict=True)))


def _sizes(n_cells: int, train_size: float, validation_size: float | None) -> tuple[int, int, int]:
    """Training, validation and test cells of a label with `n_cells`."""
    n_train = math.ceil(train_size * n_cells)
    n_validation = n_cells - n_train if validation_size is None else math.floor(validation_size * n_cells)
    wanted = train_size < 1 if validation_size is None else validation_size > 0
    if wanted and n_validation == 0 and n_cells >= ENOUGH_FOR_VALIDATION:
        n_train, n_validation = min(n_train, n_cells - 1), 1
    n_validation = min(n_validation, n_cells - n_train)
    return n_train, n_validation, n_cells - n_train - n_validation


def _check_shares(train_size: float, validation_size: float | None) -> None:
    if not 0 < train_size <= 1:
        raise DeltaviError(f"train_size must lie in (0, 1], not {train_size}.")
    if not 0 <= (validation_size or 0.0) <= 1 - train_size + 1e-9:
        raise DeltaviError(f"train_size + validation_size must not exceed 1, not {train_size} + {validation_size}.")
