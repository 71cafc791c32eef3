"""Exceptions and warnings of this package: few, named, and meant to be caught.

Errors derive from `DeltaviError`, a ``ValueError``, and warnings from `DeltaviWarning`, a ``UserWarning``.
`Terminated` alone is a ``SystemExit``: a handler of errors must not keep a terminated program alive.
"""

from __future__ import annotations

__all__ = [
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
]


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
    """The model was used for a prediction before it was trained."""


class ModelFileError(DeltaviError):
    """A saved model is missing, damaged, or of a format that this version cannot read."""


class DataFileError(DeltaviError, FileNotFoundError):
    """A data file is in none of the searched places, or could not be downloaded and verified."""


class FileWriteError(DeltaviError, OSError):
    """A file could not be written, as to a full disk or a read-only folder; the message describes the files."""


class ModelWriteError(ModelFileError, FileWriteError):
    """A model could not be written, as to a full disk or a read-only folder; the message describes the files."""


class TrainingDivergedError(DeltaviError):
    """The loss or a weight became NaN or infinite (the model is that of its last finite epoch), or the loss is huge."""


class OutOfMemoryError(DeltaviError, MemoryError):
    """Memory ran out in training; the model is restored to its last finite epoch."""


class Terminated(SystemExit):
    """Work was ended by SIGTERM, as batch systems send it; the program ends with the exit status 143 of a shell.

    Parameters
    ----------
    message
        Description of what was ended, and of what it left.
    """

    def __init__(self, message: str = "The program was ended by SIGTERM.") -> None:
        super().__init__(143)
        self.message = message

    def __str__(self) -> str:
        return self.message


class TrainingTerminated(Terminated):
    """Training was ended by SIGTERM.

    Parameters
    ----------
    message
        Description of the training that was ended, and of the state of the model.
    """

    def __init__(self, message: str = "Training was ended by SIGTERM.") -> None:
        super().__init__(message)


class DeltaviWarning(UserWarning):
    """Base class of every warning issued on purpose by deltavi."""


class InputDataWarning(DeltaviWarning):
    """The expression matrix is usable but unusual: empty cells, bool or huge values."""


class GeneMatchWarning(DeltaviWarning):
    """Some genes of the model are absent from a query and were filled with zeros."""


class UnseenCategoryWarning(DeltaviWarning):
    """A query holds batches, covariate values or, where it is learned, labels that are absent from training."""


class LibrarySizeWarning(DeltaviWarning):
    """Genes were selected, and each cell's total over all of them is not used though there is one."""


class NotHeldOutWarning(DeltaviWarning):
    """The predicted cells were among the training cells; the prediction describes measured cells."""


class UnknownBatchWarning(DeltaviWarning):
    """Cells are to be rejected in batches that are absent from calibration."""


class CalibrationWarning(DeltaviWarning):
    """No labelled cell was held out: the temperature rests on less, and no cell can be rejected."""


class LabelWarning(DeltaviWarning):
    """Labels are usable but may not be what was meant: near-duplicates, mixed types, labels of a single cell."""


class MixtureWarning(DeltaviWarning):
    """A mixture uses fewer of its components than it should."""


class ConvergenceWarning(DeltaviWarning):
    """A fit ended before it converged."""


class CheckpointWarning(DeltaviWarning):
    """A checkpoint could not be written; training goes on."""


class DuplicateNameWarning(DeltaviWarning):
    """Cell names are not unique; results are matched by position."""
