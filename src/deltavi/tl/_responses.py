"""Changes of means by context and perturbation, measured in one pass over an AnnData."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from deltavi._cp10k import cp10k_factors, log1p_cp10k_rows
from deltavi._entries import names, require_anndata, whole_number
from deltavi._errors import DeltaviError, InputDataError, InputDataWarning, examples
from deltavi._reading import known_arguments
from deltavi.arrays.scale import LARGEST_LOG
from deltavi.perturbation import ResponseTable
from deltavi.perturbation.crossed_means import moderated, noise_shares
from deltavi.perturbation.crossed_table import single_parts
from deltavi.perturbation.inputs import check_unique_genes
from deltavi.registry.checks import ROUNDING, row_blocks
from deltavi.registry.columns import category_names, column, numbers, require_known
from deltavi.registry.conditions import canonical_name, parts_in
from deltavi.registry.matrix import loadable
from deltavi.registry.source import elsewhere, matrix_name, matrix_of, sampled, with_tables

if TYPE_CHECKING:
    from anndata import AnnData

    from deltavi._types import FloatArray, IntArray, Rows, StoredMatrix

logger = logging.getLogger("deltavi")

ALL_CELLS = "all cells"
# Joins the values of several keys to the name of a context.
JOINT = ", "


@known_arguments
def responses(
    adata: AnnData,
    *,
    condition_key: str,
    control: object,
    context_keys: str | Sequence[str] = (),
    layer: str | None = None,
    size_factor_key: str | None = None,
    min_cells: int = 1,
) -> ResponseTable:
    """Measure how the mean of every gene changes, for each context and perturbation, in one pass over the matrix.

    The change of a pair is the mean of its cells minus the mean of the control cells of the same context, log1p CP10k.
    Only a block of cells is in memory at a time.

    Parameters
    ----------
    adata
        Cells, ``(n_cells, n_genes)``, in memory, backed by a file or read lazily: raw counts, which are normalised on
        the way, or log1p CP10k. It is not changed.
    condition_key
        obs column of the condition. "A+B" and "B+A" are one combination of two perturbations; cells without a value
        are left out.
    control
        Condition of the untreated cells.
    context_keys
        obs columns whose values together make a context, such as ``("cell_type", "donor")``; by default all cells are
        of one context.
    layer
        Layer to read; ``X`` by default.
    size_factor_key
        obs column with the total counts of each cell, where the matrix holds a selection of the genes; by default the
        sums over the genes. For raw counts only.
    min_cells
        Groups of fewer cells are left out.

    Returns
    -------
    Table of changes, for :meth:`deltavi.perturbation.ResponseModel.fit`.

    Raises
    ------
    UnknownCategoryError
        If a column, the layer or the control does not exist.
    InputDataError
        If no context has control cells, no perturbed cells are left, no group has two cells, or values are neither
        counts nor log1p CP10k.
    DeltaviError
        If an argument cannot be read.

    Warns
    -----
    InputDataWarning
        If contexts are left out since they have no control cells, or a perturbation is the control but for its case.

    Examples
    --------
    >>> import deltavi
    >>> cells = deltavi.datasets.simulate_perturbation(n_genes=50, n_cells_per_group=20)
    >>> table = deltavi.tl.responses(
    ...     cells, condition_key="condition", control="control", context_keys="cell_type"
    ... )
    >>> table.changes.shape == (table.n_pairs, 50)
    True
    """
    keys = [str(key) for key in names("context_keys", context_keys)]
    adata = with_tables(adata, [condition_key, *keys, *([size_factor_key] if size_factor_key else [])], layer)
    require_anndata(adata)
    check_unique_genes(adata.var_names, "adata")
    least = whole_number("min_cells", min_cells, least=1)
    groups = _Groups.of(adata, condition_key, control, keys)
    groups = groups.with_controls(least)
    where = matrix_name(layer)
    stored = loadable(matrix_of(adata, layer), where=where)
    totals = None if size_factor_key is None else _totals(adata, size_factor_key)
    weights = groups.variance_weights
    sums, squares = _sums(_logs(adata, stored, where, layer, totals), groups, weights)
    return _table(adata, groups, sums, squares)


@dataclass(frozen=True, eq=False)
class _Groups:
    """Context and condition of every cell.

    Attributes
    ----------
    keys, levels
        Columns of contexts, and their values for each context.
    conditions, control
        Names of the conditions, and of the control among them.
    code
        ``(n_cells,)`` context * number of conditions + condition; -1 for cells that are left out.
    n_genes
        Number of genes.
    """

    keys: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    conditions: tuple[str, ...]
    control: str
    code: IntArray
    n_genes: int

    @classmethod
    def of(cls, adata: AnnData, condition_key: str, control: object, keys: list[str]) -> _Groups:
        given = category_names(column(adata, condition_key), np.array([], dtype=object))
        distinct = sorted({name for name in given if name is not None})
        start = require_known(
            "condition", control, [*distinct, *(part for name in distinct for part in parts_in(name))]
        )
        renamed = {name: canonical_name(name, control=start) for name in distinct}
        _warn_alike(set(renamed.values()), start, condition_key)
        condition = pd.Categorical([None if name is None else renamed[name] for name in given])
        columns = [category_names(column(adata, key), np.array([], dtype=object)) for key in keys]
        levels, context = _levels(columns, adata.n_obs)
        conditions = tuple(map(str, condition.categories))
        if start not in conditions:
            raise InputDataError(f"obs[{condition_key!r}] has no cells that are {start!r} alone, only in combinations.")
        code = np.where((condition.codes < 0) | (context < 0), -1, context * len(conditions) + condition.codes)
        if (code < 0).any():
            logger.info("%d cells have no condition or context and are left out.", int((code < 0).sum()))
        return cls(tuple(keys) or ("context",), levels, conditions, start, code.astype(np.intp), adata.n_vars)

    @property
    def contexts(self) -> tuple[str, ...]:
        """Names of the contexts."""
        return tuple(JOINT.join(level) for level in self.levels)

    @property
    def sizes(self) -> IntArray:
        """``(n_contexts, n_conditions)`` numbers of cells."""
        shape = (len(self.levels), len(self.conditions))
        return np.bincount(self.code[self.code >= 0], minlength=shape[0] * shape[1]).reshape(shape)

    @property
    def used(self) -> IntArray:
        """Codes of the groups that cells are in."""
        return np.unique(self.code[self.code >= 0])

    @property
    def variance_weights(self) -> FloatArray:
        """``(n_used,)`` weight of a squared deviation of a cell of each group in the variance of its context.

        Variances of groups are averaged by their part in the noise of the changes; very small groups weigh as somewhat
        larger ones. A context without a group of two cells has none.
        """
        sizes = self.sizes
        is_control = np.arange(sizes.shape[1]) == self.conditions.index(self.control)
        # control cells alone are all that a context to predict has
        uses = np.where(is_control, np.maximum((sizes[:, ~is_control] > 0).sum(1), 1)[:, None], 1)
        share = noise_shares(sizes, uses)
        if not share.any():
            raise InputDataError(
                f"Each of the {(sizes > 0).sum()} groups is a single cell, so that their variance is unknown."
            )
        share /= np.maximum(share.sum(1, keepdims=True), 1e-300)
        return np.asarray((share / np.maximum(sizes - 1, 1)).ravel()[self.used])

    def with_controls(self, least: int) -> _Groups:
        """Groups of at least so many cells, in contexts that have a control group of that size."""
        place, sizes = self.conditions.index(self.control), self.sizes
        alone = (sizes[:, place] < least) & (sizes.sum(1) > 0)
        kept = (sizes >= least) & (sizes[:, [place]] >= least)
        code = np.where(self.code < 0, -1, np.where(kept.ravel()[self.code], self.code, -1))
        what = f"{least} control cells ({self.control!r})" if least > 1 else f"control cells ({self.control!r})"
        missing = examples([self.contexts[context] for context in np.flatnonzero(alone)])
        if not kept[:, place].any():
            raise InputDataError(
                f"None of the {len(alone)} contexts has {what}, for example {missing}: name other keys."
            )
        if not np.delete(kept, place, axis=1).any():
            raise InputDataError(
                f"No perturbed cells are left beside the controls ({self.control!r}): of {len(self.conditions)} "
                f"conditions in {len(alone)} contexts no other has {least} cells where there are controls."
            )
        if alone.any():
            warnings.warn(
                f"{int(alone.sum())} of {len(alone)} contexts have no {what} and are left out: {missing}.",
                InputDataWarning,
                stacklevel=3,
            )
        return replace(self, code=code)


def _levels(columns: list[np.ndarray], n_cells: int) -> tuple[tuple[tuple[str, ...], ...], IntArray]:
    """Distinct combinations of values in sorted order, and which of them each cell has, -1 where one is missing."""
    if not columns:
        return ((ALL_CELLS,),), np.zeros(n_cells, dtype=np.intp)
    frame = pd.DataFrame(dict(enumerate(columns)))
    number = frame.groupby(list(frame.columns), sort=True, dropna=True, observed=True).ngroup().fillna(-1).to_numpy()
    distinct = frame.assign(number=number)[number >= 0].drop_duplicates("number").sort_values("number")
    rows = distinct.drop(columns="number").itertuples(index=False, name=None)
    return tuple(tuple(map(str, row)) for row in rows), np.asarray(number, dtype=np.intp)


def _warn_alike(found: set[str], control: str, key: str) -> None:
    alike = sorted(name for name in found - {control} if name.strip().casefold() == control.strip().casefold())
    if alike:
        warnings.warn(
            f"obs[{key!r}] has {examples(alike)} beside the control {control!r}: taken for a perturbation. Give both "
            "one name if they are the same.",
            InputDataWarning,
            stacklevel=4,
        )


def _totals(adata: AnnData, key: str) -> FloatArray:
    totals = numbers(adata, key)
    wrong = ~(np.isfinite(totals) & (totals >= 0))
    if wrong.any():
        raise InputDataError(
            f"obs[{key!r}] must hold total counts, and is no such number in {int(wrong.sum())} of {len(totals)} cells "
            f"(for example {examples(adata.obs_names[wrong])})."
        )
    return totals


def _logs(
    adata: AnnData, stored: StoredMatrix, where: str, layer: str | None, totals: FloatArray | None
) -> Iterator[tuple[IntArray, Rows]]:
    """Blocks of log1p CP10k, each with its row numbers; values are checked on the way."""
    report = sampled(stored)
    of_counts = report is None or report.look_like_counts
    if totals is not None and not of_counts:
        raise DeltaviError(f"{where} holds no counts, which size_factor_key is for. Leave it out.")
    for rows, block in row_blocks(stored):
        values = np.asarray(block.data if sparse.issparse(block) else block)
        wrong = _fault(values, of_counts)
        if wrong:
            found = elsewhere(adata, layer, "counts") or " Pass raw counts or log1p CP10k."
            raise InputDataError(
                f"{where} holds {wrong} in cells {examples(adata.obs_names[rows])} or those after them.{found}"
            )
        yield rows, _normalised(block, None if totals is None else totals[rows]) if of_counts else block


def _fault(values: np.ndarray, of_counts: bool) -> str:
    """Description of values that cannot be of the kind; empty if there are none."""
    if not values.size:
        return ""
    smallest, largest = float(values.min()), float(values.max())
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        return "NaN or infinite values"
    if smallest < 0:
        return f"negative values (down to {smallest:.3g})"
    if of_counts:
        return "" if np.abs(values - np.rint(values)).max() <= ROUNDING else "counts and values that are not whole"
    return "" if largest <= LARGEST_LOG else f"values up to {largest:.3g}, which are no log1p CP10k"


def _normalised(block: Rows, totals: FloatArray | None) -> Rows:
    """Log1p CP10k of counts, (n_cells, n_genes)."""
    of_cells = np.asarray(block.sum(1), dtype=np.float64).ravel() if totals is None else totals
    if sparse.issparse(block):
        return log1p_cp10k_rows(sparse.csr_matrix(block, dtype=np.float64), of_cells)
    # in double precision, as rows of a sparse matrix
    return np.log1p(block * cp10k_factors(of_cells)[:, None])


def _sums(
    blocks: Iterator[tuple[IntArray, Rows]], groups: _Groups, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Sums ``(n_groups, n_genes)`` over the cells of each group, weighted ones of squares ``(n_contexts, n_genes)``."""
    used = groups.used
    member, context = np.searchsorted(used, groups.code), groups.code // len(groups.conditions)
    sums, squares = np.zeros((len(used), groups.n_genes)), np.zeros((len(groups.levels), groups.n_genes))
    for rows, block in blocks:
        inside = np.flatnonzero(groups.code[rows] >= 0)
        cells, taken = block[inside].astype(np.float64), member[rows][inside]
        squared = cells**2 if isinstance(cells, np.ndarray) else cells.power(2)
        _add(sums, cells, taken, np.ones(len(inside)))
        _add(squares, squared, context[rows][inside], weights[taken])
    return sums, squares


