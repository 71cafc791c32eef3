"""The exceptions and warnings this package raises: few, named, and meant to be caught."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class DeltaviError(ValueError):
    """Base class of every error raised on purpose by deltavi."""


class InputDataError(DeltaviError):
    """The expression matrix cannot be used: NaN, infinite, negative or not on the expected scale."""


class GeneMatchError(DeltaviError):
    """The genes of a query cannot be matched by name to the genes of the model."""


class UnknownCategoryError(DeltaviError):
    """A condition, label or column was named that the data do not hold."""


class UnknownArgumentError(DeltaviError, TypeError):
    """A keyword was passed that the function does not have."""


class KeyClashError(DeltaviError):
    """A column this package would write exists already and holds something else."""


class NotTrainedError(DeltaviError, RuntimeError):
    """The model was asked for an answer before it was trained."""


class ModelFileError(DeltaviError):
    """A saved model is missing, damaged, or was written by something this version cannot read."""


class FileWriteError(DeltaviError, OSError):
    """A file could not be written, as to a full disk or a read-only folder; the message says what is there now."""


class ModelWriteError(ModelFileError, FileWriteError):
    """A model could not be written, as to a full disk or a read-only folder; the message says what is there now."""


class TrainingDivergedError(DeltaviError):
    """The loss or a weight became NaN or infinite, and the model is that of its last good epoch; or it ended absurd."""


class OutOfMemoryError(DeltaviError, MemoryError):
    """Memory ran out in training; the model went back to its last good epoch."""


class TrainingTerminated(SystemExit):
    """Training was ended by SIGTERM, as batch systems send it; the program ends with the exit status 143 of a shell.

    Parameters
    ----------
    message
        What was ended, and what state the model is in.
    """

    def __init__(self, message: str = "Training was ended by SIGTERM.") -> None:
        super().__init__(143)
        self.message = message

    def __str__(self) -> str:
        return self.message


class DeltaviWarning(UserWarning):
    """Base class of every warning issued on purpose by deltavi."""


class InputDataWarning(DeltaviWarning):
    """The expression matrix is usable but unusual: empty cells, bool or huge values."""


class GeneMatchWarning(DeltaviWarning):
    """Some genes of the model are absent from a query and were filled with zeros."""


class UnseenCategoryWarning(DeltaviWarning):
    """A query holds batches, covariate values or, where it is learned, labels that training never saw."""


class LibrarySizeWarning(DeltaviWarning):
    """Genes were selected, and each cell's total over all of them is not used though there is one."""


class NotHeldOutWarning(DeltaviWarning):
    """A prediction was asked for of what was among the training cells; the answer describes them."""


class UnknownBatchWarning(DeltaviWarning):
    """Cells are to be rejected in batches that the calibration did not see."""


class CalibrationWarning(DeltaviWarning):
    """No labelled cell was held out: the temperature rests on less, and no cell can be rejected."""


class LabelWarning(DeltaviWarning):
    """Labels are usable but may not be what was meant: near-duplicates, mixed types, labels of a single cell."""


class MixtureWarning(DeltaviWarning):
    """A mixture that uses fewer of its components than it should."""


class ConvergenceWarning(DeltaviWarning):
    """A fit ended before it had settled."""


class CheckpointWarning(DeltaviWarning):
    """A checkpoint could not be written; training goes on."""


class DuplicateNameWarning(DeltaviWarning):
    """Cell names are not unique; results are matched by position."""


def examples(values: Iterable[object], n: int = 3) -> str:
    """First `n` of `values`, quoted and separated by commas, with a count of the rest."""
    items = [repr(v) if isinstance(v, str) else str(v) for v in values]
    shown = ", ".join(items[:n])
    return shown if len(items) <= n else f"{shown} and {len(items) - n} more"


def nearest(given: object, known: Iterable[object]) -> str | None:
    """The name of `known` that `given` is but for case, spaces, underscores or a slip; ``None`` where none is close.

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
    close = nearest(given, names)
    hint = "" if close is None else f" Did you mean {close!r}?"
    listed = examples(names, MOST_LISTED) or "none"
    return UnknownCategoryError(f"{kind} {given!r} is not in {among}.{hint} Known: {listed}.")
