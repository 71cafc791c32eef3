"""AnnData files, .h5ad or .zarr, that take their place once they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import uuid4

from deltavi._errors import DeltaviError, FileWriteError
from deltavi.io._place import PathLike, require_file, require_writable, resolved
from deltavi.io.atomic import ended_by_sigterm, not_written, sync_file, sync_folder, write_file

H5AD, ZARR = ".h5ad", ".zarr"
# One of these files lies in every Zarr store.
MARKS = (".zgroup", "zarr.json", ".zarray")
WHAT = "The cells"


def require_store(path: PathLike, *, overwrite: bool, sources: Iterable[Path] = ()) -> Path:
    """Path of an AnnData file to write.

    Parameters
    ----------
    path
        As it was given.
    overwrite
        Replace what is there.
    sources
        Files and stores that are read from, which are not replaced.

    Raises
    ------
    DeltaviError
        If it ends in neither .h5ad nor .zarr, exists without `overwrite`, is something else than such a file, or holds
        one of `sources`.
    FileWriteError
        If its folder cannot be written to.
    """
    target = resolved(path, "path")
    if target.suffix not in (H5AD, ZARR):
        raise DeltaviError(
            f"path must end in {H5AD} or {ZARR}, which say how cells are written; it is {str(target)!r}."
        )
    if os.path.lexists(target) and not overwrite:
        raise DeltaviError(f"{target} exists; pass overwrite=True to replace it. Nothing was changed.")
    if any(_holds(target, source) for source in sources):
        raise DeltaviError(
            f"{target} holds the cells that are read, and would be replaced: name another path. Nothing was changed."
        )
    if target.suffix == H5AD or not target.is_dir():
        require_file(target)
    if target.suffix == ZARR and os.path.lexists(target) and not _is_store(target):
        raise DeltaviError(f"{target} is no Zarr store and would be replaced: name another path. Nothing was changed.")
    try:
        require_writable(target.parent)
    except OSError as error:
        raise not_written(FileWriteError, WHAT, target, error) from error
    return target


def _holds(target: Path, source: Path) -> bool:
    """True if `source` is `target`, or lies in it."""
    place = Path(os.path.realpath(source))
    return Path(os.path.realpath(target)) in (place, *place.parents)


def _is_store(folder: Path) -> bool:
    return folder.is_dir() and any((folder / mark).is_file() for mark in MARKS)


def write_store(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden file or folder beside `target`, which takes its place once it is complete.

    Raises
    ------
    FileWriteError
        If the disk is full or the folder read-only; what was there before is unchanged.
    Terminated
        If SIGTERM comes while it is written; what was begun is removed.
    """
    if target.suffix == H5AD:
        write_file(target, write, what=WHAT)
        return
    place = Path(os.path.realpath(target))
    part, former = (place.with_name(f".{place.stem[:40]}-{uuid4().hex[:12]}{ZARR}") for _ in range(2))
    try:
        with ended_by_sigterm(target) as require_undisturbed:
            write(part)
            for file in part.rglob("*"):
                if file.is_file():
                    sync_file(file)
            require_undisturbed()
        _switch(place, part, former)
    except OSError as error:
        raise not_written(FileWriteError, WHAT, target, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    # the new one is complete and in place
    shutil.rmtree(former, ignore_errors=True)


def _switch(place: Path, part: Path, former: Path) -> None:
    """Move `part` to `place`, and what was there to `former`; where that fails, put it back."""
    is_there = os.path.lexists(place)
    if is_there:
        os.replace(place, former)
    try:
        os.replace(part, place)
    except BaseException:
        if is_there:
            os.replace(former, place)
        raise
    sync_folder(place.parent)
