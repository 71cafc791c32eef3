"""Batch removal as a perturbation: every batch of a label moves onto the label's largest one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class BatchMoves:
    """Displacement of every cell.

    Parameters
    ----------
    vectors
        ``(n_cells, n_dims)``; zero for cells of the reference batch and of labels seen in one batch.
    reference
        ``(n_cells,)`` batch that each cell is moved to.
    references
        Label -> its reference batch.
    single_batch
        Labels seen in one batch only.
    """

    vectors: NDArray[np.float64]
    reference: np.ndarray
    references: dict[str, str] = field(default_factory=dict)
    single_batch: tuple[str, ...] = ()


def batch_moves(positions: np.ndarray, *, labels: np.ndarray, batches: np.ndarray) -> BatchMoves:
    """Move the mean of each batch of a label to the mean of the label's largest batch.

    Parameters
    ----------
    positions
        ``(n_cells, n_dims)``.
    labels, batches
        ``(n_cells,)`` label and batch of each cell. Of batches of equal size the first in sorted order is taken.
    """
    vectors = np.zeros(positions.shape, dtype=np.float64)
    reference = np.array(batches, dtype=object)
    references, single = {}, []
    for label in sorted(set(labels)):
        of_label = labels == label
        sizes = pd.Series(batches[of_label]).value_counts().sort_index()
        largest = str(sizes.idxmax())
        references[str(label)] = largest
        reference[of_label] = largest
        if len(sizes) == 1:
            single.append(str(label))
        destination = positions[of_label & (batches == largest)].mean(0, dtype=np.float64)
        for batch in sizes.index.drop(largest):
            moved = of_label & (batches == batch)
            vectors[moved] = destination - positions[moved].mean(0, dtype=np.float64)
    return BatchMoves(vectors=vectors, reference=reference, references=references, single_batch=tuple(single))
