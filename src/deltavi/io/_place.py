"""Paths that a user names: read in one way, looked at before anything is written, made and cleared with care."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deltavi._errors import DeltaviError

PathLike = str | os.PathLike[str]


def resolved(path: object, name: str, *, error: type[DeltaviError] = DeltaviError) -> Path:
    """`path` with the home folder in place of ``~``.

    Parameters
    ----------
    path
        A text or a path.
    name
        Argument that it comes from, for the message.
    error
        Class of the error.

    Raises
    ------
    DeltaviError
        If it is empty or no path. An empty text is a variable that was not set; the working directory is ``"."``.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise error(f"{name} must be a path, not {path!r}.")
    if not text.strip() or "\0" in text:
        raise error(f"{name} is {text!r}, which names nothing. The working directory is '.'.")
    try:
        return Path(text).expanduser()
    except RuntimeError as unknown:
        raise error(f"{name} is {text!r}, whose home folder is not known: write it out.") from unknown


def require_folder(path: Path, *, error: type[DeltaviError] = DeltaviError) -> None:
    """Raise where `path` is neither a folder nor free to become one."""
    if path.is_dir():
        return
    if path.is_symlink() and not path.exists():
        raise error(f"{path} is a link to {os.readlink(path)}, which is not there: name another folder.")
    if path.exists():
        raise error(f"{path} is a file, not a folder: name another folder. Nothing was changed.")


def require_file(path: Path, *, error: type[DeltaviError] = DeltaviError) -> None:
    """Raise where no file can be at `path`: it is a folder, or there is no folder to hold it."""
    if path.is_dir():
        raise error(f"{path} is a folder: name a file in it.")
    if not path.parent.is_dir():
        raise error(f"{path} cannot be written: there is no folder {path.parent}. Make it first.")


def require_writable(folder: Path) -> None:
    """Write a file without a name to `folder`, or to the folder above it; :class:`OSError` if that fails."""
    with tempfile.TemporaryFile(dir=_nearest(folder)) as file:
        file.write(b"\0")


def require_space(folder: Path, n_bytes: int) -> None:
    """Raise :class:`OSError` where the disk of `folder` has fewer bytes left, if its size is known."""
    try:
        usage = shutil.disk_usage(_nearest(folder))
    except OSError:
        return
    # file systems of unknown size report zero
    if usage.total and usage.free < n_bytes:
        needed, left = (f"{size / 1e6:.3g} MB" for size in (n_bytes, usage.free))
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({needed} needed, {left} left)")


def _nearest(folder: Path) -> Path:
    """The first of `folder` and the folders above it that exists."""
    return next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make `folder` and those above it; where the block fails, the empty ones among them are removed again."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):
                place.rmdir()
        raise


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Folder that is made for the block, and removed with all that was written to it."""
    try:
        path.mkdir()
        yield path
    finally:
        try:
            shutil.rmtree(path, ignore_errors=True)
        finally:  # once more, where that failed or was interrupted
            shutil.rmtree(path, ignore_errors=True)


def remove_files(paths: Iterable[Path]) -> list[Path]:
    """Remove files of the package's own, each tried twice; returns those that are still there.

    An interrupt is passed on when all have been tried.
    """
    interrupt: BaseException | None = None
    left = []
    for path in paths:
        for _ in range(2):
            try:
                path.unlink(missing_ok=True)
                break
            except OSError:
                continue
            except BaseException as error:
                interrupt = error
        if os.path.lexists(path):
            left.append(path)
    if interrupt is not None:
        raise interrupt
    return left
