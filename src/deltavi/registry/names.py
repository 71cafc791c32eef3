"""Names of categories and of cells: warnings of likely mistakes, and checksums to recognise the same cells."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd

from deltavi._errors import InputDataWarning, LabelWarning, examples
from deltavi._text import folded_text


def folded(name: str) -> str:
    """`name` without spaces, the decimals of whole numbers and capital letters."""
    return "".join(folded_text(name).split()).casefold()


def sorted_names(names: pd.Index) -> pd.Series:
    """Names of cells, sorted, with their positions as index; empty if they do not identify cells.

    Names do not identify cells if they repeat, or if they are the numbers that anndata gives to cells without names.
    """
    text = pd.Series(names.astype(str).to_numpy(dtype=object), dtype=object)
    numbered = np.array_equal(text.to_numpy(), np.arange(len(text)).astype(str).astype(object))
    return text[:0] if numbered or not names.is_unique else text.sort_values(kind="stable")


def checksum(names: pd.Series) -> str:
    """SHA-256 of `names`."""
    return hashlib.sha256("\0".join(names).encode(errors="surrogatepass")).hexdigest()


def names_checksum(names: pd.Index) -> str:
    """SHA-256 of names in their order."""
    return checksum(pd.Series(names.astype(str).to_numpy(dtype=object), dtype=object))


def warn_mixed_types(values: pd.Series, key: str) -> None:
    """Warn of a column that holds text and numbers."""
    kinds: dict[str, list[object]] = {}
    for value in pd.factorize(values)[1]:
        plain = value.item() if isinstance(value, np.generic) else value
        number = isinstance(plain, int | float) and not isinstance(plain, bool)
        kinds.setdefault("number" if number else type(plain).__name__, []).append(plain)
    if len(kinds) > 1:
        held = ", ".join(f"{len(found)} of type {kind} ({examples(found)})" for kind, found in sorted(kinds.items()))
        warn_of_names(
            f"obs[{key!r}] mixes labels of {len(kinds)} types: {held}. All are read as text; convert the column with "
            f"adata.obs[{key!r}].astype(str) where no label is missing, or rename them."
        )


def warn_near_duplicates(names: Iterable[str], key: str) -> None:
    """Warn of names that differ only by case or spaces, or by the decimals of a whole number."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(folded(name), []).append(name)
    pairs = [f"{a!r} and {b!r}" for group in alike.values() for a, b in combinations(group, 2)]
    if pairs:
        more = f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
        warn_of_names(
            f"obs[{key!r}]: {len(pairs)} pairs of labels differ only by case, spaces or decimals "
            f"({', '.join(pairs[:3])}{more}). They are read as different; rename them if they are the same."
        )


def warn_of_names(message: str) -> None:
    """Warn of names, from two calls below what registers a column."""
    # counted from register_field, which calls the checks
    warnings.warn(message, LabelWarning, stacklevel=4)


def warn_small_batches(values: pd.Series, key: str) -> None:
    """Warn if most batches hold a single cell, as in a column of cell names in place of batches."""
    cells = values.value_counts()
    single = cells.index[cells == 1]
    if 2 * len(single) > len(cells) > 2:
        warnings.warn(
            f"obs[{key!r}]: {len(single)} of {len(cells)} batches hold a single cell (for example {examples(single)}), "
            "so that what is of a batch cannot be told from what is of its cell. Name a column of donors, samples or "
            "studies, or leave batch_key out.",
            InputDataWarning,
            stacklevel=4,
        )
