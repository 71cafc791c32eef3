"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Let models be asked about labels they were trained on: most tests mind what is computed, not what is learned."""
    config.addinivalue_line("filterwarnings", "ignore:Measured cells under:UserWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Keep torch at one thread: libraries reset it, and threads that share a core wait for each other."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_path() -> Callable[[str], Path]:
    """Function from the name of a public data set's file to where it lies; a test without its file is skipped.

    Files are looked for in the folder that DELTAVI_DATA names and beside the repository.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folders = [Path(folder) for folder in (os.environ.get("DELTAVI_DATA"), beside) if folder]

    def path(name: str) -> Path:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        pytest.skip(f"{name} is neither in the folder DELTAVI_DATA names nor in {beside}")

    return path


@pytest.fixture(scope="session")
def kang_path(data_path: Callable[[str], Path]) -> Path:
    """The interferon experiment as a file."""
    return data_path("kang_9k_genes.h5ad")
