"""Model folders: what is written comes back, and nothing damaged does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavi.errors import ModelFileError
from deltavi.io import FORMAT_VERSION, read_model, write_model
from deltavi.io._format import DESCRIPTION, MANIFEST, TENSORS, decode, encode

TENSOR_SET = {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor([3]), "scalar": torch.tensor(2.5)}
SAVED = {"name": "B | cell", "numbers": [1, 2.5, None, True], "array": np.array(["a", "β"], dtype=object)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", TENSOR_SET, SAVED)
    return tmp_path / "model"


def test_round_trip(folder: Path) -> None:
    tensors, description = read_model(folder)
    assert tensors.keys() == TENSOR_SET.keys()
    for name, tensor in TENSOR_SET.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert description["name"] == SAVED["name"]
    assert description["numbers"] == SAVED["numbers"]
    assert list(description["array"]) == ["a", "β"]


@pytest.mark.parametrize(
    "value",
    [
        {1: "int key", "a": (1, (2, 3))},
        np.arange(6).reshape(2, 3),
        np.array([[1.5, 2.5]]),
        np.array([np.nan, np.inf]),
        np.array([True, False]),
        np.array([1, "x", 2.5], dtype=object),
        np.zeros((0, 4), dtype=np.int64),
        *(np.array([0, 1, 100], dtype=kind) for kind in ("int8", "int32", "uint8", "uint16", "uint32", "uint64")),
        np.array(7),
        np.array([2**63 - 1, -(2**63)]),
        ["flat", 1, None, True, 2.5],
        ["flat", 1, float("-inf")],
        pd.DataFrame({"loss": [1.0, 0.5]}, index=pd.Index([0, 1], name="epoch")),
        float("nan"),
        np.float32(1.5),
    ],
)
def test_encoding_is_inverted_through_json(value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    back = decode(json.loads(json.dumps(encode(value, tensors), allow_nan=False)), tensors)
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(back, value)
    elif isinstance(value, np.ndarray):
        np.testing.assert_array_equal(back, value)
        assert back.shape == value.shape
        assert back.dtype == value.dtype
    elif isinstance(value, float) and np.isnan(value):
        assert np.isnan(back)
    else:
        assert back == value


@pytest.mark.parametrize("kind", [">i4", ">f8", "<i8"])
def test_another_order_of_bytes_is_stored_as_numbers(kind: str) -> None:
    tensors: dict[str, torch.Tensor] = {}
    back = decode(encode(np.arange(5).astype(kind), tensors), tensors)
    assert back.tolist() == [0, 1, 2, 3, 4]
    assert len(tensors) == 1


def test_the_description_holds_no_number_of_each_cell(tmp_path: Path) -> None:
    n_cells = 50_000
    cells = np.arange(n_cells)
    kept = {"train_indices": cells, "codes": (cells % 5).astype(np.int8), "seen": cells % 2 == 0}
    write_model(tmp_path / "model", {}, kept)
    assert (tmp_path / "model" / DESCRIPTION).stat().st_size < 500
    back = read_model(tmp_path / "model")[1]
    for name, values in kept.items():
        np.testing.assert_array_equal(back[name], values, strict=True)


def test_a_flat_list_is_read_without_a_call_for_each_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    from deltavi.io import _format

    calls, own = [], _format.decode

    def counted(value: object, tensors: dict[str, torch.Tensor] | None = None) -> Any:
        calls.append(value)
        return own(value, tensors)

    monkeypatch.setattr(_format, "decode", counted)
    names = [f"cell_{i}" for i in range(10_000)]
    saved = json.loads(json.dumps(encode({"names": names, "array": np.array(names, dtype=object)})))
    back = counted(saved)
    assert back["names"] == names
    assert back["array"].tolist() == names
    assert len(calls) < 10


@pytest.mark.parametrize("tensor", [torch.zeros(2), torch.zeros(2, dtype=torch.complex64), torch.zeros(2).bfloat16()])
def test_whole_numbers_of_a_description_are_whole(tensor: torch.Tensor) -> None:
    with pytest.raises(ModelFileError, match="no whole numbers"):
        decode({"__whole__": "description/0"}, {"description/0": tensor})


JSONABLE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(JSONABLE)
@settings(max_examples=100, deadline=None)
def test_any_plain_value_comes_back(value: Any) -> None:
    assert decode(json.loads(json.dumps(encode(value), allow_nan=False))) == value


def test_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot save"):
        encode({"callable": print})


@pytest.mark.parametrize("part", [TENSORS, DESCRIPTION])
def test_every_flipped_byte_is_noticed(folder: Path, part: str) -> None:
    data = bytearray((folder / part).read_bytes())
    rng = np.random.default_rng(0)
    for position in rng.choice(len(data), size=min(60, len(data)), replace=False):
        damaged = data.copy()
        damaged[position] ^= 1 << int(rng.integers(8))
        (folder / part).write_bytes(damaged)
        with pytest.raises(ModelFileError, match="SHA-256"):
            read_model(folder)
    (folder / part).write_bytes(data)
    read_model(folder)


@pytest.mark.parametrize("part", [TENSORS, DESCRIPTION])
def test_a_truncated_part_is_named_with_its_expected_size(folder: Path, part: str) -> None:
    data = (folder / part).read_bytes()
    (folder / part).write_bytes(data[:-5])
    with pytest.raises(ModelFileError, match=f"{len(data) - 5} bytes, expected {len(data)}"):
        read_model(folder)


@pytest.mark.parametrize("part", [TENSORS, DESCRIPTION, MANIFEST])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    (folder / part).unlink()
    with pytest.raises(ModelFileError, match="missing"):
        read_model(folder)


def edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_a_newer_format_is_refused_with_its_version(folder: Path) -> None:
    edit_manifest(folder, format_version=FORMAT_VERSION + 1)
    with pytest.raises(ModelFileError, match=f"format {FORMAT_VERSION + 1}"):
        read_model(folder)


@pytest.mark.parametrize("changes", [{"format": "pickle"}, {"parts": {}}, {"format_version": "x"}, {"parts": None}])
def test_a_wrong_manifest_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(ModelFileError):
        read_model(folder)


def test_a_manifest_that_is_not_json_or_huge_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ModelFileError, match="damaged"):
        read_model(folder)
    (folder / MANIFEST).write_text(" " * 1_000_001)
    with pytest.raises(ModelFileError, match="too large"):
        read_model(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    write_model(tmp_path / "model", {"w": torch.tensor([1.0, bad])}, {})
    with pytest.raises(ModelFileError, match="'w'"):
        read_model(tmp_path / "model")


def test_a_pickle_is_never_opened(folder: Path) -> None:
    """A manifest that vouches for a pickle in place of tensors: the bytes are parsed as safetensors, and refused."""
    import hashlib
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle was executed",))

    payload = pickle.dumps(Bomb())
    (folder / TENSORS).write_bytes(payload)
    parts = json.loads((folder / MANIFEST).read_text())["parts"]
    parts[TENSORS] = {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    edit_manifest(folder, parts=parts)
    with pytest.raises(ModelFileError):
        read_model(folder)


def test_an_interrupted_save_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltavi.io import _folder

    before = read_model(folder)[1]

    def fail(path: Path, data: bytes) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(_folder, "write_synced", fail)
    with pytest.raises(OSError, match="space"):
        write_model(folder, TENSOR_SET, {"name": "new"})
    assert read_model(folder)[1]["name"] == before["name"]
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_overwriting_replaces_the_folder_and_leaves_no_scratch(folder: Path) -> None:
    write_model(folder, TENSOR_SET, {"name": "new"})
    assert read_model(folder)[1]["name"] == "new"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_failed_rename_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError("refused")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="refused"):
        write_model(folder, TENSOR_SET, {"name": "new"})
    monkeypatch.undo()
    assert read_model(folder)[1]["name"] == SAVED["name"]


def test_transposed_weights_and_readable_folders(tmp_path: Path) -> None:
    transposed = torch.arange(6.0).view(2, 3).T
    write_model(tmp_path / "model", {"w": transposed}, {})
    assert torch.equal(read_model(tmp_path / "model")[0]["w"], transposed)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755
