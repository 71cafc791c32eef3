"""Columns of obs: which values can be categories or numbers, and the code of each category."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from deltavi._errors import (
    DeltaviError,
    InputDataError,
    UnseenCategoryWarning,
    examples,
    unknown_category,
)
from deltavi._text import PLAIN, as_text, folded_text, is_readable, meant, texts_of

# Code of a category that is absent from training: modules read it as the average of the known ones.
UNSEEN = -1


def column(adata: AnnData, key: str) -> pd.Series:
    """Column `key` of obs, or an error that lists the columns there are.

    Raises
    ------
    UnknownCategoryError
        If there is no such column.
    DeltaviError
        If several have that name.
    InputDataError
        If it holds values that are neither numbers nor have a text of their own.
    """
    if key not in adata.obs:
        raise unknown_category("obs column", key, [c for c in adata.obs.columns if not str(c).startswith("_scvi")])
    values: pd.Series = adata.obs[key]
    if isinstance(values, pd.DataFrame):
        raise DeltaviError(f"obs has {values.shape[1]} columns called {key!r}: rename or drop all but one.")
    if wrong := [kind for kind in _kinds(values) if not is_readable(kind)]:
        names = ", ".join(sorted(kind.__name__ for kind in wrong))
        raise InputDataError(
            f"obs[{key!r}] holds values of type {names} (for example in {examples(values.index)}). A cell has one "
            "value, text or a number: keep the others in a column of their own."
        )
    return _comparable(values)


def _comparable(values: pd.Series) -> pd.Series:
    """`values` in a type that pandas can make categories of, unlike half precision; 0.1 in half precision stays 0.1."""
    if isinstance(values.dtype, pd.SparseDtype):
        return pd.Series(np.asarray(values), index=values.index)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind == "S":
        # fixed-length bytes, which pandas stores but cannot count
        return values.astype(object)
    return values.astype(str).astype(float) if values.dtype == np.float16 else values


def _kinds(values: pd.Series) -> set[type]:
    """Types of the values that are not missing; of columns of one type that of the column."""
    held = pd.Series(values.cat.categories) if isinstance(values.dtype, pd.CategoricalDtype) else values
    # pandas has no missing values among records
    if is_readable(held.dtype.type) or held.dtype.kind == "V":
        return {held.dtype.type}
    present = held.dropna()
    # a column of text has a value for each cell
    return set(map(type, present.to_numpy() if present.dtype == object else present))


def user_columns(obs: pd.DataFrame) -> pd.DataFrame:
    """Copy of `obs` without the columns that registration added."""
    if structured := [name for name, dtype in obs.dtypes.items() if getattr(dtype, "kind", "") == "V"]:
        raise InputDataError(f"obs holds {examples(structured)}, whose values are records: pandas cannot select them.")
    return obs.drop(columns=[c for c in obs if str(c).startswith("_scvi")]).copy()


def used_categories(values: pd.Series, key: str) -> np.ndarray:
    """Categories that occur, sorted as pandas sorts them; an error where values are missing.

    Text, whole numbers, floats and truth values are kept; of others, and of text and numbers in one column, the text.
    """
    n_missing = int(values.isna().sum())
    if n_missing:
        cells = values.index[values.isna()]
        raise InputDataError(
            f"obs[{key!r}] is missing for {n_missing} of {len(values)} cells (for example {examples(cells)}). "
            "Fill it in or remove those cells."
        )
    categories = pd.Categorical(values).remove_unused_categories().categories
    plain: list[object] = [_plain(category) for category in categories]
    if any(type(category) not in PLAIN for category in plain) or len({type(category) is str for category in plain}) > 1:
        plain = [*sorted(texts_of(values)[1])]
    return np.asarray(plain, dtype=object)


def _plain(category: object) -> object:
    return category.item() if isinstance(category, np.generic) else category


def codes_of(values: pd.Series, categories: np.ndarray) -> np.ndarray:
    """Position of each value in `categories`, -1 where it is not among them, ``(n_cells,)``.

    A number and its text are the same category, with decimals or without, and so are a date and its text: columns turn
    from one into the other in files and plots.
    """
    positions, found = pd.factorize(_comparable(values))
    distinct = np.fromiter(found, dtype=object, count=len(found))
    codes = _positions(distinct, categories)
    form: Callable[[object], str]
    for form in (as_text, folded_text):
        known = [form(category) for category in categories]
        if (codes < 0).any() and len(set(known)) == len(known):
            written = np.asarray([form(value) for value in distinct], dtype=object)
            codes = np.where(codes < 0, _positions(written, np.asarray(known, dtype=object)), codes)
    # missing values have the position -1, which is the last entry
    return np.append(codes, UNSEEN)[positions]


def _positions(values: np.ndarray, categories: np.ndarray) -> np.ndarray:
    known = pd.Index(categories, dtype=object)
    return np.asarray(known.get_indexer(pd.Index(values, dtype=object)), dtype=np.int64)


def category_names(values: pd.Series, categories: np.ndarray) -> np.ndarray:
    """Text of each value, that of the known category if it is one, ``None`` if it is missing, ``(n_cells,)``."""
    places, texts = texts_of(_comparable(values))
    names: np.ndarray = np.array([*texts, None], dtype=object)[places]
    codes = codes_of(values, categories)
    known = np.array([as_text(category) for category in categories], dtype=object)
    names[codes >= 0] = known[codes[codes >= 0]]
    return names


def extended(categories: np.ndarray, values: pd.Series, key: str) -> np.ndarray:
    """`categories` followed by those of `values` that are new."""
    used = used_categories(values, key)
    new = used[codes_of(pd.Series(used, dtype=object), categories) < 0]
    return np.asarray([*categories, *new], dtype=object)


def warn_unseen(values: pd.Series, codes: np.ndarray, key: str) -> None:
    """Warn once of categories that are absent from training, and of their treatment."""
    unseen = pd.unique(values[codes < 0].dropna())
    if len(unseen):
        warnings.warn(
            f"obs[{key!r}] holds {len(unseen)} categories that training did not see (for example {examples(unseen)}), "
            f"in {int((codes < 0).sum())} cells; they are treated as the average of the known ones. "
            "load_query_data learns them instead.",
            UnseenCategoryWarning,
            stacklevel=2,
        )


def require_known(kind: str, given: object, known: Iterable[object]) -> str:
    """Text of the category of `known` that equals `given`.

    Raises
    ------
    UnknownCategoryError
        If it is none of them.
    """
    name = meant(given, known)
    if name is None:
        raise unknown_category(kind, given, [as_text(category) for category in known])
    return name


def numbers(adata: AnnData, key: str) -> np.ndarray:
    """Column `key` of obs as float64, NaN where it is not a number, ``(n_cells,)``; dates and times are none."""
    values = column(adata, key)
    held = values.cat.categories.dtype if isinstance(values.dtype, pd.CategoricalDtype) else values.dtype
    if isinstance(held, pd.PeriodDtype | pd.IntervalDtype) or getattr(held, "kind", "") in "mM":
        return np.full(len(values), np.nan)
    found: np.ndarray = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    return found
