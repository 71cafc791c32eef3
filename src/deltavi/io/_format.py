"""Model folders: tensors in safetensors, the rest in JSON, a SHA-256 of each part; nothing is ever unpickled.

A folder holds ``tensors.safetensors``, ``model.json`` and ``manifest.json``; the manifest names the format, its
version, and size and checksum of the other two. A folder is written beside its destination and renamed into
place, so that an interrupted save leaves the old one intact.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from deltavi._errors import ModelFileError

FORMAT = "deltavi-model"
FORMAT_VERSION = 1
TENSORS, DESCRIPTION, MANIFEST = "tensors.safetensors", "model.json", "manifest.json"
MANIFEST_LIMIT = 1_000_000
# Names of arrays of the description that lie among the tensors.
ARRAY_PREFIX = "description/"


def write_model(folder: str | os.PathLike[str], tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    """Write a model folder in one step; an existing one is replaced only once the new one is complete."""
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
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
    parts[MANIFEST] = json.dumps(manifest, indent=2).encode()
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, data in parts.items():
            _write_synced(scratch / name, data)
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
    """Rename `scratch` to `target`, moving an existing folder aside and back if the rename fails."""
    if not target.exists():
        scratch.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent)) / target.name
    target.rename(aside)
    try:
        scratch.rename(target)
    except OSError:
        aside.rename(target)
        raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)


def read_model(folder: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Verify and read a model folder.

    Returns
    -------
    Tensors by name, and the description.

    Raises
    ------
    ModelFileError
        If a part is missing, has another size or checksum than the manifest says, holds NaN or infinite
        weights, or was written by a newer format.
    """
    path = Path(folder)
    manifest = _manifest(path)
    parts = {name: _verified(path / name, manifest) for name in (TENSORS, DESCRIPTION)}
    try:
        tensors = load_tensors(parts[TENSORS])
        description = decode(json.loads(parts[DESCRIPTION]), tensors)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{path}: tensor {name!r} holds NaN or infinite values.")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(ARRAY_PREFIX)}
    return weights, description


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise ModelFileError(f"{path} is not a saved deltavi model: {MANIFEST} is missing.")
    try:
        if file.stat().st_size > MANIFEST_LIMIT:
            raise ValueError("it is far too large")
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        name, version, _ = manifest["format"], int(manifest["format_version"]), manifest["parts"]
    except (ValueError, KeyError, TypeError) as error:
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
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{file.parent / MANIFEST} does not describe {file.name}.") from error
    if not file.is_file():
        raise ModelFileError(f"{file} is missing.")
    if file.stat().st_size != size:
        raise ModelFileError(f"{file} has {file.stat().st_size} bytes, expected {size}: it is truncated or changed.")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ModelFileError(f"{file} does not match its SHA-256: it is damaged.")
    return data


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
        return {decode(k, tensors): decode(v, tensors) for k, v in value["__dict__"]}
    if "__tuple__" in value:
        return tuple(decode(v, tensors) for v in value["__tuple__"])
    if "__float__" in value:
        return float(value["__float__"])
    if "__tensor__" in value:
        return (tensors or {})[value["__tensor__"]].numpy()
    if "__array__" in value:
        array = np.empty(len(value["values"]), dtype=object)
        array[:] = decode(value["values"], tensors)
        return array.reshape(value["shape"]).astype(value["__array__"])
    if "__frame__" in value:
        columns, index, arrays, name = decode(value["__frame__"], tensors)
        return pd.DataFrame(dict(zip(columns, arrays, strict=True)), index=pd.Index(index, name=name))
    raise ModelFileError(f"unknown entry {next(iter(value), None)!r} in a model description")
