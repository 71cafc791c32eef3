"""Files whose checksums fit, and that still say what no model says; one test for each thing a fuzzer has found."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from deltavi.errors import ModelFileError
from deltavi.io import read_model, saved_cells
from deltavi.io._format import DESCRIPTION, MANIFEST, TENSORS, decode
from deltavi.model import SCGEN
from tests.golden.models import HERE, read_cells
from tests.io.damages import Folder


@pytest.fixture
def crafted(tmp_path: Path) -> Folder:
    shutil.copytree(HERE / "v1" / "SCGEN", tmp_path / "model")
    return Folder(tmp_path / "model", 0)


def edit(folder: Folder, before: str, after: str) -> None:
    text = folder.read(DESCRIPTION).decode()
    assert before in text
    folder.forge(DESCRIPTION, text.replace(before, after, 1).encode())


@pytest.mark.parametrize("version", [0, -1, 1.0, True, "1", None, float("inf"), float("nan"), 10**400])
def test_what_is_no_version_is_refused(crafted: Folder, version: Any) -> None:
    manifest = {**json.loads(crafted.read(MANIFEST)), "format_version": version}
    crafted.write(MANIFEST, json.dumps(manifest).encode() if version != 10**400 else b'{"format_version": 1e400}')
    with pytest.raises(ModelFileError, match="damaged"):
        read_model(crafted.path)


def test_a_size_that_is_no_number_is_refused(crafted: Folder) -> None:
    manifest = json.loads(crafted.read(MANIFEST))
    manifest["parts"][TENSORS]["size"] = 1e999
    crafted.write(MANIFEST, json.dumps(manifest).replace("Infinity", "1e999").encode())
    with pytest.raises(ModelFileError, match="does not describe"):
        read_model(crafted.path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"__tuple__":[' * 3_000 + "]}" * 3_000])
def test_endless_nesting_is_refused(crafted: Folder, text: str) -> None:
    # how deep a parser goes differs between versions of Python
    crafted.forge(DESCRIPTION, text.encode())
    with pytest.raises(ModelFileError, match=r"recursion|cannot be read"):
        read_model(crafted.path)
    crafted.write(MANIFEST, text.encode())
    with pytest.raises(ModelFileError, match=r"recursion|damaged"):
        read_model(crafted.path)


def test_a_key_that_stands_twice_is_refused(crafted: Folder) -> None:
    original = crafted.read(DESCRIPTION)
    edit(crafted, '["class", "SCGEN"]', '["class", "VAE"], ["class", "SCGEN"]')
    with pytest.raises(ModelFileError, match="twice"):
        read_model(crafted.path)
    crafted.forge(DESCRIPTION, original)
    manifest = crafted.read(MANIFEST)
    crafted.write(MANIFEST, manifest.replace(b"{", b'{"format_version": 9, ', 1))
    with pytest.raises(ModelFileError, match="twice"):
        read_model(crafted.path)


@pytest.mark.parametrize(
    "value",
    [
        {"__array__": "U1000000000", "shape": [1], "values": ["a"]},
        {"__array__": "S1000000000", "shape": [1], "values": ["a"]},
        {"__array__": "(1000000,1000000)f8", "shape": [1], "values": [1]},
        {"__array__": "O", "shape": [1], "values": [1]},
        {"__array__": "object", "shape": [-1], "values": [1]},
        {"__array__": "object", "shape": None, "values": [1]},
        {"__array__": "object", "shape": [1], "values": "x"},
        {"__tuple__": {"a": 1}},
        {"__dict__": "ab"},
    ],
)
def test_arrays_and_lists_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(ModelFileError):
        decode(value, {})


def test_an_array_of_the_description_is_of_real_numbers() -> None:
    with pytest.raises(ModelFileError, match="floating-point"):
        decode({"__tensor__": "description/0"}, {"description/0": torch.zeros(2, dtype=torch.int64)})


def test_a_description_is_a_dictionary(crafted: Folder) -> None:
    crafted.forge(DESCRIPTION, b"[1, 2]")
    with pytest.raises(ModelFileError, match="holds a list"):
        SCGEN.load(crafted.path)


@pytest.mark.parametrize("value", [2**31, 2**62, 10**7, 10**6])
@pytest.mark.parametrize("name", ["n_hidden", "n_latent", "n_layers", "n_layers_decoder"])
def test_a_model_too_large_for_its_weights_is_refused_before_it_is_built(
    crafted: Folder, name: str, value: int
) -> None:
    text = crafted.read(DESCRIPTION).decode()
    # taken out where it is set, and put in beside the seed
    edit(crafted, text, re.sub(rf'\["{name}", \d+\], |, \["{name}", \d+\](?=\])', "", text))
    edit(crafted, '["seed", 0]', f'["seed", 0], ["{name}", {value}]')
    started = time.perf_counter()
    with pytest.raises(ModelFileError, match=r"weights|do not fit|n_layers\w* must be a whole number of at most 1000"):
        SCGEN.load(crafted.path)
    assert time.perf_counter() - started < 2
    assert torch.is_grad_enabled()
    assert torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize("attribute", ["registry", "extra", "attributes", "init_params"])
def test_a_description_that_lacks_something_is_refused(crafted: Folder, attribute: str) -> None:
    edit(crafted, f'["{attribute}", ', '["nothing", ')
    with pytest.raises(ModelFileError, match=attribute):
        SCGEN.load(crafted.path)


def test_weights_of_another_kind_of_number_are_refused(crafted: Folder) -> None:
    tensors = load(crafted.read(TENSORS))
    name = next(name for name in sorted(tensors) if name.endswith("weight"))
    crafted.forge(TENSORS, save({**tensors, name: tensors[name].to(torch.complex64)}))
    with pytest.raises(ModelFileError, match="do not fit"):
        SCGEN.load(crafted.path)
    crafted.forge(TENSORS, save({**tensors, name: tensors[name].to(torch.float64)}))
    SCGEN.load(crafted.path)


def test_damaged_cells_are_an_error_of_the_model_file(crafted: Folder) -> None:
    SCGEN.load(crafted.path, read_cells()).save(crafted.path, overwrite=True, save_anndata=True)
    file = saved_cells(crafted.path)
    assert file is not None
    assert SCGEN.load(crafted.path).adata is not None
    cells = file.read_bytes()
    for damage, words in ((cells[: len(cells) // 2], "was changed"), (cells[:-1] + b"x", "was changed")):
        file.write_bytes(damage)
        with pytest.raises(ModelFileError, match=words):
            SCGEN.load(crafted.path)
    file.unlink()
    with pytest.raises(ModelFileError, match="is missing"):
        SCGEN.load(crafted.path)
    assert SCGEN.load(crafted.path, read_cells()).adata is not None


def test_cells_that_are_vouched_for_and_damaged(crafted: Folder) -> None:
    crafted.forge("adata.h5ad", b"no h5ad")
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        SCGEN.load(crafted.path)
