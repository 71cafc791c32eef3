"""The output folder is checked before the work, and files of others stay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deltavi.cli import main
from deltavi.cli._output import MANIFEST, OutputFolder, OutputFolderError, output_folder
from tests.cli.conftest import Run, is_refused

NAMES = ("scores.csv", "model")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def write(path: Path, text: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def beneath_a_file(place: Path) -> Path:
    return write(place / "file.txt") / "deep" / "out"


def a_file(place: Path) -> Path:
    return write(place / "out")


def too_long(place: Path) -> Path:
    return place / ("long" * 100)


def dangling_link(place: Path) -> Path:
    (place / "out").symlink_to(place / "gone")
    return place / "out"


def looping_link(place: Path) -> Path:
    (place / "out").symlink_to(place / "out")
    return place / "out" / "in"


def of_the_system(place: Path) -> Path:
    return Path("/proc/nothing/out")


@pytest.mark.skipif(os.name != "posix", reason="needs links and /proc")
@pytest.mark.parametrize("make", [beneath_a_file, a_file, too_long, dangling_link, looping_link, of_the_system])
def test_folders_that_cannot_be_made(make: Callable[[Path], Path], tmp_path: Path, demo: Callable[..., Run]) -> None:
    out = make(tmp_path)
    before = contents(tmp_path)
    # nothing is read either: the data do not exist
    found = demo("--holdout", "B", out=out, data="nowhere.h5ad")
    assert is_refused(found, str(out), "cannot be written to", "--out")
    assert contents(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is permitted")
def test_a_folder_without_permission(tmp_path: Path, demo: Callable[..., Run]) -> None:
    tmp_path.chmod(0o500)
    try:
        assert is_refused(demo(out=tmp_path / "out"), "ermission", "--out")
        assert is_refused(demo(out=tmp_path), "ermission", "--out")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["predicted.h5ad", "scores.csv", "figure.png", "model", "model/model.json", MANIFEST])
def test_files_of_others_are_in_the_way(name: str, tmp_path: Path, demo: Callable[..., Run]) -> None:
    write(tmp_path / "out" / name)
    before = contents(tmp_path)
    assert is_refused(demo("--holdout", "B", data="nowhere.h5ad"), name.split("/")[0], "Move it", "--out")
    assert contents(tmp_path) == before


def test_each_command_checks_what_it_writes(tmp_path: Path, demo: Callable[..., Run]) -> None:
    write(tmp_path / "out" / "summary.csv")
    assert is_refused(demo("--all", data="nowhere.h5ad"), "summary.csv", "Move it")
    assert is_refused(demo("--holdout", "B", data="nowhere.h5ad"), "nowhere.h5ad")
    assert contents(tmp_path / "out") == {"summary.csv": b"mine"}


def test_a_folder_is_made_and_removed_again_where_nothing_was_written(tmp_path: Path) -> None:
    with output_folder(tmp_path / "a" / "b", NAMES):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    with output_folder(tmp_path / "c" / "d", NAMES):
        write(tmp_path / "c" / "other")
    assert contents(tmp_path) == {"c/other": b"mine"}
    (tmp_path / "empty").mkdir()
    with output_folder(tmp_path / "empty", NAMES):
        pass
    assert (tmp_path / "empty").is_dir()


def test_own_files_are_replaced_and_changed_ones_are_not(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt")
    for text in ("first", "second"):
        with output_folder(tmp_path, NAMES) as folder:
            assert folder.write("scores.csv", lambda path, text=text: path.write_text(text)) == tmp_path / "scores.csv"
            folder.write_folder("model", lambda path, text=text: write(path / "weights", text))
    found = contents(tmp_path)
    assert set(found) == {"notes.txt", "scores.csv", "model/weights", MANIFEST}
    assert (found["notes.txt"], found["scores.csv"], found["model/weights"]) == (b"mine", b"second", b"second")
    write(tmp_path / "scores.csv", "edited")
    with pytest.raises(OutputFolderError, match="was changed since"):
        OutputFolder(tmp_path, NAMES)
    assert OutputFolder(tmp_path, NAMES[1:]).path == tmp_path


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path, NAMES)
    folder.write("scores.csv", lambda path: path.write_text("old"))

    def half(path: Path) -> None:
        path.write_text("ha")
        raise OSError(28, "No space left on device")

    before = contents(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        folder.write("scores.csv", half)
    assert contents(tmp_path) == before
    assert OutputFolder(tmp_path, NAMES).path == tmp_path


def test_both_versions_are_ours_while_a_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed before or after the renaming leaves a folder that can be written to again."""
    folder = OutputFolder(tmp_path, NAMES)
    folder.write("scores.csv", lambda path: path.write_text("old"))
    replace = os.replace
    for replaced in (False, True):

        def killed(source: Path, target: Path, replaced: bool = replaced) -> None:
            if replaced or target.name == MANIFEST:
                replace(source, target)
            if target.name != MANIFEST:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                OutputFolder(tmp_path, NAMES).write("scores.csv", lambda path: path.write_text("new"))
        assert set(contents(tmp_path)) == {"scores.csv", MANIFEST}
        assert (tmp_path / "scores.csv").read_text() == ("new" if replaced else "old")
        OutputFolder(tmp_path, NAMES)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_files_and_their_list_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is sent down before it takes its place, the list before the file that it is to vouch for."""
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve().suffix or "folder")
        fsync(descriptor)

    def moved(source: Path, target: Path) -> None:
        synced.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", moved)
    OutputFolder(tmp_path, NAMES).write("scores.csv", lambda path: path.write_text("text"))
    listed = [".json", MANIFEST, "folder"]
    assert synced == [*listed, ".csv", "scores.csv", "folder", *listed]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"written by": "me"}', '{"written by": "deltavi demo"}', "\x00"])
def test_a_list_of_files_that_is_none_of_ours(text: str, tmp_path: Path) -> None:
    write(tmp_path / MANIFEST, text)
    with pytest.raises(OutputFolderError, match="list of files"):
        OutputFolder(tmp_path, ())
    assert (tmp_path / MANIFEST).read_text() == text


def test_room_is_asked_for(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path, NAMES)
    folder.require_space(0)
    with pytest.raises(OutputFolderError, match=r"MB are needed.*--out"):
        folder.require_space(1 << 60)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_link_to_a_folder_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with output_folder(tmp_path / "link", NAMES) as folder:
        folder.write("scores.csv", lambda path: path.write_text("text"))
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "real" / MANIFEST).read_text())["files"].keys() == {"scores.csv"}
    # a link in place of a file of ours is not followed
    (tmp_path / "elsewhere").write_text("text")
    (tmp_path / "real" / "scores.csv").unlink()
    (tmp_path / "real" / "scores.csv").symlink_to(tmp_path / "elsewhere")
    with output_folder(tmp_path / "link", NAMES) as folder:
        folder.write("scores.csv", lambda path: path.write_text("new"))
    assert (tmp_path / "elsewhere").read_text() == "text"
    assert (tmp_path / "real" / "scores.csv").read_text() == "new"


def test_the_current_folder_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.txt")
    for name in (".", "./", "../" + tmp_path.name):
        with output_folder(Path(name), NAMES) as folder:
            folder.write("scores.csv", lambda path: path.write_text("text"))
    assert set(contents(tmp_path)) == {"mine.txt", "scores.csv", MANIFEST}
    assert main(["demo", "--out", "", "--genes", "5"]) == 2
