"""Finished parts of an evaluation in a folder: written at once or not at all, and read only if nothing has changed."""

from __future__ import annotations

import ast
import inspect
import io
import json
import os
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from hashlib import blake2b, sha1
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from deltavi._errors import DeltaviError, examples
from deltavi._types import State
from deltavi.io import filled_folder, require_folder, resolved, write_cells, write_file

if TYPE_CHECKING:
    from types import CodeType

    from anndata import AnnData

IDENTITY = "evaluation.json"
RUNS = "runs"
PREDICTIONS = "predictions"
WHAT = "The evaluation"


class RunFolder:
    """Finished parts of one evaluation, a JSON file each.

    Parameters
    ----------
    folder
        Folder of the parts; it is made.
    identity
        Settings that the parts depend on, as JSON can hold them. It is written once and compared afterwards.

    Raises
    ------
    DeltaviError
        If the folder belongs to another evaluation, is a file, or cannot be read or written.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, object]) -> None:
        self.path = resolved(folder, "folder")
        with filled_folder(self.path, WHAT):
            file = self.path / IDENTITY
            # before anything is made in the folder of something else
            if file.exists():
                _require_same(read_json(file), json.loads(json.dumps(identity)), self.path)
            for name in (RUNS, PREDICTIONS):
                require_folder(self.path / name)
            with filled_folder(self.path / RUNS, WHAT):
                if not file.exists():
                    write_json(file, identity)

    def anywhere(self) -> RunFolder:
        """The same folder for processes that work in another one."""
        same = copy(self)
        same.path = self.path.absolute()
        return same

    def read(self, key: tuple[str, ...], signature: object) -> State | None:
        """A finished part, or None.

        Raises
        ------
        DeltaviError
            If it was made with other settings.
        """
        file = self._file(key)
        if not file.exists():
            return None
        found = read_json(file)
        if not {"signature", "result"} <= found.keys():
            raise DeltaviError(f"{file} holds no result of an evaluation: move it away, or use another folder.")
        changed = differences(found["signature"], json.loads(json.dumps(signature)))
        if changed:
            raise DeltaviError(
                f"{self.path} holds results of {key[-1]!r} for {key[0]!r} under {key[1]!r} that were made with other "
                f"settings: {examples(changed)}. Use another folder, or another name for the method."
            )
        result: State = found["result"]
        return result

    def write(self, key: tuple[str, ...], signature: object, result: Mapping[str, object]) -> None:
        """Write a finished part."""
        write_json(self._file(key), {"key": key, "signature": signature, "result": result})

    def write_cells(self, key: tuple[str, ...], cells: AnnData) -> str:
        """Write predicted cells; returns the path within the folder."""
        name = f"{PREDICTIONS}/{file_name(key)}.h5ad"
        with filled_folder(self.path / PREDICTIONS, "The predicted cells"):
            write_file(
                self.path / name, lambda part: write_cells(part, cells, compression="gzip"), what="The predicted cells"
            )
        return name

    def _file(self, key: tuple[str, ...]) -> Path:
        return self.path / RUNS / f"{file_name(key)}.json"


def file_name(key: tuple[str, ...]) -> str:
    """A name that every file system can hold, readable and as unique as the key."""
    readable = "-".join(quote(part, safe=" ").replace(" ", "_") for part in key)
    return f"{readable[:80]}-{sha1('|'.join(map(quote, key)).encode()).hexdigest()[:10]}"


def write_json(path: Path, content: object) -> None:
    """Write JSON at once or not at all."""
    write_file(path, json_writer(content), what=WHAT)


def json_writer(content: object) -> Callable[[Path], object]:
    """Writes `content` as JSON to the path it is given."""
    return lambda part: part.write_text(json.dumps(content, indent=1))


def read_json(path: Path) -> State:
    """Content of a JSON file.

    Raises
    ------
    DeltaviError
        If it is damaged, cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise DeltaviError(f"{path} is damaged ({error}); delete it, and that part is computed again.") from error
    except OSError as error:
        raise DeltaviError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not isinstance(content, dict):
        raise DeltaviError(f"{path} holds a {type(content).__name__}, not what an evaluation writes: move it away.")
    return content


