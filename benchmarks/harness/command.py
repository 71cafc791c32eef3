"""The command line of a study, the command that a page quotes, and a process that works in peace."""

from __future__ import annotations

import argparse
import logging
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.data import default_folder

# Arguments of `train`.
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "scvi", "deltavi")


def settle(threads: int = 1) -> None:
    """Give torch its threads, and keep warnings and notes of libraries off the screen, in this process."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def parser(study: str, about: str | None) -> argparse.ArgumentParser:
    """A command line with the options that all studies share."""
    made = argparse.ArgumentParser(
        f"python -m benchmarks {study}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, default=default_folder(), help="folder of the h5ad files")
    made.add_argument("--write", type=Path, help="Markdown page to write")
    made.add_argument("--quick", action="store_true", help="other defaults: the smallest form, to see that it runs")
    return made


def add_names(made: argparse.ArgumentParser, option: str, known: Iterable[str], default: Any = None) -> None:
    """Add an option that takes some of the known names, separated by commas."""
    names = list(known)
    made.add_argument(
        option,
        type=partial(chosen, known=names),
        default=names if default is None else default,
        metavar="NAME,NAME",
        help=f"some of {', '.join(names)} (default: {'all' if default is None else ', '.join(default) or 'none'})",
    )


def chosen(text: str, known: Sequence[str]) -> list[str]:
    """The comma-separated names of an argument, or an error that lists those that there are."""
    names = text.split(",")
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return names


def parsed(made: argparse.ArgumentParser, arguments: list[str], quick: Mapping[str, Any]) -> argparse.Namespace:
    """Options, with the command that they came from; `quick` holds what `--quick` has for defaults."""
    if "--quick" in arguments:
        made.set_defaults(**quick)
    options = made.parse_args(arguments)
    options.command = command(made.prog, arguments)
    return options


def command(program: str, arguments: list[str]) -> str:
    """The command as a page quotes it: without folders of this machine."""
    shown, rest = [program], iter(arguments)
    for one in rest:
        if one == "--data":
            next(rest, None)
        elif not one.startswith("--data="):
            shown.append(shlex.quote(Path(one).name if Path(one).is_absolute() else one))
    return " ".join(shown)
