"""A file for HDF5, which does not survive a disk that fails: errors are kept, and raised once the file is closed."""

from __future__ import annotations

import io
from pathlib import Path


class WatchedFile(io.FileIO):
    """New file that takes whatever is written to it; :meth:`check` says whether all of it is on the disk.

    Where the disk fails HDF5 leaves objects that are neither written nor closed, and then ends the process. From the
    first error on what is written stays in memory, where it can be read again, until HDF5 has closed the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self._error: OSError | None = None
        # place in the file, and what belongs there
        self._lost: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the error of the disk, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]  # of all that have a buffer
        """Write all of `data`, also where the system takes a part at a time."""
        rest, place = memoryview(data).cast("B"), self.tell()
        n_bytes = len(rest)
        while len(rest) and self._error is None:
            try:
                n_taken = self._taken(rest)
            except OSError as error:
                self._error = error
            else:
                rest, place = rest[n_taken:], place + n_taken
        if len(rest):
            self._lost.append((place, bytes(rest)))
        return n_bytes

    def _taken(self, data: memoryview) -> int:
        """Write as much of `data` as the system takes at once; the number of bytes."""
        return super().write(data)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read what was written, on the disk or not."""
        view, place = memoryview(buffer).cast("B"), self.tell()
        n_read = super().readinto(view) or 0
        if not self._lost:
            return n_read
        view[n_read:] = bytes(len(view) - n_read)
        for start, data in self._lost:
            first, last = max(start, place), min(start + len(data), place + len(view))
            if first < last:
                view[first - place : last - place] = data[first - start : last - start]
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file, which is as good as done where the disk failed before."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0
