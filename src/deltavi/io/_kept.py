"""Blocks of an answer that a process keeps for another one of the same program."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from deltavi._errors import FileWriteError
from deltavi.io._stores import WHAT
from deltavi.io.atomic import not_written

T = TypeVar("T")


def keep_blocks(path: Path, blocks: Iterable[T], *, target: Path) -> None:
    """Write blocks one after the other, as they come.

    Parameters
    ----------
    path
        File to write, in a folder that was made for it and is removed by the one who reads it.
    blocks
        The blocks.
    target
        File that they will be part of, for messages.

    Raises
    ------
    FileWriteError
        If the disk is full.
    """
    try:
        with path.open("wb") as file:
            for block in blocks:
                pickle.dump(block, file, pickle.HIGHEST_PROTOCOL)
    except OSError as error:
        raise not_written(FileWriteError, WHAT, target, error) from error


def kept_blocks(path: Path, n_blocks: int) -> Iterator[T]:
    """Blocks that :func:`keep_blocks` wrote, in their order; none of a user's files is read here."""
    with path.open("rb") as file:
        for _ in range(n_blocks):
            block: T = pickle.load(file)
            yield block
