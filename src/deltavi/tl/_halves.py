"""Two halves of the control cells: methods start from one, and the real change is measured from the other."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deltavi.perturbation.noise import cell_generators, uniforms

if TYPE_CHECKING:
    from deltavi._types import IntArray
    from deltavi.tl._splits import HoldOut, Question

# Control cells of a label from which each half has the least that a score needs.
LEAST_TO_HALVE = 20


def halved(part: HoldOut, question: Question, seed: int) -> HoldOut:
    """The hold-out with one half of the control cells of each label set apart from query and training.

    The halves depend on the seed, the label and perturbation held out and the names of the cells, not on their order.
    Labels with fewer than 20 control cells keep all of them in the query.
    """
    apart = np.zeros_like(part.query)
    for label in part.labels:
        rows = np.flatnonzero(part.query & (question.labels == label))
        if len(rows) >= LEAST_TO_HALVE:
            order = _shuffled([str(name) for name in question.names[rows]], _seed_of(label, part.perturbation, seed))
            apart[rows[order[: len(rows) // 2]]] = True
    return replace(part, query=part.query & ~apart, apart=apart)


def _seed_of(label: str, perturbation: str, seed: int) -> int:
    """Seed of one response, so that the halves of two of them with the same control cells are independent."""
    name = zlib.crc32(f"{label}\x1f{perturbation}".encode())
    return int(np.random.default_rng([seed, name]).integers(2**63))


def _shuffled(names: list[str], seed: int) -> IntArray:
    """Positions of the names in random order, (n_names,)."""
    drawn = uniforms(cell_generators(names, seed=seed), 1).ravel()
    return np.lexsort((np.array(names, dtype=str), drawn))


def few_controls(n_control: int, case: str) -> str:
    """Warning that a label has too few control cells for two halves."""
    return (
        f"{case}: {n_control} control cells are too few for two halves, {LEAST_TO_HALVE} are needed. The real change "
        "is measured from the cells that methods start from, so that smoothing their noise away raises the share "
        "explained."
    )
