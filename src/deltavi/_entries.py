"""Arguments of public functions, read in one way everywhere: numbers, shares, seeds, masks, an AnnData.

Each helper returns the plain Python or NumPy value, or raises a :class:`DeltaviError` that names the argument.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from reprlib import Repr
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from deltavi._errors import DeltaviError, UnknownArgumentError, examples, nearest
from deltavi._former_names import renamed_argument, renamed_value
from deltavi._text import is_readable

Indices = Sequence[int] | Sequence[bool] | np.ndarray | pd.Series
# Seeds from zero to here are taken by NumPy, torch and Python alike.
LARGEST_SEED = 2**32 - 1
# Number of characters of a value in messages.
MOST_SHOWN = 80


# -- numbers -------------------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """`value` as text for messages: on one line, and short."""
    short = Repr()
    short.maxother = short.maxstring = short.maxlong = MOST_SHOWN
    try:
        text = " ".join(short.repr(value).split())
    except Exception:  # of another package, or a number with too many digits to print
        return f"a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def scalar(value: object) -> object:
    """`value` as plain Python where it is a NumPy number or an array or tensor of no dimensions; else itself.

    Masked entries and times, which NumPy would convert to numbers, are returned unchanged.
    """
    if isinstance(value, np.ma.MaskedArray | np.timedelta64 | np.datetime64):
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0):
        plain = value.item()
        return float(plain) if isinstance(plain, np.floating) else plain
    return value


def whole_number(name: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int; a float without decimals is one, a bool and text are none."""
    plain = scalar(value)
    whole = isinstance(plain, Integral) or (isinstance(plain, float) and plain.is_integer())
    if isinstance(plain, bool | np.timedelta64) or not whole:
        raise DeltaviError(f"{name} must be a whole number{_bounds(least, most)}, not {shown(value)}.")
    found = int(plain)  # type: ignore[call-overload]
    _require_within(name, found, least, most, "a whole number")
    # the largest integer of NumPy and torch
    _require_within(name, found, -sys.maxsize, sys.maxsize, "a whole number")
    return int(found)


def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
) -> float:
    """`value` as a finite float; a bool and text are none."""
    plain = scalar(value)
    try:
        found = float(plain) if isinstance(plain, Real) and not isinstance(plain, bool | np.timedelta64) else np.nan
    except OverflowError:
        found = np.inf
    if np.isfinite(found) and above is not None and found <= above:
        raise DeltaviError(f"{name} must be a number above {above:g}, not {shown(value)}.")
    if not np.isfinite(found):
        raise DeltaviError(f"{name} must be a finite number{_bounds(least, most)}, not {shown(value)}.")
    _require_within(name, found, least, most, "a number")
    return found


def share(name: str, value: object) -> float:
    """`value` as a float from 0 to 1."""
    return number(name, value, least=0, most=1)


def seed_number(name: str, value: object) -> int:
    """`value` as a seed that every generator takes."""
    return whole_number(name, value, least=0, most=LARGEST_SEED)


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    return f" of at least {least:g}" if least is not None else "" if most is None else f" of at most {most:g}"


def _require_within(name: str, found: float, least: float | None, most: float | None, kind: str) -> None:
    if (least is not None and found < least) or (most is not None and found > most):
        raise DeltaviError(f"{name} must be {kind}{_bounds(least, most)}, not {shown(found)}.")


# -- switches and names --------------------------------------------------------------------------------------


def flag(name: str, value: object) -> bool:
    """`value` as a bool; other types, which Python would read as one, are refused."""
    plain = scalar(value)
    if not isinstance(plain, bool):
        raise DeltaviError(f"{name} must be True or False, not {shown(value)}.")
    return plain


def choice(name: str, value: object, known: Sequence[str]) -> str:
    """`value`, which must be one of `known`."""
    if not isinstance(value, str) or value not in known:
        close = renamed_value(str(value), known) or nearest(shown(value), known)
        hint = "" if close is None else f" Did you mean {close!r}?"
        raise DeltaviError(f"{name} must be one of {', '.join(map(repr, known))}, not {shown(value)}.{hint}")
    return value


