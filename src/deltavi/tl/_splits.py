"""Choice of the held-out cells, and of the control cells from which their response is predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._errors import DeltaviError, InputDataError, UnknownCategoryError, examples, unknown_category
from deltavi._reading import known_arguments
from deltavi.perturbation.combination import SEPARATOR
from deltavi.perturbation.inputs import as_names, known_names
from deltavi.registry.columns import column, require_known, used_categories
from deltavi.tl._masks import checked_mask

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Fewer real cells give neither a mean nor two halves worth comparing with.
SMALLEST_GROUP = 10


@known_arguments
@dataclass(frozen=True, eq=False)
class Split:
    """Cells to hold out, and control cells to predict them from.

    Parameters
    ----------
    held_out
        Boolean mask over all cells, (n_cells,), a Series in any order of the cells: cells of one perturbed condition
        that no method is trained on.
    query
        Mask of the control cells to start from; by default all those whose label is among the held-out cells.
    """

    held_out: ArrayLike
    query: ArrayLike | None = None


@dataclass(frozen=True, eq=False)
class HoldOut:
    """One training: masks over all cells, (n_cells,), and the labels with enough cells to score.

    Parameters
    ----------
    name, perturbation
        Names of the hold-out and of the perturbed condition.
    held_out
        Perturbed cells that no method sees.
    query
        Control cells that methods start from.
    labels
        Labels that are scored.
    apart
        Control cells that no method sees, from which the real change is measured; None before they are drawn.
    """

    name: str
    perturbation: str
    held_out: NDArray[np.bool_]
    query: NDArray[np.bool_]
    labels: tuple[str, ...]
    apart: NDArray[np.bool_] | None = None

    @property
    def hidden(self) -> NDArray[np.bool_]:
        """Cells that no method sees, (n_cells,)."""
        return self.held_out if self.apart is None else self.held_out | self.apart


@dataclass(frozen=True)
class Skipped:
    """A hold-out that was not evaluated, with the reason."""

    hold_out: str
    label: str
    perturbation: str
    reason: str


@dataclass(frozen=True, eq=False)
class Question:
    """Conditions and labels of all cells, (n_cells,) each, and what is to be predicted from what."""

    names: pd.Index
    conditions: NDArray[np.object_]
    labels: NDArray[np.object_]
    control: str
    perturbations: tuple[str, ...]
    condition_key: str
    labels_key: str
    obs: pd.DataFrame = field(repr=False)

    @cached_property
    def is_control(self) -> NDArray[np.bool_]:
        """Control cells, (n_cells,)."""
        return np.asarray(self.conditions == self.control)

    def is_perturbed(self, perturbation: str) -> NDArray[np.bool_]:
        """Cells of a perturbed condition, (n_cells,)."""
        return np.asarray(self.conditions == perturbation)

    def n_cells(self, mask: NDArray[np.bool_], label: str) -> int:
        """Cells of `label` in a mask."""
        return int((mask & (self.labels == label)).sum())

    def learnable(self, held_out: NDArray[np.bool_], perturbation: str) -> bool:
        """True if a label remains with cells in both conditions, or in all parts that a perturbation joins."""
        remaining = known_names(self.conditions[~held_out])
        joined = perturbation not in remaining and SEPARATOR in perturbation
        parts = [part.strip() for part in perturbation.split(SEPARATOR)] if joined else [perturbation]
        before = set(self.labels[self.is_control & ~held_out]) - {None}
        return all(before & set(self.labels[self.is_perturbed(part) & ~held_out]) for part in parts)


def question_of(
    adata: AnnData, *, control: Any, perturbation: Any = None, condition_key: str, labels_key: str
) -> Question:
    """Read the columns and check the conditions; `perturbation` None stands for every other condition.

    Raises
    ------
    UnknownCategoryError
        If a column or condition does not exist.
    DeltaviError
        If control and perturbation are the same, or there is no perturbation.
    InputDataError
        If a cell has no condition.
    """
    if not isinstance(adata, AnnData):
        raise InputDataError(f"adata must be an AnnData, not a {type(adata).__name__}; read a file with anndata first.")
    used_categories(column(adata, condition_key), condition_key)  # raises where conditions are missing
    _require_labels(adata, labels_key)
    conditions, labels = as_names(column(adata, condition_key)), as_names(column(adata, labels_key))
    known = known_names(conditions)
    start = require_known("condition", control, known)
    if perturbation is None:
        perturbations = [name for name in known if name != start]
    else:
        given = [perturbation] if np.ndim(perturbation) == 0 else perturbation
        perturbations = list(dict.fromkeys(require_known("condition", name, known) for name in given))
    for name in perturbations:
        if name == start:
            raise DeltaviError(f"control and perturbation are both {name!r}: there is nothing to predict.")
    if not perturbations:
        raise DeltaviError(f"obs[{condition_key!r}] holds no condition to predict beside {control!r}; known: {known}.")
    keys = {"condition_key": condition_key, "labels_key": labels_key}
    return Question(adata.obs_names, conditions, labels, start, tuple(perturbations), obs=adata.obs, **keys)


def _require_labels(adata: AnnData, labels_key: object) -> None:
    """Raise where there is no column of labels, with what to do in data without cell types."""
    if labels_key not in adata.obs:
        unknown = unknown_category("obs column", labels_key, adata.obs.columns)
        raise UnknownCategoryError(
            f"{unknown} Pass labels_key, the column of cell types. Cells without types may be grouped by any other "
            "column, such as the donor that is held out: labels_key='donor'."
        )


def single_label(question: Question, label: str, perturbation: str) -> HoldOut:
    """Hold out one label under one perturbation.

    Raises
    ------
    UnknownCategoryError
        If there is no such label.
    DeltaviError
        If it has too few cells in either condition.
    """
    label = require_known("label", label, known_names(question.labels))
    of_label = np.asarray(question.labels == label)
    found = _hold_out(
        question, label, perturbation, question.is_perturbed(perturbation) & of_label, question.is_control & of_label
    )
    if isinstance(found, HoldOut):
        return found
    raise DeltaviError(found[0].reason)


def resolve_hold_outs(question: Question, given: object) -> tuple[list[HoldOut], list[Skipped]]:
    """Every training to be done, and what is left out of a sweep.

    Raises
    ------
    UnknownCategoryError
        If a label or column does not exist.
    DeltaviError
        If a hold-out that was named cannot be evaluated, or none can.
    InputDataError
        If a mask of the user is invalid.
    """
    swept = given is None or isinstance(given, str)
    hold_outs: list[HoldOut] = []
    skipped: list[Skipped] = []
    for name, perturbation, held_out, query in _candidates(question, given):
        found = _hold_out(question, name, perturbation, held_out, query)
        if isinstance(found, HoldOut):
            hold_outs.append(found)
            skipped += _unscored(question, found, held_out, query)
        elif swept:
            skipped += found
        else:
            raise DeltaviError(f"{name!r} under {perturbation!r} cannot be held out: {found[0].reason}")
    if not hold_outs:
        reasons = examples([f"{s.hold_out} under {s.perturbation}: {s.reason}" for s in skipped])
        raise DeltaviError(f"There is nothing to hold out. {len(skipped)} were left out: {reasons}")
    return hold_outs, skipped


Candidate = tuple[str, str, "NDArray[np.bool_]", "NDArray[np.bool_]"]


def _candidates(question: Question, given: object) -> Iterator[Candidate]:
    """Name, perturbation, held-out cells and query cells of all requested hold-outs."""
    if isinstance(given, pd.DataFrame):
        given = {name: given[name] for name in given}
    if isinstance(given, Mapping):
        return _of_splits(question, given)
    if given is None:
        return _of_groups(question, question.labels, known_names(question.labels))
    if isinstance(given, str):
        groups = as_names(_obs_column(question, given))
        return _of_groups(question, groups, known_names(groups))
    return _of_groups(question, question.labels, _wanted_labels(question, given))


def _obs_column(question: Question, key: str) -> pd.Series:
    if key in question.obs:
        return question.obs[key]
    if key in set(question.labels):
        raise UnknownCategoryError(
            f"hold_out={key!r} names an obs column, and there is none; pass hold_out=[{key!r}] to hold out the label."
        )
    raise unknown_category("obs column", key, question.obs.columns)


def _wanted_labels(question: Question, given: object) -> list[str]:
    if not isinstance(given, Sequence | np.ndarray) and not hasattr(given, "__iter__"):
        raise DeltaviError(f"hold_out is {given!r}; pass None, an obs column, label names, or a mapping to masks.")
    values = list(given)
    if values and all(isinstance(value, bool | np.bool_) for value in values):
        raise DeltaviError("hold_out is a mask; give it a name: hold_out={'my split': mask}.")
    known = known_names(question.labels)
    if not values:
        raise DeltaviError("hold_out is empty; name at least one label, or pass None for every label in turn.")
    return list(dict.fromkeys(require_known("label", value, known) for value in values))


def _of_groups(question: Question, groups: NDArray[np.object_], names: list[str]) -> Iterator[Candidate]:
    """Perturbed cells of each group in turn, predicted from its control cells."""
    for perturbation in question.perturbations:
        for name in names:
            of_group = np.asarray(groups == name)
            yield name, perturbation, question.is_perturbed(perturbation) & of_group, question.is_control & of_group


def _of_splits(question: Question, splits: Mapping[object, Any]) -> Iterator[Candidate]:
    """The user's splits, each under the perturbed condition that its held-out cells have."""
    if not splits:
        raise DeltaviError("hold_out is empty; map a name to a mask of cells.")
    for name, given in splits.items():
        split = given if isinstance(given, Split) else Split(given)
        held_out = checked_mask(split.held_out, question.names, f"hold_out[{name!r}]")
        perturbation = _perturbation_of(question, held_out, str(name))
        yield str(name), perturbation, held_out, _query_of(question, split, held_out, str(name))


