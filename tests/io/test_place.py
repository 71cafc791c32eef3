"""Paths that users name: read, refused, and cleared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from deltavi._errors import DeltaviError
from deltavi.io._place import made, remove_files, require_file, require_folder, require_space, resolved, scratch_folder


@pytest.mark.parametrize("path", [None, 3, b"model", ["model"]])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(DeltaviError, match="out must be a path, not "):
        resolved(path, "out")


def test_a_home_that_is_not_known() -> None:
    with pytest.raises(DeltaviError, match="home folder is not known: write it out"):
        resolved("~nobody-of-this-name/model", "out")


def test_folders_and_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    require_folder(tmp_path)
    require_folder(tmp_path / "new")
    require_file(tmp_path / "new")
    require_file(tmp_path / "file")
    with pytest.raises(DeltaviError, match="is a file, not a folder"):
        require_folder(tmp_path / "file")
    with pytest.raises(DeltaviError, match="is a folder: name a file in it"):
        require_file(tmp_path)
    with pytest.raises(DeltaviError, match=r"there is no folder .*nowhere"):
        require_file(tmp_path / "nowhere" / "file")


def test_disks_that_do_not_tell_their_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(_: Any) -> Any:
        raise OSError

    monkeypatch.setattr("shutil.disk_usage", unknown)
    require_space(tmp_path, 2**80)


def test_a_folder_that_was_there_stays_and_one_that_was_made_goes(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), made(tmp_path / "there" / "a" / "b"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(tmp_path / "there") == []
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path / "scratch") as scratch:
        (scratch / "part").touch()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["there"]


@pytest.mark.parametrize("error", [PermissionError, KeyboardInterrupt])
def test_files_are_removed_at_the_second_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.touch()
    unlink, failed = Path.unlink, []

    def once(self: Path, missing_ok: bool = False) -> None:
        if self.name == "b" and not failed:
            failed.append(self)
            raise error
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", once)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            remove_files(paths)
    else:
        assert remove_files(paths) == []
    assert os.listdir(tmp_path) == []


def test_files_that_stay_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()

    def never(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", never)
    assert remove_files([tmp_path / "a", tmp_path / "gone"]) == [tmp_path / "a"]
