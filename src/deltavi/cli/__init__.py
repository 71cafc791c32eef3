"""Command line: ``deltavi demo`` predicts a held-out response and scores the prediction."""

from __future__ import annotations

from collections.abc import Sequence

from deltavi._errors import DeltaviError
from deltavi.cli._console import Console, Terminated, shown, terminable
from deltavi.cli._demo import run_demo
from deltavi.cli._options import CommandError, build_parser, read_options

WORKED, WRONG_INPUT, INTERRUPTED, TERMINATED = 0, 2, 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        Arguments after ``deltavi`` on the command line; by default those of this process.

    Returns
    -------
    0 if it worked, 2 with a line on standard error if the input was wrong, 130 after Ctrl-C, 143 after SIGTERM.
    """
    console = Console("")
    try:
        options = read_options(arguments)
        console = Console(options.command, quiet=options.quiet)
        with shown(console), terminable():
            run_demo(options, console)
    except (DeltaviError, OSError, MemoryError) as error:
        console.error(str(error) or f"{type(error).__name__}: memory ran out.")
        return WRONG_INPUT
    except KeyboardInterrupt:
        console.error("Interrupted before the work was done.")
        return INTERRUPTED
    except Terminated:
        console.error("Terminated before the work was done.")
        return TERMINATED
    return WORKED


__all__ = ["CommandError", "build_parser", "main", "run_demo"]
