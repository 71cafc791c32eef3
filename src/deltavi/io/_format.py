"""Model folders: tensors in safetensors, the rest in JSON, a SHA-256 of each part; nothing is ever unpickled.

A folder holds ``tensors.safetensors``, ``model.json`` and ``manifest.json``; the manifest names the format, its
version, and size and checksum of the other two. A folder is written beside its destination and renamed into
place, so that an interrupted save leaves the old one intact.

Checksums show damage, not intent: who writes a file can write its checksums. What passes them is read as if a
stranger had written it, never runs, takes memory in proportion to the size of the file, and fails as `ModelFileError`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from deltavi._compat import SAVE_KEYS
from deltavi._errors import ModelFileError, ModelWriteError, examples

FORMAT = "deltavi-model"
FORMAT_VERSION = 1
TENSORS, DESCRIPTION, MANIFEST = "tensors.safetensors", "model.json", "manifest.json"
MANIFEST_LIMIT = 1_000_000
# Names of arrays of the description that lie among the tensors.
ARRAY_PREFIX = "description/"
# Types of the arrays that are written out; the name of another could ask for any amount of memory per value.
INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
ARRAY_TYPES = {"object", "bool", *INTEGERS, "float16", "float32", "float64"}
# What parsers say of a file that a stranger made up: RecursionError of nesting, OverflowError of Infinity for a size
UNREADABLE = (SafetensorError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError)


def write_model(
    folder: str | os.PathLike[str],
    tensors: dict[str, torch.Tensor],
    description: dict[str, Any],
    *,
    also: Callable[[Path], None] | None = None,
) -> None:
    """Write a model folder in one step; an existing one is replaced only once the new one is complete.

    Parameters
    ----------
    folder
        Folder to create or replace.
    tensors, description
        Weights by name, and all else: plain Python, NumPy arrays and pandas frames.
    also
        Writes further files into the folder that it is given.

    Raises
    ------
    ModelWriteError
        If the disk is full or the folder read-only.
    """
    target = Path(folder)
    parts = _parts(tensors, description)
    try:
        _write_beside(target, parts, also)
    except OSError as error:
        raise _not_written(target, error) from error


def _parts(tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> dict[str, bytes]:
    """Content of every file by name, the manifest last."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(encode(description, stored), allow_nan=False)
    parts = {TENSORS: save_tensors(stored), DESCRIPTION: text.encode()}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "parts": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()
        },
    }
    return {**parts, MANIFEST: json.dumps(manifest, indent=2).encode()}


