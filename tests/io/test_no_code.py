"""Nothing in a model file is ever run, whatever is put where a file or a string is read."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from deltavi.errors import DeltaviError, ModelFileError
from deltavi.io._format import DESCRIPTION, MANIFEST, TENSORS
from deltavi.model import SCGEN
from tests.golden.models import HERE, answers, asked, model_class
from tests.io.damages import Folder, places

FOLDERS = sorted(path for path in HERE.glob("v*/*") if path.is_dir())
IDS = [f"{path.parent.name}-{path.name}" for path in FOLDERS]
# what Python itself reports when a pickle names something to call, or a program is started
WATCHED = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
seen: list[tuple[str, Any]] | None = None


def _watch(event: str, details: Any) -> None:
    if seen is not None and event in WATCHED:
        seen.append((event, details))


# a hook cannot be taken away again; it is idle unless a test asks for it
sys.addaudithook(_watch)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Any:
    """A path that nothing may make; nor may anything be called or started on the way."""
    global seen
    seen = []
    yield tmp_path / "mark"
    found, seen = seen, None
    assert not (tmp_path / "mark").exists()
    assert found == []


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="deltavi")


@pytest.fixture
def crafted(tmp_path: Path) -> Folder:
    shutil.copytree(HERE / "v1" / "SCGEN", tmp_path / "model")
    return Folder(tmp_path / "model", 0)


def strings(mark: Path) -> list[str]:
    """Texts that run where they are unpickled, evaluated, given to a shell, imported or read as YAML."""
    touch = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    return [
        pickle.dumps(Bomb(mark), protocol=0).decode(),
        touch,
        f"$(touch {mark})",
        f"; touch {mark}",
        f"!!python/object/apply:os.system ['touch {mark}']",
        f"{{{touch}}}",
        "antigravity",
        "os.system",
    ]


def test_the_mark_shows_what_it_is_there_to_show(tmp_path: Path) -> None:
    global seen
    seen = []
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark"), protocol=0))
    found, seen = seen, None
    assert (tmp_path / "mark").exists()
    assert [event for event, _ in found] == ["pickle.find_class"] * len(found) != []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("vouched", [True, False])
@pytest.mark.parametrize("part", [TENSORS, DESCRIPTION, MANIFEST, "adata.h5ad"])
def test_a_pickle_in_place_of_a_file(crafted: Folder, mark: Path, part: str, vouched: bool, protocol: int) -> None:
    data = pickle.dumps(Bomb(mark), protocol=protocol)
    (crafted.forge if vouched and part != MANIFEST else crafted.write)(part, data)
    with pytest.raises(ModelFileError):
        SCGEN.load(crafted.path)


def test_a_torch_file_in_place_of_tensors(crafted: Folder, mark: Path, tmp_path: Path) -> None:
    torch.save({"weight": Bomb(mark)}, tmp_path / "weights.pt")
    crafted.forge(TENSORS, (tmp_path / "weights.pt").read_bytes())
    with pytest.raises(ModelFileError):
        SCGEN.load(crafted.path)


def test_pickles_beside_the_files_and_among_the_tensors_lie_unread(crafted: Folder, mark: Path) -> None:
    data = pickle.dumps(Bomb(mark))
    for name in ("model.pt", "attr.pkl", "model.pkl", "tensors.pkl", "adata.pkl", "registry.json"):
        crafted.write(name, data)
    payload = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    crafted.forge(TENSORS, save({**load(crafted.read(TENSORS)), "description/99": payload}))
    SCGEN.load(crafted.path)


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_code_in_every_string(folder: Path, tmp_path: Path, mark: Path) -> None:
    """Names of classes, modules, settings, genes, labels, types of arrays: one after the other, then all at once."""
    original = (folder / DESCRIPTION).read_text()
    payloads, cells = strings(mark), asked()
    crafted = Folder(Path(shutil.copytree(folder, tmp_path / "model")), 0)
    for i in distinct(json.loads(original)):
        description = json.loads(original)
        container, key = texts(description)[i]
        container[key] = payloads[i % len(payloads)]
        crafted.forge(DESCRIPTION, json.dumps(description).encode())
        tried(folder, crafted.path, cells if i % 20 == 0 else None)
    description = json.loads(original)
    for i, (container, key) in enumerate(texts(description)):
        container[key] = payloads[i % len(payloads)]
    crafted.forge(DESCRIPTION, json.dumps(description).encode())
    tried(folder, crafted.path, cells)


def texts(value: Any) -> list[tuple[Any, Any]]:
    return [(container, key) for container, key in places(value) if isinstance(container[key], str)]


def distinct(description: Any) -> list[int]:
    """Positions of texts, with one of every three genes or cells that are named."""
    first = {container[key]: i for i, (container, key) in enumerate(texts(description))}
    return [i for text, i in first.items() if "_" not in text or i % 3 == 0]


def tried(folder: Path, crafted: Path, cells: Any) -> None:
    """Load what is crafted and, given cells, ask it; that may fail, but by this package's errors until it is loaded."""
    with warnings.catch_warnings(), contextlib.suppress(DeltaviError):
        warnings.simplefilter("ignore")
        model = model_class(folder).load(crafted)
        if cells is not None:
            with contextlib.suppress(Exception):
                answers(model, cells)


def test_code_in_every_string_of_the_manifest_and_the_header(crafted: Folder, mark: Path) -> None:
    manifest, (header, body) = json.loads(crafted.read(MANIFEST)), crafted.header()
    for payload in strings(mark):
        for changes in ({"format": payload}, {"format_version": payload}, {"parts": payload}, {"class": payload}):
            crafted.write(MANIFEST, json.dumps({**manifest, **changes}).encode())
            tried(HERE / "v1" / "SCGEN", crafted.path, None)
        crafted.write(MANIFEST, json.dumps(manifest).encode())
        name = next(iter(header))
        for key in ("dtype", "shape", "data_offsets"):
            crafted.forge_header({**header, name: {**header[name], key: payload}}, body)
            tried(HERE / "v1" / "SCGEN", crafted.path, None)
        crafted.forge_header({**header, "__metadata__": {"format": payload, "loader": payload}}, body)
        tried(HERE / "v1" / "SCGEN", crafted.path, None)


def test_attributes_of_a_file_replace_no_methods(crafted: Folder) -> None:
    text = crafted.read(DESCRIPTION).decode()
    forged = text.replace(
        '["attributes", {"__dict__": [', '["attributes", {"__dict__": [["predict_perturbation", "x"], '
    )
    assert forged != text
    crafted.forge(DESCRIPTION, forged.encode())
    assert callable(SCGEN.load(crafted.path).predict_perturbation)


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_loading_calls_no_unpickler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        pytest.fail("an unpickler was called")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"), (np, "load")]:
        monkeypatch.setattr(module, name, forbidden)
    assert answers(model_class(folder).load(folder), asked())
