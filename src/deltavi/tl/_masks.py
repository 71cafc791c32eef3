"""Masks of cells, and cells that occur on both sides of a split."""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype
from scipy import sparse

from deltavi._errors import InputDataError, examples
from deltavi.arrays.per_cell import by_cell
from deltavi.arrays.tables import text_names

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

# Cells with fewer counts may agree in all genes by chance.
TRIVIAL_TOTAL = 50


def checked_mask(given: object, names: pd.Index, where: str) -> NDArray[np.bool_]:
    """A boolean mask over all cells with at least one cell in it, (n_cells,); a Series is matched by cell name.

    Raises
    ------
    InputDataError
        If it is not boolean, has the wrong length, belongs to other cells, or is empty.
    """
    if isinstance(given, pd.DataFrame) and given.shape[1] == 1:
        given = given.iloc[:, 0]
    if isinstance(given, pd.Series | np.ma.MaskedArray):
        given = by_cell(text_names(names), "adata", **{where: given})[where]
    mask = np.asarray(given)
    # of nullable values, objects that are True or False
    mask = mask.astype(bool) if mask.dtype == object and infer_dtype(mask, skipna=False) == "boolean" else mask
    if mask.dtype != bool or mask.shape != (len(names),):
        raise InputDataError(
            f"{where} has shape {mask.shape} and type {mask.dtype}; pass a boolean mask over all {len(names)} cells."
        )
    if not mask.any():
        raise InputDataError(f"{where} is empty: it selects none of {len(names)} cells.")
    return mask


class CellIdentities:
    """Groups of cells with the same name or the same counts.

    Parameters
    ----------
    adata
        Raw counts in X, CSR in canonical form.
    """

    def __init__(self, adata: AnnData) -> None:
        self.names = adata.obs_names
        self._totals = np.asarray(adata.X.sum(axis=1)).ravel()
        self._counts = _row_codes(adata.X)

    def require_apart(
        self, held_out: NDArray[np.bool_], where: str, *, others: NDArray[np.bool_] | None = None
    ) -> None:
        """Raise where a held-out cell is among the others, all that are not held out by default, by name or by counts.

        Raises
        ------
        InputDataError
            With the number of such cells and three of them.
        """
        hidden, seen = np.flatnonzero(held_out), ~held_out if others is None else others
        by_name = self.names[hidden].isin(self.names[seen])
        same = np.isin(self._counts[hidden], self._counts[seen]) & (self._totals[hidden] > TRIVIAL_TOTAL)
        for found, what in (
            (by_name, "have the name of a training cell"),
            (same, "have the counts of a training cell"),
        ):
            if found.any():
                raise InputDataError(
                    f"{where}: {int(found.sum())} of {len(hidden)} held-out cells {what} "
                    f"({examples(self.names[hidden[found]])}), which the methods would have seen. Remove duplicates "
                    "before evaluating, or make names unique where the cells differ."
                )


def _row_codes(counts: sparse.csr_matrix) -> NDArray[np.intp]:
    """A number for each distinct row, (n_cells,)."""
    data, indices, ends = counts.data, counts.indices, counts.indptr
    digests = [
        blake2b(data[a:b].tobytes() + b"|" + indices[a:b].tobytes(), digest_size=16).digest() for a, b in pairwise(ends)
    ]
    return np.asarray(pd.factorize(np.array(digests, dtype=object))[0])
