"""Manifest of a model folder: its files, with their names, sizes and checksums."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from safetensors import SafetensorError

from deltavi._compat import SAVE_KEYS
from deltavi._errors import ModelFileError
from deltavi.io.atomic import Described

FORMAT = "deltavi-model"
# 2: whole numbers and truths of the description are among the tensors
FORMAT_VERSION = 2
TENSORS, DESCRIPTION, CELLS, MANIFEST = "tensors.safetensors", "model.json", "adata.h5ad", "manifest.json"
MANIFEST_LIMIT = 1_000_000
# Exceptions that parsers raise on malicious input: RecursionError of nesting, OverflowError of Infinity for a size
UNREADABLE = (SafetensorError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError)


Key = TypeVar("Key", bound=Hashable)


class Manifest(TypedDict, total=False):
    """Content of a manifest; its values are checked where they are read."""

    format: str
    format_version: int
    parts: dict[str, Described]
    files: dict[str, str]


def manifest_text(described: Mapping[str, Described], files: dict[str, Path]) -> bytes:
    """Manifest of a folder.

    Parameters
    ----------
    described
        Part -> size and SHA-256.
    files
        Part -> file.
    """
    names = {part: path.name for part, path in files.items()}
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "parts": described, "files": names}
    return json.dumps(manifest, indent=2).encode()


def read_manifest(path: Path) -> Manifest:
    """Manifest of the folder `path`, of a version that can be read."""
    file = path / MANIFEST
    if not file.is_file():
        hint = " import_scvi reads models of scvi-tools." if (path / SAVE_KEYS.MODEL_FNAME).is_file() else ""
        raise ModelFileError(f"{path} is not a saved deltavi model: {MANIFEST} is missing.{hint}")
    try:
        if file.stat().st_size > MANIFEST_LIMIT:
            raise ValueError("it is far too large")
        manifest: Manifest = parsed(content(file, MANIFEST_LIMIT))
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


def part_file(path: Path, part: str, manifest: Manifest) -> Path:
    """File of a part: its own name, or that with a number where another file had it when the folder was written.

    Raises
    ------
    ModelFileError
        If the manifest, which may be untrusted, names another file.
    """
    files = manifest.get("files", {})
    name = files.get(part, part) if isinstance(files, dict) else None
    stem, suffix = os.path.splitext(part)
    if not isinstance(name, str) or not re.fullmatch(rf"{re.escape(stem)}(-[0-9a-f]+)?{re.escape(suffix)}", name):
        raise ModelFileError(f"{path / MANIFEST} names {name!r} as its {part}: it is damaged.")
    return path / name


def size_and_checksum(path: Path, part: str, manifest: Manifest) -> tuple[int, str]:
    """Size and SHA-256 that a part should have."""
    try:
        expected = manifest["parts"][part]
        return int(expected["size"]), str(expected["sha256"])
    except UNREADABLE as error:
        raise ModelFileError(f"{path / MANIFEST} does not describe {part}.") from error


def content(file: Path, size: int) -> bytes:
    """Bytes of `file`, at most one more than `size`, even if it has grown since."""
    try:
        with file.open("rb") as opened:
            return opened.read(size + 1)
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error}") from error


def parsed(data: bytes) -> Any:
    """Parse JSON of the form that is written here: UTF-8, no key twice, no NaN."""
    return json.loads(data.decode(), object_pairs_hook=without_repeats, parse_constant=_refuse_constant)


def without_repeats(pairs: Sequence[tuple[Key, object]]) -> dict[Key, object]:
    """Dictionary of `pairs`; a repeated key is refused, since readers differ in the value they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
