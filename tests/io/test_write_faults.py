"""Model folders where the disk is full, the folder read-only, or holds something else."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deltavi.errors import DeltaviError, ModelFileError, ModelWriteError
from deltavi.io import read_model, require_replaceable, saved_cells, write_model
from deltavi.io._format import MANIFEST

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="limits, users and signals of POSIX")
OLD, NEW = {"w": torch.arange(3.0)}, {"w": torch.ones(100_000)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", OLD, {"name": "old"})
    return tmp_path / "model"


def assert_old_and_alone(folder: Path) -> None:
    """The former model, and nothing beside it."""
    tensors, description = read_model(folder)
    assert torch.equal(tensors["w"], OLD["w"])
    assert description == {"name": "old"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# -- full disks ----------------------------------------------------------------------------------------------


@contextmanager
def full_after(n_files: int) -> Iterator[None]:
    """The disk takes so many files more."""
    fsync, left = os.fsync, [n_files]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        yield


@contextmanager
def short_files(n_bytes: int) -> Iterator[None]:
    """The system itself refuses what goes beyond `n_bytes` of a file, having written so far."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("full", "number", "words"),
    [
        (full_after(0), errno.ENOSPC, "No space left"),
        (full_after(1), errno.ENOSPC, "No space left"),
        (full_after(2), errno.ENOSPC, "No space left"),
        pytest.param(short_files(20_000), errno.EFBIG, "File too large", marks=POSIX),
    ],
)
def test_a_full_disk_leaves_the_old_model(folder: Path, full: Any, number: int, words: str) -> None:
    with full, pytest.raises(ModelWriteError, match=f"{folder}: {words}.*unchanged") as caught:
        write_model(folder, NEW, {"name": "new"})
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, DeltaviError)
    assert caught.value.errno == caught.value.__cause__.errno == number
    assert_old_and_alone(folder)


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(mounted)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only an administrator may mount a small disk")
    try:
        write_model(mounted / "model", OLD, {"name": "old"})
        with pytest.raises(ModelWriteError, match="No space left"):
            write_model(mounted / "model", NEW, {"name": "new"})
        assert_old_and_alone(mounted / "model")
        # what was written of the new one is gone
        write_model(mounted / "model", {"w": torch.ones(10_000)}, {})
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_cells_belong_to_the_step(folder: Path) -> None:
    def fail(file: Path) -> None:
        file.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ModelWriteError, match="No space left"):
        write_model(folder, NEW, {"name": "new"}, cells=fail)
    assert_old_and_alone(folder)
    assert saved_cells(folder) is None
    write_model(folder, NEW, {}, cells=lambda file: file.write_text("all"))
    kept = saved_cells(folder)
    assert kept is not None
    assert kept.read_text() == "all"


def test_room_is_looked_for_before_anything_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=50_000))
    monkeypatch.setattr(Path, "mkdir", None)
    with pytest.raises(ModelWriteError, match=r"No space left on device \(0\.4 MB needed, 0\.05 MB left\)") as caught:
        write_model(folder, NEW, {"name": "new"})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert_old_and_alone(folder)
    # where the system says nothing of the room, writing tells
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    write_model(folder, NEW, {"name": "new"})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: os.stat("/nowhere"))
    write_model(folder, OLD, {"name": "old"})
    assert_old_and_alone(folder)


# -- folders that cannot be written --------------------------------------------------------------------------


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write to `folder`: an administrator, who always may, is somebody else meanwhile."""
    mode, user = folder.stat().st_mode, os.geteuid()
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may read, other than those of a test run."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@POSIX
@pytest.mark.parametrize("verb", ["write_model", "require_replaceable"])
def test_a_read_only_folder(public: Path, verb: str) -> None:
    write_model(public / "model", OLD, {"name": "old"})
    with read_only(public), pytest.raises(ModelWriteError, match=f"{public / 'model'}: Permission denied") as caught:
        if verb == "write_model":
            write_model(public / "model", NEW, {})
        else:
            require_replaceable(public / "model")
    assert caught.value.errno == errno.EACCES
    assert_old_and_alone(public / "model")


@pytest.mark.parametrize("verb", [write_model, require_replaceable])
def test_a_file_where_a_folder_should_be(tmp_path: Path, verb: Any) -> None:
    (tmp_path / "file").write_text("x")
    arguments = ({}, {}) if verb is write_model else ()
    with pytest.raises(ModelWriteError, match="file"):
        verb(tmp_path / "file" / "model", *arguments)
    assert (tmp_path / "file").read_text() == "x"


# -- what may be replaced ------------------------------------------------------------------------------------


def test_a_model_an_empty_folder_and_a_new_one_may_be_replaced(folder: Path) -> None:
    (folder.parent / "empty").mkdir()
    for name in ("model", "empty", "new", "deep/er"):
        require_replaceable(folder.parent / name)
    (folder.parent / "empty").rmdir()
    assert_old_and_alone(folder)


@pytest.mark.parametrize("name", ["thesis.txt", "adata.h5ad", "model-old.json"])
def test_a_folder_with_something_else_may_be_used_and_a_file_may_not(folder: Path, name: str) -> None:
    (folder / name).write_text("mine")
    require_replaceable(folder)
    for verb in (require_replaceable, lambda path: write_model(path, NEW, {})):
        with pytest.raises(ModelFileError, match="is a file, not a folder"):
            verb(folder / name)
    write_model(folder, NEW, {"name": "new"})
    assert (folder / name).read_text() == "mine"
    assert read_model(folder)[1] == {"name": "new"}


@pytest.mark.parametrize("text", ['{"name": "my web site"}', "{", '{"format": "deltavi-model", "format_version": 99}'])
def test_a_manifest_of_something_else_is_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    for verb in (require_replaceable, lambda path: write_model(path, NEW, {})):
        with pytest.raises(ModelFileError, match="Nothing was changed: move that file away"):
            verb(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    assert (tmp_path / MANIFEST).read_text() == text


# -- what older versions left ----------------------------------------------------------------------------------


def test_of_several_former_models_the_latest_is_read(tmp_path: Path) -> None:
    for age, name in enumerate(("second", "first")):
        left = tmp_path / f".model-old-{name}" / "model"
        write_model(left, OLD, {"name": name})
        os.utime(left, (1000 - age, 1000 - age))
    write_model(tmp_path / ".other-old-x" / "model", OLD, {"name": "another"})
    assert read_model(tmp_path / "model")[1] == {"name": "second"}
    with pytest.raises(ModelFileError, match="missing"):
        read_model(tmp_path / "nowhere" / "model")
