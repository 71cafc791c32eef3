"""Orders in which every label occurs regularly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def by_label(cells: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
    """Cells of each label that occurs, by the `codes` of all, of which -1 is no label."""
    return [cells[codes == code] for code in np.unique(codes[codes >= 0])]


def labelled_in_turn(members: list[np.ndarray], generator: np.random.Generator) -> Iterator[int]:
    """Cycle through labels without end, and within a label through its cells in a new order each time.

    Parameters
    ----------
    members
        Cells of each label; of no labels nothing is drawn.
    generator
        Source of the orders.
    """
    queues: list[list[int]] = [[] for _ in members]
    while members:
        for label in generator.permutation(len(members)):
            if not queues[label]:
                queues[label] = generator.permutation(members[label]).tolist()
            yield queues[label].pop()


def spread(codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random order in which the cells of each code lie evenly apart, ``(n_cells,)`` positions."""
    position = np.empty(len(codes))
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        # one cell at random in each of as many equal stretches as the code has cells
        position[generator.permutation(members)] = (np.arange(len(members)) + generator.random(len(members))) / len(
            members
        )
    return np.argsort(position, kind="stable")