def _perturbation_of(question: Question, held_out: NDArray[np.bool_], name: str) -> str:
    found = sorted(set(question.conditions[held_out]))
    foreign = held_out & ~np.isin(question.conditions, question.perturbations)
    if foreign.any():
        raise InputDataError(
            f"hold_out[{name!r}]: {int(foreign.sum())} of {int(held_out.sum())} held-out cells are not of a perturbed "
            f"condition ({examples(question.names[foreign])}). Hold out cells with obs[{question.condition_key!r}] in "
            f"{examples(question.perturbations, 10)}."
        )
    if len(found) > 1:
        raise InputDataError(f"hold_out[{name!r}] mixes the conditions {examples(found, 10)}; make one split of each.")
    return str(found[0])


def _query_of(question: Question, split: Split, held_out: NDArray[np.bool_], name: str) -> NDArray[np.bool_]:
    if split.query is None:
        return np.asarray(question.is_control & np.isin(question.labels, list(set(question.labels[held_out]) - {None})))
    query = checked_mask(split.query, question.names, f"the query of hold_out[{name!r}]")
    for wrong, what in ((query & held_out, "are held out, too"), (query & ~question.is_control, "are not controls")):
        if wrong.any():
            raise InputDataError(
                f"hold_out[{name!r}]: {int(wrong.sum())} of {int(query.sum())} cells of the query {what} "
                f"({examples(question.names[wrong])}). Start from cells with obs[{question.condition_key!r}] == "
                f"{question.control!r}."
            )
    return query


