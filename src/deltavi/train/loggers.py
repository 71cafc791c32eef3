"""Loggers beside the one that keeps the history of a model, and a check for a visible progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import scvi
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from deltavi._compat import SimpleLogger
from deltavi._errors import DeltaviError
from deltavi.train.progress import is_terminal


def with_history(asked: object, *, on_disk: str | None = None) -> list[Logger] | None:
    """Loggers of a training, of which the first keeps the history; ``None`` if there are no others.

    Parameters
    ----------
    asked
        The argument ``logger``: one or several, true for lightning's default, false or ``None`` for none.
    on_disk
        Folder to which the history is also written, if any.

    Raises
    ------
    DeltaviError
        If something else was passed.
    """
    if asked is None or asked is False:
        return None
    if asked is True:
        given: list[object] = [_default_logger()]
    else:
        given = list(asked) if isinstance(asked, Iterable) and not isinstance(asked, str) else [asked]
    loggers = [logger for logger in given if isinstance(logger, Logger)]
    if len(loggers) < len(given):
        wrong = next(logger for logger in given if not isinstance(logger, Logger))
        raise DeltaviError(
            f"logger must be a logger of lightning.pytorch.loggers, a list of them, True or False, not {wrong!r}."
        )
    keeping = [logger for logger in loggers if isinstance(logger, SimpleLogger)]
    if keeping:
        return [*keeping, *(logger for logger in loggers if logger not in keeping)]
    return [SimpleLogger(save_dir=on_disk, save_log_on_disk=on_disk is not None), *loggers]


def _default_logger() -> Logger:
    try:
        return TensorBoardLogger(scvi.settings.logging_dir)
    except ModuleNotFoundError:
        return CSVLogger(scvi.settings.logging_dir)


def bar_is_seen() -> bool:
    """True if a progress bar would be visible: in a terminal, or in a notebook."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return getattr(running, "kernel", None) is not None or any(map(is_terminal, (sys.stdout, sys.stderr)))
