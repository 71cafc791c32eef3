"""Saving where every call of the system fails once, on every kind of target: nothing is lost, nothing is mixed."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from deltavi.errors import FileWriteError, ModelFileError, ModelWriteError
from deltavi.io import read_model, saved_cells, write_files, write_model
from deltavi.io._manifest import MANIFEST
from tests.io.every_fault import Refused, Struck, Tree, strikes, tree

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
# Python warns that threads of torch are not in a copy of the process; they are not needed there
forked = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
OLD, NEW = {"w": torch.arange(3.0)}, {"w": torch.ones(7)}
MINE: Tree = {
    "notes.ipynb": b"mine",
    "adata.h5ad": b"mine",
    "model.json": b"mine",
    "figures": None,
    "figures/umap.png": b"mine",
    ".manifest-mine.json": b"mine",
}


def put(folder: Path, files: Tree) -> None:
    """Write files of the user's."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.mkdir() if content is None else path.write_bytes(content)


def cells_writer(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text)


# -- model folders -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A kind of place to save to.

    Parameters
    ----------
    folder
        Where the model is, below the place of the test.
    has_old
        Whether a model is there.
    cells
        Whether it has cells, and whether the new one has.
    mine
        Files of the user's beside it.
    asked
        What is passed to save to it.
    """

    folder: str = "model"
    has_old: bool = True
    cells: tuple[bool, bool] = (False, False)
    mine: bool = False
    asked: str = "model"

    @property
    def files(self) -> Tree:
        """Files of the user's, under names that those of the model do not have."""
        taken = ["model.json"] * self.has_old + ["adata.h5ad"] * self.cells[0]
        return {name: content for name, content in MINE.items() if self.mine and name not in taken}

    def prepare(self, place: Path) -> None:
        folder = place / self.folder
        if self.has_old or self.mine:
            folder.mkdir(parents=True)
        if self.has_old:
            write_model(folder, OLD, {"name": "old"}, cells=cells_writer("old cells") if self.cells[0] else None)
        if self.mine:
            put(folder, self.files)
        if self.asked == "link":
            (place / "link").symlink_to(folder)

    def save(self, place: Path) -> None:
        asked = self.asked if self.asked.startswith((".", "~")) else f"{place}/{self.asked}"
        write_model(asked, NEW, {"name": "new"}, cells=cells_writer("new cells") if self.cells[1] else None)