def _hold_out(
    question: Question, name: str, perturbation: str, held_out: NDArray[np.bool_], query: NDArray[np.bool_]
) -> HoldOut | list[Skipped]:
    """A hold-out that can be trained and scored, or the reason against it."""
    labels = tuple(
        label
        for label in known_names(question.labels[held_out | query])
        if min(question.n_cells(held_out, label), question.n_cells(query, label)) >= SMALLEST_GROUP
    )
    if not labels:
        return [Skipped(name, "", perturbation, _why_too_few(question, name, held_out, query, perturbation))]
    if not question.learnable(held_out, perturbation):
        reason = (
            f"no other label was seen under both {question.control!r} and {perturbation!r}, so that there is nothing "
            "to learn from. Add cells, or hold out fewer."
        )
        return [Skipped(name, "", perturbation, reason)]
    return HoldOut(name, perturbation, held_out, query & np.isin(question.labels, labels), labels)


def _why_too_few(
    question: Question, name: str, held_out: NDArray[np.bool_], query: NDArray[np.bool_], perturbation: str
) -> str:
    """The group that is too small, or that no label has enough cells in both."""
    for condition, mask in ((question.control, query), (perturbation, held_out)):
        if (n_cells := int(mask.sum())) < SMALLEST_GROUP:
            return f"{name!r} has {n_cells} cells under {condition!r}; at least {SMALLEST_GROUP} are needed to compare."
    return f"no label has {SMALLEST_GROUP} cells under {question.control!r} and under {perturbation!r}; pool labels."


def _unscored(
    question: Question, hold_out: HoldOut, held_out: NDArray[np.bool_], query: NDArray[np.bool_]
) -> list[Skipped]:
    """Labels of a hold-out that have too few cells for a score."""
    return [
        Skipped(
            hold_out.name,
            label,
            hold_out.perturbation,
            f"{question.n_cells(query, label)} cells under {question.control!r} and "
            f"{question.n_cells(held_out, label)} under {hold_out.perturbation!r}; at least {SMALLEST_GROUP} are "
            "needed.",
        )
        for label in known_names(question.labels[held_out | query])
        if label not in hold_out.labels
    ]
