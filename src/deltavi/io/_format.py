"""Model folders: tensors in safetensors, the rest in JSON, a SHA-256 of each part; nothing is ever unpickled.

A folder holds ``tensors.safetensors``, ``model.json`` and ``manifest.json``, and ``adata.h5ad`` where the cells were
saved, too; the manifest names the format, its version, and file, size and checksum of the others. It is written last.

Checksums detect damage, not intent: an attacker can write valid checksums. Files that pass them are read as untrusted:
nothing in them is run, memory is bounded by the size of the file, and a fault is a `ModelFileError`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from deltavi._errors import ModelFileError
from deltavi._types import State
from deltavi.io._folder import Part, write_parts
from deltavi.io._manifest import (
    CELLS,
    DESCRIPTION,
    MANIFEST,
    TENSORS,
    UNREADABLE,
    Manifest,
    content,
    parsed,
    part_file,
    read_manifest,
    size_and_checksum,
    without_repeats,
)
from deltavi.io._place import PathLike, resolved
from deltavi.io.atomic import is_as_described

__all__ = ["DESCRIPTION", "MANIFEST", "TENSORS", "decode", "encode", "read_model", "saved_cells", "write_model"]

# Prefix of the arrays of the description that are stored among the tensors.
ARRAY_PREFIX = "description/"
# Values that JSON holds as they are, by type; infinite numbers are none.
AS_IN_JSON = frozenset({str, int, bool, type(None)})
READ_AS_THEY_ARE = AS_IN_JSON | {float}
# Types of the arrays that are written out; other types could take any amount of memory per value.
INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
STORED_TYPES = {"bool", *INTEGERS, "float16", "float32", "float64"}
ARRAY_TYPES = {"object", *STORED_TYPES}
# Times that a folder is read again because another process replaced the model meanwhile.
TRIES = 20


def write_model(
    folder: PathLike,
    tensors: dict[str, torch.Tensor],
    description: State,
    *,
    cells: Callable[[Path], object] | None = None,
    keep: Path | None = None,
) -> None:
    """Write a model folder; the model in an existing one is replaced at once, and other files in it stay.

    Parameters
    ----------
    folder
        Folder to create, or to write to.
    tensors, description
        Weights by name, and all else: plain Python, NumPy arrays and pandas frames.
    cells
        Writes the cells that are saved with the model to the h5ad file that it is given.
    keep
        A file that is in use, and stays even if it is of the former model.

    Raises
    ------
    ModelFileError
        If the folder is a file, or has a ``manifest.json`` of something else.
    ModelWriteError
        If the disk is full or the folder read-only.
    """
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(encode(description, stored), allow_nan=False)
    parts: dict[str, Part] = {TENSORS: save_tensors(stored), DESCRIPTION: text.encode()}
    if cells is not None:
        parts[CELLS] = cells
    write_parts(resolved(folder, "The folder", error=ModelFileError), parts, keep=keep)


def surviving(path: Path) -> Path:
    """`path`, or the former model where versions that moved that aside were killed before they replaced it."""
    if path.exists() or not path.parent.is_dir():
        return path
    prefix = f".{path.name}-old-"
    left = [folder / path.name for folder in path.parent.iterdir() if folder.name.startswith(prefix)]
    return max((model for model in left if model.is_dir()), key=lambda model: model.stat().st_mtime, default=path)


def read_model(folder: PathLike) -> tuple[dict[str, torch.Tensor], State]:
    """Verify and read a model folder.

    Returns
    -------
    Tensors by name, and the description.

    Raises
    ------
    ModelFileError
        If a part is missing, has another size or checksum than the manifest says, holds NaN or infinite
        weights, cannot be parsed, or was written by a newer format.
    """
    path = surviving(resolved(folder, "The folder", error=ModelFileError))
    parts = _verified_parts(path)
    try:
        tensors = load_tensors(parts[TENSORS])
        description = decode(parsed(parts[DESCRIPTION]), tensors)
        broken = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    except UNREADABLE as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if broken:
        raise ModelFileError(f"{path}: tensor {broken[0]!r} holds NaN or infinite values.")
    if not isinstance(description, dict):
        raise ModelFileError(f"{path / DESCRIPTION} holds a {type(description).__name__}, not a description.")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(ARRAY_PREFIX)}
    return weights, description


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _verified_parts(path: Path) -> dict[str, bytes]:
    """Content of the parts, all of one model though another process may be replacing it."""
    manifest = read_manifest(path)
    for _ in range(TRIES):
        try:
            return {part: _verified(path, part, manifest) for part in (TENSORS, DESCRIPTION)}
        except ModelFileError:
            before, manifest = manifest, read_manifest(path)
            if manifest == before:
                raise
    raise ModelFileError(f"{path} is replaced by another process again and again: load it later.")


def _verified(path: Path, part: str, manifest: Manifest) -> bytes:
    size, checksum = size_and_checksum(path, part, manifest)
    file = part_file(path, part, manifest)
    if not file.is_file():
        raise ModelFileError(f"{file} is missing.")
    try:
        found = file.stat().st_size
    except OSError as error:  # another process has removed it since
        raise ModelFileError(f"{file} cannot be read: {error}") from error
    if found != size:
        raise ModelFileError(f"{file} has {found} bytes, expected {size}: it is truncated or changed.")
    data = content(file, size)
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ModelFileError(f"{file} does not match its SHA-256: it is damaged.")
    return data


def saved_cells(folder: PathLike) -> Path | None:
    """File of the cells that were saved with the model, if they were.

    A file of that name counts only if the manifest lists it; with older ones, which list no files, it always counts.

    Raises
    ------
    ModelFileError
        If it is not the one that was saved.
    """
    path = surviving(resolved(folder, "The folder", error=ModelFileError))
    manifest = read_manifest(path)
    if "files" not in manifest:
        return path / CELLS if (path / CELLS).is_file() else None
    for _ in range(TRIES):
        if CELLS not in manifest["parts"]:
            return None
        file = part_file(path, CELLS, manifest)
        if is_as_described(file, manifest["parts"][CELLS]):
            return file
        before, manifest = manifest, read_manifest(path)
        if manifest == before:
            break
    state = "does not match its SHA-256: it was changed" if file.is_file() else "is missing"
    raise ModelFileError(f"{file} {state} since the model was saved. Pass the cells to attach: load(..., adata).")


def encode(value: object, tensors: dict[str, torch.Tensor] | None = None) -> object:
    """JSON form of plain Python, NumPy arrays and pandas frames; anything else is refused.

    Parameters
    ----------
    value
        Value to encode.
    tensors
        Receives arrays of numbers and truths, which would be large in JSON; without it they are written out.
    """
    if isinstance(value, dict):
        return {"__dict__": [[encode(k, tensors), encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, pd.DataFrame):
        columns = [value[name].to_numpy() for name in value]
        table = [list(value.columns), list(value.index), columns, value.index.name]
        return {"__frame__": encode(table, tensors)}
    if isinstance(value, np.ndarray):
        return _encode_array(value, tensors)
    if isinstance(value, tuple):
        return {"__tuple__": [encode(v, tensors) for v in value]}
    if isinstance(value, list):
        # a list of one entry per cell is no work
        return value if AS_IN_JSON.issuperset(map(type, value)) else [encode(v, tensors) for v in value]
    if isinstance(value, np.generic):
        return encode(value.item(), tensors)
    if isinstance(value, float) and not np.isfinite(value):
        return {"__float__": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save a {type(value).__name__}: {value!r}")


def _encode_array(value: np.ndarray, tensors: dict[str, torch.Tensor] | None) -> object:
    if tensors is not None and _is_stored(value):
        name = f"{ARRAY_PREFIX}{len(tensors)}"
        # safetensors knows the order of bytes of this processor only
        tensors[name] = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
        return {"__tensor__" if value.dtype.kind == "f" else "__whole__": name}
    kind = "object" if value.dtype.kind in "OUST" else value.dtype.name
    return {"__array__": kind, "shape": list(value.shape), "values": encode(value.reshape(-1).tolist())}


def _is_stored(value: np.ndarray) -> bool:
    """True of an array that becomes a tensor: of finite real numbers that JSON can hold, too, or of truths."""
    return value.dtype.name in STORED_TYPES and (value.dtype.kind != "f" or bool(np.isfinite(value).all()))


def decode(value: object, tensors: dict[str, torch.Tensor] | None = None) -> Any:
    """Inverse of :func:`encode`."""
    if isinstance(value, list):
        return value if READ_AS_THEY_ARE.issuperset(map(type, value)) else [decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "__dict__" in value:
        return without_repeats([(decode(k, tensors), decode(v, tensors)) for k, v in _listed(value["__dict__"])])
    if "__tuple__" in value:
        return tuple(decode(v, tensors) for v in _listed(value["__tuple__"]))
    if "__float__" in value:
        return float(value["__float__"])
    if "__tensor__" in value:
        tensor = (tensors or {})[value["__tensor__"]]
        if not tensor.is_floating_point():
            raise ModelFileError(f"tensor {value['__tensor__']!r} holds no floating-point numbers")
        return tensor.numpy()
    if "__whole__" in value:
        return _whole(value["__whole__"], tensors or {})
    if "__array__" in value:
        return _decode_array(value["__array__"], _listed(value["shape"]), _listed(value["values"]))
    if "__frame__" in value:
        columns, index, arrays, name = decode(value["__frame__"], tensors)
        return pd.DataFrame(dict(zip(columns, arrays, strict=True)), index=pd.Index(index, name=name))
    raise ModelFileError(f"unknown entry {next(iter(value), None)!r} in a model description")


def _whole(name: str, tensors: dict[str, torch.Tensor]) -> np.ndarray:
    if tensors[name].is_floating_point() or tensors[name].is_complex():
        raise ModelFileError(f"tensor {name!r} holds no whole numbers and no truths")
    return tensors[name].numpy()


def _decode_array(kind: str, shape: list[int], values: list[object]) -> np.ndarray:
    if kind not in ARRAY_TYPES or any(n < 0 for n in shape):
        raise ModelFileError(f"a model description holds no arrays of {kind!r} with shape {shape}")
    array = np.empty(len(values), dtype=object)
    array[:] = decode(values)
    return array.reshape(shape).astype(kind)


def _listed(value: object) -> list[Any]:
    """`value`, which must be a list: the keys of a dictionary or the letters of a text would pass for one."""
    if not isinstance(value, list):
        raise ModelFileError(f"a list is expected in a model description, not {value!r}")
    return value