def _write_beside(target: Path, parts: dict[str, bytes], also: Callable[[Path], None] | None) -> None:
    """Write a folder beside `target`, and let it take that place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, data in parts.items():
            _write_synced(scratch / name, data)
        if also is not None:
            also(scratch)
        scratch.chmod(0o755)
        _replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(scratch: Path, target: Path) -> None:
    """Rename `scratch` to `target`, moving an existing folder aside, and back if that fails."""
    if not target.exists():
        scratch.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=_aside(target), dir=target.parent)) / target.name
    try:
        target.rename(aside)
        scratch.rename(target)
    except BaseException:
        if not target.exists():
            aside.rename(target)
        raise
    finally:
        # where nothing could be put back, what was moved aside is all there is
        if target.exists():
            shutil.rmtree(aside.parent, ignore_errors=True)


def _aside(target: Path) -> str:
    """How folders begin that a former model waits in while its successor takes its place."""
    return f".{target.name}-old-"


def _surviving(path: Path) -> Path:
    """`path`, or the former model where a process was killed between moving that aside and replacing it."""
    if path.exists() or not path.parent.is_dir():
        return path
    left = [folder / path.name for folder in path.parent.iterdir() if folder.name.startswith(_aside(path))]
    return max((model for model in left if model.is_dir()), key=lambda model: model.stat().st_mtime, default=path)


def _not_written(target: Path, error: OSError) -> ModelWriteError:
    """Error that names the folder, what is wrong and the way out."""
    refused = ModelWriteError(
        f"The model could not be written to {target}: {error.strerror or error}. Make room, or name another folder. "
        "What was there before is unchanged."
    )
    # a text of the system as well would be shown in place of the message
    refused.errno = error.errno
    return refused


def require_replaceable(folder: str | os.PathLike[str]) -> None:
    """Raise where a model may not be written to `folder` again and again: something else would be lost, or it cannot.

    Parameters
    ----------
    folder
        New, empty, or the folder of a model.

    Raises
    ------
    ModelFileError
        If it is a file, or a folder that holds anything but a model.
    ModelWriteError
        If nothing can be written beside it.
    """
    target = Path(folder)
    names = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    foreign = [name for name in names if name not in (TENSORS, DESCRIPTION, MANIFEST)]
    if foreign or (target.exists() and not target.is_dir()):
        what = f"holds {examples(foreign)}" if foreign else "is a file"
        raise ModelFileError(f"{target} {what}, which a model written there would replace: name a folder of its own.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent).cleanup()
    except OSError as error:
        raise _not_written(target, error) from error


def read_model(folder: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
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
    path = _surviving(Path(folder))
    manifest = _manifest(path)
    parts = {name: _verified(path / name, manifest) for name in (TENSORS, DESCRIPTION)}
    try:
        tensors = load_tensors(parts[TENSORS])
        description = decode(_parsed(parts[DESCRIPTION]), tensors)
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


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        hint = " import_scvi reads models of scvi-tools." if (path / SAVE_KEYS.MODEL_FNAME).is_file() else ""
        raise ModelFileError(f"{path} is not a saved deltavi model: {MANIFEST} is missing.{hint}")
    try:
        if file.stat().st_size > MANIFEST_LIMIT:
            raise ValueError("it is far too large")
        manifest: dict[str, Any] = _parsed(_content(file, MANIFEST_LIMIT))
        name, version, _ = manifest["format"], manifest["format_version"], manifest["parts"]
        # True is no version, nor is 1.0
        if type(version) is not int or version < 1:
            raise ValueError(f"{version!r} is no format version")
    except UNREADABLE as error:
        raise ModelFileError(f"{file} is damaged: {error}") from error
    if name != FORMAT:
        raise ModelFileError(f"{file} describes {name!r}, not a {FORMAT!r}.")
    if version > FORMAT_VERSION:
        raise ModelFileError(f"{path} has format {version}; this deltavi reads up to {FORMAT_VERSION}: upgrade it.")
    return manifest


def _verified(file: Path, manifest: dict[str, Any]) -> bytes:
    try:
        expected = manifest["parts"][file.name]
        size, checksum = int(expected["size"]), str(expected["sha256"])
    except UNREADABLE as error:
        raise ModelFileError(f"{file.parent / MANIFEST} does not describe {file.name}.") from error
    if not file.is_file():
        raise ModelFileError(f"{file} is missing.")
    if file.stat().st_size != size:
        raise ModelFileError(f"{file} has {file.stat().st_size} bytes, expected {size}: it is truncated or changed.")
    data = _content(file, size)
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ModelFileError(f"{file} does not match its SHA-256: it is damaged.")
    return data


def _content(file: Path, size: int) -> bytes:
    """What `file` holds, and no more than a byte over `size`, even if it has grown since."""
    try:
        with file.open("rb") as opened:
            return opened.read(size + 1)
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error}") from error


def _parsed(data: bytes) -> Any:
    """JSON as :func:`write_model` writes it: UTF-8, no key twice, no NaN."""
    return json.loads(data.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)


def _without_repeats(pairs: Any) -> dict[Any, Any]:
    """Dictionary of `pairs`; where a key repeats, readers differ in which they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def encode(value: Any, tensors: dict[str, torch.Tensor] | None = None) -> Any:
    """JSON form of plain Python, NumPy arrays and pandas frames; anything else is refused.

    Parameters
    ----------
    value
        What to encode.
    tensors
        Receives floating-point arrays, which JSON would blow up; without it they are written out.
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
        return [encode(v, tensors) for v in value]
    if isinstance(value, np.generic):
        return encode(value.item(), tensors)
    if isinstance(value, float) and not np.isfinite(value):
        return {"__float__": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save a {type(value).__name__}: {value!r}")


def _encode_array(value: np.ndarray, tensors: dict[str, torch.Tensor] | None) -> Any:
    if tensors is not None and value.dtype.kind == "f" and np.isfinite(value).all():
        name = f"{ARRAY_PREFIX}{len(tensors)}"
        tensors[name] = torch.from_numpy(np.array(value, order="C"))
        return {"__tensor__": name}
    kind = "object" if value.dtype.kind in "OUST" else str(value.dtype)
    return {"__array__": kind, "shape": list(value.shape), "values": encode(value.reshape(-1).tolist())}


def decode(value: Any, tensors: dict[str, torch.Tensor] | None = None) -> Any:
    """Inverse of :func:`encode`."""
    if isinstance(value, list):
        return [decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "__dict__" in value:
        return _without_repeats([(decode(k, tensors), decode(v, tensors)) for k, v in _listed(value["__dict__"])])
    if "__tuple__" in value:
        return tuple(decode(v, tensors) for v in _listed(value["__tuple__"]))
    if "__float__" in value:
        return float(value["__float__"])
    if "__tensor__" in value:
        tensor = (tensors or {})[value["__tensor__"]]
        if not tensor.is_floating_point():
            raise ModelFileError(f"tensor {value['__tensor__']!r} holds no floating-point numbers")
        return tensor.numpy()
    if "__array__" in value:
        return _decode_array(value["__array__"], _listed(value["shape"]), _listed(value["values"]))
    if "__frame__" in value:
        columns, index, arrays, name = decode(value["__frame__"], tensors)
        return pd.DataFrame(dict(zip(columns, arrays, strict=True)), index=pd.Index(index, name=name))
    raise ModelFileError(f"unknown entry {next(iter(value), None)!r} in a model description")


def _decode_array(kind: str, shape: list[int], values: list[Any]) -> np.ndarray:
    if kind not in ARRAY_TYPES or any(n < 0 for n in shape):
        raise ModelFileError(f"a model description holds no arrays of {kind!r} with shape {shape}")
    array = np.empty(len(values), dtype=object)
    array[:] = decode(values)
    return array.reshape(shape).astype(kind)


def _listed(value: Any) -> list[Any]:
    """`value`, which must be a list: the keys of a dictionary or the letters of a text would pass for one."""
    if not isinstance(value, list):
        raise ModelFileError(f"a list is expected in a model description, not {value!r}")
    return value