def names(name: str, value: object) -> list[Any]:
    """One name or several as a list, in the order given (sets sorted); each once."""
    if value is None:
        return []
    value = scalar(value)
    if isinstance(value, str | bytes) or np.isscalar(value) or is_readable(type(value)):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, pd.DataFrame | np.ma.MaskedArray | AnnData):
        raise DeltaviError(f"{name} must be a name or a list of names, not {shown(value)}.")
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0:
        raise DeltaviError(f"{name} must be a name or a list of names, not {shown(value)}.")
    found = [scalar(v) for v in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if not all(_is_name(v) for v in found):
        raise DeltaviError(f"{name} must be a flat list of names, not {shown(value)}.")
    repeated = [v for v, n in Counter(found).items() if n > 1]
    if repeated:
        raise DeltaviError(f"{name} names {examples(repeated)} more than once.")
    return found


def one_name(name: str, value: object, known: Iterable[object] = ()) -> Any:
    """One name, of any type that categories have; the message lists what is `known`."""
    plain = scalar(value)
    if not is_readable(type(plain)) or pd.isna(plain):  # type: ignore[call-overload]
        listed = examples(list(known), 10)
        raise DeltaviError(f"{name} must be one name, not {shown(value)}.{f' Known: {listed}.' if listed else ''}")
    return plain


def _is_name(value: object) -> bool:
    # a time without a unit cannot be hashed
    return isinstance(value, str | bytes) or not isinstance(value, Iterable | np.timedelta64)


# -- keywords ------------------------------------------------------------------------------------------------


def known_keywords(
    given: Iterable[str], known: Iterable[str], *, among: str, hints: dict[str, str] | None = None
) -> None:
    """Raise where a keyword is none of `known`, with the one it was renamed to or the nearest of these.

    Parameters
    ----------
    given
        Keywords that were passed.
    known
        Keywords of the function.
    among
        Function that takes them, for the message.
    hints
        Advice on keywords of other packages, by name.
    """
    listed = list(dict.fromkeys(known))
    for name in given:
        if name in listed:
            continue
        hint = (hints or {}).get(name)
        close = renamed_argument(name, listed) or nearest(name, listed)
        hint = hint or ("" if close is None else f"Did you mean {close!r}?")
        raise UnknownArgumentError(
            f"{among} has no argument {name!r}. {hint}{' ' if hint else ''}Known: {', '.join(map(repr, listed))}."
        )


def init_keywords(*classes: type) -> list[str]:
    """Names that ``__init__`` of `classes` takes by keyword, and of their bases as long as it collects others.

    Parameters
    ----------
    *classes
        Classes whose ``__init__`` passes its collected keywords to that of the next base.
    """
    found: list[str] = []
    for kind in classes:
        for base in kind.__mro__:
            if "__init__" not in vars(base):
                continue
            found += keywords_of(vars(base)["__init__"])
            collects = inspect.signature(vars(base)["__init__"]).parameters.values()
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in collects):
                break
    return list(dict.fromkeys(found))


def keywords_of(*functions: Callable[..., object]) -> list[str]:
    """Names of the keywords of `functions`, without ``self``, ``cls`` and ``**kwargs``."""
    found: dict[str, None] = {}
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found[parameter.name] = None
    return [name for name in found if name not in ("self", "cls")]


# -- cells ---------------------------------------------------------------------------------------------------


def positions(
    indices: object, n_cells: int, *, name: str = "indices", cells: pd.Index | None = None, what: str = "cells"
) -> np.ndarray:
    """Positions or a mask as positions ``(n_chosen,)``; all cells for ``None``.

    Parameters
    ----------
    indices
        Positions from 0 in any order, or one truth value for each cell: list, array, tensor, Series or index, also in
        pandas' nullable and Arrow types.
    n_cells
        Number of cells.
    name
        Argument, for the message.
    cells
        Names of the cells. A Series of truth values with these names in another order is reordered.
    what
        Noun for the rows, for the message.

    Raises
    ------
    DeltaviError
        If there are no such cells, or `indices` is neither positions nor a mask.
    """
    if indices is None:
        return np.arange(n_cells)
    given = _plain_array(indices, name, what)
    is_mask = given.dtype.kind == "b"
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iub"):
        got = f" (for example {examples(given.ravel().tolist())})" if given.size else ""
        way = f". Of names, adata.obs_names.get_indexer({name}) gives the positions" if given.dtype.kind == "U" else ""
        raise _no_positions(name, f"{got}{way}", what)
    if is_mask and len(given) != n_cells:
        raise DeltaviError(f"The mask {name} has {len(given)} entries for {n_cells} {what}.")
    if is_mask:
        order = _order_of(indices, cells, name, what) if isinstance(indices, pd.Series) and cells is not None else None
        return np.flatnonzero(given if order is None else given[order])
    outside = given[(given < 0) | (given >= n_cells)]
    if len(outside):
        there = f"0..{n_cells - 1}" if n_cells else f"the data, which have no {what}"
        raise DeltaviError(
            f"{len(outside)} of {len(given)} {name} lie outside {there} (for example {examples(outside.tolist())})."
        )
    return given.astype(np.int64)


def _no_positions(name: str, got: str, what: str = "cells") -> DeltaviError:
    return DeltaviError(f"{name} must be a one-dimensional list of positions or a mask over all {what}{got}.")


