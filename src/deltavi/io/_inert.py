"""Files of ``torch.save``, read without a call of any function that they name but torch's constructors of tensors.

Such a file is a pickle: a program of calls and their arguments. torch's reader of weights calls torch's own
constructors of tensors, and names that are allowed beside them. Here these are stand-ins, which keep their arguments;
arrays and tables are made of the arguments afterwards. Names that no saved model needs are refused.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pandas as pd
import torch

from deltavi._errors import ModelFileError, examples
from deltavi._random import taking_turns
from deltavi._types import State

# Libraries whose objects scvi-tools saves, and other names in its files.
DATA_LIBRARIES = ("numpy", "pandas", "pyarrow")
DATA_NAMES = {
    *(f"builtins.{name}" for name in ("bytes", "dict", "frozenset", "slice")),
    "collections.defaultdict",
    *(f"torch.nn.modules.activation.{name}" for name in ("ReLU", "LeakyReLU")),
}
ARRAY_MADE, SCALAR_MADE = "multiarray._reconstruct", "multiarray.scalar"
# Types of the arrays that are read; other types could take any amount of memory per value.
ARRAY_TYPE = re.compile(r"[biufOUS][0-9]{0,4}")


# Types of text of Arrow, by name, with the type of the offsets at which values end.
ARROW_TEXT = {"string": np.int32, "large_string": np.int64}


class Named:
    """Record of a call in a file that was not made: its name, its arguments, and the state it sets."""

    path: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: object) -> Named:
        """Keep the arguments without using them."""
        made = object.__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: object) -> None:
        self.state = state


# A pickled array: version, shape, type, order of its axes, and content.
ArrayState: TypeAlias = tuple[object, tuple[int, ...], Named, bool, object]


def read_torch_file(file: Path) -> object:
    """Content of a file of ``torch.save``: tensors, plain Python, NumPy arrays, tables of one column.

    Any other object stays a :class:`Named`, and a class or function becomes its name.

    Parameters
    ----------
    file
        The file, which may be untrusted.

    Raises
    ------
    ModelFileError
        If it cannot be read, or names other objects than tensors, arrays, tables and the settings of a network.
    """
    try:
        _require_checksums(file)
        with taking_turns(), _nothing_else_allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on other ways to read it
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
            foreign = sorted(name for name in names if not _is_data(name))
            if foreign:
                raise ModelFileError(
                    f"{file} names {examples(foreign)}, which no saved model of scvi-tools needs and which would be "
                    "called where it is unpickled. It was not read."
                )
            with torch.serialization.safe_globals([_stand_in(name) for name in names]):
                content = torch.load(file, map_location="cpu", weights_only=True)
        return _Plain().of(content)
    except ModelFileError:
        raise
    except Exception as error:
        # torch's own texts advise to unpickle the file
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        if "Weights only load failed" in reason:
            reason = "its pickle does what no saved model needs"
        raise ModelFileError(f"{file} cannot be read: {type(error).__name__}: {reason}") from error


def _require_checksums(file: Path) -> None:
    """Raise if a part of the archive does not match its checksum, which torch does not test."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ModelFileError(f"{file} is damaged: {damaged!r} in it does not match its checksum.")


