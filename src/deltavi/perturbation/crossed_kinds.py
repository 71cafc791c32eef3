"""Kinds of predictions by what was measured beside them, and the skill of each where it is left out.

"A+B" after A and B alone is a sum; A after "A+B" and B is a difference; A after neither is a guess. They differ too
much in skill for one figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from deltavi.perturbation.crossed_process import Process, Queries, rows_of
from deltavi.perturbation.crossed_skill import MOST_FOLDS, Skill, skill_of

if TYPE_CHECKING:
    from deltavi._types import BoolArray, IntArray
    from deltavi.arrays.matrix import Vector
    from deltavi.perturbation.crossed_loo import LeftOut
    from deltavi.perturbation.crossed_table import ResponseTable

# A context of which nothing was measured; in a known one a pair whose parts were measured in other pairs, a combination
# whose parts were measured alone, and a perturbation with a part that was measured nowhere.
CONTEXTS, PAIRS, COMBINATIONS, PERTURBATIONS = "context", "pair", "combination", "perturbation"


def kinds_of(table: ResponseTable, parts: Vector, unknown: Vector, *, left_out: bool = False) -> list[str]:
    """Kind of each pair of a known context.

    Parameters
    ----------
    table
        What was measured.
    parts, unknown
        ``(n_queries, n_perturbations)`` parts of each, and ``(n_queries,)`` numbers of parts that no pair has.
    left_out
        They are the pairs of the table, each judged by the others.
    """
    given = parts > 0
    own = given if left_out else np.zeros_like(given)
    alone = table.parts.sum(1) == 1
    own_alone = own & (given.sum(1) == 1)[:, None]
    in_others = table.parts.sum(0) - own > 0
    alone_in_others = table.parts[alone].sum(0) - own_alone > 0
    is_new = (unknown > 0) | (given & ~in_others).any(1)
    is_sum = (given.sum(1) > 1) & (~given | alone_in_others).all(1)
    found = np.where(is_new, PERTURBATIONS, np.where(is_sum, COMBINATIONS, PAIRS))
    return [str(kind) for kind in found]


def predictable(table: ResponseTable) -> BoolArray:
    """``(n_pairs,)`` True where each part of a pair was measured in other pairs, too."""
    kinds = kinds_of(table, table.parts, np.zeros(table.n_pairs), left_out=True)
    return np.array([kind != PERTURBATIONS for kind in kinds])


def skills_of_pairs(table: ResponseTable, left_out: LeftOut) -> dict[str, Skill]:
    """Skill of measured pairs that were left out one by one, by kind; those with a part of their own have none."""
    kinds = np.array(kinds_of(table, table.parts, np.zeros(table.n_pairs), left_out=True))
    skill = skill_of(table, left_out.moments.change, np.arange(table.n_pairs), left_out.shared_noise)
    found = {kind: skill.of_groups(kinds == kind) for kind in (PAIRS, COMBINATIONS)}
    return {kind: one for kind, one in found.items() if len(one.errors)}


def skill_of_new(process: Process, table: ResponseTable) -> Skill | None:
    """Skill of single perturbations that are left out of all contexts, with every combination that has them.

    Parameters
    ----------
    process
        With the parameters.
    table
        Pairs to predict.

    Returns
    -------
    By perturbation, or None where fewer than two were measured alone.
    """
    single = np.flatnonzero(table.parts.sum(1) == 1)
    group = table.parts.argmax(1)
    if len(np.unique(group[single])) < 2:
        return None
    change = np.zeros((table.n_pairs, table.n_genes))
    folds = np.unique(group[single], return_inverse=True)[1].ravel() % MOST_FOLDS
    for members in rows_of(folds):
        asked = single[members]
        hidden = np.asarray(table.parts[:, np.unique(group[asked])].any(axis=1))
        change[asked] = _without(process, table, asked, hidden)
    return skill_of(table.of_pairs(single), change[single], group[single])


def _without(process: Process, table: ResponseTable, asked: IntArray, hidden: BoolArray) -> Vector:
    """Changes of the pairs asked for, from those that are not hidden; none where nothing is left."""
    if hidden.all():
        return np.zeros((len(asked), table.n_genes))
    kept = process.on(table.of_pairs(~hidden))
    return kept.predict(Queries.of_pairs(kept, table.of_pairs(asked))).change


def expected_skill(skills: Mapping[str, Skill], kind: str, *, is_new_context: bool) -> Skill:
    """Skill that is expected of a kind, in a new context that of contexts; the lower of both where both are new.

    Where combinations could not be left out it is that of pairs, and that of no groups where nothing could be.
    """
    if kind == PERTURBATIONS:
        names = [PERTURBATIONS, *([CONTEXTS] if is_new_context else [])]
    else:
        names = [CONTEXTS] if is_new_context else [kind, PAIRS]
    known = [skills[name] for name in names if name in skills and not np.isnan(skills[name].explained)]
    if not known or (kind == PERTURBATIONS and len(known) < len(names)):
        return Skill(np.zeros(0), np.zeros(0))
    return min(known, key=lambda skill: skill.explained) if kind == PERTURBATIONS else known[0]
