"""Table of measured changes: contexts by perturbations, each the difference of two means of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deltavi._errors import GeneMatchError, InputDataError, examples, unknown_category
from deltavi._reading import known_arguments
from deltavi.registry.conditions import SEPARATOR, canonical_name, parts_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deltavi._types import BoolArray, IntArray
    from deltavi.arrays.matrix import Vector

# Arrays of a table, with what their rows and columns stand for.
AXES = {
    "changes": ("pairs", "genes"),
    "context_of": ("pairs",),
    "parts": ("pairs", "perturbations"),
    "n_perturbed": ("pairs",),
    "n_control": ("contexts",),
    "control_means": ("contexts", "genes"),
    "variances": ("contexts", "genes"),
}


@known_arguments
@dataclass(frozen=True, eq=False)
class ResponseTable:
    """Measured changes of pairs of a context and a perturbation.

    :func:`deltavi.tl.responses` measures it from an AnnData.

    Attributes
    ----------
    changes
        ``(n_pairs, n_genes)`` mean of the perturbed cells minus mean of the control cells of the context, log1p CP10k.
    context_of
        ``(n_pairs,)`` position of the context of each pair.
    parts
        ``(n_pairs, n_perturbations)`` 1 for each single perturbation that a pair was given: two of them for "A+B".
    n_perturbed, n_control
        ``(n_pairs,)`` and ``(n_contexts,)`` numbers of cells behind the means.
    control_means
        ``(n_contexts, n_genes)`` means of the control cells, log1p CP10k.
    variances
        ``(n_contexts, n_genes)`` variance of one cell within the groups of a context; of one row where it is the same
        in all.
    contexts, perturbations, genes
        Names; of perturbations those of the single ones.
    keys, levels
        Names of the columns that make a context, and ``(n_contexts,)`` tuples of their values.
    control
        Name of the control.

    Raises
    ------
    InputDataError
        Shapes do not fit together, values are not finite, numbers of cells are below one, or a pair has no part.

    Examples
    --------
    >>> import numpy as np
    >>> table = ResponseTable(
    ...     changes=np.array([[1.0, 0.0], [0.8, 0.1]]),
    ...     context_of=np.array([0, 1]),
    ...     parts=np.array([[1], [1]]),
    ...     n_perturbed=np.array([50, 40]),
    ...     n_control=np.array([60, 60]),
    ...     control_means=np.array([[0.5, 1.0], [0.4, 1.2]]),
    ...     variances=np.array([[0.3, 0.2]]),
    ...     contexts=("B", "NK"),
    ...     perturbations=("interferon",),
    ...     genes=("ISG15", "ACTB"),
    ... )
    >>> table.pairs
    [('B', 'interferon'), ('NK', 'interferon')]
    """

    changes: NDArray[np.floating]
    context_of: IntArray
    parts: Vector
    n_perturbed: Vector
    n_control: Vector
    control_means: Vector
    variances: Vector
    contexts: tuple[str, ...]
    perturbations: tuple[str, ...]
    genes: tuple[str, ...]
    keys: tuple[str, ...] = ("context",)
    levels: tuple[tuple[str, ...], ...] = ()
    control: str = "control"

    def __post_init__(self) -> None:
        pooled = np.atleast_2d(np.asarray(self.variances, dtype=np.float64))
        if len(pooled) == 1:
            object.__setattr__(self, "variances", np.repeat(pooled, len(self.contexts), axis=0))
        for name in ("n_perturbed", "n_control", "parts", "variances"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        for name in ("contexts", "perturbations", "genes", "keys"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        object.__setattr__(self, "context_of", np.asarray(self.context_of, dtype=np.intp))
        levels = self.levels or tuple((name,) for name in self.contexts)
        object.__setattr__(self, "levels", tuple(tuple(map(str, level)) for level in levels))
        _check(self)

    def __repr__(self) -> str:
        return (
            f"ResponseTable: {self.n_pairs} measured pairs of {len(self.contexts)} contexts and "
            f"{len(self.perturbations)} perturbations, {self.n_genes} genes"
        )

    @property
    def n_pairs(self) -> int:
        """Number of measured pairs."""
        return len(self.context_of)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @cached_property
    def variance(self) -> Vector:
        """``(n_genes,)`` variance of one cell, averaged over contexts by their part in the noise of the changes."""
        share = np.bincount(self.context_of, self.noise, len(self.contexts))
        return np.asarray(share @ self.variances / share.sum())

    @property
    def squared_errors(self) -> Vector:
        """``(n_pairs, n_genes)`` squared standard errors of the changes."""
        return np.asarray(self.noise[:, None] * self.variances[self.context_of])

    @property
    def noise(self) -> Vector:
        """``(n_pairs,)`` squared standard error of each change, in variances of one cell."""
        return np.asarray(1 / self.n_perturbed + 1 / self.n_control[self.context_of])

    @cached_property
    def names(self) -> list[str]:
        """Name of the perturbation of each pair."""
        return [SEPARATOR.join(self.perturbations[part] for part in np.flatnonzero(row)) for row in self.parts]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Context and perturbation of each pair."""
        return [(self.contexts[c], name) for c, name in zip(self.context_of, self.names, strict=True)]

    @cached_property
    def identities(self) -> IntArray:
        """``(n_pairs,)`` number of each pair, the same where context and perturbation are the same."""
        joined = np.column_stack([self.context_of, self.parts])
        return np.asarray(np.unique(joined, axis=0, return_inverse=True)[1]).ravel()

    @property
    def used_contexts(self) -> IntArray:
        """Positions of the contexts that have pairs."""
        return np.unique(self.context_of)

    @property
    def n_conditions(self) -> int:
        """Number of distinct perturbations and combinations."""
        return len(np.unique(self.parts, axis=0))

    def standardised(self, genes: slice = slice(None)) -> Vector:
        """``(n_pairs, n_genes)`` changes in standard deviations of one cell; zero for genes that never vary."""
        deviations = np.sqrt(self.variance[genes])
        inverse = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0)
        return np.asarray(self.changes[:, genes] * inverse)

    def as_frame(self) -> pd.DataFrame:
        """Changes as a frame, one row for each pair, indexed by context and perturbation."""
        index = pd.MultiIndex.from_tuples(self.pairs, names=["context", "perturbation"])
        return pd.DataFrame(self.changes, index=index, columns=list(self.genes))

    def of_pairs(self, chosen: IntArray | BoolArray) -> ResponseTable:
        """The same contexts with some of the pairs, by position or mask."""
        rows = np.arange(self.n_pairs)[chosen]
        return replace(
            self,
            changes=self.changes[rows],
            context_of=self.context_of[rows],
            parts=self.parts[rows],
            n_perturbed=self.n_perturbed[rows],
        )

    def of_genes(self, chosen: IntArray | BoolArray) -> ResponseTable:
        """The same pairs with some of the genes, by position or mask."""
        columns = np.arange(self.n_genes)[chosen]
        return replace(
            self,
            changes=self.changes[:, columns],
            control_means=self.control_means[:, columns],
            variances=self.variances[:, columns],
            genes=tuple(self.genes[column] for column in columns),
        )

    def n_cells(self, context: str, parts: Vector) -> int:
        """Number of cells that were measured in a context under a perturbation of these parts, 0 if none were."""
        here = np.array([self.contexts[place] == context for place in self.context_of])
        return int(self.n_perturbed[here & (self.parts == parts).all(1)].sum())

    def position_of(self, context: str) -> int:
        """Position of a context.

        Raises
        ------
        UnknownCategoryError
            There is none of that name.
        """
        if context not in self.contexts:
            raise unknown_category("context", context, self.contexts, among="the table")
        return self.contexts.index(context)

    def parts_of(self, name: str) -> tuple[Vector, int]:
        """Multi-hot row ``(n_perturbations,)`` of a perturbation or combination, and how many parts are unknown."""
        found = canonical_name(str(name), control=self.control)
        if found == self.control or not str(name).strip():
            raise InputDataError(f"{name!r} is the control: its change is zero by definition. Name a perturbation.")
        row, unknown = np.zeros(len(self.perturbations)), 0
        for part in set(single_parts(found)):
            if part in self.perturbations:
                row[self.perturbations.index(part)] = 1
            else:
                unknown += 1
        return row, unknown

    def joined(self, other: ResponseTable) -> ResponseTable:
        """Join the pairs of another table to these; contexts are the same where their names are.

        Control means of a context of both are those of this table.

        Raises
        ------
        GeneMatchError
            The genes differ.
        """
        if other.genes != self.genes:
            raise GeneMatchError(
                f"The tables hold other genes: {self.n_genes} ({examples(self.genes)}) and {other.n_genes} "
                f"({examples(other.genes)}). Bring both to the same genes in the same order."
            )
        new = [i for i, name in enumerate(other.contexts) if name not in self.contexts]
        contexts = (*self.contexts, *(other.contexts[i] for i in new))
        names = tuple(dict.fromkeys((*self.perturbations, *other.perturbations)))
        place = np.array([contexts.index(name) for name in other.contexts], dtype=np.intp)
        return replace(
            self,
            changes=np.vstack([self.changes, other.changes]),
            context_of=np.concatenate([self.context_of, place[other.context_of]]),
            parts=np.vstack([_spread(self, names), _spread(other, names)]),
            n_perturbed=np.concatenate([self.n_perturbed, other.n_perturbed]),
            n_control=np.concatenate([self.n_control, other.n_control[new]]),
            control_means=np.vstack([self.control_means, other.control_means[new]]),
            variances=np.vstack([self.variances, other.variances[new]]),
            contexts=contexts,
            perturbations=names,
            levels=(*self.levels, *(other.levels[i] for i in new)),
        )


