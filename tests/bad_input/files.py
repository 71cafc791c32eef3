"""Rows 61 to 68: model files."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from deltavi._errors import ModelFileError, ModelWriteError
from deltavi.io import FORMAT_VERSION, read_model
from deltavi.io._format import ARRAY_PREFIX, DESCRIPTION, MANIFEST, TENSORS
from deltavi.io._manifest import CELLS
from tests.bad_input.bench import Bench, assert_same
from tests.bad_input.registry import row
from tests.golden.models import HERE
from tests.io.damages import PARTS, Folder
from tests.io.test_golden import check
from tests.io.test_no_code import Bomb
from tests.io.test_write_faults import full_after, read_only, short_files

# What loading may add to the memory in use: far less than any size that a file lies about.
MEGABYTES = 100


def saved(bench: Bench, name: str = "model") -> Folder:
    """The shared model in a folder that may be damaged."""
    shutil.rmtree(bench.folder / name, ignore_errors=True)
    bench.case.trained.save(bench.folder / name)
    return Folder(bench.folder / name, 0)


def unreadable(bench: Bench, folder: Folder, *words: str) -> str:
    with pytest.raises(ModelFileError) as caught:
        bench.case.load(folder.path)
    assert type(caught.value) is ModelFileError
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


@row(61, "a part of a model file that was cut short", "an error with its path, its size and the one it should have")
def cut_short(bench: Bench) -> None:
    whole = saved(bench)
    for part in (TENSORS, DESCRIPTION):
        data = whole.read(part)
        for left in (0, 1, len(data) // 2, len(data) - 1):
            whole.write(part, data[:left])
            unreadable(bench, whole, str(whole.path / part), f"has {left} bytes, expected {len(data)}")
        (whole.path / part).unlink()
        unreadable(bench, whole, str(whole.path / part), "missing")
        whole.write(part, data)
    whole.write(MANIFEST, whole.read(MANIFEST)[:-20])
    unreadable(bench, whole, str(whole.path / MANIFEST), "damaged")


@row(62, "a bit of a model file that flipped", "an error: the checksum does not match")
def flipped_bit(bench: Bench) -> None:
    folder = saved(bench)
    for part in (TENSORS, DESCRIPTION):
        data = folder.read(part)
        for place in np.linspace(0, len(data) - 1, 25).astype(int):
            changed = bytearray(data)
            changed[place] ^= 1 << int(place % 8)
            folder.write(part, bytes(changed))
            unreadable(bench, folder, str(folder.path / part), "SHA-256")
        folder.write(part, data)
    assert_same(bench.case.ask(bench.case.load(folder.path), bench.case.cells()), bench.case.ask(bench.case.trained))


@row(63, "a pickle that runs code, in place of any part", "refused unread: there is no way to a pickle")
def malicious_pickle(bench: Bench) -> None:
    mark = bench.folder / "mark"
    for protocol in (0, pickle.HIGHEST_PROTOCOL):
        bomb = pickle.dumps(Bomb(mark), protocol=protocol)
        for part in (*PARTS, CELLS):
            for vouched in (True, False):
                folder = saved(bench)
                (folder.forge if vouched and part != MANIFEST else folder.write)(part, bomb)
                if part == CELLS and not vouched:
                    # not the model's, and never opened
                    assert bench.case.load(folder.path).adata is None
                    continue
                unreadable(bench, folder, str(folder.path))
                assert not mark.exists()
    # it would have left its mark
    pickle.loads(bomb)
    assert mark.exists()


@row(64, "a model file of a newer version", "an error with both versions, and the way out")
def newer_version(bench: Bench) -> None:
    folder = saved(bench)
    manifest = json.loads(folder.read(MANIFEST))
    assert manifest["format_version"] == FORMAT_VERSION
    for version in (FORMAT_VERSION + 1, 10**6):
        folder.write(MANIFEST, json.dumps({**manifest, "format_version": version}).encode())
        words = (str(folder.path), f"has format {version}", f"reads up to {FORMAT_VERSION}", "upgrade")
        unreadable(bench, folder, *words)


@row(65, "a model file of an older version", "it loads, and answers as it did")
def older_version(bench: Bench) -> None:
    folders = [path for path in HERE.glob(f"v*/{bench.case.name}*") if path.is_dir()]
    assert len(folders) >= FORMAT_VERSION
    for folder in folders:
        check(bench.case.model_class.load(folder), folder)


@row(66, "weights in a file that are NaN or infinite", "an error that names the tensor")
def broken_weights(bench: Bench) -> None:
    folder = saved(bench)
    tensors = folder.tensors()
    names = [name for name, value in tensors.items() if value.is_floating_point() and value.numel()]
    for name, value in zip((names[0], names[len(names) // 2], names[-1]), (np.nan, np.inf, -np.inf), strict=True):
        changed = {key: tensor.clone() for key, tensor in tensors.items()}
        changed[name].view(-1)[-1] = value
        folder.forge(TENSORS, save(changed))
        unreadable(bench, folder, str(folder.path), repr(name), "NaN or infinite")


def peak_megabytes() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@row(67, "a file that declares far more than it holds", "an error before memory is allocated for it")
def declared_sizes(bench: Bench) -> None:
    folder = saved(bench)
    header, body = folder.header()
    name = next(key for key in header if not key.startswith((ARRAY_PREFIX, "__")))
    text = folder.read(DESCRIPTION).decode()
    unbounded = sys.platform == "win32"
    before = 0.0 if unbounded else peak_megabytes()
    for shape in ([2**40], [2**31, 2**31], [10**9, 4]):
        lies = {**header, name: {**header[name], "shape": shape}}
        folder.forge_header(lies, body)
        unreadable(bench, folder, str(folder.path))
    folder.write(TENSORS, struct.pack("<Q", 2**62) + folder.read(TENSORS)[8:])
    unreadable(bench, folder, str(folder.path))
    # a header of its own length, so that the description is what lies
    folder.forge_header(header, body)
    sizes = {"ACTINN": "n_hidden", "PPCA": "n_latent"}.get(bench.case.name, "n_hidden")
    for size in (10**5, 9 * 10**5, 10**7, 2**40):
        forged, n = re.subn(rf'\["{sizes}", (\d+|\{{"__tuple__": \[\d+\]\}})\]', f'["{sizes}", {size}]', text)
        assert n >= 1
        folder.forge(DESCRIPTION, forged.encode())
        unreadable(bench, folder)
    # an array of a type that asks for a gigabyte per value
    lie = {"__array__": "U1000000000", "shape": [1], "values": ["a"]}
    folder.forge(DESCRIPTION, text.replace('"values": [', '"values": [' + json.dumps(lie) + ", ", 1).encode())
    unreadable(bench, folder)
    assert unbounded or peak_megabytes() - before < MEGABYTES


@row(
    68, "a disk that is full, or a folder that cannot be written", "an error; the model that was there stays as it was"
)
def not_written(bench: Bench) -> None:
    case = bench.case
    folder = saved(bench)
    content = {part: folder.read(part) for part in PARTS}
    other = case.untrained(case.cells(seed=1))
    case.train(other, max_epochs=2)

    def assert_old(path: Path) -> None:
        assert {part: (path / part).read_bytes() for part in PARTS} == content
        assert [left.name for left in path.parent.iterdir()] == [path.name]
        assert {left.name for left in path.iterdir()} == set(PARTS)

    faults: list[Callable[[], Any]] = [lambda n=n: full_after(n) for n in range(3)]
    if sys.platform != "win32":
        faults.append(lambda: short_files(500))
    for fault in faults:
        with fault(), pytest.raises(ModelWriteError, match=r"space left|too large") as caught:
            other.save(folder.path, overwrite=True)
        assert str(folder.path) in str(caught.value)
        assert "What was there before is unchanged" in str(caught.value)
        assert isinstance(caught.value, OSError)
        assert_old(folder.path)
    if sys.platform == "win32":
        return
    # everybody may read the folders above it, unlike those of a test run
    public = Path(tempfile.mkdtemp())
    try:
        public.chmod(0o755)
        shutil.copytree(folder.path, public / "model")
        with read_only(public), pytest.raises(ModelWriteError, match="Permission denied"):
            other.save(public / "model", overwrite=True)
        assert_old(public / "model")
    finally:
        shutil.rmtree(public)
    loaded = case.load(folder.path)
    assert_same(case.ask(loaded, case.cells()), case.ask(case.trained))
    other.save(folder.path, overwrite=True)
    former, latest = loaded.module.state_dict(), read_model(folder.path)[0]
    assert former.keys() == latest.keys()
    assert any(not torch.equal(former[name], latest[name]) for name in former)
