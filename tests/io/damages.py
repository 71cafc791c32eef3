"""Ways to damage a model folder: by accident, and on purpose, with checksums that fit the damage."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from deltavi.io._format import ARRAY_PREFIX, DESCRIPTION, MANIFEST, TENSORS

PARTS = (TENSORS, DESCRIPTION, MANIFEST)
HUGE = (2**31, 2**40, 2**62, 2**63, 2**64, 10**30, -1)


class Folder:
    """A copy of a model folder that may be damaged."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.rng = path, np.random.default_rng(seed)

    def read(self, part: str) -> bytes:
        return (self.path / part).read_bytes()

    def write(self, part: str, data: bytes) -> None:
        """Replace a part, and leave its checksum as it was."""
        (self.path / part).write_bytes(data)

    def forge(self, part: str, data: bytes) -> None:
        """Replace a part, and vouch for it in the manifest."""
        self.write(part, data)
        manifest = json.loads(self.read(MANIFEST))
        manifest["parts"][part] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.write(MANIFEST, json.dumps(manifest).encode())

    def choose(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def header(self) -> tuple[dict[str, Any], bytes]:
        """Header of the tensors, and the bytes that follow."""
        data = self.read(TENSORS)
        size = struct.unpack("<Q", data[:8])[0]
        return json.loads(data[8 : 8 + size]), data[8 + size :]

    def forge_header(self, header: dict[str, Any] | bytes, body: bytes) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.forge(TENSORS, struct.pack("<Q", len(text)) + text + body)

    def tensors(self) -> dict[str, torch.Tensor]:
        return load(self.read(TENSORS))


def flipped(folder: Folder, data: bytes) -> bytes:
    """`data` with one to three bits flipped."""
    changed = bytearray(data)
    for _ in range(folder.rng.integers(1, 4)):
        changed[folder.rng.integers(len(changed))] ^= 1 << int(folder.rng.integers(8))
    return bytes(changed)


# -- accidents: checksums stay what they were ------------------------------------------------------------------


def flip_bits(folder: Folder) -> None:
    part = folder.choose(PARTS)
    folder.write(part, flipped(folder, folder.read(part)))


def flip_manifest(folder: Folder) -> None:
    folder.write(MANIFEST, flipped(folder, folder.read(MANIFEST)))


def truncate(folder: Folder) -> None:
    part = folder.choose(PARTS)
    data = folder.read(part)
    folder.write(part, data[: folder.rng.integers(len(data))])


def extend(folder: Folder) -> None:
    part = folder.choose(PARTS)
    folder.write(part, folder.read(part) + folder.rng.bytes(int(folder.rng.integers(1, 100))))


def blank_out(folder: Folder) -> None:
    part = folder.choose(PARTS)
    data = bytearray(folder.read(part))
    start = int(folder.rng.integers(len(data)))
    stop = start + int(folder.rng.integers(1, 512))
    data[start:stop] = b"\0" * len(data[start:stop])
    folder.write(part, bytes(data))


def swap_parts(folder: Folder) -> None:
    first, second = folder.rng.permutation(PARTS)[:2]
    data = folder.read(first), folder.read(second)
    folder.write(first, data[1])
    folder.write(second, data[0])


def remove_part(folder: Folder) -> None:
    """Nothing, an empty file, or a folder in place of a file."""
    path, how = folder.path / folder.choose(PARTS), folder.choose(["nothing", "empty", "folder"])
    path.unlink()
    if how == "empty":
        path.touch()
    elif how == "folder":
        path.mkdir()


def link_part(folder: Folder) -> None:
    """A link to the part itself elsewhere, to itself, to nothing, to a folder, or to a device that never ends."""
    path = folder.path / folder.choose(PARTS)
    elsewhere = folder.path / "elsewhere"
    path.rename(elsewhere)
    to = [elsewhere, path, folder.path / "nothing", folder.path, Path("/dev/zero"), Path("/dev/stdin")]
    path.symlink_to(folder.choose(to))


def pipe_part(folder: Folder) -> None:
    """A pipe that nobody writes to: who opens it waits forever."""
    path = folder.path / folder.choose(PARTS)
    path.unlink()
    os.mkfifo(path)


# -- manifests that lie ----------------------------------------------------------------------------------------


def change_version(folder: Folder) -> None:
    versions = [0, -1, 2, 10**9, 10**400, 1.0, 1.5, 1e308, True, None, "1", "2.0", [], {}, float("nan"), float("inf")]
    manifest = json.loads(folder.read(MANIFEST))
    manifest["format_version"] = folder.choose(versions)
    folder.write(MANIFEST, json.dumps(manifest).encode())


def change_size(folder: Folder) -> None:
    manifest = json.loads(folder.read(MANIFEST))
    entry = manifest["parts"][folder.choose([TENSORS, DESCRIPTION])]
    entry[folder.choose(["size", "sha256"])] = folder.choose([*HUGE, 0, 1e308, float("inf"), None, "x", [], {}])
    folder.write(MANIFEST, json.dumps(manifest).encode())


def rename_in_manifest(folder: Folder) -> None:
    """Names that lead out of the folder, in place of a part or beside the parts."""
    manifest = json.loads(folder.read(MANIFEST))
    part = folder.choose([TENSORS, DESCRIPTION])
    name = folder.choose(["../" + part, "/etc/passwd", f"./{part}", f"{part}\0", "..", "", "C:\\" + part, "~/" + part])
    entry = manifest["parts"].pop(part) if folder.rng.random() < 0.5 else {"size": 1, "sha256": "0" * 64}
    manifest["parts"][name] = entry
    folder.write(MANIFEST, json.dumps(manifest).encode())


def rename_files(folder: Folder) -> None:
    """Names that lead out of the folder, or to no file of a model, in place of those of the parts."""
    manifest = json.loads(folder.read(MANIFEST))
    part = folder.choose([TENSORS, DESCRIPTION])
    names = ["../" + part, f"/etc/{part}", "..", "", f"{part}\0", f"{part}\n", "model-1.jsonx", None, 1, [part], {}]
    manifest["files"] = folder.choose([{part: folder.choose(names)}, [part], "x", 1, None])
    folder.write(MANIFEST, json.dumps(manifest).encode())


def repeat_key(folder: Folder) -> None:
    """A key twice in the manifest, with two values of which readers take one or the other."""
    text = folder.read(MANIFEST)
    key = folder.choose([b'"format_version": 1', b'"format": "deltavi-model"'])
    folder.write(MANIFEST, text.replace(key, key + b", " + key.split(b":")[0] + b": 7, " + key, 1))


def absurd_json(folder: Folder) -> None:
    """Text that is no JSON of ours: nested without end, not UTF-8, numbers of any length, NaN."""
    depth = int(folder.choose([500, 5_000, 100_000]))
    texts = [
        b"[" * depth,
        b"[" * depth + b"]" * depth,
        b'{"__dict__":[["a",' * depth + b"1" + b"]]}" * depth,
        b'{"__tuple__":[' * depth + b"]}" * depth,
        b'{"a":' * depth + b"1" + b"}" * depth,
        b"\xff\xfe" + folder.rng.bytes(50),
        folder.read(DESCRIPTION).decode().encode("utf-16"),
        b"1" * 10_000,
        b"-1e999",
        b"NaN",
        b'{"__dict__":[["class",Infinity]]}',
        b'"\\ud800"',
        b'{"__dict__":[["class","SCGEN"],["class","SCGEN"]]}',
        b"null",
        b"",
        b" " * 2_000_000,
    ]
    if folder.rng.random() < 0.5:
        folder.write(MANIFEST, folder.choose(texts))
    else:
        folder.forge(DESCRIPTION, folder.choose(texts))


def pickle_part(folder: Folder) -> None:
    part = folder.choose(PARTS)
    data = pickle.dumps({"tensors": list(range(10))}, protocol=int(folder.rng.integers(6)))
    if part == MANIFEST:
        folder.write(part, data)
    else:
        folder.forge(part, data)


# -- tensors that lie, vouched for -----------------------------------------------------------------------------


def lie_in_header(folder: Folder) -> None:
    """A shape, a type or an offset that is not that of the bytes."""
    header, body = folder.header()
    entry = header[folder.choose(sorted(header.keys() - {"__metadata__"}))]
    what = folder.choose(["shape", "dtype", "data_offsets"])
    if what == "dtype":
        dtypes = ["F64", "I64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "BOOL", "U64", "OBJECT", 7]
        entry[what] = folder.choose(dtypes)
    else:
        values = [*entry[what]] or [0]
        values[folder.rng.integers(len(values))] = folder.choose([*HUGE, 0, 1, 3, None, "1", 1.5])
        entry[what] = folder.choose([values, values * 2, [], None, [0, *HUGE[:3]]])
    folder.forge_header(header, body)


def lie_about_header(folder: Folder) -> None:
    """A header of another length, twice the same name, or none."""
    header, body = folder.header()
    text = json.dumps(header).encode()
    name = sorted(header)[-1]
    repeated = text[:-1] + b"," + json.dumps({name: header[name]}).encode()[1:]
    size = folder.choose([*HUGE[:4], 0, 1, len(text) - 1, len(text) + 1])
    choices = [struct.pack("<Q", min(size, 2**64 - 1)) + text + body, b"", b"\0" * 8, struct.pack("<Q", 2) + b"{}"]
    if folder.rng.random() < 0.3:
        folder.forge_header(folder.choose([repeated, b"[" * 100_000, b'{"__metadata__":{"a":1}}', b"{}"]), body)
    else:
        folder.forge(TENSORS, folder.choose(choices))


def break_weight(folder: Folder) -> None:
    """NaN or infinity in one weight."""
    tensors = folder.tensors()
    name = folder.choose(sorted(name for name, t in tensors.items() if t.is_floating_point() and t.numel()))
    flat = tensors[name].view(-1)
    flat[folder.rng.integers(flat.numel())] = folder.choose([np.nan, np.inf, -np.inf])
    folder.forge(TENSORS, save(tensors))


def reshape_weight(folder: Folder) -> None:
    """A weight that is missing, additional, renamed, of another shape or no real number."""
    tensors = folder.tensors()
    name = folder.choose(sorted(name for name in tensors if not name.startswith(ARRAY_PREFIX)))
    tensor = tensors.pop(name)
    changed: list[dict[str, torch.Tensor]] = [
        {},
        {name: tensor, "extra": torch.zeros(3)},
        {name + "x": tensor},
        {name: torch.cat([tensor.view(-1), tensor.view(-1)])},
        {name: tensor.view(-1)[:-1].clone()},
        {name: tensor[None].clone(), f"{ARRAY_PREFIX}999": torch.zeros(2)},
        {name: torch.full(tensor.shape, torch.nan, dtype=torch.complex64)},
        {name: torch.zeros(tensor.shape, dtype=torch.bool)},
        {name: torch.zeros((0, 2**40))},
    ]
    folder.forge(TENSORS, save({**tensors, **folder.choose(changed)}))


# -- descriptions that lie, vouched for ------------------------------------------------------------------------


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of nested lists and dictionaries."""
    found = []
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def absurd_array(folder: Folder) -> None:
    """Arrays that ask for any amount of memory, or for Python objects of any kind."""
    description = json.loads(folder.read(DESCRIPTION))
    container, key = folder.choose(places(description))
    kinds = [
        "U1000000000",
        "S1000000000",
        "V1000000000",
        "O",
        "datetime64[ns]",
        "i4,f8",
        "(1000000,1000000)f8",
        [],
        {},
        1,
    ]
    shapes = [[2**40], [0, 2**63], [-1], [2**31, 2**31], None, "x", [1.5], [[1]]]
    container[key] = folder.choose(
        [
            {"__array__": folder.choose(kinds), "shape": [1], "values": ["a"]},
            {
                "__array__": "object",
                "shape": folder.choose(shapes),
                "values": folder.choose([[], [1], None, {"a": 1}, "x"]),
            },
            {"__tensor__": folder.choose(["none", None, []])},
            {"__whole__": folder.choose(["none", None, [], *load(folder.read(TENSORS))])},
            {"__frame__": folder.choose([[], None, [[1], [2], [3, 4], 5], {"a": 1}, "abcd"])},
            {"__float__": folder.choose(["x", None, [], "1_0_"])},
            {"__dict__": folder.choose([[[[], 1]], [[{}, 1]], None, [1], "ab", [["a", 1, 2]]])},
            {"__reduce__": ["os.system", ["false"]]},
        ]
    )
    folder.forge(DESCRIPTION, json.dumps(description).encode())


def absurd_setting(folder: Folder) -> None:
    """A layer, a latent space or a number of categories that no memory could hold."""
    text = folder.read(DESCRIPTION).decode()
    name = folder.choose(
        ["n_hidden", "n_latent", "n_layers", "n_batch", "n_labels", "n_vars", "n_cells", "seed", "kwargs"]
    )
    value = folder.choose([*HUGE, 10**5, 10**6, 10**7, 1e9, None, "x", [10**6] * 3, 0])
    before, found, after = text.partition(f'["{name}", ')
    if not found:  # a setting that was left at its default
        before, found, after = text.partition('["non_kwargs", {"__dict__": [')
        after = f'["{name}", {json.dumps(value)}], {after}'
    else:
        _, end = json.JSONDecoder().raw_decode(after)
        after = json.dumps(value) + after[end:]
    folder.forge(DESCRIPTION, (before + found + after).encode())


def forge_leaf(folder: Folder) -> None:
    """Anything at all in one place of the description; what comes of it may differ, as from another model."""
    description = json.loads(folder.read(DESCRIPTION))
    container, key = folder.choose(places(description))
    values = [None, True, -1, 0, 1.5, 10**20, "", "x", "SCGEN", [], {}, [1], {"__tuple__": []}, {"__float__": "nan"}]
    if isinstance(container, list) and folder.rng.random() < 0.2:
        del container[key]
    else:
        container[key] = folder.choose(values)
    folder.forge(DESCRIPTION, json.dumps(description).encode())


def forge_bits(folder: Folder) -> None:
    """Flipped bits that are vouched for."""
    part = folder.choose([TENSORS, DESCRIPTION])
    folder.forge(part, flipped(folder, folder.read(part)))


@dataclass(frozen=True)
class Kind:
    """A kind of damage; one that may differ amounts to another valid model, which no reader can tell from a damaged."""

    damage: Callable[[Folder], None]
    may_differ: bool = False


ACCIDENTS = [flip_bits, flip_manifest, truncate, extend, blank_out, swap_parts, remove_part, pickle_part]
if os.name == "posix":
    ACCIDENTS += [link_part, pipe_part]
LIES = [change_version, change_size, rename_in_manifest, rename_files, repeat_key, absurd_json]
LIES += [lie_in_header, lie_about_header, break_weight, reshape_weight, absurd_array]
KINDS = {damage.__name__: Kind(damage) for damage in [*ACCIDENTS, *LIES]} | {
    damage.__name__: Kind(damage, may_differ=True) for damage in [absurd_setting, forge_leaf, forge_bits]
}


def damaged(source: Path, target: Path, kind: str, seed: int) -> Path:
    """Copy `source` to `target`, damaged."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    KINDS[kind].damage(Folder(target, seed))
    return target
