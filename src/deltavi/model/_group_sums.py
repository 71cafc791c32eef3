"""Sums and means of cells by condition and label, all of them in one pass over a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from deltavi._types import Rows
from deltavi.perturbation.estimators import ALL_CELLS, GroupMeans
from deltavi.registry.checks import wanted_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Groups:
    """Labels within conditions, and all cells of each condition, as codes of one pass.

    Parameters
    ----------
    conditions, labels
        ``(n_cells,)`` names; no labels are one for all cells.
    """

    def __init__(self, conditions: np.ndarray, labels: np.ndarray | None) -> None:
        code, self._conditions = pd.factorize(conditions)
        label, names = pd.factorize(
            np.full(len(code), ALL_CELLS, dtype=object) if labels is None else labels, sort=True
        )
        joint, self._joint = pd.factorize(code * len(names) + label, sort=True)
        self._names = [str(names[k % len(names)]) for k in self._joint]
        self._condition_of = self._joint // len(names)
        # the cells of a condition come after those of its labels; without labels they are the same groups
        self.codes = joint[None] if labels is None else np.stack([joint, len(self._joint) + code])
        self._sizes = np.bincount(self.codes.ravel())

    def split(
        self, sums: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> tuple[dict[str, GroupMeans], dict[str, GroupMeans]]:
        """Means by condition and label, and by condition, from sums ``(n_groups, n_columns)``."""

        def of(rows: np.ndarray, names: list[str]) -> GroupMeans:
            return _means_of(names, sums[rows], squares[rows], self._sizes[rows])

        by_label, overall = {}, {}
        for place, condition in enumerate(self._conditions):
            rows = np.flatnonzero(self._condition_of == place)
            by_label[condition] = of(rows, [self._names[row] for row in rows])
            together = rows if len(self.codes) == 1 else np.array([len(self._joint) + place])
            overall[condition] = of(together, [ALL_CELLS])
        return by_label, overall


class GroupSums:
    """Sums and sums of squares over groups of cells, whose rows come block by block.

    Parameters
    ----------
    codes
        ``(n_groupings, n_cells)`` group of each cell in each of several groupings, from zero on, of which no two have
        the same; a negative one is none.
    n_columns
        Columns of the rows.
    weights
        ``(n_cells,)`` factor that each cell is multiplied by.
    logs
        For each answer, whether log1p is taken of what is multiplied.
    """

    def __init__(
        self,
        codes: np.ndarray,
        n_columns: int,
        *,
        weights: np.ndarray | None = None,
        logs: Sequence[bool] = (False,),
    ) -> None:
        self._codes, self._weights, self._logs = codes, weights, logs
        shape = (int(codes.max(initial=-1)) + 1, n_columns)
        # sums and sums of squares, (n_groups, n_columns) each, for each of `logs`
        self.found = [(np.zeros(shape), np.zeros(shape)) for _ in logs]

    @property
    def wanted(self) -> NDArray[np.bool_]:
        """Mask of the cells that are in a group, ``(n_cells,)``."""
        return np.asarray((self._codes >= 0).any(0))

    def add(self, rows: np.ndarray, block: Rows) -> None:
        """Add wanted cells, by their positions and rows of values."""
        cells = sparse.csr_matrix(block).astype(np.float64)
        if self._weights is not None:
            cells = sparse.diags(self._weights[rows]) @ cells
        present, member = _members(self._codes[:, rows])
        for log, (sums, squares) in zip(self._logs, self.found, strict=True):
            taken = cells.log1p() if log else cells
            sums[present] += (member @ taken).toarray()
            squares[present] += (member @ taken.power(2)).toarray()


def group_sums(
    values: Any, codes: np.ndarray, *, weights: np.ndarray | None = None, logs: Sequence[bool] = (False,)
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """:class:`GroupSums` of a matrix ``(n_cells, n_columns)``, dense, sparse or backed, that is read in blocks."""
    sums = GroupSums(codes, values.shape[1], weights=weights, logs=logs)
    for rows, block in wanted_blocks(values, sums.wanted):
        sums.add(rows, block)
    return sums.found


def _members(codes: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Groups that some of the cells are in, and which those are, ``(n_groups, n_cells)``."""
    _, places = np.nonzero(codes >= 0)
    present, code = np.unique(codes[codes >= 0], return_inverse=True)
    shape = (len(present), codes.shape[1])
    return present, sparse.csr_matrix((np.ones(len(places)), (code.ravel(), places)), shape=shape)


class MeansOfGroups:
    """Means by group of cells whose rows come block by block.

    Parameters
    ----------
    groups
        ``(n_cells,)`` names.
    inside
        ``(n_cells,)`` cells to use.
    n_columns
        Columns of the rows.
    weights
        ``(n_cells,)`` factor that each cell is multiplied by.
    log
        Take log1p of what is multiplied.
    """

    def __init__(
        self,
        groups: np.ndarray,
        inside: NDArray[np.bool_],
        n_columns: int,
        *,
        weights: np.ndarray | None = None,
        log: bool = False,
    ) -> None:
        codes, names = pd.factorize(groups[inside], sort=True)
        code_of = np.full(len(groups), -1)
        code_of[inside] = codes
        self._names, self._sizes = [str(name) for name in names], np.bincount(codes, minlength=len(names))
        self.sums = GroupSums(code_of[None], n_columns, weights=weights, logs=(log,))

    def means(self) -> GroupMeans:
        """Means of the cells that were added."""
        return _means_of(self._names, *self.sums.found[0], self._sizes)


def group_means(
    values: Any,
    groups: np.ndarray,
    inside: NDArray[np.bool_],
    weights: np.ndarray | None = None,
    *,
    log: bool = False,
) -> GroupMeans:
    """:class:`MeansOfGroups` of a matrix ``(n_cells, n_columns)``, dense, sparse or backed."""
    of_groups = MeansOfGroups(groups, inside, values.shape[1], weights=weights, log=log)
    for rows, block in wanted_blocks(values, inside):
        of_groups.sums.add(rows, block)
    return of_groups.means()


def _means_of(
    names: Sequence[str], sums: NDArray[np.float64], squares: NDArray[np.float64], sizes: NDArray[np.int64]
) -> GroupMeans:
    """Means, and sums of squared deviations, of groups of `sizes` cells."""
    means = sums / sizes[:, None]
    deviations = np.maximum(squares - sizes[:, None] * means**2, 0.0)
    return GroupMeans.of(tuple(names), means, deviations, tuple(int(n) for n in sizes))