def _add(sums: FloatArray, cells: Rows, groups: IntArray, weights: FloatArray) -> None:
    """Add weighted cells to the rows of `sums` that their groups have."""
    present, row_of = np.unique(groups, return_inverse=True)
    places = (row_of.ravel(), np.arange(len(groups)))
    added = sparse.csr_matrix((weights, places), shape=(len(present), len(groups))) @ cells
    sums[present] += added.toarray() if sparse.issparse(added) else added


def _table(adata: AnnData, groups: _Groups, means: FloatArray, squares: FloatArray) -> ResponseTable:
    """Table of changes from sums, which become means in place."""
    used = groups.used
    sizes = groups.sizes.ravel()[used]
    n_conditions = len(groups.conditions)
    means /= sizes[:, None]
    np.add.at(squares, used // n_conditions, -(groups.variance_weights * sizes)[:, None] * means**2)
    context, condition = used // n_conditions, used % n_conditions
    is_control = condition == groups.conditions.index(groups.control)
    contexts, place = np.unique(context, return_inverse=True)
    pairs = np.flatnonzero(~is_control)
    control_of = np.empty(len(contexts), dtype=np.intp)
    control_of[place.ravel()[is_control]] = np.flatnonzero(is_control)
    names_of_pairs = [groups.conditions[c] for c in condition[pairs]]
    singles = sorted({part for name in names_of_pairs for part in single_parts(name)})
    number = {name: i for i, name in enumerate(singles)}
    parts = np.zeros((len(pairs), len(singles)))
    for row, name in enumerate(names_of_pairs):
        parts[row, [number[part] for part in single_parts(name)]] = 1
    changes = np.empty((len(pairs), means.shape[1]), dtype=np.float32)
    context_of = place.ravel()[pairs]
    cells_in = np.where(groups.sizes > 1, groups.sizes - 1, 0).sum(1)
    for row, (pair, own) in enumerate(zip(pairs, context_of, strict=True)):
        changes[row] = means[pair] - means[control_of[own]]
    return ResponseTable(
        changes=changes,
        context_of=context_of,
        parts=parts,
        n_perturbed=sizes[pairs].astype(np.float64),
        n_control=sizes[control_of].astype(np.float64),
        control_means=means[control_of],
        variances=moderated(np.maximum(squares[contexts], 0), cells_in[contexts]),
        contexts=tuple(groups.contexts[c] for c in contexts),
        perturbations=tuple(singles),
        genes=tuple(map(str, adata.var_names)),
        keys=groups.keys,
        levels=tuple(groups.levels[c] for c in contexts),
        control=groups.control,
    )
