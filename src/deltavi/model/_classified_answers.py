"""Answers that follow from what a classifier says of each cell, in memory or in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from deltavi._types import State
from deltavi.annotation import ClassifiedCells
from deltavi.io import PathLike
from deltavi.model._answers import Answered, AskedCells
from deltavi.model._classification import classified, warn_empty

if TYPE_CHECKING:
    from deltavi.model._annotates import Annotates

T = TypeVar("T")
# Column of obs and key of obsm, as the documentation of models names what a user keeps.
PREDICTED, PROBABILITIES = "predicted", "probabilities"


@dataclass(frozen=True, eq=False)
class ClassifiedAnswers:
    """Cells that are classified block by block, with one warning of all that have no counts.

    Parameters
    ----------
    model
        A trained model.
    asked
        The cells.
    answer
        Answer for some classified cells.
    batch_size
        Cells of a mini-batch.
    """

    model: Annotates
    asked: AskedCells
    answer: Callable[[ClassifiedCells], Answered]
    batch_size: int

    @property
    def names(self) -> pd.Index:
        """Names of the cells, ``(n_cells,)``."""
        return self.asked.names

    def delivered(
        self,
        path: PathLike | None,
        in_memory: Callable[[Answered], T],
        *,
        progress: bool,
        record: Mapping[str, object],
    ) -> T | Path:
        """File of the answer for all cells, or without `path` what `in_memory` makes of it."""
        empty: list[pd.Index] = []
        how: State = {"progress": progress, "batch_size": self.batch_size, "record": record}
        found = self.asked.delivered(path, self._noting(empty), in_memory, **how)
        self._warn(empty)
        return found

    def _noting(self, empty: list[pd.Index]) -> Callable[[np.ndarray], Answered]:
        """Function from positions to an answer, which notes the names of cells without counts."""

        def answer(cells: np.ndarray) -> Answered:
            names, found = classified(self.model, self.asked.adata, cells, self.batch_size)
            empty.append(names[found.empty])
            return self.answer(found)

        return answer

    def _warn(self, empty: list[pd.Index]) -> None:
        # a process among many may have had no block
        names = empty[0].append(empty[1:]) if empty else pd.Index([])
        # the scan of a query has warned of them already
        if len(names) and self.asked.adata is self.model._adata:
            warn_empty(names)