def _require_same(there: Mapping[str, object], now: Mapping[str, object], path: Path) -> None:
    before, scores = there.get("scores"), now.get("scores")
    if isinstance(before, list) and isinstance(scores, list) and before != scores:
        lacking = [name for name in scores if name not in before]
        raise DeltaviError(
            f"{path} holds an evaluation by another version of deltavi, which scored otherwise: "
            f"{f'it lacks {examples(lacking)}' if lacking else 'it has further scores'}. Use another folder; "
            "PerturbationEvaluation.load still reads this one."
        )
    changed = differences(there, now)
    if changed:
        raise DeltaviError(
            f"{path} holds an evaluation of other data or settings: {examples(changed)}. "
            "Use another folder, or the data and settings of that one."
        )


def differences(there: object, now: object, name: str = "") -> list[str]:
    """Describe the difference of two JSON values."""
    if isinstance(there, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*there, *now])
        return [d for key in keys for d in differences(there.get(key), now.get(key), f"{name} {key}".strip())]
    return [] if there == now or (there != there and now != now) else [f"{name} was {there!r} and is {now!r}"]


def data_fingerprint(adata: AnnData, columns: Mapping[str, Iterable[object]]) -> dict[str, object]:
    """Digest of the data that results depend on: shape, names, columns and every count.

    Parameters
    ----------
    adata
        Raw counts in X, CSR in canonical form.
    columns
        Name -> values of every cell.
    """
    counts = adata.X
    return {
        "n_cells": adata.n_obs,
        "n_genes": adata.n_vars,
        "sum of counts": float(counts.sum(dtype=np.float64)),
        "cells": _of_names(adata.obs_names),
        "genes": _of_names(adata.var_names),
        # widths of numbers depend on how a matrix came about
        "counts": _of_bytes(counts.data, counts.indices.astype(np.int32), counts.indptr.astype(np.int64)),
        **{name: _of_names(values) for name, values in columns.items()},
    }


def _of_names(values: Iterable[object]) -> str:
    return _of_bytes("\x1f".join(map(str, values)).encode())


def _of_bytes(*parts: np.ndarray | bytes) -> str:
    digest = blake2b(digest_size=12)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def described(value: object) -> object:
    """JSON form of a value, equal in another process if, and as far as possible only if, the value is."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): described(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: described(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        return f"array {array.shape} {array.dtype} {_of_bytes(array)}"
    return _described_code(value)


def _described_code(value: Any) -> object:
    """Classes and functions by name, functions also by a digest of their code."""
    name = getattr(value, "__qualname__", None)
    code = getattr(value, "__code__", None)
    if code is not None:
        return {
            "function": f"{value.__module__}.{name}",
            "code": _of_source(code) or _of_bytecode(code),
            "bound": [_described_plainly(bound) for bound in _bound(value)],
        }
    if isinstance(value, type):
        return f"{value.__module__}.{name}"
    state = {key: _described_plainly(part) for key, part in getattr(value, "__dict__", {}).items()}
    return {
        "type": f"{type(value).__module__}.{type(value).__qualname__}",
        "is": _without_address(repr(value)),
        "of": state,
    }


def _of_source(code: CodeType) -> str | None:
    """Digest of the source, which is the same under every Python, comments left out; None where it cannot be found."""
    try:
        text = _without_comments(textwrap.dedent(inspect.getsource(code)))
        # a lambda has no name: where several begin in one line, each is found for the other
        return _of_bytes((_only_lambda(text) if code.co_name == "<lambda>" else text).encode())
    except (OSError, TypeError, ValueError, SyntaxError, tokenize.TokenError):  # typed in, or a piece of an expression
        return None


def _without_comments(source: str) -> str:
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return "\n".join(lines).strip()


def _only_lambda(source: str) -> str:
    """Source of the lambda in a statement; ValueError where it has none or several."""
    (found,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Lambda))
    return ast.get_source_segment(source, found) or ""


def _of_bytecode(code: CodeType) -> str:
    """Digest of the bytecode of a function, which differs between minor versions of Python."""
    # functions within a function stand among its constants, with their places in memory
    constants = [_without_address(repr(constant)) for constant in code.co_consts]
    return _of_bytes(code.co_code, repr((constants, code.co_names)).encode())


def _described_plainly(value: object) -> object:
    """A value; of an object, which may change while it is used, its type alone."""
    plain = value is None or isinstance(value, bool | int | float | str | list | tuple | Mapping | np.generic | type)
    return (
        described(value)
        if plain or hasattr(value, "__array__")
        else f"{type(value).__module__}.{type(value).__qualname__}"
    )


def _bound(function: FunctionType) -> list[object]:
    """Defaults of a function and the values of its closure."""
    cells = function.__closure__ or ()
    return [
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *(c.cell_contents for c in cells),
    ]


def _without_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
