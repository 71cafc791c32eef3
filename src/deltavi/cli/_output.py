"""Output folder of a command: tested before the work begins, and without replacing files of others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import deltavi
from deltavi._errors import DeltaviError
from deltavi.io import description_of, write_file, write_synced

# Names of the files that a command wrote, with checksums to detect changes.
MANIFEST = "demo.json"
WRITER = "deltavi demo"
FOLDER = "folder"
PROBE_BYTES = 1 << 16
# A model, a figure and tables; a folder is written beside the one it replaces.
SMALLEST_SPACE = 32 << 20


class OutputFolderError(DeltaviError):
    """The output folder cannot be written to, or holds files of others."""


class OutputFolder:
    """A folder to write into.

    Parameters
    ----------
    path
        Path of the folder.
    names
        Files and folders that will be written.

    Raises
    ------
    OutputFolderError
        If one of `names` is there and was not written by this command, or was changed since.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self._ours = _read_manifest(path / MANIFEST)
        foreign = [name for name in names if not self._is_replaceable(name)]
        if foreign:
            raise OutputFolderError(
                f"{path / foreign[0]} is there and was not written by {WRITER}, or was changed since. Move it, or name "
                "another folder with --out."
            )

    def require_space(self, n_bytes: int) -> None:
        """Raise if the file system has less space than `n_bytes` beside the other files to write."""
        needed, free = n_bytes + SMALLEST_SPACE, shutil.disk_usage(self.path).free
        if free < needed:
            raise OutputFolderError(
                f"{self.path} has room for {free >> 20} MB, and about {needed >> 20} MB are needed. Make room, or name "
                "another folder with --out."
            )

    def write(self, name: str, write: Callable[[Path], object]) -> Path:
        """Write a file beside its place by `write`, and move it there when it is complete."""

        def recorded(part: Path) -> None:
            write(part)
            # both belong to the command until the new one is in its place
            self._record(name, [*self._ours.get(name, []), _digest(part)])

        write_file(self.path / name, recorded, follow_links=False)
        self._record(name, self._ours[name][-1:])
        return self.path / name

    def write_folder(self, name: str, write: Callable[[Path], object]) -> Path:
        """Write a folder by `write`, which replaces its own files."""
        self._record(name, [FOLDER])
        write(self.path / name)
        return self.path / name

    def _is_replaceable(self, name: str) -> bool:
        place, ours = self.path / name, self._ours.get(name, [])
        if not os.path.lexists(place):
            return True
        if FOLDER in ours:
            return place.is_dir() and not place.is_symlink()
        return place.is_file() and bool(ours) and _digest(place) in ours

    def _record(self, name: str, digests: list[str]) -> None:
        self._ours[name] = digests
        content = {"written by": WRITER, "deltavi_version": deltavi.__version__, "files": self._ours}
        text = json.dumps(content, indent=1)
        write_file(self.path / MANIFEST, lambda part: part.write_text(text, encoding="utf-8"), what="The list of files")


@contextmanager
def output_folder(path: Path, names: Sequence[str]) -> Iterator[OutputFolder]:
    """Make a folder and test that it is writable; a new one that stays empty is removed again.

    Parameters
    ----------
    path
        Path of the folder.
    names
        Files and folders that will be written.

    Raises
    ------
    OutputFolderError
        If it cannot be made or written to, or holds files of others under those names.
    """
    absent = _absent(path)
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
            _probe(path)
        except (OSError, ValueError) as error:
            raise OutputFolderError(
                f"{path} cannot be written to: {_why(path, error)} Name another folder with --out."
            ) from error
        yield OutputFolder(path, names)
    finally:
        _remove_empty(absent)


def _absent(path: Path) -> list[Path]:
    """Folders that have to be made, the innermost first."""
    return [place for place in (path, *path.parents) if not os.path.lexists(place)]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # it holds something, or was never made
            return


def _probe(folder: Path) -> None:
    """Write a file and remove it."""
    probe = folder / f".part-{uuid4().hex}"
    try:
        write_synced(probe, bytes(PROBE_BYTES))
    finally:
        probe.unlink(missing_ok=True)


def _why(path: Path, error: OSError | ValueError) -> str:
    """Reason of the system, or the file that stands in the way."""
    for place in (path, *path.parents):
        try:
            if place.exists() and not place.is_dir():
                return f"{place} is a file."
        except OSError:  # the name is too long
            continue
    return f"{getattr(error, 'strerror', None) or error}."


def _digest(path: Path) -> str:
    return str(description_of(path)["sha256"])


def _read_manifest(path: Path) -> dict[str, list[str]]:
    """Files that this command wrote into the folder.

    Raises
    ------
    OutputFolderError
        If there is a file of that name that it did not write.
    """
    if not os.path.lexists(path):
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["written by"] == WRITER:
            return {str(name): [str(digest) for digest in digests] for name, digests in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise OutputFolderError(
        f"{path} was not written by {WRITER}, which keeps its list of files there. Move it, or name "
        "another folder with --out."
    )