def single_parts(name: str) -> list[str]:
    """Single perturbations of a combination; a name with an empty part is one perturbation."""
    parts = parts_in(name)
    return [name] if "" in parts else parts


def _spread(table: ResponseTable, names: Sequence[str]) -> Vector:
    """Parts of the pairs of a table among more perturbations."""
    rows = np.zeros((table.n_pairs, len(names)))
    rows[:, [list(names).index(name) for name in table.perturbations]] = table.parts
    return rows


def _check(table: ResponseTable) -> None:
    sizes = {
        "pairs": len(table.context_of),
        "genes": len(table.genes),
        "contexts": len(table.contexts),
        "perturbations": len(table.perturbations),
    }
    for name, axes in AXES.items():
        values, expected = np.asarray(getattr(table, name)), tuple(sizes[axis] for axis in axes)
        if values.shape != expected:
            raise InputDataError(f"{name} must be {' x '.join(axes)}, {expected}, not {values.shape}.")
        if not np.isfinite(np.sum(values, dtype=np.float64)):
            raise InputDataError(f"{name} holds NaN or infinite values. Leave those groups or genes out.")
    if not table.n_pairs or not table.n_genes:
        raise InputDataError(f"The table is empty: {table.n_pairs} pairs of {table.n_genes} genes.")
    if len(table.levels) != len(table.contexts) or any(len(level) != len(table.keys) for level in table.levels):
        raise InputDataError(f"levels must hold a value of each of {examples(table.keys)} for each context.")
    for name in ("contexts", "perturbations", "genes"):
        if len(set(getattr(table, name))) < len(getattr(table, name)):
            raise InputDataError(f"{name} holds a name more than once.")
    _check_values(table)


def _check_values(table: ResponseTable) -> None:
    if table.context_of.min() < 0 or table.context_of.max() >= len(table.contexts):
        raise InputDataError(f"context_of must lie between 0 and {len(table.contexts) - 1}.")
    for name in ("n_perturbed", "n_control"):
        if getattr(table, name).min(initial=1) < 1:
            raise InputDataError(f"{name} must be numbers of cells of at least one: a mean of no cells is unknown.")
    if not np.isin(table.parts, (0, 1)).all() or not table.parts.any(axis=1).all():
        raise InputDataError("parts must be 0 or 1, with at least one perturbation for each pair.")
    if table.variances.min() < 0 or not table.variances.any():
        raise InputDataError("variances must not be negative, nor zero throughout: one group needs two cells at least.")
