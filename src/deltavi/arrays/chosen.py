"""Genes chosen by name, by position or by a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deltavi._entries import positions
from deltavi._errors import DeltaviError, GeneMatchError, examples, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deltavi.arrays.tables import Aligned


def chosen_genes(genes: object, found: Aligned) -> NDArray[np.intp]:
    """Positions of the genes chosen, (n_chosen,); all for None.

    Parameters
    ----------
    genes
        Names, where a table names its genes; positions; or a mask, of which a Series is matched by its index.
    found
        The tables.

    Raises
    ------
    DeltaviError
        Nothing is chosen, or `genes` is none of these.
    GeneMatchError
        A gene is unknown, a position or the length of a mask does not fit, or positions are ambiguous.
    """
    if genes is None:
        return np.arange(found.n_genes)
    wanted = list(_names(genes))
    if wanted and found.genes is None:
        raise DeltaviError("genes must be positions or a boolean mask, not names, where no table names its genes.")
    if wanted and found.genes is not None:
        return named_positions(found.genes, wanted, "genes")
    if not isinstance(genes, pd.Series):
        found.require_one_order("genes are chosen")
    try:
        chosen = positions(genes, found.n_genes, name="genes", cells=found.genes, what="genes")
    except DeltaviError as error:
        raise GeneMatchError(str(error)) from None
    if not len(chosen):
        raise DeltaviError("genes selects no gene. Pass at least one of them, or None for all genes.")
    return chosen


def _names(genes: object) -> list[str]:
    """Names, if `genes` holds nothing else."""
    listed = [genes] if isinstance(genes, str) else genes
    if not isinstance(listed, list | tuple | np.ndarray | pd.Index | pd.Series | pd.Categorical):
        return []
    return [str(name) for name in listed] if all(isinstance(name, str) for name in listed) else []


def named_positions(known: pd.Index, names: list[str], what: str) -> NDArray[np.intp]:
    """Positions of genes in `known`, each once, in the order of `names`.

    Raises
    ------
    GeneMatchError
        Some are unknown; the message has their number, three of them and the nearest name of the first.
    """
    wanted = list(dict.fromkeys(map(str, names)))
    found = known.get_indexer(pd.Index(wanted, dtype=object))
    unknown = [name for name, place in zip(wanted, found, strict=True) if place < 0]
    if unknown:
        close = nearest(unknown[0], known)
        raise GeneMatchError(
            f"{len(unknown)} of the {what} are not among the genes: {examples(unknown)}."
            f"{'' if close is None else f' Did you mean {close!r}?'} The tables hold {examples(known)}."
        )
    return np.asarray(found, dtype=np.intp)
