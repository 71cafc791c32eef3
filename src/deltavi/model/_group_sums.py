"""Sums and means of cells by condition and label, all of them in one pass over a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

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


def group_sums(
    values: Any, codes: np.ndarray, *, weights: np.ndarray | None = None, logs: Sequence[bool] = (False,)
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Sums and sums of squares over groups of cells, in one pass; read in blocks, never densified.

    Parameters
    ----------
    values
        ``(n_cells, n_columns)`` dense, sparse or backed.
    codes
        ``(n_groupings, n_cells)`` group of each cell in each of several groupings, from zero on, of which no two have
        the same; a negative one is none.
    weights
        ``(n_cells,)`` factor that each cell is multiplied by.
    logs
        For each answer, whether log1p is taken of what is multiplied.

    Returns
    -------
    Sums and sums of squares, ``(n_groups, n_columns)`` each, for each of `logs`.
    """
    shape = (int(codes.max(initial=-1)) + 1, values.shape[1])
    found = [(np.zeros(shape), np.zeros(shape)) for _ in logs]
    for rows, block in wanted_blocks(values, np.asarray((codes >= 0).any(0))):
        cells = sparse.csr_matrix(block).astype(np.float64)
        if weights is not None:
            cells = sparse.diags(weights[rows]) @ cells
        present, member = _members(codes[:, rows])
        for log, (sums, squares) in zip(logs, found, strict=True):
            taken = cells.log1p() if log else cells
            sums[present] += (member @ taken).toarray()
            squares[present] += (member @ taken.power(2)).toarray()
    return found


def _members(codes: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Groups that some of the cells are in, and which those are, ``(n_groups, n_cells)``."""
    _, places = np.nonzero(codes >= 0)
    present, code = np.unique(codes[codes >= 0], return_inverse=True)
    shape = (len(present), codes.shape[1])
    return present, sparse.csr_matrix((np.ones(len(places)), (code.ravel(), places)), shape=shape)


def group_means(
    values: Any,
    groups: np.ndarray,
    inside: NDArray[np.bool_],
    weights: np.ndarray | None = None,
    *,
    log: bool = False,
) -> GroupMeans:
    """Means by group of the cells `inside`, as of :func:`group_sums`.

    Parameters
    ----------
    values
        ``(n_cells, n_columns)`` dense, sparse or backed.
    groups
        ``(n_cells,)`` names.
    inside
        ``(n_cells,)`` cells to use.
    weights
        ``(n_cells,)`` factor that each cell is multiplied by.
    log
        Take log1p of what is multiplied.
    """
    codes, names = pd.factorize(groups[inside], sort=True)
    code_of = np.full(len(groups), -1)
    code_of[inside] = codes
    ((sums, squares),) = group_sums(values, code_of[None], weights=weights, logs=(log,))
    return _means_of([str(name) for name in names], sums, squares, np.bincount(codes, minlength=len(names)))


def _means_of(
    names: Sequence[str], sums: NDArray[np.float64], squares: NDArray[np.float64], sizes: NDArray[np.int64]
) -> GroupMeans:
    """Means, and sums of squared deviations, of groups of `sizes` cells."""
    means = sums / sizes[:, None]
    deviations = np.maximum(squares - sizes[:, None] * means**2, 0.0)
    return GroupMeans.of(tuple(names), means, deviations, tuple(int(n) for n in sizes))
