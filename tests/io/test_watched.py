"""A file for HDF5 on a disk that fails: what was written can be read until it is closed, and the error comes then."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from deltavi.io._watched import WatchedFile


def full_after(n_bytes: int) -> Callable[[WatchedFile, memoryview], int]:
    """A disk with room for so many bytes, which takes a part of what is written, as disks do."""
    left = [n_bytes]

    def write(self: WatchedFile, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        n_taken = min(left[0], len(data))
        left[0] -= n_taken
        return os.write(self.fileno(), data[:n_taken])

    return write


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the room of the disk."""
    return lambda n_bytes: monkeypatch.setattr(WatchedFile, "_taken", full_after(n_bytes))


def test_all_is_read_again_where_a_part_is_on_the_disk(tmp_path: Path, disk: Callable[[int], None]) -> None:
    disk(10)
    with WatchedFile(tmp_path / "file") as file:
        assert file.write(memoryview(b"0123456")) == 7
        file.check()
        assert file.write(memoryview(b"789abcdef")) == 9
        # over what is on the disk, and over what is not
        file.seek(8)
        assert file.write(memoryview(b"XYZ")) == 3
        found = bytearray(20)
        file.seek(0)
        assert file.readinto(memoryview(found)) == 20
        assert bytes(found) == b"01234567XYZbcdef" + bytes(4)
        part = bytearray(3)
        file.seek(9)
        file.readinto(memoryview(part))
        assert bytes(part) == b"YZb"
        with pytest.raises(OSError, match="No space left") as caught:
            file.check()
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_size_that_cannot_be_set_is_an_error_too(tmp_path: Path) -> None:
    with WatchedFile(tmp_path / "file") as file:
        assert file.truncate(100) == 100
        file.check()
        assert (tmp_path / "file").stat().st_size == 100
        # as on a disk that is full, which a test cannot have
        assert file.truncate(-1) == -1
        with pytest.raises(OSError, match="Invalid argument"):
            file.check()


@pytest.mark.parametrize("room", [0, 100, 2000, 30_000, 100_000])
def test_hdf5_closes_a_file_that_is_not_on_the_disk(tmp_path: Path, disk: Callable[[int], None], room: int) -> None:
    disk(room)
    values = np.random.default_rng(0).random((600, 50))
    with WatchedFile(tmp_path / "file") as file:
        with h5py.File(file, "w") as root:
            stored = root.create_dataset("x", (0, 50), float, maxshape=(None, 50), chunks=(64, 50), compression="gzip")
            for start in range(0, 600, 50):
                stored.resize((start + 50, 50))
                # chunks that are read again
                stored[start:] = values[start : start + 50]
            root["names"] = [f"cell {i}" for i in range(600)]
            np.testing.assert_array_equal(stored[:], values)
        with pytest.raises(OSError, match="No space left"):
            file.check()


def test_a_whole_file_is_any_other(tmp_path: Path) -> None:
    values = np.arange(5000.0).reshape(50, 100)
    with WatchedFile(tmp_path / "file.h5") as file:
        with h5py.File(file, "w") as root:
            root["x"] = values
        file.check()
    with h5py.File(tmp_path / "file.h5") as root:
        np.testing.assert_array_equal(root["x"][:], values)
