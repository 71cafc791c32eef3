"""What a public function is given, read in one way everywhere: numbers, shares, seeds, masks, devices, an AnnData.

Each helper returns the plain Python or NumPy value, or raises a :class:`DeltaviError` that names the argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from deltavi._errors import DeltaviError, UnknownArgumentError, examples, nearest

Indices = Sequence[int] | Sequence[bool] | np.ndarray | pd.Series
# Seeds from zero to here are taken by NumPy, torch and Python alike.
LARGEST_SEED = 2**32 - 1


# -- numbers -------------------------------------------------------------------------------------------------


def scalar(value: object) -> object:
    """`value` as plain Python where it is a NumPy number or an array or tensor of no dimensions; else itself."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0):
        return value.item()
    return value


def whole_number(name: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int; a float without decimals is one, a bool and text are none."""
    plain = scalar(value)
    whole = isinstance(plain, Integral) or (isinstance(plain, float) and plain.is_integer())
    if isinstance(plain, bool) or not whole:
        raise DeltaviError(f"{name} must be a whole number{_bounds(least, most)}, not {value!r}.")
    found = int(plain)  # type: ignore[call-overload]
    _require_within(name, found, least, most, "a whole number")
    return int(found)


def number(name: str, value: object, *, least: float | None = None, most: float | None = None) -> float:
    """`value` as a finite float; a bool and text are none."""
    plain = scalar(value)
    if isinstance(plain, bool) or not isinstance(plain, Real) or not np.isfinite(float(plain)):
        raise DeltaviError(f"{name} must be a finite number{_bounds(least, most)}, not {value!r}.")
    _require_within(name, float(plain), least, most, "a number")
    return float(plain)


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
        raise DeltaviError(f"{name} must be {kind}{_bounds(least, most)}, not {found!r}.")


# -- switches and names --------------------------------------------------------------------------------------


def flag(name: str, value: object) -> bool:
    """`value` as a bool; other types, which Python would read as one, are refused."""
    plain = scalar(value)
    if not isinstance(plain, bool):
        raise DeltaviError(f"{name} must be True or False, not {value!r}.")
    return plain


def choice(name: str, value: object, known: Sequence[str]) -> str:
    """`value`, which must be one of `known`."""
    if not isinstance(value, str) or value not in known:
        close = nearest(value, known)
        hint = "" if close is None else f" Did you mean {close!r}?"
        raise DeltaviError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}.{hint}")
    return value


def names(name: str, value: object) -> list[Any]:
    """One name or several as a list, in the order given; each once."""
    if value is None:
        return []
    if isinstance(value, str | bytes) or np.isscalar(value):
        return [scalar(value)]
    if not isinstance(value, Iterable):
        raise DeltaviError(f"{name} must be a name or a list of names, not a {type(value).__name__}.")
    found = [scalar(v) for v in value]
    try:
        repeated = [v for i, v in enumerate(found) if v in found[:i]]
    except (TypeError, ValueError):
        raise DeltaviError(f"{name} must be a flat list of names, not {examples(found)}.") from None
    if repeated:
        raise DeltaviError(f"{name} names {examples(dict.fromkeys(repeated))} more than once.")
    return found


# -- keywords ------------------------------------------------------------------------------------------------


def known_keywords(
    given: Iterable[str], known: Iterable[str], *, among: str, hints: dict[str, str] | None = None
) -> None:
    """Raise where a keyword is none of `known`, with the nearest of these.

    Parameters
    ----------
    given
        Keywords that were passed.
    known
        Keywords that mean something.
    among
        Function that takes them, for the message.
    hints
        What to say of keywords that users of other packages pass, by name.
    """
    listed = list(dict.fromkeys(known))
    for name in given:
        if name in listed:
            continue
        hint = (hints or {}).get(name)
        close = nearest(name, listed)
        hint = hint or ("" if close is None else f"Did you mean {close!r}?")
        raise UnknownArgumentError(
            f"{among} has no argument {name!r}. {hint}{' ' if hint else ''}Known: {', '.join(map(repr, listed))}."
        )


def keywords_of(*functions: Callable[..., Any]) -> list[str]:
    """Names of what `functions` take by keyword, without ``self``, ``cls`` and what collects others."""
    found: dict[str, None] = {}
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found[parameter.name] = None
    return [name for name in found if name not in ("self", "cls")]


# -- cells ---------------------------------------------------------------------------------------------------


def positions(indices: Any, n_cells: int, *, name: str = "indices") -> np.ndarray:
    """Positions or a mask as positions ``(n_chosen,)``; all cells for ``None``.

    Parameters
    ----------
    indices
        Positions from 0 in any order, or one truth value for each cell: list, array, tensor, Series or index, also in
        pandas' nullable and Arrow types.
    n_cells
        Cells there are.
    name
        Argument, for the message.

    Raises
    ------
    DeltaviError
        If there are no such cells, or `indices` is neither positions nor a mask.
    """
    if indices is None:
        return np.arange(n_cells)
    given = _plain_array(indices, name)
    is_mask = given.dtype.kind == "b"
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iub"):
        got = f" (for example {examples(given.ravel())})" if given.size else ""
        raise DeltaviError(f"{name} must be a one-dimensional list of positions or a mask over all cells{got}.")
    if is_mask and len(given) != n_cells:
        raise DeltaviError(f"The mask {name} has {len(given)} entries for {n_cells} cells.")
    if is_mask:
        return np.flatnonzero(given)
    outside = given[(given < 0) | (given >= n_cells)]
    if len(outside):
        raise DeltaviError(
            f"{len(outside)} of {len(given)} {name} lie outside 0..{n_cells - 1} (for example {examples(outside)})."
        )
    return given.astype(np.int64)


def _plain_array(values: Any, name: str) -> np.ndarray:
    """`values` as an array of NumPy's own types."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, str | bytes | dict | pd.DataFrame) or not (
        hasattr(values, "__len__") or hasattr(values, "__array__")
    ):
        raise DeltaviError(f"{name} must be a list of positions or a mask over all cells, not {values!r}.")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DeltaviError(f"{name} has masked entries: give a value for each.")
    if isinstance(values, set | frozenset):
        values = sorted(values)
    try:
        # of nullable and Arrow types, text and objects too: pandas finds what they hold
        found = pd.array(values) if not isinstance(values, np.ndarray) or values.dtype == object else values
        if getattr(pd.isna(found), "any", bool)():
            raise DeltaviError(f"{name} has missing entries: give a value for each.")
        plain = np.asarray(found.tolist()) if not isinstance(found, np.ndarray) else found
    except (TypeError, ValueError) as error:
        if isinstance(error, DeltaviError):
            raise
        raise DeltaviError(f"{name} must be a one-dimensional list of positions or a mask over all cells.") from None
    return plain


