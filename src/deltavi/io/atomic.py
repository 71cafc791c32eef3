"""Files that are written at once or not at all, and are on the disk when the call returns."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict
from uuid import uuid4

from deltavi._errors import FileWriteError, Terminated, examples
from deltavi._signals import sigterm_raises
from deltavi.io._place import made, remove_files, require_folder, require_writable

# Errors of a folder that mean that it is not on the disk; others mean that folders cannot be synced there at all.
NOT_ON_DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


class Described(TypedDict):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


def write_file(
    path: Path, write: Callable[[Path], object], *, what: str = "The file", follow_links: bool = True
) -> None:
    """Let `write` write a file beside `path`, which takes that place once it is complete.

    Parameters
    ----------
    path, write, what
        See :func:`write_files`.
    follow_links
        True if a link at `path` stays and its target is replaced; False if the link itself is replaced.

    Raises
    ------
    FileWriteError
        If the disk is full or the folder read-only; the message names what is on the disk now.
    """
    write_files({path: write}, what=what, follow_links=follow_links)


def write_files(writers: Mapping[Path, Callable[[Path], object]], *, what: str, follow_links: bool = True) -> None:
    """Write several files as :func:`write_file` does: none takes its place before all are complete.

    Parameters
    ----------
    writers
        File -> function that writes it to a path, which has the same suffix.
    what
        Noun for the files, for the message.
    follow_links
        See :func:`write_file`.

    Raises
    ------
    FileWriteError
        If the disk is full or the folder read-only; the message names what is on the disk now.
    Terminated
        If SIGTERM comes while they are written; what was begun is removed.
    """
    begun = {path: _beside(Path(os.path.realpath(path)) if follow_links else path) for path in writers}
    is_switching = False
    try:
        with ended_by_sigterm(*begun) as require_undisturbed:
            for path, (_, part) in begun.items():
                writers[path](part)
                sync_file(part)
            require_undisturbed()
        is_switching = True
        for place, part in begun.values():
            os.replace(part, place)
        for folder in {place.parent for place, _ in begun.values()}:
            sync_folder(folder)
    except BaseException as error:
        new = [path for path, (_, part) in begun.items() if is_switching and not os.path.lexists(part)]
        left = remove_files(part for _, part in begun.values())
        if isinstance(error, OSError):
            rest = [path for path in begun if path not in new]
            raise not_written(FileWriteError, what, (rest or new)[0], error, new=new, left=left) from error
        raise


@contextmanager
def ended_by_sigterm(*places: Path) -> Iterator[Callable[[], None]]:
    """Let SIGTERM end the writing of files by an error, after which what was begun can be removed.

    Yields a function that raises the error if it was raised before and lost, as of functions that HDF5 calls.
    """
    message = f"SIGTERM ended the writing of {', '.join(map(str, places))}. What was there before is unchanged."
    with sigterm_raises(lambda: Terminated(message)) as again:
        yield again


def _beside(place: Path) -> tuple[Path, Path]:
    """`place`, and a hidden file that is filled beside it."""
    return place, place.with_name(f".{place.stem[:40]}-{uuid4().hex[:12]}{place.suffix}")


def not_written(
    kind: type[FileWriteError],
    what: str,
    path: Path,
    error: OSError,
    *,
    new: Sequence[Path] = (),
    left: Sequence[Path] = (),
) -> FileWriteError:
    """Build the error that names the reason, the state of the disk, and the way out.

    Parameters
    ----------
    kind
        Its class.
    what, path
        Noun for what was written, and its path.
    error
        Error of the system.
    new
        Paths whose new content has taken its place all the same.
    left
        Files begun that could not be removed.
    """
    reason = error.strerror or error
    if path in new:
        text = f"{what} in {path} is new and complete, but may not survive a power cut: {reason}. Save it again."
    else:
        text = (
            f"{what} could not be written to {path}: {reason}. Make room, or name another folder. "
            "What was there before is unchanged."
        )
        if new:
            text += f" Written anew were {examples(map(str, new))}."
    if left:
        text += f" What was begun could not be removed and can be deleted: {examples(map(str, left))}."
    refused = kind(text)
    # a text of the system as well would be shown in place of the message
    refused.errno = error.errno
    return refused


@contextmanager
def filled_folder(path: Path, what: str) -> Iterator[None]:
    """Make a folder for files that the block writes; an error of the system names `what` could not be written."""
    require_folder(path)
    try:
        require_writable(path)
        with made(path):
            yield
    except FileWriteError:
        raise
    except OSError as error:
        raise not_written(FileWriteError, what, path, error) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Flush a file that another library wrote to the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, if the system supports that."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # may be written and not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in NOT_ON_DISK:
            raise
    finally:
        os.close(descriptor)


def description_of(path: Path) -> Described:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def is_as_described(path: Path, described: object) -> bool:
    """True if `path` is a file with this size and SHA-256, unchanged since it was written."""
    try:
        if not path.is_file() or not isinstance(described, dict) or path.stat().st_size != described.get("size"):
            return False
        return bool(description_of(path)["sha256"] == described.get("sha256"))
    except OSError:
        return False
