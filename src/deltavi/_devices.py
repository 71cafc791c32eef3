"""Devices of torch by name, by number, or by scvi-tools' two arguments."""

from __future__ import annotations

from typing import Any

import torch

from deltavi._entries import choice, scalar, shown
from deltavi._errors import DeltaviError

# Types of devices that hold weights; "meta" holds shapes alone.
DEVICES = ("cpu", "cuda", "mps")


def chosen_device(accelerator: object, device: object, *, default: str = "cpu") -> torch.device:
    """Device that scvi-tools' two arguments name: a kind of hardware, and which one of it."""
    if accelerator is None:
        return torch_device("device", default if device is None else device)
    kind = choice("accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    gpu = "mps" if torch.backends.mps.is_available() and not torch.cuda.is_available() else "cuda"
    kind = gpu if kind == "gpu" else kind
    plain = scalar(device)
    if plain is None or (isinstance(plain, str) and plain == "auto"):
        return torch_device("accelerator", kind)
    if isinstance(plain, int) and kind in ("cpu", "mps"):
        # there is one such device
        return torch_device("accelerator", kind)
    found = torch_device("device", plain)
    if kind not in ("auto", found.type):
        raise DeltaviError(f"accelerator={accelerator!r} and device={shown(device)} name different hardware: pass one.")
    return found


def torch_device(name: str, value: object) -> torch.device:
    """`value` as a device of torch: a name, the number of a GPU, or ``"auto"`` for a GPU where there is one."""
    plain: Any = scalar(value)
    if isinstance(plain, str) and plain == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if isinstance(plain, int) and not isinstance(plain, bool):
            plain = f"cuda:{plain}"
        device = torch.device(plain)
        # torch keeps the number of a device in eight bits and truncates it
        if device.type not in DEVICES or (isinstance(plain, str) and str(device) != plain):
            raise ValueError(plain)
    except (RuntimeError, TypeError, ValueError):
        raise DeltaviError(
            f"{name} must be a device of torch, such as 'cpu', 'cuda', 'cuda:1' or 'mps', not {shown(value)}."
        ) from None
    return device


def is_present(device: torch.device) -> bool:
    """True if tensors can be moved to `device`; other types of devices are left to torch."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type != "mps" or torch.backends.mps.is_available()