TARGETS = {
    "new": Target(has_old=False),
    "new, and two folders above it": Target("a/b/model", has_old=False, asked="a/b/model"),
    "new, with cells": Target(has_old=False, cells=(False, True)),
    "empty": Target(has_old=False, asked="."),
    "the user's files": Target(has_old=False, mine=True, cells=(False, True)),
    "a model": Target(),
    "a model and the user's files": Target(mine=True),
    "a model with cells": Target(cells=(True, True), mine=True),
    "a model with cells, saved without": Target(cells=(True, False)),
    "the working directory": Target(mine=True, asked="."),
    "a link": Target(mine=True, asked="link"),
    "a trailing slash": Target(mine=True, asked="model/"),
    "the home folder": Target(mine=True, asked="~"),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


def stand_in(target: Target, place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Prepare the target, and stand in it."""

    def prepare() -> None:
        target.prepare(place)
        if target.asked == ".":
            (place / target.folder).mkdir(exist_ok=True)
            monkeypatch.chdir(place / target.folder)
        monkeypatch.setenv("HOME", str(place / target.folder))

    return prepare


def found(folder: Path) -> str | None:
    """Name of the model in a folder, whose weights and cells are those of that name; None where there is no model."""
    if not (folder / MANIFEST).exists():
        return None
    tensors, description = read_model(folder)
    name: str = description["name"]
    assert torch.equal(tensors["w"], (OLD if name == "old" else NEW)["w"])
    cells = saved_cells(folder)
    assert cells is None or cells.read_text() == f"{name} cells"
    return name


def own(folder: Path) -> set[str]:
    """Files that the manifest lists, with the manifest itself."""
    return {MANIFEST, *json.loads((folder / MANIFEST).read_text())["files"].values()}


def examine(struck: Struck, target: Target, place: Path, before: Tree, *, litter: bool = False) -> str | None:
    """What holds after any fault: the user's files are there, and one model, whole; the error says which."""
    folder = place / target.folder
    after = tree(folder) if folder.exists() else {}
    name = found(folder)
    if target.has_old:
        assert name is not None, struck.name
    assert {path: after.get(path, "gone") for path in target.files} == target.files, struck.name
    if target.asked == "link":
        assert (place / "link").is_symlink(), struck.name
    if name != "new":
        assert name == ("old" if target.has_old else None), struck.name
        assert litter or after == before, struck.name
    elif not litter:
        former = set() if struck.error is None else before.keys()
        allowed = own(folder) | target.files.keys() | former
        assert set(after) <= allowed, struck.name
    return name


@pytest.mark.parametrize("kind", TARGETS)
def test_a_fault_anywhere_in_saving(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, names, words = TARGETS[kind], set(), 0
    prepare = stand_in(target, place, monkeypatch)
    place.mkdir()
    prepare()
    folder = place / target.folder
    before = tree(folder) if folder.exists() else {}
    above = sorted(path.name for path in place.iterdir())
    for struck in strikes(place, prepare, lambda: target.save(place)):
        # parts of the former model that could not be read stay, as they may have been changed
        tolerated = struck.error is None and "refuses" in struck.name and "open rb" in struck.name
        name = examine(struck, target, place, before, litter=tolerated)
        names.add(name)
        if struck.error is None:
            assert name == "new", struck.name
        elif isinstance(struck.error, OSError):
            assert isinstance(struck.error, ModelWriteError), struck.name
            assert isinstance(struck.error.__cause__, Refused), struck.name
            said = str(struck.error)
            words += 1
            assert ("What was there before is unchanged" in said) == (name != "new"), (struck.name, said)
            assert ("is new and complete" in said) == (name == "new"), (struck.name, said)
            assert "could not be removed" not in said, (struck.name, said)
        else:
            assert isinstance(struck.error, KeyboardInterrupt), (struck.name, struck.error)
        if name is None:
            assert sorted(path.name for path in place.iterdir()) == above, struck.name
    assert names == {"new", "old" if target.has_old else None}
    assert words > 10


@POSIX
@forked
@pytest.mark.parametrize("kind", ["new", "a model with cells"])
def test_a_process_killed_anywhere_in_saving(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, names = TARGETS[kind], set()
    prepare = stand_in(target, place, monkeypatch)
    for struck in strikes(place, prepare, lambda: target.save(place), dies=True):
        names.add(examine(struck, target, place, {}, litter=True))
        # what was left is in nobody's way
        target.save(place)
        examine(Struck(struck.name, None), target, place, {}, litter=True)
        assert found(place / target.folder) == "new"
    assert names == {"new", "old" if target.has_old else None}


def test_what_cannot_be_removed_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.mkdir()
    write_model(place / "model", OLD, {"name": "old"})

    def refuse(*_: object, **__: object) -> None:
        raise Refused

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(ModelWriteError, match="could not be removed and can be deleted") as caught:
            write_model(place / "model", NEW, {"name": "new"})
    named = re.findall(r"'([^']+)'", str(caught.value))
    assert len(named) == 3
    assert all(Path(name).is_file() for name in named)
    assert found(place / "model") == "old"


# -- what belongs to whom ------------------------------------------------------------------------------------


def test_a_file_that_was_changed_since_is_the_users(place: Path) -> None:
    place.mkdir()
    write_model(place, OLD, {"name": "old"}, cells=cells_writer("old cells"))
    (place / "adata.h5ad").write_text("mine now!")
    (place / "tensors.safetensors").write_bytes((place / "tensors.safetensors").read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelFileError, match=r"adata\.h5ad does not match its SHA-256"):
        saved_cells(place)
    changed = (place / "tensors.safetensors").read_bytes()
    write_model(place, NEW, {"name": "new"})
    assert found(place) == "new"
    assert saved_cells(place) is None
    assert (place / "adata.h5ad").read_text() == "mine now!"
    assert (place / "tensors.safetensors").read_bytes() == changed
    assert not (place / "model.json").exists()


def test_names_that_lead_elsewhere_are_not_removed(place: Path) -> None:
    place.mkdir()
    put(place, {"thesis-model.json": b"mine"})
    write_model(place / "model", OLD, {"name": "old"})
    text = (place / "model" / MANIFEST).read_text()
    for name in ("../thesis-model.json", "../model/../thesis-model.json", str(place / "thesis-model.json")):
        shutil.rmtree(place / "model")
        write_model(place / "model", OLD, {"name": "old"})
        (place / "model" / MANIFEST).write_text(text.replace('"model.json": "model.json"', f'"model.json": "{name}"'))
        with pytest.raises(ModelFileError, match="is damaged"):
            read_model(place / "model")
        write_model(place / "model", NEW, {"name": "new"})
        assert (place / "thesis-model.json").read_bytes() == b"mine"
        assert found(place / "model") == "new"


def test_a_model_of_before_manifests_named_files(place: Path) -> None:
    write_model(place, OLD, {"name": "old"})
    manifest = json.loads((place / MANIFEST).read_text())
    del manifest["files"]
    (place / MANIFEST).write_text(json.dumps(manifest))
    (place / "adata.h5ad").write_text("old cells")
    assert found(place) == "old"
    assert saved_cells(place) == place / "adata.h5ad"
    write_model(place, NEW, {"name": "new"})
    # whose it is, nothing says
    assert saved_cells(place) is None
    assert set(tree(place)) == own(place) | {"adata.h5ad"}


# -- several processes ---------------------------------------------------------------------------------------


@POSIX
@forked
def test_processes_that_save_to_one_folder_end_with_one_model(place: Path) -> None:
    children = []
    for name, tensors in (("old", OLD), ("new", NEW)):
        children.append(os.fork())
        if children[-1] == 0:
            status = 1
            try:
                for _ in range(40):
                    write_model(place, tensors, {"name": name}, cells=cells_writer(f"{name} cells"))
                status = 0
            finally:
                os._exit(status)
    seen, running = set(), set(children)
    while running:
        for child in sorted(running):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert os.waitstatus_to_exitcode(status) == 0
                running.discard(child)
        if (place / MANIFEST).exists():
            seen.add(read_model(place)[1]["name"])
            saved_cells(place)
    assert found(place) in ("old", "new")
    assert seen <= {"old", "new"}


# -- single files --------------------------------------------------------------------------------------------


def files_of(text: str) -> dict[str, Callable[[Path], object]]:
    return {name: lambda path, name=name: path.write_text(f"{text} {name}") for name in ("a.csv", "b.png")}


@pytest.mark.parametrize("has_old", [True, False])
def test_a_fault_anywhere_in_writing_files(has_old: bool, place: Path) -> None:
    def write(text: str) -> None:
        write_files({place / name: writer for name, writer in files_of(text).items()}, what="The results")

    def prepare() -> None:
        put(place, MINE)
        if has_old:
            write("old")

    before = {name: f"old {name}" if has_old else None for name in files_of("")}
    for struck in strikes(place, prepare, lambda: write("new")):
        after = tree(place)
        assert {path: after[path] for path in MINE} == MINE, struck.name
        assert after.keys() <= MINE.keys() | before.keys(), struck.name
        now = {name: after[name].decode() if name in after else None for name in before}  # type: ignore[union-attr]
        assert all(now[name] in (before[name], f"new {name}") for name in now), struck.name
        new = [name for name in now if now[name] == f"new {name}"]
        if struck.error is None:
            assert len(new) == 2, struck.name
        elif isinstance(struck.error, OSError):
            assert isinstance(struck.error, FileWriteError)
            said = str(struck.error)
            assert ("What was there before is unchanged" in said) == (len(new) < 2), (struck.name, said)
            assert ("Written anew" in said) == (len(new) == 1), (struck.name, said)
            assert all(name in said for name in new[:1]), (struck.name, said)


def test_a_link_to_a_file_stays_a_link(place: Path) -> None:
    place.mkdir()
    (place / "far.csv").write_text("old")
    (place / "near.csv").symlink_to(place / "far.csv")
    write_files({place / "near.csv": lambda path: path.write_text("new")}, what="The table")
    assert (place / "near.csv").is_symlink()
    assert (place / "far.csv").read_text() == "new"
