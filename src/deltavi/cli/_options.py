"""Options of the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import deltavi
from deltavi._errors import DeltaviError, nearest
from deltavi._former_names import renamed_argument

EXIT_CODES = (
    "exit codes: 0 it worked; 2 wrong input, with a line on standard error on the fault and the way out; "
    "130 interrupted (Ctrl-C); 143 terminated (SIGTERM). Results go to standard output, all else to standard error."
)
LARGEST_SEED = 2**32 - 1
MOST_EPOCHS = 1_000_000
MOST_THREADS = 1024
SIMULATED_TYPE = "type_3"


class CommandError(DeltaviError):
    """The command line cannot be read."""


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise `message`, with the way to the help."""
        raise CommandError(f"{message}. See {self.prog} --help.")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of a command, valid and consistent.

    Raises
    ------
    CommandError
        If there is no command, or an option is unknown, excludes another or has no effect without it.
    """
    options, unknown = build_parser().parse_known_args(arguments)
    if options.command is None:
        raise CommandError("Name a command, such as deltavi demo. See deltavi --help.")
    if unknown:
        known = [f"--{name.replace('_', '-')}" for name in vars(options) if name != "command"]
        asked = unknown[0].split("=")[0]
        renamed = renamed_argument(asked.removeprefix("--"), vars(options))
        close = nearest(asked, known) if renamed is None else f"--{renamed}"
        hint = f"Did you mean {close}?" if close else f"See deltavi {options.command} --help."
        raise CommandError(f"There is no option {unknown[0]!r}. {hint}")
    require_consistent(options)
    return options


def build_parser() -> argparse.ArgumentParser:
    """Arguments of the command line."""
    parser = Parser(
        prog="deltavi", description="Predict how single cells respond.", epilog=EXIT_CODES, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"deltavi {deltavi.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    _add_demo(
        commands.add_parser(
            "demo",
            help="predict a held-out response and compare it with simple baselines",
            description="Train SCGEN without the perturbed cells of one label, predict them, compare with every "
            "baseline, and write the predicted cells, the model, the table and a figure. Simulated data unless --data "
            "is given. With --all every label is held out in turn, and the table of all, its summary and a figure are "
            "written.",
            epilog=EXIT_CODES,
            allow_abbrev=False,
        )
    )
    return parser


def _add_demo(demo: argparse.ArgumentParser) -> None:
    add = demo.add_argument
    add("--data", type=_path, help="file with raw counts: h5ad, or .h5 of 10x (default: a simulated experiment)")
    add("--obs", type=_path, help="CSV or TSV with columns to add to --data, the names of the cells in the first one")
    add("--holdout", help=f"label whose perturbed cells are held out (simulated data: {SIMULATED_TYPE})")
    add("--all", action="store_true", help="hold out every label in turn, and write scores of all")
    add("--jobs", type=_whole(1, MOST_THREADS), help="processes of --all, each of one thread (1)")
    add("--condition-key", default="condition", help="obs column of the condition (%(default)s)")
    add("--labels-key", default="cell_type", help="obs column of the label (%(default)s)")
    add("--control", default="control", help="condition to start from (%(default)s)")
    add("--perturbation", default="stimulated", help="condition to predict (%(default)s)")
    add("--layer", help="layer with the raw counts (default: X)")
    add("--genes", type=_whole(1), default=2000, help="variable genes to model (%(default)s)")
    add("--epochs", type=_whole(1, MOST_EPOCHS), help="passes over the data (default: by number of cells)")
    add("--seed", type=_whole(0, LARGEST_SEED), default=0, help="seed of everything random (%(default)s)")
    add("--threads", type=_whole(1, MOST_THREADS), help="threads of PyTorch (1)")
    add("--out", type=_path, default=Path("deltavi-demo"), help="output folder (%(default)s)")
    add("--quiet", action="store_true", help="nothing but errors on standard error")


def require_consistent(options: argparse.Namespace) -> None:
    """Raise where options exclude each other, or one has no effect without another."""
    if options.all and options.holdout is not None:
        raise CommandError(f"--all holds out every label: leave out --holdout {options.holdout}, or --all.")
    if options.jobs is not None and not options.all:
        raise CommandError("--jobs spreads the labels of --all over processes: add --all, or leave out --jobs.")
    if options.threads is not None and options.all:
        raise CommandError("--all gives each process one thread: leave out --threads, and pass --jobs for processes.")
    if options.obs is not None and options.data is None:
        raise CommandError("--obs adds columns to the cells of --data: name that file, too.")


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers within bounds."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        if re.fullmatch(r"[+-]?\d{1,30}", text) and least <= int(text) <= (int(text) if most is None else most):
            return int(text)
        raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, not {text!r}")

    return read


def _path(text: str) -> Path:
    """A path, with "~" read as a home folder."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be a path, not {text!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"names the home folder of an unknown user: {text!r}") from None