# -- AnnData and devices -------------------------------------------------------------------------------------


def require_anndata(value: object, *, name: str = "adata") -> AnnData:
    """`value`, which must be an AnnData; the message says how to come by one."""
    if isinstance(value, AnnData):
        return value
    kind = type(value).__name__
    ways = {
        "MuData": f"pass one of its modalities, {_modalities(value)}",
        "AnnCollection": "pass its cells in memory, collection[:].to_adata()",
        "DataFrame": "pass anndata.AnnData(table), with cells in rows and genes as columns",
        "str": "read the file first, anndata.read_h5ad(path)",
        "PosixPath": "read the file first, anndata.read_h5ad(path)",
        "WindowsPath": "read the file first, anndata.read_h5ad(path)",
    }
    way = ways.get(kind, "pass an anndata.AnnData")
    raise DeltaviError(f"{name} must be an AnnData, with genes that have names; this is a {kind}: {way}.")


def _modalities(value: Any) -> str:
    found = list(getattr(value, "mod", {}))
    return ", ".join(f"mdata[{key!r}]" for key in found[:3]) or "mdata['rna']"


def torch_device(name: str, value: Any) -> torch.device:
    """`value` as a device of torch."""
    try:
        return torch.device(value)
    except (RuntimeError, TypeError, ValueError):
        raise DeltaviError(
            f"{name} must be a device of torch, such as 'cpu', 'cuda', 'cuda:1' or 'mps', not {value!r}."
        ) from None
