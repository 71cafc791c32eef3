"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

KANG_FILE = "kang_9k_genes.h5ad"


@pytest.fixture(scope="session")
def kang_path() -> Path:
    """The interferon experiment as a file, from the folder in DELTAVI_DATA or beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folders = [Path(folder) for folder in (os.environ.get("DELTAVI_DATA"), beside) if folder]
    for folder in folders:
        if (folder / KANG_FILE).is_file():
            return folder / KANG_FILE
    pytest.skip(f"{KANG_FILE} is neither in the folder DELTAVI_DATA names nor in {beside}")
