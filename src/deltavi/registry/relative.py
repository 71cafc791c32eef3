"""Files that were opened by relative paths, which name other files once the working folder changes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from deltavi._errors import DeltaviError, examples

ABSOLUTE = "Change it back, or open files by absolute paths, such as pathlib.Path(path).absolute()."


def require_there(places: Iterable[Path]) -> None:
    """Raise where a file or store that was opened by a relative path is not in the working folder.

    Parameters
    ----------
    places
        Paths as they were opened.

    Raises
    ------
    DeltaviError
        With the paths and the working folder.
    """
    lost = [place for place in _relative(places) if not place.exists()]
    if lost:
        raise DeltaviError(
            f"The cells were opened by the relative path {examples(map(str, lost))}, which is not in the working "
            f"folder {_working_folder()!r}: it changed, or the file is gone. {ABSOLUTE}"
        )


class RelativePlaces:
    """Files that were opened by relative paths, and the working folder that these start from.

    Parameters
    ----------
    places
        Paths as they were opened; absolute ones are left out.
    """

    def __init__(self, places: Iterable[Path] = ()) -> None:
        self._places = _relative(places)
        self._folder = _working_folder() if self._places else ""

    def require_same_folder(self) -> None:
        """Raise where the working folder is another one.

        Raises
        ------
        DeltaviError
            With the paths and both folders.
        """
        if self._places and _working_folder() != self._folder:
            raise DeltaviError(
                f"The cells were opened by the relative path {examples(map(str, self._places))}, and the working "
                f"folder, which was {self._folder!r}, is {_working_folder()!r}. {ABSOLUTE}"
            )


def _relative(places: Iterable[Path]) -> list[Path]:
    return sorted(place for place in places if not place.is_absolute())


def _working_folder() -> str:
    """Path of the working folder; empty if it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""
