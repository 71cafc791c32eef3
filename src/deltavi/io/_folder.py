"""Model folders are replaced file by file: new parts get names that are free, and the manifest switches to them.

Until the manifest is renamed into place the folder holds the former model, from then on the new one. Only then are the
former parts removed: those that the former manifest lists, if they still match it. Any other file stays.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

from deltavi._errors import ModelFileError, ModelWriteError
from deltavi.io._manifest import CELLS, DESCRIPTION, MANIFEST, TENSORS, manifest_text, part_file, read_manifest
from deltavi.io._place import made, remove_files, require_folder, require_space, require_writable
from deltavi.io.atomic import (
    Described,
    description_of,
    ended_by_sigterm,
    is_as_described,
    not_written,
    sync_file,
    sync_folder,
    write_synced,
)

Part = bytes | Callable[[Path], object]


def write_parts(folder: Path, parts: Mapping[str, Part], *, keep: Path | None = None) -> None:
    """Write a model folder, or replace the model in one; other files in it stay as they are.

    Parameters
    ----------
    folder
        New, empty, or with any files.
    parts
        Part -> its bytes, or a function that writes it to a path.
    keep
        A file that is in use, and stays even if it is of the former model.

    Raises
    ------
    ModelFileError
        If it is a file, or has a ``manifest.json`` of something else.
    ModelWriteError
        If the disk is full or the folder read-only; the message names what is on the disk now.
    Terminated
        If SIGTERM comes while it is written; what was begun is removed.
    """
    require_folder(folder, error=ModelFileError)
    writing = _Writing(folder)
    try:
        _require_own_manifest(folder)
        require_space(folder, sum(len(part) for part in parts.values() if isinstance(part, bytes)))
        with made(folder):
            former = writing.write(parts)
    except OSError as error:
        new = [folder] if writing.is_switched else []
        raise not_written(ModelWriteError, "The model", folder, error, new=new, left=writing.left) from error
    in_use = None if keep is None else os.path.realpath(keep)
    remove_files(
        path for path, described in former if os.path.realpath(path) != in_use and is_as_described(path, described)
    )


def require_replaceable(folder: Path) -> None:
    """Raise where a model cannot be written to `folder`, before anything is changed.

    Raises
    ------
    ModelFileError
        If it is a file, or has a ``manifest.json`` of something else.
    ModelWriteError
        If it cannot be written.
    """
    require_folder(folder, error=ModelFileError)
    try:
        _require_own_manifest(folder)
        require_writable(folder)
    except OSError as error:
        raise not_written(ModelWriteError, "The model", folder, error) from error


def _require_own_manifest(folder: Path) -> None:
    """Raise where ``manifest.json`` is not one of a model: browsers, web tools and others have files of that name."""
    file = folder / MANIFEST
    if not os.path.lexists(file):
        return
    try:
        read_manifest(folder)
    except ModelFileError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError):
                raise cause from None
            cause = cause.__cause__
        raise ModelFileError(
            f"{file} would be replaced, and is not the manifest of a model that this version can read: {error} "
            "Nothing was changed: move that file away, or name another folder."
        ) from error


class _Writing:
    """Files begun for one model.

    Parameters
    ----------
    folder
        Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = uuid4().hex[:12]
        self.begun: list[Path] = []
        self.left: list[Path] = []
        self.manifest = folder / f".manifest-{self.number}.json"
        self.is_switched = False

    def write(self, parts: Mapping[str, Part]) -> list[tuple[Path, object]]:
        """Write the parts, then switch the manifest; returns the former parts, each with its size and checksum."""
        is_switching = False
        try:
            # a name that a former model had could be removed by another process that replaced that model
            keeps_names = not os.path.lexists(self.folder / MANIFEST)
            with ended_by_sigterm(self.folder) as require_undisturbed:
                files = {part: self._file(part, keeps_names) for part in parts}
                described = {part: _filled(file, parts[part]) for part, file in files.items()}
                write_synced(self.manifest, manifest_text(described, files))
                sync_folder(self.folder)
                require_undisturbed()
            former = _listed(self.folder)
            is_switching = True
            os.replace(self.manifest, self.folder / MANIFEST)
            sync_folder(self.folder)
        except BaseException:
            # even an interrupted switch took place if the file that was to be renamed is gone
            self.is_switched = is_switching and not os.path.lexists(self.manifest)
            if not self.is_switched:
                self.left = remove_files([*self.begun, self.manifest])
            raise
        return former

    def _file(self, part: str, keeps_name: bool) -> Path:
        """An empty file for a part, under a name that is free."""
        stem, suffix = os.path.splitext(part)
        for name in (part, f"{stem}-{self.number}{suffix}")[not keeps_name :]:
            path = self.folder / name
            if os.path.lexists(path):
                continue
            self.begun.append(path)
            try:
                path.open("xb").close()
            except FileExistsError:  # of another process, since the line before
                self.begun.remove(path)
                continue
            return path
        raise FileExistsError(f"{path.name} exists")


def _filled(file: Path, part: Part) -> Described:
    """Write a part down to the disk; return its size and checksum."""
    if not isinstance(part, bytes):
        part(file)
        sync_file(file)
        return description_of(file)
    write_synced(file, part)
    return {"size": len(part), "sha256": hashlib.sha256(part).hexdigest()}


def _listed(folder: Path) -> list[tuple[Path, object]]:
    """Files that the manifest in `folder` lists, each with its size and checksum; none where there is no manifest."""
    try:
        manifest = read_manifest(folder)
        listed = [part for part in (TENSORS, DESCRIPTION, CELLS) if part in manifest["parts"]]
        return [(part_file(folder, part, manifest), manifest["parts"][part]) for part in listed]
    except (ModelFileError, TypeError):
        return []
