"""Processes that train one model together: their number, what they add up, and what they compare."""

from __future__ import annotations

import atexit
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from deltavi._errors import DeltaviError

T = TypeVar("T")

# What torch, gloo and NCCL say where another process is gone; gloo has no class of its own for it.
LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|process group|socket", re.IGNORECASE)


@dataclass(frozen=True)
class Ranks:
    """Number of this process among those that train together.

    Parameters
    ----------
    rank
        Number of this process, from 0.
    world
        Number of all processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def several(self) -> bool:
        """True if there are other processes."""
        return self.world > 1

    @property
    def is_first(self) -> bool:
        """True of the process that writes and warns."""
        return self.rank == 0

    @property
    def own(self) -> slice:
        """Every `world`-th of what all processes share, from `rank`."""
        return slice(self.rank, None, self.world)


ALONE = Ranks()


def present_ranks() -> Ranks:
    """Ranks of the processes that are connected; :data:`ALONE` before and without that."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


def summed(values: Tensor) -> Tensor:
    """Sum over all processes, the same in each."""
    total = values.clone()
    dist.all_reduce(total)
    return total


def gathered(value: T) -> list[T]:
    """Values that the processes pass, in the order of their ranks."""
    found: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


@cache
def disconnect_at_exit() -> None:
    """Close the connections before the interpreter ends, whose threads may otherwise abort the process."""
    atexit.register(_disconnect)


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Wait until every process is here.

    Raises
    ------
    DeltaviError
        If one of them ended before.
    """
    try:
        gathered(None)
    except RuntimeError as error:
        raise DeltaviError(f"{lost_process(error) or error} The model of this process is trained.") from error


def average_buffers(module: nn.Module) -> None:
    """Average the floating buffers of `module` over all processes.

    Running statistics are linear in those of mini-batches, so that their average at the end of an epoch is that of
    averaging at every step.
    """
    floating = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not floating:
        return
    # in double precision, in which a value that is the same everywhere stays as it is
    together = torch.cat([buffer.detach().reshape(-1).double() for buffer in floating])
    mean = summed(together) / dist.get_world_size()
    for buffer, part in zip(floating, torch.split(mean, [buffer.numel() for buffer in floating]), strict=True):
        buffer.copy_(part.reshape(buffer.shape))


@torch.no_grad()
def send_state(module: nn.Module) -> None:
    """Replace weights and buffers of `module` by those of rank 0."""
    for value in module.state_dict().values():
        dist.broadcast(value, src=0)


def digest(module: nn.Module) -> str:
    """Checksum of weights and buffers."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def first_message(message: str | None) -> str | None:
    """Message of this process, or else that of another with its rank; ``None`` if there is none anywhere."""
    said = gathered(message)
    if message is not None:
        return message
    return next((f"Rank {rank}: {text}" for rank, text in enumerate(said) if text is not None), None)


def differences(described: list[Mapping[str, object]]) -> str:
    """Entries of descriptions that are not the same in all processes, with those of rank 0 and of one that differs."""
    first, *others = described
    found = {
        name: (rank, other[name])
        for rank, other in reversed(list(enumerate(others, start=1)))
        for name in first
        if other[name] != first[name]
    }
    return "; ".join(
        f"{name}: {first[name]} on rank 0, {value} on rank {rank}" for name, (rank, value) in found.items()
    )


def lost_process(error: BaseException, doing: str = "train") -> str | None:
    """Sentence that says which other process was lost, if `error` comes of that; `doing` is what they did together."""
    ranks = present_ranks()
    known = isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or LOST.search(str(error)))
    if not ranks.several or not known:
        return None
    other = f"Rank {1 - ranks.rank}" if ranks.world == 2 else f"Another of the {ranks.world} processes"
    return f"{other} ended or failed, and rank {ranks.rank} cannot {doing} without it: see what that process printed."


def same(message: str | None) -> str | None:
    """Message of a process that is alone."""
    return message


# Function from what a process found wrong to what all of them raise.
Agreement = Callable[[str | None], str | None]
