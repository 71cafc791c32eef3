"""Helpers for the messages of :mod:`deltavi.errors`, whose classes are importable from here as well."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from deltavi._former_names import renamed_value
from deltavi.errors import (
    CalibrationWarning,
    CheckpointWarning,
    ConvergenceWarning,
    DataFileError,
    DeltaviError,
    DeltaviWarning,
    DuplicateNameWarning,
    FileWriteError,
    GeneMatchError,
    GeneMatchWarning,
    InputDataError,
    InputDataWarning,
    KeyClashError,
    LabelWarning,
    LibrarySizeWarning,
    MixtureWarning,
    ModelFileError,
    ModelWriteError,
    NotHeldOutWarning,
    NotTrainedError,
    OutOfMemoryError,
    Terminated,
    TrainingDivergedError,
    TrainingTerminated,
    UnknownArgumentError,
    UnknownBatchWarning,
    UnknownCategoryError,
    UnseenCategoryWarning,
)

__all__ = [
    "MOST_LISTED",
    "CalibrationWarning",
    "CheckpointWarning",
    "ConvergenceWarning",
    "DataFileError",
    "DeltaviError",
    "DeltaviWarning",
    "DuplicateNameWarning",
    "FileWriteError",
    "GeneMatchError",
    "GeneMatchWarning",
    "InputDataError",
    "InputDataWarning",
    "KeyClashError",
    "LabelWarning",
    "LibrarySizeWarning",
    "MixtureWarning",
    "ModelFileError",
    "ModelWriteError",
    "NotHeldOutWarning",
    "NotTrainedError",
    "OutOfMemoryError",
    "Terminated",
    "TrainingDivergedError",
    "TrainingTerminated",
    "UnknownArgumentError",
    "UnknownBatchWarning",
    "UnknownCategoryError",
    "UnseenCategoryWarning",
    "examples",
    "nearest",
    "unknown_category",
]


def examples(values: Iterable[object], n: int = 3) -> str:
    """First `n` of `values`, quoted and separated by commas, with a count of the rest."""
    items = [repr(v) if isinstance(v, str) else str(v) for v in values]
    shown = ", ".join(items[:n])
    return shown if len(items) <= n else f"{shown} and {len(items) - n} more"


def nearest(given: object, known: Iterable[object]) -> str | None:
    """Name of `known` closest to `given`, up to case, spaces, underscores or a typo; ``None`` if none is close.

    The only one that `given` begins with, or that begins with it, is close as well.
    """
    by_fold: dict[str, str] = {}
    for name in map(str, known):
        by_fold.setdefault(_folded(name), name)
    folded = _folded(str(given))
    close = difflib.get_close_matches(folded, by_fold, n=1)
    if not close and folded:
        begun = [name for name in by_fold if name and (folded.startswith(name) or name.startswith(folded))]
        close = begun if len(begun) == 1 else []
    return by_fold[close[0]] if close else None


def _folded(name: str) -> str:
    return re.sub(r"[\s_\-.]+", "", name).casefold() or name


# Known names that an error lists; the nearest one is named before them.
MOST_LISTED = 30


def unknown_category(
    kind: str, given: object, known: Iterable[object], *, among: str = "the data"
) -> UnknownCategoryError:
    """Build the error for a name that is not among `known`, with the closest match first."""
    names = [str(k) for k in known]
    close = renamed_value(str(given), names) or nearest(given, names)
    hint = "" if close is None else f" Did you mean {close!r}?"
    listed = examples(names, MOST_LISTED) or "none"
    return UnknownCategoryError(f"{kind} {given!r} is not in {among}.{hint} Known: {listed}.")