@contextmanager
def _nothing_else_allowed() -> Iterator[None]:
    """Suspend in the block all names that a program allowed torch to call when it reads weights."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _is_data(name: str) -> bool:
    return name in DATA_NAMES or name.split(".")[0] in DATA_LIBRARIES


def _stand_in(name: str) -> tuple[Callable[..., object], str]:
    """Stand-in for `name`, new for each file, since a file can change its stand-ins."""
    if name == "collections.defaultdict":
        # torch fills no other kind of dictionary
        return (lambda *_: {}), name
    return type("StandIn", (Named,), {"path": name}), name


class _Plain:
    """Converts objects of a file to plain values; an object that occurs twice is converted once."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        # kept alive, since the address of a deleted object may be reused
        self.kept: list[object] = []

    def of(self, value: object) -> Any:
        """Plain form of `value`."""
        if id(value) not in self.done:
            self.kept.append(value)
            self.done[id(value)] = self._made(value)
        return self.done[id(value)]

    def _made(self, value: object) -> object:
        if isinstance(value, dict):
            return {self.of(key): self.of(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set):
            return type(value)(self.of(inner) for inner in value)
        if isinstance(value, type) and issubclass(value, Named):
            return value.path
        return self._named(value) if isinstance(value, Named) else value

    def _named(self, value: Named) -> object:
        if value.path == "builtins.bytes" and value.args == ():
            return b""
        if value.path.endswith(ARRAY_MADE):
            return self._array(value.state)
        if value.path.endswith(SCALAR_MADE):
            kind, content = value.args
            return (
                self.of(content) if _type(kind).kind == "O" else np.frombuffer(self.of(content), _type(kind))[0].item()
            )
        if value.path.endswith(".DataFrame"):
            return self._table(value)
        return value

    def _array(self, state: ArrayState) -> np.ndarray:
        _, shape, kind, is_fortran, content = state
        dtype, content = _type(kind), self.of(content)
        if dtype.kind == "O":
            flat = np.empty(len(content), dtype=object)
            flat[:] = content
        else:
            flat = np.frombuffer(content, dtype=dtype).copy()
        return flat.reshape(tuple(shape), order="F" if is_fortran else "C")

    def _table(self, value: Named) -> pd.DataFrame | Named:
        """Table of one column of numbers, as in histories of training; other tables are returned unchanged."""
        try:
            blocks, (columns, rows) = value.state["_mgr"].args
            ((values, _, _),) = (block.args for block in blocks)
            (column,) = self._names(columns.args[1]["data"])
            numbers = np.asarray(self.of(values), dtype=np.float64).reshape(-1)
            return pd.DataFrame({str(column): numbers}, index=self._row_names(rows.args[1], len(numbers)))
        except (AttributeError, ArithmeticError, LookupError, StopIteration, TypeError, ValueError):
            return value

    def _names(self, data: object) -> np.ndarray:
        """Values of an index, which is an array, or an array of text that holds one."""
        if isinstance(data, Named) and data.path.endswith(".ArrowStringArray"):
            return self._arrow_text(data.state["_pa_array"])
        parts = data.state if isinstance(data, Named) and not data.path.endswith(ARRAY_MADE) else (data,)
        return next(found for found in map(self.of, parts) if isinstance(found, np.ndarray))

    def _arrow_text(self, array: Named) -> np.ndarray:
        """Values of an array of text: one buffer holds their letters, another the offset at which each ends."""
        if array.path.endswith(".chunked_array"):
            return np.concatenate([self._arrow_text(chunk) for chunk in array.args[0]])
        ((kind, length, _, first, (_, places, letters), *_),) = array.args
        ends = np.frombuffer(self._buffer(places), ARROW_TEXT[kind.args[0]])[first : first + length + 1]
        text = self._buffer(letters)
        return np.array([text[start:end].decode() for start, end in pairwise(ends)], dtype=object)

    def _buffer(self, buffer: Named) -> bytes:
        (content,) = buffer.args
        return bytes(self.of(content.args[0] if isinstance(content, Named) else content))

    def _row_names(self, given: State, n_rows: int) -> pd.Index:
        if "data" in given:
            return pd.Index(np.asarray(self._names(given["data"]), dtype=np.int64), name=given.get("name"))
        rows = range(given["start"], given["stop"], given["step"])
        if len(rows) != n_rows:
            raise ValueError("a table has as many names of rows as rows")
        return pd.Index(np.asarray(rows, dtype=np.int64), name=given.get("name"))


def _type(kind: Named) -> np.dtype:
    """Type of an array, of one of the kinds that are read."""
    (name, *_), order = kind.args, (kind.state or (None, "|"))[1]
    if not isinstance(name, str) or not kind.path.endswith("dtype") or ARRAY_TYPE.fullmatch(name) is None:
        raise ModelFileError(f"A saved model holds no arrays of {name!r}.")
    dtype = np.dtype("O" if name.startswith("O") else name)
    return dtype.newbyteorder(">") if order == ">" else dtype
