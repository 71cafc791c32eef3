"""Model files of the past still load, and answer as they did."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltavi import model as models
from deltavi.io import FORMAT_VERSION
from tests.golden.models import GOLDEN, HERE, answers, asked, model_class, read_cells

FOLDERS = sorted(path for path in HERE.glob("v*/*") if path.is_dir())
IDS = [f"{path.parent.name}-{path.name}" for path in FOLDERS]


def test_every_model_has_a_file_of_every_version() -> None:
    assert {name.split("-")[0] for name in GOLDEN} == set(models.__all__)
    wanted = {HERE / f"v{version}" / name for version in range(1, FORMAT_VERSION + 1) for name in GOLDEN}
    assert wanted <= set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_golden_files_are_small_and_of_their_version(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40_000
    manifest = json.loads((folder / "manifest.json").read_text())
    assert re.fullmatch(f"v{manifest['format_version']}", folder.parent.name)


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_a_golden_file_answers_as_it_did(folder: Path) -> None:
    check(model_class(folder).load(folder), folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_a_golden_file_attached_to_its_cells_is_saved_again(folder: Path, tmp_path: Path) -> None:
    cls = model_class(folder)
    cls.load(folder, read_cells()).save(tmp_path / folder.name)
    check(cls.load(tmp_path / folder.name), folder)


def check(model: Any, folder: Path) -> None:
    expected = json.loads(folder.with_suffix(".json").read_text())
    found = answers(model, asked())
    assert found.keys() == expected.keys()
    for verb, values in found.items():
        np.testing.assert_allclose(np.atleast_2d(values), expected[verb], rtol=1e-5, atol=1e-5, err_msg=verb)
