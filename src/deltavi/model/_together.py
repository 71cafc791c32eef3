"""Answers in files whose blocks are shared out among connected processes, and put together by the first of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import uuid4

import numpy as np
import pandas as pd

from deltavi._errors import DeltaviError
from deltavi.io import keep_blocks, kept_blocks, scratch_folder, write_store
from deltavi.registry.names import names_checksum
from deltavi.train import Ranks, differences, digest, gathered, lost_process, present_ranks

if TYPE_CHECKING:
    from deltavi.model._base import CountModel

T = TypeVar("T")
# Blocks after which processes see that all are there: much less than the half hour that connections last.
BLOCKS_BETWEEN = 4
# Digits of a checksum in messages.
DIGITS = 12
WAY_OUT = (
    "Connected processes share the blocks of an answer that is written to path: ask all of them, with the same "
    "arguments; or end the connection by torch.distributed.destroy_process_group(), after which each answers alone."
)


def seed_of_rank(seed: int) -> int:
    """Seed of the draws of this process: `seed` itself on rank 0 and without other processes, else one made from it."""
    rank = present_ranks().rank
    return int(np.random.SeedSequence([seed % 2**64, rank]).generate_state(1)[0]) if rank else seed


def asked_of(model: CountModel, cells: pd.Index, settings: object) -> dict[str, object]:
    """Description of a question, in which processes that share its answer must agree.

    Parameters
    ----------
    model
        A trained model.
    cells
        Names of the cells.
    settings
        What else was asked for, as text.
    """
    described = {"weights": digest(model.module)[:DIGITS], "settings": str(settings), "cells": len(cells)}
    return {**described, "names of cells": names_checksum(cells)[:DIGITS]}


def write_shared(
    target: Path,
    blocks: Callable[[range], Iterator[T]],
    write: Callable[[Path, Iterable[T]], object],
    *,
    n_blocks: int,
    asked: Callable[[], Mapping[str, object]],
) -> None:
    """Write a file of blocks, which connected processes compute together, and a process without others alone.

    Each process computes neighbouring blocks. Rank 0 writes its own and, behind them, those of the others, who keep
    them in a hidden folder beside the file until then: the file is that of a single process.

    Parameters
    ----------
    target
        File to write, in the form that :func:`deltavi.io.require_store` gives it.
    blocks
        Function that computes the blocks of these numbers.
    write
        Function that writes all blocks to a path, in order.
    n_blocks
        Number of all blocks.
    asked
        Function that describes the question, for the comparison of processes.

    Raises
    ------
    FileWriteError
        If the disk is full or the folder read-only; what was there before is unchanged.
    DeltaviError
        If processes are asked different questions, or another one fails, ends or does not see the folder.
    """
    ranks = present_ranks()
    if not ranks.several:
        write_store(target, lambda part: write(part, blocks(range(n_blocks))))
        return
    place = Path(os.path.realpath(target))
    shared = _Shared(_Talk(ranks), place, blocks, n_blocks)
    with shared.talk.failing_together():
        folder = place.with_name(shared.talk.agree_on({"path": str(place), "blocks": n_blocks, **asked()}, place))
        if ranks.is_first:
            with scratch_folder(folder):
                shared.talk.agree()
                write_store(target, lambda part: write(part, shared.all_blocks(folder)))
        else:
            shared.talk.agree()
            shared.keep_own(folder)
            shared.wait()
        shared.talk.agree()


@dataclass
class _Talk:
    """Exchange of connected processes, each of which makes the same calls in the same order.

    Parameters
    ----------
    ranks
        The processes.
    """

    ranks: Ranks
    # True once all processes know that one has failed
    is_over: bool = field(default=False, init=False)

    def agree(self, fault: str | None = None) -> None:
        """Tell the others of a fault of this process, if there is one; raise where another has one."""
        found = self._gathered(fault)
        others = [(rank, text) for rank, text in enumerate(found) if text is not None]
        self.is_over = bool(others)
        if fault is None and others:
            rank, text = others[0]
            raise DeltaviError(f"Rank {rank}: {text}")

    def agree_on(self, asked: Mapping[str, object], place: Path) -> str:
        """Name of a hidden folder beside `place`, the same for all; raise where other processes are asked otherwise."""
        found = self._gathered((asked, f".{place.stem[:40]}-{uuid4().hex[:12]}"))
        apart = differences([described for described, _ in found])
        if apart:
            self.is_over = True
            raise DeltaviError(f"The processes do not answer the same question: {apart}. {WAY_OUT}")
        return found[0][1]

    def watched(self, blocks: Iterable[T], n_most: int) -> Iterator[T]:
        """`blocks`, and an exchange now and then, as often as a process with `n_most` blocks has one."""
        number = 0
        for number, block in enumerate(blocks, start=1):
            yield block
            if number % BLOCKS_BETWEEN == 0:
                self.agree()
        for _ in range(n_most // BLOCKS_BETWEEN - number // BLOCKS_BETWEEN):
            self.agree()

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let an error of the block reach all processes."""
        try:
            yield
        except Exception as error:
            if not self.is_over:
                with suppress(DeltaviError):  # others are gone: the error of this process says more
                    self.agree(str(error) if isinstance(error, DeltaviError) else f"{type(error).__name__}: {error}")
            raise

    def _gathered(self, value: T) -> list[T]:
        try:
            return gathered(value)
        except RuntimeError as error:
            self.is_over = True
            lost = lost_process(error, "answer")
            if lost is None:
                raise
            raise DeltaviError(f"{lost} {WAY_OUT} What was at path before is unchanged.") from error


@dataclass(frozen=True)
class _Shared(Generic[T]):
    """Blocks of an answer that several processes compute.

    Parameters
    ----------
    talk
        Exchange of the processes.
    target
        File to write.
    blocks
        Function that computes the blocks of these numbers.
    n_blocks
        Number of all blocks.
    """

    talk: _Talk
    target: Path
    blocks: Callable[[range], Iterator[T]]
    n_blocks: int

    def all_blocks(self, folder: Path) -> Iterator[T]:
        """On rank 0: its own blocks, and once all processes are done those that they kept."""
        yield from self._own()
        self.talk.agree()
        others = range(1, self.talk.ranks.world)
        kept: Iterator[Iterator[T]] = (kept_blocks(folder / str(rank), len(self._numbers(rank))) for rank in others)
        yield from self.talk.watched(chain.from_iterable(kept), self._n_kept)

    def keep_own(self, folder: Path) -> None:
        """On other ranks: compute the blocks of this one, and keep them for rank 0."""
        if not folder.is_dir():
            raise DeltaviError(
                f"does not see {folder.parent}, where rank 0 writes {self.target.name}: path must be on a disk that "
                "all processes share."
            )
        keep_blocks(folder / str(self.talk.ranks.rank), self._own(), target=self.target)
        self.talk.agree()

    def wait(self) -> None:
        """Wait on other ranks until rank 0 has read what was kept."""
        for _ in self.talk.watched((), self._n_kept):
            pass

    def _own(self) -> Iterator[T]:
        n_most = max(map(len, map(self._numbers, range(self.talk.ranks.world))))
        return self.talk.watched(self.blocks(self._numbers(self.talk.ranks.rank)), n_most)

    @property
    def _n_kept(self) -> int:
        return self.n_blocks - len(self._numbers(0))

    def _numbers(self, rank: int) -> range:
        """Numbers of the blocks of a process."""
        world = self.talk.ranks.world
        return range(self.n_blocks * rank // world, self.n_blocks * (rank + 1) // world)
