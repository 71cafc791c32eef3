"""Arguments of models and of ``setup_anndata`` in the form that a file can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deltavi._entries import names, scalar
from deltavi._errors import DeltaviError
from deltavi._text import as_text
from deltavi._types import State
from deltavi.io import encode


def plain_setup(arguments: State) -> State:
    """Arguments of ``setup_anndata``: one name for ``*_key`` and ``layer``, a list of names for ``*_keys``.

    Raises
    ------
    DeltaviError
        If a name is not text, a list stands in place of a name, or a list names a column twice.
    """
    plain: State = {}
    for name, value in arguments.items():
        if name.endswith("_keys"):
            plain[name] = None if value is None else [_name(name, key) for key in names(name, value)] or None
        elif name == "size_factor_key" and isinstance(scalar(value), bool):
            plain[name] = scalar(value)  # False leaves totals out
        elif name.endswith("_key") or name == "layer":
            plain[name] = None if value is None else _name(name, value)
        elif name == "unlabeled_category" and value is not None:
            plain[name] = scalar(value) if isinstance(scalar(value), str | int | float) else as_text(value)
        else:
            plain[name] = value
    return plain


def _name(argument: str, value: object) -> str:
    """Name of a column or layer."""
    if isinstance(value, str):
        return str(value)
    several = isinstance(value, list | tuple | set | frozenset | dict | np.ndarray)
    what = "layer" if argument == "layer" else "column of obs"
    if several:
        raise DeltaviError(f"{argument} is the name of one {what}, not {value!r}: pass a single name.")
    raise DeltaviError(
        f"{argument} is {value!r}, a {type(value).__name__}; names are text. Rename the {what}, for example with "
        f"{'adata.layers[str(name)]' if argument == 'layer' else 'adata.obs.columns = adata.obs.columns.astype(str)'}."
    )


def plain_settings(settings: State) -> State:
    """Arguments of a model in nested dictionaries; tensors become arrays.

    Raises
    ------
    DeltaviError
        If a file cannot hold one of them, such as a function.
    """
    return {kind: {name: _setting(name, value) for name, value in given.items()} for kind, given in settings.items()}


def _setting(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _setting(str(key), inner) for key, inner in value.items()}
    plain = scalar(value)
    plain = plain.detach().cpu().numpy() if isinstance(plain, torch.Tensor) else plain
    try:
        encode(plain, {})
    except (TypeError, ValueError, RecursionError):
        raise DeltaviError(
            f"{name}={value!r} is a {type(value).__name__}, and a model that is made with it could not be saved: pass "
            "text, numbers, lists of these, or NumPy arrays."
        ) from None
    return plain