def _order_of(mask: pd.Series, cells: pd.Index, name: str, what: str) -> np.ndarray | None:
    """Order that brings a named mask into that of the cells; ``None`` where it has no names, or is in order."""
    own = mask.index
    if own.equals(cells) or (pd.api.types.is_integer_dtype(own) and not pd.api.types.is_integer_dtype(cells)):
        return None
    order = own.get_indexer(cells) if own.is_unique and cells.is_unique else np.full(len(cells), -1)
    if (order < 0).any():
        raise DeltaviError(
            f"The mask {name} carries names of other {what}: {int((order < 0).sum())} of {len(cells)} are not in its "
            f"index (for example {examples(cells[order < 0])}). Make it on this AnnData, or pass {name}.to_numpy()."
        )
    return order


def _plain_array(values: Any, name: str, what: str) -> np.ndarray:
    """`values` as an array of NumPy's own types."""
    refused = str | bytes | bytearray | memoryview | Mapping | pd.DataFrame | pd.MultiIndex | AnnData
    if isinstance(values, refused) or not (hasattr(values, "__len__") or hasattr(values, "__array__")):
        raise _no_positions(name, f", not {shown(values)}", what)
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DeltaviError(f"{name} has masked entries: give a value for each.")
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu().numpy()
        if isinstance(values, set | frozenset):
            values = sorted(values)
        if isinstance(values, np.ndarray) and values.dtype != object:
            return np.asarray(values)
        # nullable and Arrow types, text and objects: pandas infers the type of their values
        found = pd.array(values)
        is_missing = bool(np.any(pd.isna(found)))
        plain = found.tolist()
        # Python takes True for 1
        is_mixed = len({isinstance(v, bool | np.bool_) for v in values}) > 1
        array = np.asarray(plain, dtype=None if plain else np.int64)
    except Exception as error:  # containers of other packages may raise any error
        raise _no_positions(name, f", not {shown(values)}", what) from error
    if is_missing:
        raise DeltaviError(f"{name} has missing entries: give a value for each.")
    if is_mixed:
        raise _no_positions(name, f": truth values and numbers are mixed in {shown(values)}", what)
    return array


# -- AnnData -------------------------------------------------------------------------------------------------


def require_anndata(value: object, *, name: str = "adata", lazy: bool = False) -> AnnData:
    """`value`, which must be an AnnData, with `lazy` also one read lazily; the message explains how to read one."""
    if isinstance(value, AnnData):
        if not lazy:
            _require_tables(value, name)
        return value
    kinds = {cls.__name__ for cls in type(value).__mro__}
    way = next((way for kind, way in WAYS_TO_ANNDATA.items() if kind in kinds), "pass an anndata.AnnData")
    if "MuData" in kinds:
        way = f"pass one of its modalities, {_modalities(value)}"
    what = "a class" if isinstance(value, type) else "None" if value is None else f"a {type(value).__name__}"
    raise DeltaviError(f"{name} must be an AnnData, with genes that have names; this is {what}: {way}.")


READ_FIRST = "read the file first, anndata.read_h5ad(path)"
NAME_FIRST = "pass an AnnData, with names of cells and genes: anndata.AnnData(matrix, obs=..., var=...)"
WAYS_TO_ANNDATA = {
    "AnnCollection": "pass its cells in memory, collection[:].to_adata()",
    "AnnCollectionView": "pass its cells in memory, view.to_adata()",
    "Raw": "pass adata.raw.to_adata()",
    "SpatialData": "pass one of its tables, sdata.tables[...]",
    "DataFrame": "pass anndata.AnnData(table), with cells in rows and genes as columns",
    "str": READ_FIRST,
    "PurePath": READ_FIRST,
    "list": "join several with anndata.concat, or pass one",
    "tuple": "join several with anndata.concat, or pass one",
    "dict": "join several with anndata.concat, or pass one",
    "ndarray": NAME_FIRST,
    "_cs_matrix": NAME_FIRST,
    "Array": NAME_FIRST,
    "Tensor": NAME_FIRST,
    "type": "pass an object, not its class",
}


def _require_tables(adata: AnnData, name: str) -> None:
    """Raise where obs or var are read lazily, as by ``anndata.experimental.read_lazy``."""
    if not (isinstance(adata.obs, pd.DataFrame) and isinstance(adata.var, pd.DataFrame)):
        raise DeltaviError(
            f"{name} was read lazily: its obs and var are no data frames. Read it into memory, "
            f"{name} = {name}.to_memory(); or open the file with anndata.read_h5ad(path, backed='r'), which leaves the "
            "matrix on disk."
        )


def _modalities(value: object) -> str:
    found = list(getattr(value, "mod", {}))
    return ", ".join(f"mdata[{key!r}]" for key in found[:3]) or "mdata['rna']"
